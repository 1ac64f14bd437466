"""Every analysis of a target counts the same runs as having reached it: those that crossed it and did not diverge."""

import math

import numpy as np
import pytest

from sensitivity.analysis.draws import compute_draws
from sensitivity.analysis.rates import best_values
from sensitivity.analysis.regions import compute_regions
from sensitivity.analysis.scaling import compute_scaling
from sensitivity.analysis.success import compute_success
from sensitivity.analysis.success_plane import compute_success_planes
from sensitivity.analysis.targets import compute_targets
from sensitivity.analysis.times import compute_times, deciding_rows
from sensitivity.execution.objectives import run_values
from sensitivity.study.search import SearchSpec

METRIC, TARGET = "train_loss", 0.5
BATCH_SIZES = (8, 32)
BOX = {"a": {"lr": (1e-2, 1e2), "damping": (1e-2, 1e2)}}

KINDS = (
    {"time": 20, "final": 0.2},
    {"time": 20, "final": 0.9},  # falls back
    {"time": 100},  # at its last evaluation
    {"time": 1, "final": 2.4},  # at its first, and falls back
    {"final": 0.8},
    {"status": "diverged", "steps": 30},
    {"time": 20, "status": "diverged", "steps": 30},  # met it on its way
)


@pytest.fixture(scope="module")
def study(plain):
    """Draws with a seed of their own each, of every kind: at the larger batch size none falls back."""
    rng = np.random.default_rng(0)
    rows = []
    for seed in range(28):
        kind = dict(KINDS[seed % len(KINDS)])
        lr, damping = 10 ** rng.uniform(-2, 2, 2)
        rows.append(plain.row(batch_size=8, seed=seed, lr=lr, damping=damping, **kind))
        kind |= {"final": 0.8, "time": None} if kind.get("final", 0) > TARGET else {}
        rows.append(plain.row(batch_size=32, seed=seed, lr=lr, damping=damping, **kind))
    return plain.tables(rows)


def of_targets(runs, curves, times):
    return [outcome.reached for outcome in compute_targets(runs, curves, {METRIC: [TARGET]})]


def of_success(runs, curves, times):
    (surface,) = compute_success(runs, curves, METRIC, [TARGET], designs={"a": "random"})
    return [surface.rate[k, 0] * surface.runs[k] for k in range(len(BATCH_SIZES))]


def of_planes(runs, curves, times):
    return [sum(cell.reached for cell in plane.cells) for plane in compute_success_planes(times)]


def of_regions(runs, curves, times):
    regions = compute_regions(runs, curves, METRIC, target=TARGET, designs={"a": "random"}, boxes=BOX)
    return [region.volume.value / 16 * region.volume.n for region in regions]


def of_scaling(runs, curves, times):
    (curve,) = compute_scaling(times, designs={"a": "random"})
    return [point.reached for point in curve.points]


def of_draws(runs, curves, times):
    (draws,) = compute_draws(runs, times, designs={"a": "random"})
    return draws.reached


def of_searches(runs, curves, times):
    """What an adaptive search is told: a run that misses the target counts as twice its budget."""
    search = SearchSpec(objective="steps_to_target", target={METRIC: TARGET})
    by_run = {trial: rows.to_dict("records") for trial, rows in curves.groupby("trial_id")}
    told = [run_values(row, by_run[row["trial_id"]], search) for row in runs.to_dict("records")]
    hit = np.array([value is not None and value[0] <= steps for value, steps in zip(told, runs["steps"], strict=True)])
    return [hit[runs["batch_size"] == size].sum() for size in BATCH_SIZES]


COUNTS = (of_targets, of_success, of_planes, of_regions, of_scaling, of_draws, of_searches)


@pytest.mark.parametrize("few", [False, True], ids=["all evaluations", "those that decide"])
@pytest.mark.parametrize(
    "count",
    [of_targets, of_success, of_planes, of_regions, of_scaling, of_draws, of_searches],
    ids=lambda f: f.__name__,
)
def test_all_count_the_same_runs(study, count, few):
    runs, curves = study
    if few:  # as dashboards keep them; each run's best evaluation is what rates and regions need
        best = curves.groupby("trial_id")[METRIC].idxmin()
        kept = deciding_rows(curves, METRIC, TARGET).index.union(best).union(curves.index[curves["step"] == 0])
        curves = curves.loc[kept]
    times = compute_times(runs, curves, METRIC, TARGET)
    assert list(count(runs, curves, times)) == pytest.approx([16, 8])
    assert times["fell_back"].sum() == 8


def test_the_region_of_a_grid_is_that_of_curves_that_stay(plain):
    """By the last evaluation the region would be empty, and the success rate of the same runs 5 of 9."""
    final = {-4: 2.0, -3: 2.0, 3: 2.0, 4: 2.0}
    falls = [plain.row(time=None if x in final else 20, final=final.get(x, 0.9), lr=10.0**x) for x in range(-4, 5)]
    stays = [{**row, "final": 0.5 if row["time"] else row["final"]} for row in falls]
    (one,), (other,) = (compute_regions(*plain.tables(rows), METRIC, target=TARGET) for rows in (falls, stays))
    assert one.decades.value == other.decades.value == pytest.approx(4)
    (surface,) = compute_success(*plain.tables(falls), METRIC, [TARGET])
    assert surface.rate[0, 0] == pytest.approx(5 / 9)


@pytest.mark.parametrize("loss", [-math.inf, math.nan, math.inf])
def test_what_is_not_finite_meets_no_target(plain, loss):
    runs, curves = plain.tables([plain.row(final=0.9)])
    curves.loc[curves["step"] == 100, METRIC] = loss
    assert not compute_times(runs, curves, METRIC, TARGET)["met"].any()
    assert best_values(runs, curves, METRIC).tolist() == [2.5]
