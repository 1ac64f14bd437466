import copy

import pytest

MINIMAL = {
    "name": "tiny",
    "batch_sizes": [32, 128],
    "seeds": 2,
    "budget": {"epochs": 2},
    "optimizers": {
        "sgd": {"kind": "sgd", "lr": {"log": [0.01, 1.0], "points": 3}, "momentum": [0.0, 0.9]},
        "kfac": {"kind": "kfac", "lr": [0.1, 1.0], "damping": 0.1},
    },
}


@pytest.fixture
def minimal():
    """A small valid study, as TOML gives it; free to be changed."""
    return copy.deepcopy(MINIMAL)
