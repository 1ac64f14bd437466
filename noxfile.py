"""The checks that `.ci/run` and the CI workflow call. Each session uses the environment that nox is run from."""

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
