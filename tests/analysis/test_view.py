"""What a view narrows."""

import pytest

from sensitivity.analysis.view import Narrowed, View
from sensitivity.study.axes import Axis


@pytest.mark.parametrize(
    ("asked", "left"),
    [((0.01, 0.1), (0.01, 0.1)), ((-5.0, 0.1), (1e-3, 0.1)), ((1e-9, 10.0), (1e-3, 1.0)), ((5.0, 6.0), (1e-3, 1.0))],
)
def test_a_side_is_narrowed_and_never_widened(asked, left):
    axis = Axis(scale="log", low=1e-3, high=1.0)
    priors = View(box=(Narrowed("a", "lr", *asked),)).narrowed({"a": {"lr": axis}})
    assert priors["a"]["lr"].bounds() == left
