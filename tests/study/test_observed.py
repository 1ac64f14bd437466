"""Studies whose runs are trained elsewhere, as study files."""

import tomllib

import pytest

from sensitivity.study.designs import configurations
from sensitivity.study.errors import StudyFileError
from sensitivity.study.load import parse_study, shipped
from sensitivity.study.observed import TRAINED_HERE, observed_ids
from sensitivity.study.spec import StudySpec

RAW = {
    "name": "mine",
    "batch_sizes": [32],
    "seeds": [3, 5],
    "observed": {"metrics": ["test_loss"]},
    "optimizers": {
        "a": {"kind": "observed", "design": "observed", "lr": [0.1, 0.3], "sharpness": {"log": [1e-3, 10.0]}},
        "b": {"kind": "observed", "design": "random", "samples": 2, "lr": {"log": [0.01, 1.0]}},
    },
    "targets": {"test_loss": [0.5]},
}


def test_observed_studies_omit_training_and_round_trip():
    spec = parse_study(RAW, source="test")
    assert spec.problem is spec.budget is None
    assert not spec.model_dump().keys() & set(TRAINED_HERE)
    assert parse_study(spec.model_dump(mode="json"), source="test") == spec
    assert parse_study(tomllib.loads(spec.to_toml()), source="test") == spec
    assert spec.measured() == ("test_loss",)
    assert spec.hyperparameters == ("lr", "sharpness")


def test_observed_arms_plan_nothing_but_declared_draws_do():
    spec = parse_study(RAW, source="test")
    assert configurations(spec.optimizers["a"]) == ()
    assert len(configurations(spec.optimizers["b"])) == 2


def test_trained_studies_omit_the_observed_table():
    """Its hash, by which a study directory identifies it, does not depend on tables that do not affect results."""
    spec = StudySpec.read(shipped()["quickstart"])
    assert {"observed", "log"}.isdisjoint(spec.model_dump())
    assert set(TRAINED_HERE) - {"log"} <= spec.model_dump().keys()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"budget": {"steps": 1}, "problem": {}}, "trained elsewhere: remove problem, budget"),
        ({"observed": {"metrics": []}}, "observed.metrics: the list is empty"),
        ({"observed": {"metrics": ["accuracy"]}}, "observed.metrics.* unknown 'accuracy'"),
        ({"observed": {"metric": []}}, "observed.metric: unknown field .did you mean 'metrics'"),
        ({"targets": {"test_accuracy": [0.5]}}, "test_accuracy can't be measured"),
        ({"observed": None}, "optimizers.*observed is only for studies that are trained elsewhere"),
        ({"optimizers": {"a": {"kind": "observed", "lr": 0.0}}}, "optimizers.a.lr: lr must be > 0"),
    ],
)
def test_mistakes_of_an_observed_study(changes, words):
    with pytest.raises(StudyFileError, match=words):
        parse_study({**RAW, **changes}, source="test")


def test_ids_tell_runs_apart_by_all_that_they_have():
    one = observed_ids("a", {"lr": 0.1}, 32, 0)
    assert one == observed_ids("a", {"lr": 0.1}, 32, 0)
    others = [
        ("b", {"lr": 0.1}, 32, 0),
        ("a", {"lr": 0.2}, 32, 0),
        ("a", {"lr": 0.1}, 64, 0),
        ("a", {"eps": 0.1}, 32, 0),
    ]
    assert len({one, *(observed_ids(*each) for each in others)}) == 5
    again = observed_ids("a", {"lr": 0.1}, 32, 1)
    assert again[0] != one[0]
    assert again[1] == one[1]
