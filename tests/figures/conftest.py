import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest

SYNTHETIC = Path(__file__).parents[1] / "analysis" / "synthetic.py"


@pytest.fixture(scope="session")
def synthetic():
    """The functions of tests/analysis/synthetic.py."""
    return SimpleNamespace(**runpy.run_path(str(SYNTHETIC)))
