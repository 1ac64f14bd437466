import subprocess

from sensitivity.study import provenance


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


def test_the_code_version_of_shipped_source_is_set_by_the_sender(monkeypatch):
    monkeypatch.setenv(provenance.CODE_VERSION_VARIABLE, "0.1.0+0123456789ab")
    assert provenance.code_version() == "0.1.0+0123456789ab"
