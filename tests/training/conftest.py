from collections.abc import Callable
from typing import Any

import pytest
import torch

from sensitivity.study.load import parse_study
from sensitivity.study.spec import StudySpec
from sensitivity.study.trials import Pack, expand
from sensitivity.training.problems import Problem, load_problem


@pytest.fixture(scope="session")
def digits64() -> Problem:
    """The perceptron on digits in float64, in which packs and single runs agree up to rounding."""
    return load_problem(study().problem, dtype=torch.float64)


def study(**changes: Any) -> StudySpec:
    raw = {
        "name": "test",
        "batch_sizes": [64],
        "seeds": 1,
        "budget": {"steps": 20},
        "optimizers": {"sgd": {"kind": "sgd", "lr": 0.1}},
        **changes,
    }
    return parse_study(raw, source="test")


@pytest.fixture(scope="session")
def make_study() -> Callable[..., StudySpec]:
    return study


@pytest.fixture(scope="session")
def pack_of() -> Callable[[StudySpec], Pack]:
    """All trials of a study as one pack."""
    return lambda spec: Pack(expand(spec))
