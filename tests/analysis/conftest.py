import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest


def _functions(name):
    return SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name(name))))


@pytest.fixture(scope="session")
def synthetic():
    """The functions of synthetic.py."""
    return _functions("synthetic.py")


@pytest.fixture(scope="session")
def quadratic():
    """The functions of quadratic.py: studies of the noisy quadratic from its closed form."""
    return _functions("quadratic.py")


@pytest.fixture(scope="session")
def plain():
    """The functions of plain.py: studies written out run by run."""
    return _functions("plain.py")
