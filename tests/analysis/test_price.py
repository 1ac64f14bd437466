"""The price of tuning from tables written by hand, against closed forms and scipy."""

import math

import numpy as np
import pytest
from scipy import stats

from sensitivity.analysis.draws import compute_draws
from sensitivity.analysis.price import compute_price_ratios, compute_prices, pair_draws
from sensitivity.analysis.times import compute_times
from sensitivity.optimizers.kinds.kfac import KFACArm
from sensitivity.optimizers.kinds.sgd import SGDArm
from sensitivity.study.axes import Axis
from sensitivity.study.designs import configurations

METRIC = "train_loss"
DRAWN = {"a": "random", "b": "random"}


def draws_of(plain, rows, designs=None, axes=None):
    runs, curves = plain.tables(rows)
    times = compute_times(runs, curves, METRIC, plain.TARGET)
    return {own.optimizer: own for own in compute_draws(runs, times, designs=designs or DRAWN, axes=axes)}


def rows_of(plain, shares, *, draws=4, batches=(8,), name="a", **changes):
    """Return draws of a seed for each of `shares`, of which so many reach the target, each of a setting of its own."""
    return [
        plain.row(name, batch, seed, time=20 if k < share else None, lr=1 + seed + k / 10, **changes)
        for batch in batches
        for seed, share in enumerate(shares)
        for k in range(draws)
    ]


def test_one_draw_a_seed_has_wilsons_interval_and_its_reciprocals(plain):
    own = draws_of(plain, rows_of(plain, [1] * 6 + [0] * 24, draws=1))["a"]
    (price,) = compute_prices([own])
    interval = stats.binomtest(6, 30).proportion_ci(method="wilson")
    assert price.success.value == pytest.approx(0.2)
    assert price.success.interval == pytest.approx((interval.low, interval.high))
    assert price.trials.value == pytest.approx(5)
    assert price.trials.interval == pytest.approx((1 / interval.high, 1 / interval.low))
    assert (price.draws, price.reached, price.success.n, price.success.of) == (30, 6, 30, "seeds")
    steps = 100
    assert price.flops.value == pytest.approx(5 * steps * 8 * 10)
    assert price.seconds.value == pytest.approx(5 * steps * 0.5)
    assert price.seconds.interval[0] < price.seconds.value < price.seconds.interval[1]


def test_draws_that_share_a_seed_count_for_less_where_they_succeed_together(plain):
    apart = compute_prices([draws_of(plain, rows_of(plain, [2] * 16))["a"]])[0].success
    together = compute_prices([draws_of(plain, rows_of(plain, [4, 0] * 8))["a"]])[0].success
    assert apart.value == together.value == 0.5
    whole = stats.binomtest(32, 64).proportion_ci(method="wilson")
    of_seeds = stats.binomtest(8, 16).proportion_ci(method="wilson")
    assert together.interval == pytest.approx((of_seeds.low, of_seeds.high))
    shares = [3, 1, 2, 2] * 4
    usual = compute_prices([draws_of(plain, rows_of(plain, shares))["a"]])[0].success
    assert usual.interval == pytest.approx((whole.low, whole.high)), "no more than the draws"


def test_diverged_and_failed_draws_do_not_work_and_cost_what_they_cost(plain):
    rows = rows_of(plain, [1] * 10, draws=1)
    rows += [plain.row("a", 8, 10 + k, time=10, status="diverged", steps=20, lr=50.0 + k) for k in range(5)]
    rows += [plain.row("a", 8, 15 + k, status="failed", lr=60.0 + k) for k in range(5)]
    (price,) = compute_prices([draws_of(plain, rows)["a"]])
    assert (price.draws, price.reached) == (20, 10)
    assert price.seconds.value == pytest.approx((10 * 50 + 5 * 10 + 5 * 0) / 10)
    assert [caution.code for caution in price.warnings] == ["failed"]


def test_waiting_runs_and_confirmations_are_no_draws(plain):
    rows = rows_of(plain, [1] * 9 + [0], draws=1)
    rows += [plain.row("a", 8, 20, status="pending", lr=7.0), plain.row("a", 8, 10**9 + 1, time=20, lr=1.0)]
    (price,) = compute_prices([draws_of(plain, rows)["a"]])
    assert (price.draws, price.success.value) == (10, 0.9)


