"""What the choice of a winner may cost, by a bootstrap that chooses anew."""

import math

import numpy as np
import pytest

from sensitivity.analysis.nested import winner_regret
from sensitivity.analysis.winners import SeedTable, find_winner


def table(times, seeds=None):
    """A table of `times` [seeds, cells], all of which reached the target, evaluated closely."""
    times = np.asarray(times, dtype=float)
    return SeedTable(
        optimizer="a",
        batch_size=8,
        seeds=tuple(range(len(times))) if seeds is None else seeds,
        cells=tuple(f"c{k}" for k in range(times.shape[1])),
        time=times * 1.0001,
        after=times * 0.9999,
        cap=np.full(times.shape, 1e9),
        reached=np.ones(times.shape, dtype=bool),
        share=np.ones(times.shape),
        counts={},
    )


def regret(own, fresh=()):
    return winner_regret(own, find_winner(own, fresh), fresh)


def test_it_is_the_mean_over_all_resamples_of_two_seeds_and_two_cells():
    """Of two choosing seeds a resample has each twice in a quarter of cases, and both in half: all by hand."""
    own = table([[10, 30], [40, 25], [1, 1], [1, 1]])
    # Sums: 50 and 55. (first, first): cell 0; (second, second): cell 1, worse by log(55/50); both: cell 0.
    assert regret(own) == pytest.approx(0.25 * math.log(55 / 50), abs=0.25 * math.log(55 / 50) * 0.25)


def test_a_clear_winner_has_none_and_near_ties_have_some():
    rng = np.random.default_rng(0)
    noise = np.exp(0.1 * rng.standard_normal((12, 4)))
    assert regret(table(100 * noise * [1, 2, 3, 4])) == 0
    assert 0 < regret(table(100 * noise)) < 0.1
    assert regret(table(100 * noise[:, :1])) == 0


def test_it_is_as_large_as_what_a_wrong_choice_costs():
    """16 cells that differ by 5% each and 10% noise, six choosing seeds: the true regret of such choices is known."""
    rng = np.random.default_rng(1)
    level = 0.05 * np.arange(16)
    true, found = [], []
    for _ in range(300):
        own = table(np.exp(level + 0.1 * rng.standard_normal((12, 16))))
        winner = find_winner(own)
        true.append(level[winner.cell])
        found.append(winner_regret(own, winner))
    assert np.mean(true) / 2 < np.mean(found) < 3 * np.mean(true)


def test_a_confirmed_cell_that_is_not_the_best_adds_its_distance():
    times = np.array([[10.0, 20.0]] * 4 + [[np.nan, 20.0]] * 6)
    own = table(np.nan_to_num(times, nan=1.0))
    own.time[4:, 0] = own.after[4:, 0] = np.nan
    own.reached[4:, 0] = False
    fresh = range(4, 10)
    assert find_winner(own, fresh).cell == 1
    assert regret(own, fresh) == pytest.approx(math.log(2), rel=1e-3)


def test_without_a_choice_or_without_seeds_to_resample_it_is_unknown():
    assert math.isnan(regret(table([[10.0, 20.0]])))
    own = table([[10.0, 20.0]] * 3)
    own.reached[:] = False
    assert math.isnan(regret(own))
