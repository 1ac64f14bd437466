import math
from datetime import UTC, datetime, timedelta

import pytest

from sensitivity.study.words import ago, count, duration, number, size

MINUTE, HOUR, DAY = 60.0, 3_600.0, 86_400.0


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (0.03, "0.03"),
        (3e-4, "3e-4"),
        (3.16e-4, "3.2e-4"),
        (1234.5, "1,234"),
        (2.1e13, "2.1e13"),
        (math.nan, "–"),
    ],
)
def test_numbers_are_short(value, text):
    assert number(value) == text


def test_counts_agree_with_their_noun():
    assert [count(n, noun) for n, noun in ((1, "seed"), (3, "seed"), (2, "study"))] == [
        "1 seed",
        "3 seeds",
        "2 studies",
    ]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (0.0123, "12.3 ms"),
        (0.25, "0.25 s"),
        (51.5, "51.5 s"),
        (119.4, "119 s"),
        (2 * MINUTE, "2.0 min"),
        (3.44 * MINUTE, "3.4 min"),
        (2.1 * HOUR, "2.1 h"),
        (36 * HOUR, "36.0 h"),
        (2.5 * DAY, "2.5 days"),
        (2000 * DAY, "2,000.0 days"),
        (math.nan, "–"),
        (math.inf, "∞ s"),
    ],
)
def test_a_duration_is_in_the_unit_that_suits_it(seconds, text):
    assert duration(seconds) == text


def test_times_in_the_future_are_shown_as_now():
    now = datetime(2026, 1, 1, tzinfo=UTC)
    assert [ago(now + timedelta(minutes=m), now) for m in (-30, 1)] == ["30.0 min ago", "0 s ago"]


def test_sizes_have_a_decimal_prefix():
    assert [size(*of) for of in ((999, "B"), (1_234_567, "B"), (1.2e9, "FLOP"), (3e18, ""))] == [
        "999 B",
        "1.23 MB",
        "1.2 GFLOP",
        "3 E",
    ]
