"""Structural numbers may be axes, which group packs; a single value is a setting as before."""

import pytest

from sensitivity.study.designs import configurations
from sensitivity.study.errors import StudyFileError
from sensitivity.study.load import parse_study
from sensitivity.study.trials import Pack, expand, group
from sensitivity.training.loop import train_pack
from tests.optimizers.cases import losses, problem

KFAC = {"kind": "kfac", "lr": [0.01, 0.03], "damping": 0.1}


def study(**arm):
    raw = {
        "name": "t", "batch_sizes": [24], "seeds": 2, "budget": {"steps": 12}, "evaluation": {"every_steps": 4},
        "optimizers": {"a": {**KFAC, **arm}},
    }  # fmt: skip
    return parse_study(raw, source="test")


def test_packs_are_grouped_by_structural_hyperparameters():
    spec = study(inverse_interval=[2, 6], factor_decay=[0.5, 0.9], kl_clip=[0.01, 0.1])
    assert spec.hyperparameters == (
        "damping", "factor_decay", "inverse_interval", "kl_clip", "lr", "momentum", "weight_decay",
    )  # fmt: skip
    packs = group(expand(spec), 64)
    assert [len(pack.trials) for pack in packs] == [8] * 4, "two learning rates, two clips, two seeds"
    assert len({pack.trials[0].structure for pack in packs}) == 4
    for pack in packs:
        numbers = dict(pack.trials[0].structure)
        fixed = study(inverse_interval=int(numbers["inverse_interval"]), factor_decay=numbers["factor_decay"])
        assert fixed.optimizers["a"].settings()["inverse_interval"] == numbers["inverse_interval"]
        for result in train_pack(pack, problem()):
            values = dict(result.trial.hyperparameters)
            alone = study(
                inverse_interval=int(values["inverse_interval"]), factor_decay=values["factor_decay"],
                kl_clip=values["kl_clip"], lr=values["lr"],
            )  # fmt: skip
            trial = next(trial for trial in expand(alone) if trial.seed == result.trial.seed)
            (truth,) = train_pack(Pack((trial,)), problem())
            assert losses(result) == pytest.approx(losses(truth), rel=1e-9)
            assert result.clip_share == truth.clip_share


def test_one_value_is_a_setting_as_it_was():
    (trial, *_) = expand(study(inverse_interval=5))
    assert trial.settings == {
        "kind": "kfac", "nesterov": False, "factor_decay": 0.95, "factor_interval": 1, "inverse_interval": 5,
        "kl_clip": None,
    }  # fmt: skip
    assert type(trial.settings["inverse_interval"]) is int
    assert trial.structure == ()


def test_an_interval_of_counts_has_whole_numbers_each_once():
    spec = study(inverse_interval={"log": [1, 8], "points": 9}, lr=0.01)
    values = [dict(cell)["inverse_interval"] for cell in configurations(spec.optimizers["a"])]
    assert values == [1, 2, 3, 4, 5, 6, 8]
    again = parse_study(spec.model_dump(mode="json"), source="again")
    assert again == spec
    assert spec.model_dump(mode="json")["optimizers"]["a"]["inverse_interval"] == {"log": [1, 8], "points": 9}


def test_draws_of_the_others_are_the_same_with_or_without_them():
    drawn = {"design": "sobol", "samples": 8, "lr": {"log": [1e-3, 1e-1]}, "damping": {"log": [1e-2, 1.0]}}
    for design in ("sobol", "random"):
        plain = configurations(study(**{**drawn, "design": design}).optimizers["a"], seed=3)
        with_more = study(**{**drawn, "design": design}, inverse_interval={"log": [1, 100]}).optimizers["a"]
        cells = configurations(with_more, seed=3)
        assert [dict(cell)["lr"] for cell in cells] == [dict(cell)["lr"] for cell in plain]
        assert [dict(cell)["damping"] for cell in cells] == [dict(cell)["damping"] for cell in plain]
        intervals = [dict(cell)["inverse_interval"] for cell in cells]
        assert all(value == round(value) for value in intervals)
        if design == "sobol":  # eight points are stratified in each dimension, so in each half there are four
            assert sum(value > 10 for value in intervals) == 4


@pytest.mark.parametrize(
    ("arm", "said"),
    [
        ({"inverse_interval": [0, 5]}, "inverse_interval must be a whole number >= 1; got 0"),
        ({"inverse_interval": [2.5, 5]}, "inverse_interval must be a whole number >= 1; got 2.5"),
        ({"inverse_interval": [4, 5], "factor_interval": 2}, "must be a multiple of factor_interval"),
        ({"factor_decay": [0.5, 1.0]}, "factor_decay must be >= 0 and < 1; got 1"),
        ({"inverse_interval": 2.5}, "optimizers.a.inverse_interval: give a whole number (got 2.5)"),
        ({"kl_clip": 0}, "optimizers.a.kl_clip: must be > 0"),
        ({"inverse_interval": {"log": [1, 8]}}, "a grid needs points on each interval"),
    ],
)
def test_what_is_refused_is_said(arm, said):
    with pytest.raises(StudyFileError) as caught:
        study(**arm)
    assert said in str(caught.value)
