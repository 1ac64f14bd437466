"""Suggestions for misspelt names."""

import pytest

from sensitivity.study.nearest import nearest

OPTIMIZERS = ("adagrad", "adam", "adamw", "radam", "sgd")


@pytest.mark.parametrize(
    ("given", "meant"),
    [("adamW", "adamw"), ("AdamW", "adamw"), ("ADAM", "adam"), ("sdg", "sgd"), ("newton", None)],
)
def test_small_and_capital_letters_are_alike(given, meant):
    assert nearest(given, OPTIMIZERS) == meant


def test_names_are_returned_as_they_are_spelt():
    assert nearest("radam", ("SGD", "RAdam")) == "RAdam"
    assert nearest("anything", ()) is None


def test_a_higher_cutoff_requires_more_similar_names():
    assert nearest("learning_rate", ("lr", "damping_rate"), cutoff=0.9) is None
    assert nearest("learning_rate", ("lr", "damping_rate"), cutoff=0.5) == "damping_rate"
