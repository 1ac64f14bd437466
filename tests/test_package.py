"""The wheel: what it holds, and that an installation from it works, away from the repository."""

import json
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
from hatchling import build

ROOT = Path(__file__).parents[1]
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
PACKAGES = ("sensitivity", "search_spaces", "dashboards")


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The folder of a wheel and an sdist, and an installation of the wheel."""
    folder = tmp_path_factory.mktemp("dist")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)  # where a build backend is called
        wheel, sdist = build.build_wheel(str(folder)), build.build_sdist(str(folder))
    with zipfile.ZipFile(folder / wheel) as archive:  # an installation is its files, and scripts beside them
        archive.extractall(folder / "installed")
    return folder / wheel, folder / sdist, folder / "installed"


def test_it_holds_every_file_of_the_packages_and_nothing_else(built):
    with zipfile.ZipFile(built[0]) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    files = (path for package in PACKAGES for path in (ROOT / package).rglob("*") if path.is_file())
    assert names == {str(path.relative_to(ROOT)) for path in files if "__pycache__" not in path.parts}
    assert {"sensitivity/py.typed", "sensitivity/report/templates/page.js", "search_spaces/quickstart.toml"} <= names


def test_the_source_distribution_has_what_its_tests_and_documents_need(built):
    with tarfile.open(built[1]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    wanted = {"README.md", "CONTRIBUTING.md", "LICENSE", "constraints.txt", "mkdocs.yml", "docs/hooks/site_hooks.py"}
    assert wanted | {"tests/test_package.py", "examples/own_problem/study.toml", "pyproject.toml"} <= names


def test_an_installation_of_it_works_away_from_the_repository(built, tmp_path):
    code = """if True:
        import importlib.metadata, sys
        repository, installed, version = sys.argv[1:4]
        sys.path[:] = [installed, *(path for path in sys.path if path not in ("", repository))]
        import sensitivity, dashboards.app
        from sensitivity.cli.main import main
        assert sensitivity.__file__.startswith(installed), sensitivity.__file__
        assert importlib.metadata.version("sensitivity") == version
        assert sensitivity.Study.read("quickstart").name == "quickstart"
        sys.argv[1:] = ["list", "--json"]
        main()
    """
    done = subprocess.run(
        [sys.executable, "-c", code, str(ROOT), str(built[2]), VERSION],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout) == []


def test_the_version_is_the_same_everywhere():
    assert f"version: {VERSION}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"\n## {VERSION}" in (ROOT / "CHANGELOG.md").read_text()
    assert f"sensitivity-{VERSION}-py3" in (ROOT / "docs/clusters.md").read_text()
