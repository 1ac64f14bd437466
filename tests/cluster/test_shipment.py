"""What travels with a job, read back as Ray itself packs it."""

import zipfile
from pathlib import Path

import pytest
from ray._private.runtime_env.packaging import create_package

import sensitivity
from sensitivity.execution import shipment as shipments
from sensitivity.execution.shipment import refuse_local, shipment
from sensitivity.study.errors import UserError

STUDY = """
name = "mine"
batch_sizes = [64]
seeds = 1
[problem]
model = "shipped_net:net"
[budget]
steps = 2
[optimizers.sgd]
kind = "sgd"
lr = [0.1]
"""


@pytest.fixture
def own(tmp_path) -> Path:
    folder = tmp_path / "own"
    for name, text in {
        "mine.toml": STUDY,
        "shipped_net.py": "from helpers.layers import net",
        "helpers/layers.py": "def net(shape, outputs): ...",
        "notes.txt": "kept here",
        ".gitignore": "notes.txt\n",
        ".env": "SECRET=hush",
        ".git/config": "x",
        "__pycache__/x.pyc": "x",
        ".venv/pyvenv.cfg": "x",
        "env/pyvenv.cfg": "x",
        "env/lib/torch.py": "x",
        "studies/mine/study.json": "{}",
        "studies/mine/runs/a.parquet": "x",
    }.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def packed(folder: Path, excludes, target: Path) -> set[str]:
    create_package(str(folder), target, include_gitignore=True, excludes=list(excludes))
    with zipfile.ZipFile(target) as archive:
        return {name for name in archive.namelist() if not name.endswith("/")}


def test_code_travels_and_what_is_no_code_stays(own, tmp_path):
    with shipment(str(own / "mine.toml"), with_package=True) as ready:
        names = packed(ready.folder, ready.excludes, tmp_path / "package.zip")
        env = ready.runtime_env(job="mine-1")
    assert names == {"mine.toml", "shipped_net.py", "helpers/layers.py"}
    assert env["py_modules"] == [str(Path(sensitivity.__file__).parent)]
    assert env["env_vars"]["SENSITIVITY_CODE_VERSION"]
    assert env["env_vars"]["SENSITIVITY_JOB"] == "mine-1"


def test_a_study_without_code_of_the_users_travels_alone(own, tmp_path):
    text = STUDY.replace('[problem]\nmodel = "shipped_net:net"\n', "")
    (own / "mine.toml").write_text(text)
    with shipment(str(own / "mine.toml"), with_package=False) as ready:
        assert packed(ready.folder, ready.excludes, tmp_path / "package.zip") == {"mine.toml"}
        assert (ready.folder / "mine.toml").read_text() == text
        env = ready.runtime_env(job="mine-1")
    assert "py_modules" not in env
    assert "SENSITIVITY_CODE_VERSION" not in env["env_vars"]
    with shipment("quickstart", with_package=False) as ready:
        assert ready.file_name == "quickstart.toml"


def test_what_is_too_large_is_named(own, monkeypatch):
    (own / "weights.bin").write_bytes(b"x" * 3 * 2**20)
    with shipment(str(own / "mine.toml"), with_package=False) as ready:
        assert ready.fault() is None
        monkeypatch.setattr(shipments, "MAX_BYTES", 2**20)
        fault = ready.fault()
        assert fault.startswith(
            f"a job's files may have 1 MiB, these have 3 MiB in {own}, most of it in weights.bin (3"
        )
        for mend in (".gitignore", ".rayignore"):  # Ray leaves behind what they name, so it does not count
            before = (own / mend).read_text() if (own / mend).exists() else ""
            (own / mend).write_text(f"{before}*.bin\n")
            assert ready.fault() is None
            (own / mend).write_text(before)
            assert ready.fault() is not None


@pytest.mark.parametrize("name", ["mine.toml", "shipped_net.py"])
def test_what_a_study_needs_and_would_not_travel_is_named(own, name):
    with (own / ".gitignore").open("a") as ignored:
        ignored.write(name)
    with shipment(str(own / "mine.toml"), with_package=False) as ready:
        assert ready.fault().startswith(f"{own / name} would not be sent: a .gitignore or .rayignore names it")


def test_images_beside_a_study_travel_or_are_missed(own):
    (own / "mine.toml").write_text(STUDY.replace('model = "shipped_net:net"', 'dataset = "imagefolder:data/images"'))
    (own / "data/images/a").mkdir(parents=True)
    with shipment(str(own / "mine.toml"), with_package=False) as ready:
        assert ready.folder == own
        assert ready.fault().startswith(f"{own / 'data/images'} would not be sent")
        (own / "data/images/a/1.png").touch()
        assert ready.fault() is None


def test_a_study_file_that_is_a_link_travels_from_where_it_lies(own, tmp_path):
    (tmp_path / "link.toml").symlink_to(own / "mine.toml")
    with shipment(str(tmp_path / "link.toml"), with_package=False) as ready:
        assert (ready.folder / ready.file_name).samefile(own / "mine.toml")
        assert ready.fault() is None


