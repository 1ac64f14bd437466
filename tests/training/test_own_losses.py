"""User losses and metrics: required results, and one message per mistake before training."""

import pytest
import torch

from sensitivity.execution.prepare import prepare_spec
from sensitivity.study.errors import UserError
from sensitivity.study.load import parse_study
from sensitivity.study.trials import Pack
from sensitivity.training.loop import train_pack

MODULE = """
import torch

def data():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(40, 3, generator=g)
    y = x[:, :1] - 0.5 * x[:, 1:2]
    return x[:32], y[:32], x[32:], y[32:]

def logcosh(o, y): return (o - y).cosh().log().sum(1)
def half_squares(o, y): return ((o - y) ** 2).sum(1) / 2
def mean(o, y): return ((o - y) ** 2).mean()
def centred(o, y): return ((o - o.mean()) - y).square().sum(1)
def nan(o, y): return (o * float("nan")).sum(1)
def negative(o, y): return ((o - y) ** 2).sum(1) - 100
def cut(o, y): return (o.detach() - y).square().sum(1)
def raises(o, y): raise RuntimeError("no idea")
def text(o, y): return "good"
def ratio(o, y): return float("nan")
def scaled(o, y, scale): return scale * (o - y).square().sum(1)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    found = tmp_path_factory.mktemp("own")
    (found / "own_functions.py").write_text(MODULE)
    return found


def prepared(folder, *, loss="half_squares", kfac=None, **problem):
    raw = {
        "name": "t", "batch_sizes": [8], "seeds": 2, "budget": {"steps": 6}, "evaluation": {"every_steps": 3},
        "problem": {
            "dataset": "own_functions:data", "model_arguments": {"width": 4, "depth": 1},
            "loss": loss if loss == "squared_error" else f"own_functions:{loss}", **problem,
        },
        "optimizers": {
            "sgd": {"kind": "sgd", "lr": [0.05, 0.1]},
            "k": {"kind": "kfac", "lr": 0.05, "damping": 1.0, **(kfac or {})},
        },
    }  # fmt: skip
    return prepare_spec(parse_study(raw, source="test"), folder=folder, source="test")


def curves(plan):
    found = [train_pack(Pack((trial,)), plan.problem)[0] for trial in plan.trials]
    return [[(m.train_loss, m.test_loss) for m in run.measurements] for run in found]


def test_a_user_loss_trains_like_the_equal_shipped_loss(folder):
    own, shipped = prepared(folder), prepared(folder, loss="squared_error")
    for ours, theirs in zip(curves(own), curves(shipped), strict=True):
        assert torch.tensor(ours) == pytest.approx(torch.tensor(theirs), rel=1e-5)
    sgd = [trial for trial in own.trials if trial.arm == "sgd"]
    packed = train_pack(Pack(tuple(sgd)), own.problem)
    alone = [train_pack(Pack((trial,)), own.problem)[0] for trial in sgd]
    for one, other in zip(packed, alone, strict=True):
        assert one.measurements[-1].train_loss == pytest.approx(other.measurements[-1].train_loss, rel=1e-5)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"loss": "mean"}, r"problem\.loss: own_functions:mean returned a tensor of shape \[\] for 8 examples"),
        ({"loss": "centred"}, "the loss of an example depends on other examples in its batch"),
        ({"loss": "nan"}, "the loss of the untrained network is not finite on 8 of 8 examples"),
        ({"loss": "negative"}, "the loss of the untrained network is -.*; it must be positive"),
        ({"loss": "cut"}, "returned losses without a gradient"),
        ({"loss": "raises"}, "problem.loss: own_functions:raises: RuntimeError: no idea"),
        ({"loss": "absent"}, "problem.loss: own_functions has no function 'absent'"),
        ({"loss": "scaled"}, "problem.loss_arguments.scale: missing; own_functions:scaled has no default for it"),
        (
            {"metrics": {"text": "own_functions:text"}},
            r"metrics\.text returned a str; it must return a number",
        ),
        (
            {"metrics": {"ratio": "own_functions:ratio"}},
            r"metrics\.ratio: it is nan for the untrained network",
        ),
        ({"metrics": {"gone": "own_functions:gone"}}, r"problem\.metrics\.gone: own_functions has no function 'gone'"),
        ({"metrics": {"top5_accuracy": True}}, "top5_accuracy: is not defined for targets that are numbers"),
        (
            {"loss": "logcosh", "kfac": {"fisher": "type2"}},
            'fisher = "type2" needs a loss with a known likelihood',
        ),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_cannot_be_is_one_message(folder, changes, words):
    with pytest.raises(UserError, match=words) as caught:
        prepared(folder, **changes)
    assert len(getattr(caught.value, "mistakes", [0])) == 1
