import math

import numpy as np
import pytest

from sensitivity.analysis.critical import size_interval
from sensitivity.analysis.grain import bias_bound
from sensitivity.analysis.scaling import compute_scaling
from sensitivity.analysis.times import UNITS, compute_times
from sensitivity.analysis.winners import SeedTable, find_winner, seed_tables

METRIC = "train_loss"


def middle(*ends):
    """The geometric mean of the middles of (time - 1, time]."""
    return math.prod(math.sqrt(time * (time - 1)) for time in ends) ** (1 / len(ends))


def scaling(plain, rows, unit="steps", **options):
    return compute_scaling(compute_times(*plain.tables(rows), METRIC, plain.TARGET), unit, **options)


def test_censored_diverged_failed_and_waiting_are_told_apart(plain):
    rows = [
        plain.row(seed=0, time=20),
        plain.row(seed=1),
        plain.row(seed=2, time=10, status="diverged", steps=30),  # met it on its way
        plain.row(seed=3, status="failed"),
        plain.row(seed=4, status="interrupted"),
        plain.row(seed=5, status="pending"),
    ]
    times = compute_times(*plain.tables(rows), METRIC, plain.TARGET)
    assert list(times["outcome"]) == ["reached", "censored", "diverged", "failed", "waiting", "waiting"]
    assert list(times["steps"])[:3] == [20, 100, math.inf]
    assert times["steps"][3:].isna().all()
    assert list(times["met"]) == [True, False, True, False, False, False]
    assert list(times["seconds"])[:3] == [10, 50, math.inf]
    assert list(times["flops"])[:2] == [20 * 80, 100 * 80]
    assert list(times["epochs"])[:2] == [0.16, 0.8]
    assert list(times["cap.steps"])[:3] == [100, 100, 100], "a diverged run would have had the whole budget"
    assert list(times["cap.seconds"])[:3] == [50, 50, 50]


def test_the_order_of_rows_in_the_curves_does_not_matter(plain):
    rows = [plain.row(seed=s, time=10 * (s + 1), final=0.1) for s in range(8)]
    times = compute_times(*plain.tables(rows, shuffled=True), METRIC, plain.TARGET)
    assert list(times["steps"]) == [10 * (s + 1) for s in range(8)]


def test_expected_running_time_and_restricted_mean_have_the_golden_values(plain):
    # docs/statistics.md, section 1: T ~ Exp(1/50), cap 60: ERT -> 50, restricted mean 34.94, survivors 24.1.
    exact = np.random.default_rng(3).exponential(50, 8000)
    rows = [plain.row(seed=s, time=t if t <= 60 else None, before=0.999 * t, steps=60) for s, t in enumerate(exact)]
    (curve,) = scaling(plain, rows)
    (point,) = curve.points
    assert point.state == "unreliable"
    assert point.expected == pytest.approx(50, rel=0.03)
    assert point.restricted_mean.value == pytest.approx((1 - math.exp(-1.2)) * 50, rel=0.02)
    low, high = point.restricted_mean.interval
    assert low < 34.94 < high
    assert exact[exact <= 60].mean() == pytest.approx(24.1, rel=0.02), "what a mean over survivors would say"


def test_without_a_success_there_is_a_bound_and_no_number(plain):
    (curve,) = scaling(plain, [plain.row(seed=s) for s in range(3)])
    (point,) = curve.points
    assert point.state == "censored"
    assert (point.reached, point.censored, point.cell_id) == (0, 3, None)
    assert math.isnan(point.expected)
    assert point.spent == 300
    assert point.time.interval == (100, math.inf)
    assert [warning.code for warning in curve.warnings] == ["budget"]


def test_all_diverged_is_neither_censored_nor_a_time(plain):
    (curve,) = scaling(plain, [plain.row(seed=s, status="diverged", steps=5) for s in range(3)])
    (point,) = curve.points
    assert (point.state, point.diverged, point.planned) == ("diverged", 3, 3)
    assert math.isnan(point.time.value)
    assert curve.critical.says == "Bc unknown"
    assert curve.critical.size.refused.code == "few-batch-sizes"


def two_batches(plain):
    times = {8: (40, 44), 16: (22, 26)}
    return [
        plain.row(batch_size=batch, seed=seed, time=time, lr=lr)
        for batch, pair in times.items()
        for seed, time in enumerate(pair)
        for lr, time in ((0.1, time), (0.2, time + 30), (0.3, None))
    ]


