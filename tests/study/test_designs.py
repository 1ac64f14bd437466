import itertools
import math
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter
from scipy import stats
from scipy.stats import qmc

from sensitivity.optimizers.kinds.sgd import SGDArm
from sensitivity.study.arms import ArmField
from sensitivity.study.axes import Axis, AxisField, round_significant
from sensitivity.study.designs import configurations

read_axis = TypeAdapter(AxisField).validate_python
read_arm = TypeAdapter(ArmField).validate_python


def drawn(samples, *, design="sobol", seed=0, **changes):
    box = {"lr": {"log": [1e-4, 1.0]}, "damping": {"log": [1e-3, 10.0]}, "momentum": {"linear": [0.2, 0.8]}, **changes}
    return read_arm({"kind": "kfac", "design": design, "samples": samples, "design_seed": seed, **box})


def test_a_log_grid_has_its_ends_exactly_and_equal_ratios():
    grid = read_axis({"log": [1e-3, 10.0], "points": 9}).grid()
    assert grid == (0.001, 0.00316228, 0.01, 0.0316228, 0.1, 0.316228, 1.0, 3.16228, 10.0)
    np.testing.assert_allclose(np.divide(grid[1:], grid[:-1]), 10**0.5, rtol=1e-5)


def test_a_linear_grid_is_evenly_spaced():
    assert read_axis({"linear": [0.0, 0.9], "points": 4}).grid() == (0.0, 0.3, 0.6, 0.9)


@given(st.floats(1e-12, 1e12), st.floats(1.001, 1e6), st.integers(2, 40), st.sampled_from(["log", "linear"]))
@settings(max_examples=100, deadline=None, derandomize=True)
def test_every_grid_rises_from_end_to_end_inside_its_interval(low, ratio, points, scale):
    ends = round_significant(low), round_significant(low * ratio)
    grid = read_axis({scale: [low, low * ratio], "points": points}).grid()
    assert (grid[0], grid[-1]) == ends
    assert len(grid) == points
    assert all(a < b for a, b in itertools.pairwise(grid))


def test_values_have_six_significant_digits_and_one_zero():
    assert read_axis([1 / 3, 123456789, -0.0]).values == (0.333333, 123457000.0, 0.0)
    assert math.copysign(1, read_axis(-0.0).values[0]) == 1
    assert math.copysign(1, read_axis({"linear": [-0.0, 1.0], "points": 2}).grid()[0]) == 1


def test_quantiles():
    log, linear, listed = read_axis({"log": [1e-4, 1.0]}), read_axis({"linear": [2.0, 4.0]}), read_axis([5.0, 3.0, 8.0])
    assert [log.quantile(u) for u in (0, 0.25, 0.5, 1)] == [1e-4, 1e-3, 1e-2, 1.0]
    assert [linear.quantile(u) for u in (0, 0.25, 0.5, 1)] == [2.0, 2.5, 3.0, 4.0]
    assert [listed.quantile(u) for u in (0, 0.33, 0.34, 0.66, 0.67, 1)] == [5.0, 5.0, 3.0, 3.0, 8.0, 8.0]


def test_bounds_and_varies():
    assert read_axis([0.5, 0.1]).bounds() == (0.1, 0.5)
    assert read_axis({"log": [0.1, 1.0]}).bounds() == (0.1, 1.0)
    assert not read_axis(0.5).varies
    assert read_axis([0.5, 0.1]).varies
    assert read_axis({"log": [0.1, 1.0]}).varies


def test_an_interval_without_points_is_no_grid():
    with pytest.raises(ValueError, match="needs points"):
        Axis(scale="log", low=0.1, high=1.0).grid()


def test_a_grid_is_the_full_factorial():
    arm = read_arm(
        {"kind": "sgd", "lr": [0.1, 1.0], "momentum": {"linear": [0.0, 0.5], "points": 2}, "weight_decay": 1e-4}
    )
    assert configurations(arm) == tuple(
        (("lr", lr), ("momentum", momentum), ("weight_decay", 1e-4)) for lr in (0.1, 1.0) for momentum in (0.0, 0.5)
    )
    assert arm.most_cells() == 4


@pytest.mark.parametrize("design", ["random", "sobol"])
def test_draws_lie_in_the_box_and_fixed_values_stay(design):
    cells = configurations(drawn(200, design=design, weight_decay=[0.0, 1e-4, 1e-2]))
    assert len(cells) == 200
    columns = {name: np.array([dict(cell)[name] for cell in cells]) for name, _ in cells[0]}
    assert list(columns) == ["lr", "damping", "momentum", "weight_decay"]
    assert columns["lr"].min() >= 1e-4
    assert columns["lr"].max() <= 1.0
    assert columns["momentum"].min() >= 0.2
    assert columns["momentum"].max() <= 0.8
    values, counts = np.unique(columns["weight_decay"], return_counts=True)
    assert values.tolist() == [0.0, 1e-4, 1e-2]
    assert stats.chisquare(counts).pvalue > 1e-3


