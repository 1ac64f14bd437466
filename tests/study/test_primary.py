"""Claims are declared in the study file, and rejected if they name something that the study does not have."""

import pytest

from sensitivity.study.errors import StudyFileError
from sensitivity.study.load import parse_study

TARGETS = {"test_accuracy": [0.95, 0.9]}
PRIMARY = {"question": "scaling", "target": {"test_accuracy": 0.9}, "pair": ["kfac", "sgd"], "looks": [8, 11]}


@pytest.mark.parametrize(
    ("fields", "comparisons", "level"),
    [
        ({}, (("kfac", "sgd"), ("adam", "sgd")), 0.95),
        ({"pairs": [["adam", "kfac"]]}, (("adam", "kfac"),), 0.95),
        ({"primary": PRIMARY}, (("kfac", "sgd"), ("adam", "sgd")), 0.9),
        ({"primary": {"question": "sensitivity", "pair": ["sgd", "adam"]}}, (("sgd", "adam"), ("kfac", "sgd")), 0.95),
    ],
    ids=["each against the first", "as asked for", "the primary pair first", "the primary pair the other way round"],
)
def test_what_is_compared(minimal, fields, comparisons, level):
    arms = minimal["optimizers"]
    optimizers = {"sgd": arms["sgd"], "kfac": arms["kfac"], "adam": arms["sgd"]}
    study = parse_study({**minimal, "optimizers": optimizers, "targets": TARGETS, **fields}, source="mine.toml")
    assert study.comparisons == comparisons
    assert study.primary_target == ("test_accuracy", level)


def test_a_study_of_one_optimizer_without_targets_compares_nothing(minimal):
    del minimal["optimizers"]["kfac"]
    study = parse_study(minimal, source="mine.toml")
    assert study.comparisons == ()
    assert study.primary_target is None


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"pairs": [["kfac", "adam"]]}, "pairs: ['kfac', 'adam']: give the names of two different optimizers"),
        ({"pairs": [["kfac", "kfac"]]}, "pairs: ['kfac', 'kfac']"),
        ({"pairs": [["kfac", "sgd"], ["kfac", "sgd"]]}, "pairs: repeated: ['kfac', 'sgd']"),
        ({"primary": {**PRIMARY, "pair": ["kfac", "adam"]}}, "primary: ['kfac', 'adam']"),
        ({"primary": {**PRIMARY, "target": {"test_accuracy": 0.91}}}, "test_accuracy = 0.95, test_accuracy = 0.9"),
        ({"primary": {**PRIMARY, "target": {"test_accuracy": 0.9, "test_loss": 1.0}}}, "one metric and its level"),
        ({"primary": {**PRIMARY, "looks": [8, 8]}}, "looks must increase"),
        ({"primary": {**PRIMARY, "looks": [0]}}, "primary.looks"),
        ({"primary": {**PRIMARY, "question": "speed"}}, "primary.question: unknown 'speed'"),
        ({"primary": {"pair": ["kfac", "sgd"]}}, "primary.question"),
    ],
)
def test_a_mistake_is_named(minimal, fields, words):
    with pytest.raises(StudyFileError) as caught:
        parse_study({**minimal, "targets": TARGETS, **fields}, source="mine.toml")
    assert any(words in mistake for mistake in caught.value.mistakes)