def test_times_efficiency_and_ideal_scaling_by_hand(plain):
    (curve,) = scaling(plain, two_batches(plain))
    first, second = curve.points
    assert first.time.value == pytest.approx(middle(40, 44))
    assert first.bounds == pytest.approx((math.sqrt(39 * 43), math.sqrt(40 * 44)))
    ends = np.log([middle(40), middle(44)])
    widths = np.log([40 / 39, 44 / 43])
    half = 1.15 * 12.7062 * np.std(ends, ddof=1) / math.sqrt(2) + bias_bound(ends, widths)
    assert np.log(first.time.interval) == pytest.approx(np.log(first.time.value) + np.array([-half, half]), rel=1e-4)
    assert second.efficiency.value == pytest.approx(8 * first.time.value / (16 * second.time.value))
    per_seed = np.log([middle(40) / (2 * middle(22)), middle(44) / (2 * middle(26))])
    half = 1.15 * 12.7062 * per_seed.std(ddof=1) / math.sqrt(2) + curve.bias.sum()
    assert np.log(second.efficiency.interval) == pytest.approx(per_seed.mean() + np.array([-half, half]), rel=1e-4)
    assert curve.ideal() == pytest.approx((first.time.value, first.time.value / 2))
    assert first.parameters == (("lr", 0.1),)
    assert [edge.side for edge in first.edges] == ["low"]
    assert first.time.n == 2


@pytest.mark.parametrize("unit", UNITS)
def test_every_unit_is_the_same_run_measured_otherwise(plain, unit):
    (curve,) = scaling(plain, two_batches(plain), unit)
    factor = {"steps": 1, "epochs": 8 / 1000, "seconds": 0.5, "flops": 80}[unit]
    assert curve.points[0].time.value == pytest.approx(middle(40, 44) * factor)
    expected = 1 if unit == "seconds" else 0.5
    same = middle(40, 44) / middle(22, 26)
    assert curve.points[1].efficiency.value == pytest.approx(same * expected)
    assert (curve.critical is None) == (unit != "steps")


def test_a_seed_is_timed_in_the_cell_that_the_other_seeds_choose(plain):
    #        seed 0  1  2
    lucky = (10, 50, 60)
    sound = (30, 31, 32)
    rows = [plain.row(seed=s, time=t, lr=lr) for lr, pair in ((0.1, lucky), (0.2, sound)) for s, t in enumerate(pair)]
    (table,) = seed_tables(compute_times(*plain.tables(rows), METRIC, plain.TARGET), "steps")
    winner = find_winner(table)
    # Means of the others: seed 0: 55 against 31.5; seed 1: 35 against 31; seed 2: 30 against 30.5.
    assert list(winner.time) == [30, 31, 60]
    assert (winner.method, winner.cell, winner.flattering) == ("cross-fitted", 1, 30.5)


def test_winners_are_timed_on_fresh_seeds_where_there_are_any(plain):
    rows = [plain.row(seed=s, time=t, lr=lr) for lr, t in ((0.1, 10), (0.2, 20)) for s in (0, 1)]
    rows += [plain.row(seed=s, time=t, lr=0.1) for s, t in ((7, 40), (8, 42))]
    (curve,) = scaling(plain, rows, confirmation_seeds=(7, 8))
    (point,) = curve.points
    assert point.method == "confirmed"
    assert point.time.value == pytest.approx(middle(40, 42))
    assert point.flattering == 9.5
    assert curve.seeds == (7, 8)


def test_one_seed_flatters_and_says_so(plain):
    (curve,) = scaling(plain, [plain.row(time=t, lr=lr) for lr, t in ((0.1, 20), (0.2, 10))])
    assert curve.points[0].method == "same-runs"
    assert curve.points[0].time.value == pytest.approx(middle(10))
    assert curve.points[0].time.interval is None
    assert "winner" in {warning.code for warning in curve.warnings}


def test_draws_with_one_seed_each_are_timed_by_their_own_run(plain):
    rows = [
        plain.row("a", batch, k, time=time + batch, lr=0.1 + k)
        for batch in (8, 16)
        for k, time in enumerate((40, 30, 50, 60, 45))
    ]
    (curve,) = scaling(plain, rows)
    assert [point.time.value for point in curve.points] == pytest.approx([middle(38), middle(46)])
    assert {point.method for point in curve.points} == {"same-runs"}
    assert "winner" in {caution.code for caution in curve.warnings}