@pytest.mark.parametrize("design", ["random", "sobol"])
def test_draws_are_log_uniform(design):
    cells = configurations(drawn(512, design=design))
    lr = np.log10([dict(cell)["lr"] for cell in cells])
    damping = np.log10([dict(cell)["damping"] for cell in cells])
    assert stats.kstest(lr, stats.uniform(-4, 4).cdf).pvalue > 1e-3
    assert stats.kstest(damping, stats.uniform(-3, 4).cdf).pvalue > 1e-3
    assert abs(np.corrcoef(lr, damping)[0, 1]) < 0.15


@pytest.mark.parametrize("design", ["random", "sobol"])
@pytest.mark.parametrize(("few", "many"), [(1, 2), (3, 17), (16, 100), (100, 128)])
def test_more_samples_keep_the_earlier_draws(design, few, many):
    assert configurations(drawn(many, design=design))[:few] == configurations(drawn(few, design=design))


@pytest.mark.parametrize("design", ["random", "sobol"])
def test_draws_depend_on_their_seed_alone(design):
    first = configurations(drawn(20, design=design))
    np.random.seed(7)  # noqa: NPY002 (the global state that must not matter)
    random.seed(7)
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    assert configurations(drawn(20, design=design)) == first
    assert (np.random.get_state()[1] == before).all()  # noqa: NPY002
    assert not set(configurations(drawn(20, design=design, seed=1))) & set(first)


def test_sobol_fills_the_box_more_evenly_than_random_draws():
    def discrepancy(design, seed):
        cells = configurations(drawn(64, design=design, seed=seed))
        unit = [
            [math.log10(lr) / 4 + 1, (math.log10(damping) + 3) / 4, (m - 0.2) / 0.6]
            for (_, lr), (_, damping), (_, m), _ in cells
        ]
        return qmc.discrepancy(np.clip(unit, 0, 1))

    assert max(discrepancy("sobol", seed) for seed in range(5)) < min(discrepancy("random", seed) for seed in range(5))


def test_sobol_strata_hold_one_draw_each():
    lr = np.log10([dict(cell)["lr"] for cell in configurations(drawn(32))])
    assert sorted(np.floor((lr + 4) / 4 * 32).astype(int)) == list(range(32))


def test_a_repeated_draw_from_lists_is_one_cell():
    arm = SGDArm.model_validate({"kind": "sgd", "lr": [0.1, 1.0], "design": "random", "samples": 50})
    assert sorted(cell[0][1] for cell in configurations(arm)) == [0.1, 1.0]


@pytest.mark.parametrize("design", ["random", "sobol"])
def test_every_seed_draws_its_own_settings_and_a_grid_is_the_same_for_all(design):
    arm = drawn(8, design=design)
    seeds = [configurations(arm, seed) for seed in range(6)]
    assert len({cell for cells in seeds for cell in cells}) == 48
    assert seeds[3] == configurations(arm, 3)
    grid = read_arm({"kind": "sgd", "lr": [0.1, 1.0], "momentum": [0.0, 0.5]})
    assert configurations(grid, 0) == configurations(grid, 5)


@pytest.mark.parametrize("design", ["random", "sobol"])
def test_equally_named_hyperparameters_share_quantiles_across_arms(design):
    """Independent of other axes, of the width of the interval, and of the number of draws."""
    one = drawn(8, design=design)
    other = read_arm(
        {"kind": "sgd", "design": design, "samples": 5, "lr": {"log": [1e-2, 1e2]}, "momentum": {"linear": [0.0, 0.6]}}
    )
    for seed in (0, 7):
        a, b = configurations(one, seed)[:5], configurations(other, seed)
        np.testing.assert_allclose([dict(x)["lr"] * 100 for x in a], [dict(x)["lr"] for x in b], rtol=1e-5)
        np.testing.assert_allclose(
            [(dict(x)["momentum"] - 0.2) / 0.6 for x in a], [dict(x)["momentum"] / 0.6 for x in b], atol=1e-5
        )


def test_each_seed_of_a_sobol_design_is_a_replicate_that_fills_the_box():
    """Each quarter of every hyperparameter contains one of four draws, uniformly distributed over seeds."""
    lrs = np.array([[np.log10(dict(c)["lr"]) / 4 + 1 for c in configurations(drawn(4), seed)] for seed in range(200)])
    assert (np.sort((4 * lrs).astype(int), axis=1) == np.arange(4)).all()
    assert stats.kstest(lrs[:, 0], stats.uniform(0, 1).cdf).pvalue > 1e-3
