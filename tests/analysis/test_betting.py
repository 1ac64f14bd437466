"""Bets on blocks: exact at any stop, by counting all outcomes and by simulation."""

import itertools
import math

import numpy as np
import pytest

from sensitivity.analysis.betting import bet, next_stake, ratio_bounds, wealth


@pytest.mark.parametrize(("p", "ratio", "above"), [(0.3, 1.5, True), (0.3, 1 / 1.5, False), (0.5, 1.0, True)])
def test_wealth_is_a_martingale_where_the_null_hypothesis_just_holds(p, ratio, above):
    """Over all 4^4 outcomes of four blocks of one draw each, weighed by their probabilities."""
    other = p if ratio >= 1 else p / ratio
    one = ratio * other
    outcomes = np.array(list(itertools.product([0.0, 1.0], repeat=8)))
    a, b = outcomes[:, :4], outcomes[:, 4:]
    weights = np.prod(np.where(a == 1, one, 1 - one) * np.where(b == 1, other, 1 - other), axis=1)
    assert weights.sum() == pytest.approx(1)
    held = wealth(a, b, ratio, above=above)
    assert (held > 0).all()
    np.testing.assert_allclose(weights @ held, 1.0)


@pytest.mark.parametrize(("p", "ratio"), [(0.24, 1.5), (0.07, 1.5), (0.6, 1.5)])
def test_a_false_claim_is_rare_however_often_one_looks(p, ratio):
    """The candidate works exactly `ratio` times as often, which is no more than the margin."""
    rng = np.random.default_rng(0)
    a, b = (rng.random((1500, 400)) < rate for rate in (p, p / ratio))
    for above in (True, False):
        ever = wealth(a.astype(float), b.astype(float), ratio, above=above).max(axis=1)
        assert np.mean(ever >= 20) <= 0.05
        assert np.mean(ever >= 40) <= 0.025


def test_stakes_start_at_zero_and_follow_earlier_blocks():
    a, b = np.array([1.0, 1.0, 0.0]), np.array([0.0, 0.0, 1.0])
    assert wealth(a, b, 1.0, above=True).tolist() == pytest.approx([1.0, 1.9, 1.9 * 0.1])
    assert wealth(a, b, 1.0, above=False).tolist() == [1.0, 1.0, 1.0]


def test_single_draws_are_first_bet_on_as_if_a_quarter_worked_on_either_side():
    """Six blocks before the first: a mean of -(1 - 1.5) / 4, and a mean square of (1 + 1.5^2) / 4 - 3 / 16."""
    a, b = np.array([[1.0, 0.0]]), np.array([[1.0, 1.0]])
    stake = (0.5 / 4) / ((1 + 1.5**2) / 4 - 2 * 1.5 / 16)
    assert wealth(a, b, 1.5, above=False, independent=True)[0] == pytest.approx((1 + 0.5 * stake) * (1 + 1.5 * stake))
    assert wealth(a, b, 1.5, above=True, independent=True)[0] == 1.0, "nothing on the side that would lose"
    after = (6 * 0.125 + 1.0) / (6 * (3.25 / 4 - 3 / 16) + (0.5**2 + 1.5**2) / 2)
    assert next_stake(a, b, 1.5, above=False, independent=True) == pytest.approx(min(after, 0.9))


def test_answers_take_forty_on_one_side_or_twenty_on_both():
    rng = np.random.default_rng(2)
    rates = {name: (rng.random(600) < p).astype(float) for name, p in {"high": 0.8, "same": 0.8, "low": 0.3}.items()}
    better = bet(rates["high"], rates["low"], 1.5, "seeds")
    assert (better.answer(0.05), better.direction(0.05)) == ("better", "better")
    assert better.better > 40 > better.worse
    worse = bet(rates["low"], rates["high"], 1.5, "seeds")
    assert (worse.answer(0.05), worse.direction(0.05)) == ("worse", "worse")
    equal = bet(rates["high"], rates["same"], 1.5, "seeds")
    assert (equal.answer(0.05), equal.direction(0.05)) == ("equivalent", "undetermined")
    assert bet(rates["high"][:5], rates["low"][:5], 1.5, "seeds").answer(0.05) == "undetermined"
    assert better.answer(1 / better.better) == "undetermined", "the level counts"
    assert math.isfinite(better.better)


@pytest.mark.parametrize("shares", [(0.3, 0.3), (0.1, 0.5)])
@pytest.mark.parametrize(("ratio", "above"), [(1.5, True), (1 / 1.5, False)])
def test_independent_batch_sizes_are_bets_of_their_own(shares, ratio, above):
    """Two blocks at two batch sizes, where the null hypothesis just holds on average over them.

    Over all 2^8 outcomes the mean wealth is 1 where batch sizes are alike, and no more where they differ.
    """
    other = np.array(shares) if ratio >= 1 else np.array(shares) / ratio / 2
    one = np.full(2, ratio * other.mean())
    outcomes = np.array(list(itertools.product([0.0, 1.0], repeat=8)))
    a, b = outcomes[:, :4].reshape(-1, 2, 2), outcomes[:, 4:].reshape(-1, 2, 2)
    weights = np.prod(np.where(a == 1, one, 1 - one) * np.where(b == 1, other, 1 - other), axis=(1, 2))
    assert weights.sum() == pytest.approx(1)
    mean = weights @ wealth(a, b, ratio, above=above, independent=True)
    assert (mean <= 1 + 1e-12).all()
    if shares[0] == shares[1]:
        np.testing.assert_allclose(mean, 1.0)


def test_the_stake_on_the_next_block_is_that_of_the_wealth_after_it():
    rng = np.random.default_rng(0)
    a, b = (rng.random((50, 1)) < p for p in (0.6, 0.3))
    together = wealth(a * 1.0, b * 1.0, 1.5, above=True, independent=True)
    stake = next_stake(a * 1.0, b * 1.0, 1.5, above=True, independent=True)
    grown = np.append(a, [[True]], axis=0) * 1.0, np.append(b, [[False]], axis=0) * 1.0
    assert wealth(*grown, 1.5, above=True, independent=True)[-1] == pytest.approx(together[-1] * (1 + stake))


def test_ratio_bounds_are_the_ratios_that_no_bet_has_rejected():
    rng = np.random.default_rng(2)
    a, b = ((rng.random((200, 3)) < p) * 1.0 for p in (0.5, 0.25))
    low, high = ratio_bounds(a, b, 0.05, independent=True)
    assert low < 2.0 < high
    for ratio, above in ((low, True), (high, False)):
        assert wealth(a, b, ratio, above=above, independent=True).max() >= 40
    for inside in (low * 1.1, high / 1.1):
        assert all(wealth(a, b, inside, above=above, independent=True).max() < 40 for above in (True, False))
    assert ratio_bounds(a[:2], b[:2], 0.05, independent=True) == (0.0, math.inf)
