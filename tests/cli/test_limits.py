"""The limits of `settle` from the command line."""

import pytest

from sensitivity.cli.limits import limits
from sensitivity.study.errors import UserError

NONE = {"within": None, "runs": None, "flops": None, "question": None}


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90),
        ("30min", 1800),
        ("0.5h", 1800),
        ("1h30min", 5400),
        ("2d", 172_800),
        (" 1 h 5 m ", 3900),
        (".5h", 1800),
    ],
)
def test_durations(text, seconds):
    assert limits(**{**NONE, "within": text}).seconds == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "0s", "abc", "-5s", "5", "1e9d", "99999999d", "h", "1h30", "nan s"])
def test_invalid_durations(text):
    with pytest.raises(UserError, match="--within: give a duration above 0, such as"):
        limits(**{**NONE, "within": text})


@pytest.mark.parametrize("flops", [0.0, -1.0, float("nan"), float("inf")])
def test_invalid_amounts(flops):
    with pytest.raises(UserError, match="--flops: give a number above 0"):
        limits(**{**NONE, "flops": flops})


def test_questions():
    assert limits(**NONE).questions == ()
    assert limits(**{**NONE, "question": "both"}).questions == ("scaling", "sensitivity")
    with pytest.raises(UserError, match="allowed are both, scaling, sensitivity; got 'speed'"):
        limits(**{**NONE, "question": "speed"})
