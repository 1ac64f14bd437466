"""Differences between study files, compared with the files themselves."""

from sensitivity.study.differences import spec_differences
from sensitivity.study.load import parse_study

BASE = {
    "name": "one",
    "batch_sizes": [64],
    "seeds": 2,
    "budget": {"steps": 2},
    "optimizers": {"sgd": {"kind": "sgd", "lr": [0.01, 0.1]}},
}


def test_each_field_that_differs_is_named_with_the_value_of_each():
    other = {
        **BASE,
        "name": "other",
        "batch_sizes": [64, 128],
        "optimizers": {
            "sgd": {"kind": "sgd", "lr": {"log": [0.001, 1.0], "points": 4}},
            "kfac": {"kind": "kfac", "lr": 0.1, "damping": 0.01},
        },
    }
    found = {one.field: one.values for one in spec_differences([parse_study(raw, source="x") for raw in (BASE, other)])}
    assert found["batch_sizes"] == ("64", "64, 128")
    assert found["optimizers.sgd.lr"] == ("0.01, 0.1", "log 0.001 to 1.0, points 4")
    assert found["optimizers.kfac.damping"] == ("", "0.01")
    assert "budget.steps" not in found
    assert "name" not in found


def test_a_study_differs_from_itself_in_nothing():
    spec = parse_study(BASE, source="x")
    assert spec_differences([spec, parse_study({**BASE, "name": "twin"}, source="x")]) == ()