def test_batch_sizes_are_averaged_and_one_without_success_counts(plain):
    rows = rows_of(plain, [2] * 9 + [3], batches=(8,)) + rows_of(plain, [0] * 10, batches=(64,))
    prices = {price.batch_size: price for price in compute_prices([draws_of(plain, rows)["a"]])}
    assert list(prices) == [8, 64, None]
    assert prices[None].success.value == pytest.approx(prices[8].success.value / 2)
    assert math.isnan(prices[64].trials.value)
    assert prices[64].trials.interval == pytest.approx(
        (1 / stats.binomtest(0, 10).proportion_ci(method="wilson").high, math.inf)
    )
    assert prices[64].seconds.interval[0] == pytest.approx(50 * prices[64].trials.interval[0])


def test_ratios_have_fiellers_interval_and_costs_follow_their_price(plain):
    one = rows_of(plain, [1, 0, 1, 1, 0, 2, 1, 0, 1, 1])
    other = rows_of(plain, [2, 3, 2, 1, 2, 3, 2, 2, 1, 2], name="b", steps=50)
    both = draws_of(plain, one + other)
    (ratio,) = compute_price_ratios(both["a"], both["b"])
    assert ratio.trials.value == pytest.approx(20 / 8)
    assert ratio.flops.value == pytest.approx(2 * 20 / 8), "twice the steps"
    a, b = (own.success[:, 0] for own in both.values())
    for end in ratio.trials.interval:
        assert stats.ttest_1samp(b - end * a, 0).pvalue == pytest.approx(0.05)
    assert ratio.flops.interval[0] < ratio.flops.value < ratio.flops.interval[1]


def test_only_seeds_that_both_ran_are_compared(plain):
    both = draws_of(plain, rows_of(plain, [2] * 12) + rows_of(plain, [1] * 9 + [2], name="b"))
    pair = pair_draws(both["a"], both["b"])
    assert (pair.paired, pair.blocks) == (True, tuple(range(10)))


def test_configurations_crossed_with_seeds_are_the_blocks(plain):
    rows = [
        plain.row("a", 8, seed, time=20 if k < 5 else None, lr=1.0 + k) for seed in range(3) for k in range(20)
    ]  # fmt: skip
    own = draws_of(plain, rows)["a"]
    assert (own.of, len(own.blocks), own.unjudged) == ("configurations", 20, None)
    (price,) = compute_prices([own])
    interval = stats.binomtest(5, 20).proportion_ci(method="wilson")
    assert price.success.interval == pytest.approx((interval.low, interval.high))
    (sobol,) = draws_of(plain, rows, designs={"a": "sobol"}).values()
    assert sobol.unjudged.code == "one-replicate"


@pytest.mark.parametrize(("seeds", "code"), [(1, "few-seeds"), (7, "few-seeds"), (8, None)])
def test_few_seeds_describe_and_do_not_judge(plain, seeds, code):
    own = draws_of(plain, rows_of(plain, [2, 1] * 4)[: 4 * seeds])["a"]
    assert (own.unjudged and own.unjudged.code) == code
    assert compute_prices([own])[0].success.interval is not None


def test_grids_describe_with_an_interval_of_seeds_only(plain):
    rows = [
        plain.row("a", 8, seed, time=20 if k < 2 + (seed == 0) else None, lr=10.0**k)
        for seed in range(4)
        for k in range(8)
    ]
    own = draws_of(plain, rows, designs={"a": "grid"})["a"]
    assert own.unjudged.code == "grid"
    (price,) = compute_prices([own])
    shares = [3 / 8, 2 / 8, 2 / 8, 2 / 8]
    assert price.success.value == pytest.approx(np.mean(shares))
    assert price.success.interval == pytest.approx(stats.t.interval(0.95, 3, np.mean(shares), stats.sem(shares)))
    assert compute_price_ratios(own, own) == ()
    assert [(edge.parameter, edge.side) for edge in own.touches] == [("lr", "low")]
    assert own.at_touches == ((4, 4),)


@pytest.mark.parametrize(("working", "coarse"), [(0, False), (1, True), (2, True), (3, False), (4, False)])
def test_a_grid_of_which_two_values_in_a_row_work_says_that_it_is_coarse(plain, working, coarse):
    """docs/statistics.md, section 4b; along the damping all four work, and a declared list is no box."""
    rows = [
        plain.row("a", 8, seed, time=20 if 0 < k <= working else None, lr=10.0**k, damping=d, momentum=m)
        for seed in range(2)
        for k in range(6)
        for d in (0.1, 1.0, 10.0, 100.0)
        for m in (0.0, 0.5, 0.9)
        if m < 0.9 or k == 0
    ]
    axes = {"a": {"momentum": Axis(scale="values", values=(0.0, 0.5, 0.9))}}
    own = draws_of(plain, rows, designs={"a": "grid"}, axes=axes)["a"]
    found = [warning.text for warning in own.warnings if warning.code == "coarse-grid"]
    assert len(found) == coarse
    assert all("learning rate" in text and "batch size 8" in text for text in found)
    assert own.warnings == compute_prices([own])[0].warnings[: len(own.warnings)]


