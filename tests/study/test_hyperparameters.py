import math

import numpy as np
import pytest

from sensitivity.study.hyperparameters import HYPERPARAMETERS, hyperparameter, rank, ridge


@pytest.mark.parametrize(
    ("name", "allowed", "inside", "outside"),
    [
        ("lr", "> 0", [1e-9, 1e9], [0.0, -1.0, math.nan]),
        ("momentum", ">= 0 and < 1", [0.0, 0.999], [1.0, -0.1]),
        ("weight_decay", ">= 0", [0.0, 10.0], [-1e-9]),
        ("inverse_interval", "a whole number >= 1", [1.0, 10.0], [0.0]),
        ("nobody_declared_it", "", [-1.0, 0.0, 1e9], [math.nan]),
    ],
)
def test_the_range_in_words_is_the_range_that_is_checked(name, allowed, inside, outside):
    declared = hyperparameter(name)
    assert declared.allowed == allowed
    assert declared.allows(inside).all()
    assert not declared.allows(outside).any()


def test_equal_distances_in_decades_are_equal_changes_in_effect():
    assert np.diff(hyperparameter("momentum").decades([0.9, 0.99, 0.999])) == pytest.approx(1.0), "reach 10, 100, 1000"
    assert np.diff(hyperparameter("lr").decades([1e-3, 1e-2, 1e-1])) == pytest.approx(1.0)
    assert hyperparameter("momentum").coordinate_label == "1 − momentum"
    for declared in HYPERPARAMETERS.values():
        assert declared.from_decades(float(declared.decades(0.3))) == pytest.approx(0.3)


def test_declared_names_come_in_their_order_and_others_after_them():
    assert sorted(["zeta", "weight_decay", "alpha", "beta1", "damping", "lr"], key=rank) == [
        "lr", "damping", "weight_decay", "beta1", "alpha", "zeta",
    ]  # fmt: skip
    assert hyperparameter("inverse_interval").label == "inverse interval"


def test_a_ridge_takes_both_of_its_hyperparameters():
    assert ridge(["momentum", "damping", "lr"]) == ("lr", "damping")
    assert ridge(["damping", "momentum"]) is None
    assert ridge(["lr", "momentum"]) is None
