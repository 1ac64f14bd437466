"""The bootstrap of the critical batch size that chooses the winners anew in every resample."""

import numpy as np
import pytest

from sensitivity.analysis.critical import compute_critical_batch_size, fit_log_size, size_interval
from sensitivity.analysis.nested import nested_interval, resample_winners
from sensitivity.analysis.winners import SeedTable, find_winner

BATCHES = 2.0 ** np.arange(6, 15)
TRUE = np.log(100 * (1 + 2000 / BATCHES))


def table(batch, times):
    """A table of `times` [seeds, cells], all of which reached the target."""
    seeds, cells = times.shape
    reached = np.ones(times.shape, dtype=bool)
    return SeedTable("a", int(batch), tuple(range(seeds)), ("c",) * cells, times, times, reached)


def interval(own, confirmation_seeds=()):
    return nested_interval(own, resample_winners(own, confirmation_seeds))


def tables(rng, n, cells, spread=0.0, noise=0.1):
    return [
        table(batch, np.exp(level + spread * np.arange(count) + noise * rng.standard_normal((n, count))))
        for batch, level, count in zip(BATCHES, TRUE, cells, strict=True)
    ]


def test_of_one_cell_it_is_the_bootstrap_over_the_seeds_that_judge():
    rng = np.random.default_rng(0)
    own = tables(rng, 30, [1] * 9)
    logs = np.stack([np.log(one.time[15:, 0]) for one in own], axis=1)
    picks = rng.integers(0, 15, (4000, 15))
    sizes = np.exp(fit_log_size(logs[picks].mean(axis=1), BATCHES))
    assert interval(own) == pytest.approx(np.percentile(sizes, [2.5, 97.5]), rel=0.03)


def test_it_is_wide_where_resamples_choose_different_cells():
    """Two cells that the choosing seeds can't rank, and that differ by half on those that judge."""
    rng = np.random.default_rng(1)

    def study(lead):
        times = np.exp(TRUE[:, None, None] + 0.05 * rng.standard_normal((9, 10, 2)))
        times[0, :5, 1] *= lead
        times[0, 5:, 1] *= 1.5
        return [table(batch, own) for batch, own in zip(BATCHES, times, strict=True)]

    sure, torn = (np.ptp(np.log(interval(study(lead)))) for lead in (2.0, 1.0))
    assert torn > 1.5 * sure


def test_fresh_seeds_judge_where_there_are_any():
    rng = np.random.default_rng(2)
    times = np.exp(TRUE[:, None, None] + 0.05 * rng.standard_normal((9, 12, 1)))
    times[:, :9] *= np.exp(rng.standard_normal((9, 9, 1)))  # of the seeds that choose: plays no part
    own = [table(batch, one) for batch, one in zip(BATCHES, times, strict=True)]
    low, high = interval(own, confirmation_seeds=(9, 10, 11))
    assert 1500 < low < high < 2700


def test_there_is_none_below_ten_seeds_or_where_a_resample_does_not_reach():
    rng = np.random.default_rng(3)
    assert interval(tables(rng, 9, [2] * 9)) is None
    own = tables(rng, 10, [2] * 9)
    assert interval(own[:1]) is None
    assert resample_winners([]) is None
    own[0].reached[7] = False
    assert interval(own) is None


def test_it_only_widens_what_is_reported():
    logs = TRUE + 0.1 * np.random.default_rng(4).standard_normal((5, 9))
    seen = np.zeros(9, dtype=bool)
    plain = compute_critical_batch_size(logs, BATCHES, seen).size
    low, high = plain.interval
    for nested, expected in (((low * 2, high / 2), (low, high)), ((low / 2, high * 2), (low / 2, high * 2))):
        found = compute_critical_batch_size(logs, BATCHES, seen, nested=nested).size
        assert found.interval == pytest.approx(expected)
        assert "nested bootstrap" in found.covers


@pytest.mark.parametrize("spread", [0.0, 0.05])
def test_with_ten_seeds_what_is_reported_covers_through_the_choice_of_winners(spread):
    rng, cells = np.random.default_rng(5), np.round(np.geomspace(16, 1, 9)).astype(int)
    covered, studies = 0, 200
    for _ in range(studies):
        own = tables(rng, 10, cells, spread)
        logs = np.stack([np.log(find_winner(one).time) for one in own], axis=1)
        ends = np.array([size_interval(logs, BATCHES), interval(own)])
        covered += ends[:, 0].min() <= 2000 <= ends[:, 1].max()
    assert 0.92 <= covered / studies <= 0.985
