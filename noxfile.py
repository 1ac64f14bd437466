"""The checks that `.ci/run` and the CI workflow call, in the environment that nox is run from; others in their own."""

import tomllib
from pathlib import Path

import nox

nox.options.default_venv_backend = "none"
nox.options.sessions = ["lint", "docs", "tests"]


@nox.session
def lint(session: nox.Session) -> None:
    """Style, types, and the layering of the rooms."""
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("mypy")
    session.run("lint-imports")


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documentation site, offline; a link that leads nowhere is an error."""
    session.run("mkdocs", "build", env={"NO_MKDOCS_2_WARNING": "1"})  # Material's announcement of a successor


@nox.session
def tests(session: nox.Session) -> None:
    """Run the test suite, or the tests that are named after `--`."""
    session.run("pytest", *session.posargs)


@nox.session
def package(session: nox.Session) -> None:
    """Build sdist and wheel into dist/; `tests/test_package.py` builds, installs and uses them too."""
    session.run("hatchling", "build", "--clean")


@nox.session(python=["3.12", "3.13"], venv_backend="venv")
def newer(session: nox.Session) -> None:
    """Run the test suite, or what is named after `--`, with a newer Python, in an environment of its own."""
    session.install("--constraint", "constraints.txt", "--editable", ".[test]")
    session.run("pytest", *session.posargs)


@nox.session(venv_backend="venv")
def lowest(session: nox.Session) -> None:
    """Run the test suite, or what is named after `--`, with the lowest versions that `pyproject.toml` allows."""
    project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["test"]]
    session.install(*(each.replace(">=", "==") for each in wanted), "--editable", ".")
    session.run("pytest", *session.posargs)


@nox.session(venv_backend="venv")
def coverage(session: nox.Session) -> None:
    """Run the test suite, or what is named after `--`, and list the lines that no test runs.

    Workers of Ray and commands in processes of their own are not measured.
    """
    session.install("--constraint", "constraints.txt", "--editable", ".[test]", "pytest-cov")
    packages = ("--cov=sensitivity", "--cov=dashboards")
    session.run("pytest", *packages, "--cov-report=term-missing:skip-covered", *session.posargs)
