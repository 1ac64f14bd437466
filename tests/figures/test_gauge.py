"""Gauges: equality in the middle, the candidate ahead on the right, distances in logarithms."""

import math

import pytest

from sensitivity.figures.gauge import gauge


def drawn(ratio, low, high, *, margin=1.5, flipped=False):
    return gauge(ratio=ratio, ends=(low, high), margin=margin, flipped=flipped, one="K-FAC", other="SGD")


def test_positions_are_log_ratios():
    found = drawn(2.0, 1.0, 4.0)
    assert found.interval[0] == 50
    assert found.value - 50 == pytest.approx((found.interval[1] - 50) / 2, abs=0.02)
    assert found.band[1] - 50 == pytest.approx((found.interval[1] - 50) * math.log(1.5) / math.log(4), abs=0.02)
    assert 50 - found.band[0] == pytest.approx(found.band[1] - 50, abs=0.02)
    assert found.interval[1] < 100, "with room next to it"


def test_fewer_trials_are_drawn_as_ahead():
    ahead, behind = drawn(0.5, 0.4, 0.8, flipped=True), drawn(0.5, 0.4, 0.8)
    assert min(ahead.interval) > 50 > max(behind.interval)
    assert ahead.value == pytest.approx(100 - behind.value)


def test_unbounded_interval_reaches_the_edge_and_none_gives_no_gauge():
    assert drawn(None, 2.0, math.inf).interval[1] == 100
    assert drawn(None, None, 0.5).interval[0] == 0
    assert drawn(math.nan, 2.0, 3.0).value is None
    assert drawn(None, None, None) is None
    assert drawn(None, 0.0, math.inf) is None
