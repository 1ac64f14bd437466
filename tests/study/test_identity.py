"""Comparison of digests of data and networks."""

import json
from dataclasses import replace

import pytest

from sensitivity.study.identity import Digest, Identity

FLOATS = Digest(form="float32 [8, 3]", sha256="a", projection=2.0, norm=10.0)
CLASSES = Digest(form="int64 [8] (0123)", sha256="c", projection=0.0, norm=0.0)
IDENTITY = Identity(
    train_inputs=FLOATS, train_targets=CLASSES, test_inputs=FLOATS, test_targets=CLASSES, network=FLOATS
)


@pytest.mark.parametrize(
    ("other", "same"),
    [
        (FLOATS, True),
        (replace(FLOATS, sha256="b"), True),
        (replace(FLOATS, sha256="b", projection=2.0 + 0.9e-5, norm=10.0 - 0.9e-5), True),
        (replace(FLOATS, sha256="b", projection=2.0 + 1.1e-5), False),
        (replace(FLOATS, sha256="b", norm=10.0 + 1.1e-5), False),
        (replace(FLOATS, sha256="b", form="float32 [4, 6]"), False),
        (replace(FLOATS, sha256="b", projection=float("nan")), False),
    ],
)
def test_equal_bytes_and_rounding_are_the_same_and_nothing_else(other, same):
    assert FLOATS.is_same(other) is same


def test_integers_are_compared_exactly():
    assert not CLASSES.is_same(replace(CLASSES, sha256="d", form="int64 [8] (4567)"))


def test_every_difference_is_named_with_its_form():
    now = replace(
        IDENTITY,
        train_inputs=replace(FLOATS, sha256="b", form="float32 [9, 3]"),
        test_inputs=replace(FLOATS, sha256="b", projection=3.0),
        network=replace(FLOATS, sha256="b", projection=3.0),
    )
    assert IDENTITY.differences(IDENTITY) == []
    assert IDENTITY.differences(now) == [
        "data, train inputs: float32 [8, 3] when planned, float32 [9, 3] now",
        "data, test inputs: other values, float32 [8, 3] as before",
        "network, initial parameters at seed 0: other values, float32 [8, 3] as before",
    ]


def test_it_is_kept_as_json():
    assert Identity.of_content(json.loads(json.dumps(IDENTITY.content()))) == IDENTITY
    with pytest.raises((KeyError, TypeError)):
        Identity.of_content({"network": {}})
