import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest

_SYNTHETIC = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[1] / "analysis" / "synthetic.py")))


@pytest.fixture(scope="session")
def stored(tmp_path_factory):
    """The directory of a study with made-up results: two optimizers, two batch sizes, a target."""
    spec = _SYNTHETIC.make_spec(
        name="stored",
        seeds=4,
        batch_sizes=[32, 128],
        targets={"train_loss": [0.2, 0.1]},
        budget={"epochs": 20},
        optimizers={
            "kfac": {
                "kind": "kfac",
                "lr": {"log": [1e-2, 3.0], "points": 4},
                "damping": {"log": [1e-4, 1.0], "points": 4},
            },
            "sgd": {"kind": "sgd", "lr": {"log": [1e-2, 3.0], "points": 4}, "momentum": [0.0, 0.5, 0.9]},
        },
    )
    return _SYNTHETIC.write_study(tmp_path_factory.mktemp("studies"), spec, _SYNTHETIC.landscape).uri