def test_a_module_that_is_not_there_is_asked_for_before_anything_is_sent(tmp_path):
    (tmp_path / "mine.toml").write_text(STUDY.replace("shipped_net", "no_such_net"))
    with (
        pytest.raises(UserError, match="module 'no_such_net' is not found"),
        shipment(str(tmp_path / "mine.toml"), with_package=False),
    ):
        pytest.fail("a shipment without its code")


@pytest.mark.parametrize("storage", ["studies", "./studies", "~/studies", "../x"])
def test_a_place_that_means_something_else_on_the_cluster_is_refused(storage):
    with pytest.raises(UserError, match="is deleted with the job"):
        refuse_local(storage)


@pytest.mark.parametrize("storage", ["/mnt/studies", "file:///mnt/studies", "s3://bucket/studies", "gs://bucket"])
def test_places_that_are_the_same_everywhere_are_taken(storage):
    refuse_local(storage)


@pytest.mark.parametrize("storage", ["/", "//", "file:///", "/proc/x", "file:///dev/shm/studies"])
def test_a_place_that_every_machine_has_for_itself_is_refused(storage):
    with pytest.raises(UserError, match="every machine has its own"):
        refuse_local(storage)


PRIVATE = {
    "credentials.json": "{}",
    "server.pem": "x",
    "deep/id_rsa": "x",
    "deep/tls.key": "x",
    "deep/kubeconfig": "x",
    "hf_token": "x",
    "prod.env": "x",
    "access.txt": "-----BEGIN OPENSSH PRIVATE KEY-----",
    "settings.ini": "aws_secret_access_key = abcdefghijk",
    "cloud.json": '{"type": "service_account"}',
    "net_config.py": 'KEY = "AKIAABCDEFGHIJKLMNOP"',
}
HARMLESS = {
    "tokens.py": "x = 1",
    "tokenizer.json": "{}",
    "id_rsa.pub": "ssh-rsa x",
    "keys.csv": "a,b",
    "secrets_of_sgd.md": "x",
    "monkey.txt": "x",
}


@pytest.mark.parametrize("name", PRIVATE)
def test_what_looks_like_credentials_is_sent_only_by_name(own, name):
    for each, text in {**HARMLESS, name: PRIVATE[name]}.items():
        (own / each).parent.mkdir(exist_ok=True)
        (own / each).write_text(text)
    with shipment(str(own / "mine.toml"), with_package=False) as ready:
        assert ready.fault().startswith(f"{name} in {own}: looks like credentials, which are not sent")
        assert f"--include {name}" in ready.fault()
    with shipment(str(own / "mine.toml"), with_package=False, include=[name]) as ready:
        assert ready.fault() is None
        files, size = ready.extent()
    assert files == 3 + len(HARMLESS) + 1
    assert size == sum(
        (own / each).stat().st_size for each in ("mine.toml", "shipped_net.py", "helpers/layers.py", *HARMLESS, name)
    )


@pytest.mark.parametrize("name", ["pandas.py", "json.py", "ray/__init__.py"])
def test_a_file_that_would_take_the_place_of_a_package_in_the_job_is_named(own, name):
    for each in (name, "test.py", "helpers/numpy.py", "torch/notes.txt"):
        (own / each).parent.mkdir(exist_ok=True)
        (own / each).write_text("")
    module = name.removesuffix("/__init__.py")
    with shipment(str(own / "mine.toml"), with_package=False) as ready:
        assert ready.fault().startswith(
            f"{module} in {own}: has the name of a module of Python or of an installed package"
        )
        assert f"add the line /{module} to a .rayignore" in ready.fault()
    (own / ".rayignore").write_text(f"/{module}\n")
    with shipment(str(own / "mine.toml"), with_package=False) as ready:
        assert ready.fault() is None


def test_hidden_credentials_never_travel(own, tmp_path):
    for name in (".env", ".netrc", ".aws/credentials", ".ssh/id_ed25519", ".kube/config"):
        (own / name).parent.mkdir(exist_ok=True)
        (own / name).write_text("x")
    with shipment(str(own / "mine.toml"), with_package=False) as ready:
        assert packed(ready.folder, ready.excludes, tmp_path / "package.zip") == {
            "mine.toml",
            "shipped_net.py",
            "helpers/layers.py",
        }
        assert ready.fault() is None
    with shipment(str(own / "mine.toml"), with_package=False, include=[".env"]) as ready:
        assert "would not be sent" in ready.fault()


@pytest.mark.parametrize("name", ["nosuch.pem", "../outside.pem", "/etc/passwd"])
def test_what_can_not_be_included_is_refused(own, name):
    (own.parent / "outside.pem").touch()
    with (
        pytest.raises(UserError, match="no such file in"),
        shipment(str(own / "mine.toml"), with_package=False, include=[name]),
    ):
        pytest.fail("sent")
