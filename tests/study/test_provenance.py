import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from sensitivity.study import provenance
from sensitivity.study.errors import UserError
from sensitivity.study.spec import ProblemSpec


@pytest.fixture
def modules(tmp_path, monkeypatch):
    """A folder on sys.path; call it to write a module there."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(name, text):
        (tmp_path / f"{name}.py").write_text(text)
        importlib.invalidate_caches()

    return write


def git(folder, *arguments):
    identity = ("-c", "user.name=t", "-c", "user.email=t@example.org")
    done = subprocess.run(("git", "-C", str(folder), *identity, *arguments), capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_code_version_names_commit_and_changes_of_the_code_alone(tmp_path):
    (tmp_path / "sensitivity").mkdir()
    code = tmp_path / "sensitivity" / "a.py"
    code.write_text("1")
    assert provenance._version_at("1.2", tmp_path) == "1.2", "not a checkout"
    git(tmp_path, "init", "-q")
    assert provenance._version_at("1.2", tmp_path) == "1.2", "no commit yet"
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-q", "-m", "first")
    commit = git(tmp_path, "rev-parse", "HEAD")[:12]
    assert provenance._version_at("1.2", tmp_path) == f"1.2+{commit}"
    (tmp_path / "my_study.toml").write_text("")
    assert provenance._version_at("1.2", tmp_path) == f"1.2+{commit}", "a study file is not code"
    code.write_text("2")
    assert provenance._version_at("1.2", tmp_path) == f"1.2+{commit}.dirty"


def test_code_version_without_git(tmp_path, monkeypatch):
    (tmp_path / ".git").mkdir()
    assert provenance._version_at("1.2", tmp_path) == "1.2"
    monkeypatch.setenv("PATH", "")
    assert provenance._version_at("1.2", tmp_path) == "1.2"


def test_code_version_of_this_package_begins_with_its_version():
    assert provenance.code_version().startswith(provenance.package_versions()["sensitivity"])


def test_package_versions_leave_out_what_is_absent(monkeypatch):
    monkeypatch.setattr(provenance, "_PACKAGES", ("numpy", "no-such-package"))
    assert list(provenance.package_versions()) == ["numpy"]


def test_machine_is_described_in_words():
    assert provenance.machine().keys() == {"cpu", "cores", "system", "python"}
    assert all(provenance.machine()[name] for name in ("cores", "system", "python"))


def test_shipped_problems_have_no_source():
    assert provenance.source_hash(ProblemSpec(), ".") == ""
    assert provenance.source_hash(ProblemSpec(dataset="imagefolder:no_module"), ".") == ""


def test_the_users_source_is_known_by_its_content(modules, tmp_path):
    modules("my_data", "def data(): ...")
    modules("my_model", "def model(): ...")
    data, both = ProblemSpec(dataset="my_data:data"), ProblemSpec(dataset="my_data:data", model="my_model:model")
    first = provenance.source_hash(data, str(tmp_path))
    assert len(first) == 16
    assert provenance.source_hash(data, str(tmp_path)) == first
    assert provenance.source_hash(both, str(tmp_path)) != first
    modules("my_data", "def data(): return 1")
    changed = provenance.source_hash(data, str(tmp_path))
    assert changed != first
    modules("my_data", "def data(): ...")
    assert provenance.source_hash(data, str(tmp_path)) == first


@pytest.mark.parametrize("path", ["no_such_module:f", "no_such.module:f", "json.absent:f", "sys:f"])
def test_a_module_without_a_source_file_is_asked_for(path):
    with pytest.raises(UserError, match=r"problem\.model: module '.*' is not found\n  Put it beside the study file"):
        provenance.modules_found(ProblemSpec(model=path))


def test_a_package_that_can_not_be_imported_is_named(modules, tmp_path):
    (tmp_path / "broken").mkdir()
    modules("broken/__init__", "import no_such_module")
    with pytest.raises(UserError, match=r"'broken\.data'"):
        provenance.modules_found(ProblemSpec(dataset="broken.data:f"))
    assert Path(tmp_path / "broken").is_dir()


def test_a_helper_module_beside_the_study_file_is_part_of_the_source(modules, tmp_path, monkeypatch):
    modules("my_helper", "SIZE = 1")
    modules("my_problem", "from my_helper import SIZE\ndef data(): return SIZE")
    spec = ProblemSpec(dataset="my_problem:data")
    before = provenance.source_hash(spec, str(tmp_path))
    monkeypatch.setitem(sys.modules, "my_helper", importlib.import_module("my_helper"))
    loaded = provenance.source_hash(spec, str(tmp_path))
    assert loaded != before
    modules("my_helper", "SIZE = 2")
    assert provenance.source_hash(spec, str(tmp_path)) not in (before, loaded)


@pytest.mark.parametrize("folder", [sys.prefix, str(Path(provenance.__file__).parents[1])])
def test_installed_packages_and_this_one_are_no_users_source(folder):
    spec = ProblemSpec(dataset="json.decoder:f")
    assert provenance.source_hash(spec, folder) == provenance.source_hash(spec, "/no/such/folder")


def test_a_module_whose_file_is_no_path_is_no_users_source(modules, tmp_path, monkeypatch):
    modules("my_problem", "def data(): ...")
    spec = ProblemSpec(dataset="my_problem:data")
    before = provenance.source_hash(spec, str(tmp_path))
    monkeypatch.chdir(tmp_path)  # as whoever runs a study from its own folder; torch.classes is such a module
    nameless = type(sys)("nameless")
    nameless.__file__ = "_nameless.py"
    monkeypatch.setitem(sys.modules, "nameless", nameless)
    assert provenance.source_hash(spec, str(tmp_path)) == before


def test_source_that_was_sent_elsewhere_is_what_its_sender_says(monkeypatch):
    monkeypatch.setenv(provenance.CODE_VERSION_VARIABLE, "0.1.0+0123456789ab")
    assert provenance.code_version() == "0.1.0+0123456789ab"
