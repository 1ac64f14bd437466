"""Adding an optimizer takes one declaration and one registered rule, and no other change."""

from typing import Literal

import pytest

from sensitivity.optimizers.contract import RULES, registered
from sensitivity.study.arms import ARMS, Arm, kinds
from sensitivity.study.axes import AxisField, fixed
from sensitivity.study.errors import StudyFileError
from sensitivity.study.load import parse_study
from sensitivity.study.trials import Pack, expand
from sensitivity.training.loop import train_pack
from tests.optimizers.cases import losses, problem


class SignArm(Arm):
    """Sign descent."""

    kind: Literal["sign"] = "sign"
    lr: AxisField
    weight_decay: AxisField = fixed(0.0)


class Sign:
    """p ← p − η sign(g)."""

    def __init__(self, settings, networks):
        pass

    def init(self, params, numbers):
        return {}

    def step(self, params, grads, state, numbers, *, lr, step):
        for name, p in params.items():
            p.sub_(grads[name].sign() * lr.view(-1, *(1,) * (p.dim() - 1)))


@pytest.fixture
def sign():
    kinds()
    registered(SignArm)(Sign)
    yield
    del ARMS["sign"], RULES["sign"]


def study(**arm):
    raw = {
        "name": "t", "batch_sizes": [24], "seeds": 1, "budget": {"steps": 12}, "evaluation": {"every_steps": 12},
        "optimizers": {"a": {"lr": [0.001, 0.01], **arm}},
    }  # fmt: skip
    return parse_study(raw, source="test")


def test_one_registration_declares_and_trains_an_optimizer(sign):
    spec = study(kind="sign")
    assert spec.hyperparameters == ("lr", "weight_decay")
    ours = train_pack(Pack(expand(spec)), problem())
    # Lion without momentum is sign descent.
    theirs = train_pack(Pack(expand(study(kind="lion", beta1=0.0))), problem())
    assert [losses(result) for result in ours] == [pytest.approx(losses(result)) for result in theirs]
    with pytest.raises(StudyFileError, match=r"Allowed: .*sign"):
        study(kind="sing")
    with pytest.raises(StudyFileError, match=r"Allowed here: .*lr, weight_decay"):
        study(kind="sign", momentum=0.9)


def test_without_it_the_name_is_unknown():
    with pytest.raises(StudyFileError, match="unknown optimizer 'sign'"):
        study(kind="sign")