def test_a_seed_that_fails_to_reach_makes_the_winner_unreliable(plain):
    rows = [
        plain.row(batch_size=b, seed=s, time=None if (b, s) == (8, 2) else 30) for b in (8, 16, 32) for s in range(3)
    ]
    (curve,) = scaling(plain, rows)
    assert [point.state for point in curve.points] == ["unreliable", "reached", "reached"]
    assert curve.points[0].expected == (29.5 + 29.5 + 100) / 2
    assert curve.points[0].expected_bounds == ((29 + 29 + 100) / 2, (30 + 30 + 100) / 2)
    assert curve.points[0].time.interval is None
    assert curve.batch_sizes == (16, 32)
    assert [warning.code for warning in curve.warnings] == ["unreliable"]


def test_a_batch_size_that_some_seeds_reach_bounds_the_fit_from_below(plain):
    """Left out, it would flatter: times halve up to 32, and 64 is known to take more than half of that."""
    times = {8: 80, 16: 40, 32: 20, 64: 20}
    rows = [
        plain.row(batch_size=b, seed=s, time=None if (b, s) == (64, 2) else t + s)
        for b, t in times.items()
        for s in range(3)
    ]
    (bounded,) = scaling(plain, rows)
    (without,) = scaling(plain, [row for row in rows if row["batch_size"] < 64])
    assert bounded.points[3].state == "unreliable"
    assert without.critical.size.value > 10 * bounded.critical.size.value
    assert bounded.batch_sizes == without.batch_sizes


def test_an_unfinished_study_is_said_to_be(plain):
    rows = [plain.row(seed=0, time=20), plain.row(seed=1, status="pending")]
    (curve,) = scaling(plain, rows)
    assert {"incomplete"} <= {warning.code for warning in curve.warnings}
    assert curve.points[0].waiting == 1


def test_no_run_leaves_the_counts(quadratic):
    runs, curves = quadratic.make_study(batches=(4, 64))
    for curve in compute_scaling(compute_times(runs, curves, METRIC, 0.1)):
        own = runs[runs["optimizer"] == curve.optimizer]
        assert sum(point.planned for point in curve.points) == len(own)


def test_of_four_seeds_two_choose_and_two_time(plain):
    rows = [
        plain.row(seed=s, time=t, lr=lr)
        for lr, times in ((0.1, (10, 12, 50, 52)), (0.2, (30, 30, 20, 20)))
        for s, t in enumerate(times)
    ]
    (curve,) = scaling(plain, rows)
    (point,) = curve.points
    assert (point.method, curve.seeds, point.flattering) == ("split", (2, 3), 10.5)
    assert point.time.value == pytest.approx(middle(50, 52))


@pytest.mark.parametrize(("n", "spread"), [(3, 0.0), (3, 0.05), (5, 0.05), (10, 0.0)])
def test_the_critical_batch_size_is_covered_through_the_choice_of_winners(n, spread):
    """Ties, or near-ties 5% apart, fall from 16 cells to 1 as the batch grows (docs/statistics.md, section 2)."""
    batches = 2.0 ** np.arange(6, 15)
    ties = np.round(np.geomspace(16, 1, len(batches))).astype(int)
    true = np.log(100 * (1 + 2000 / batches))
    rng = np.random.default_rng(n)
    covered, flattering, studies = 0, [], 800
    for _ in range(studies):
        columns, naive = [], []
        for level, cells in zip(true, ties, strict=True):
            times = np.exp(level + spread * np.arange(cells) + 0.1 * rng.standard_normal((n, cells)))
            reached = np.ones((n, cells), dtype=bool)
            winner = find_winner(
                SeedTable(
                    optimizer="a",
                    batch_size=1,
                    seeds=tuple(range(n)),
                    cells=tuple(map(str, range(cells))),
                    time=times,
                    after=times,
                    cap=times + 1,
                    reached=reached,
                    share=np.ones(times.shape),
                    counts={},
                )
            )
            columns.append(np.log(winner.time))
            naive.append(winner.flattering)
        low, high = size_interval(np.stack(columns, axis=1), batches, winner.widen)
        covered += low <= 2000 <= high
        flattering.append(naive[0] / math.exp(true[0]))
    assert 0.92 <= covered / studies <= 0.975
    assert spread or np.mean(flattering) < 0.97, "the runs that choose the winner would say that it is quicker"
