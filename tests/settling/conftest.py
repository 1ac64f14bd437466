import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

from sensitivity.settling import Settling

_WORLDS = Path(__file__).parents[2] / "benchmarks" / "settle_worlds.py"


@pytest.fixture(scope="session")
def worlds():
    """The module benchmarks/settle_worlds.py: optimizers with a known truth."""
    spec = importlib.util.spec_from_file_location("settle_worlds", _WORLDS)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def settled(worlds):
    """Returns a function that settles a study of a world: (Settling, observations of each step).

    Its outcomes are drawn by phase, so that changing those of one phase leaves the others' alone.
    """

    def settle(world, declaration=None, *, salt=None, known=()):
        settling = Settling(declaration or world.declaration("test"), known)
        phases, given = {}, []
        while settling.next_step is not None:
            step = settling.next_step
            if step.phase not in phases:
                phases[step.phase] = worlds.Study(world, np.random.default_rng([(salt or {}).get(step.phase, 0), 1]))
            given.append(phases[step.phase].observe(step.points))
            settling.answer(given[-1])
        return settling, given

    return settle


@pytest.fixture(scope="session")
def both(worlds):
    """A world that asks both questions: the candidate's critical batch size is twice the reference's."""
    a, b = worlds.Arm(size=200.0, bend=0.4), worlds.Arm(bend=1.5, cliff=0.8)
    return worlds.World(name="both", arms=(a, b), budget=2.0, questions=("scaling", "sensitivity"))


@pytest.fixture(scope="session")
def example(settled, both):
    """That world settled once."""
    return settled(both)