def test_bounds_at_which_settings_work_are_counted(plain):
    rows = [plain.row("a", 8, k, time=20 if k % 2 else None, lr=10 ** (-4 + 0.2 * k)) for k in range(21)]
    axes = {"a": {"lr": Axis(scale="log", low=1e-4, high=1.0)}}
    own = draws_of(plain, rows, axes=axes)["a"]
    assert [(edge.side, edge.value) for edge in own.touches] == [("low", 1e-4), ("high", 1.0)]
    assert own.at_touches == ((1, 2), (1, 2))


@pytest.mark.parametrize(
    ("designs", "status", "code"), [({"a": "tpe"}, "completed", "adaptive"), (DRAWN, "stopped", "pruned")]
)
def test_searches_and_pruned_runs_have_no_price(plain, designs, status, code):
    runs, curves = plain.tables(rows_of(plain, [2] * 10))
    runs.loc[runs.index[-1], "status"] = status
    (own,) = compute_draws(runs, compute_times(runs, curves, METRIC, plain.TARGET), designs=designs)
    assert own.refused.code == code
    (price,) = compute_prices([own])
    assert math.isnan(price.trials.value)
    assert price.refused == own.refused


def unit(configuration, arm):
    """Return where a setting lies in its box, from 0 to 1, by hyperparameter."""
    box = {name: np.log10(axis.bounds()) for name, axis in arm.axes().items() if axis.varies}
    return {name: (np.log10(value) - box[name][0]) / np.ptp(box[name]) for name, value in configuration if name in box}


def kfac(damping):
    field = {"log": list(damping)}
    return KFACArm.model_validate(
        {"kind": "kfac", "design": "sobol", "samples": 4, "lr": {"log": [1e-4, 1.0]}, "damping": field}
    )


def test_the_share_of_a_box_that_works_is_what_draws_from_it_show(plain):
    """1.4 x 1.4 decades of 4 x 4: p = .1225, one in 8.2; over lr alone 1.0 of 4: one in 4."""
    sgd = SGDArm.model_validate({"kind": "sgd", "design": "sobol", "samples": 4, "lr": {"log": [1e-4, 1.0]}})
    rows = []
    for seed in range(250):
        for name, arm, half in (("a", kfac((1e-4, 1.0)), 0.7), ("b", sgd, 0.5)):
            for setting in configurations(arm, seed):
                works = all(abs(4 * u - 2) < half for u in unit(setting, arm).values())
                rows.append(plain.row(name, 8, seed, time=20 if works else None, **dict(setting)))
    both = draws_of(plain, rows, designs={"a": "sobol", "b": "sobol"})
    one, other = compute_prices(list(both.values()))
    assert one.success.interval[0] < 0.1225 < one.success.interval[1]
    assert other.success.interval[0] < 0.25 < other.success.interval[1]
    (ratio,) = compute_price_ratios(both["a"], both["b"])
    assert ratio.trials.interval[0] < 0.25 / 0.1225 < ratio.trials.interval[1]


def test_the_box_of_an_inert_hyperparameter_does_not_change_the_price(plain):
    found = []
    for damping in ((1e-2, 1.0), (1e-8, 1e6)):
        arm = kfac(damping)
        rows = [
            plain.row("a", 8, seed, time=20 if abs(4 * unit(setting, arm)["lr"] - 2) < 0.5 else None, **dict(setting))
            for seed in range(40)
            for setting in configurations(arm, seed)
        ]
        found.append(compute_prices([draws_of(plain, rows, designs={"a": "sobol"})["a"]])[0].success)
    assert found[0] == found[1]


def test_lists_whose_settings_come_again_are_draws_of_their_seeds_all_the_same(plain):
    """Of 2 x 3 values four are drawn by each seed: a setting runs with several seeds, and isn't crossed with them."""
    lists = {"lr": [0.1, 1.0], "momentum": [0.0, 0.5, 0.9]}
    arm = SGDArm.model_validate({"kind": "sgd", "design": "sobol", "samples": 2, **lists})
    rows = [
        plain.row("a", 8, seed, time=20 if dict(setting)["lr"] == 1 else None, **dict(setting))
        for seed in range(40)
        for setting in configurations(arm, seed)
    ]
    own = draws_of(plain, rows, designs={"a": "sobol"})["a"]
    assert (own.of, len(own.blocks), own.unjudged) == ("seeds", 40, None)
    assert compute_prices([own])[0].success.value == pytest.approx(0.5, abs=0.02)
