"""Studies that lack most of what a quantity wants: every function says what it can, and none raises or warns.

Also what holds of all functions: inputs stay as they are, and no global generator is drawn from.
"""

import numpy as np
import pandas as pd
import pytest

from sensitivity.analysis.best_of_k import compute_best_of_k
from sensitivity.analysis.clipping import compute_clipping
from sensitivity.analysis.cost import compute_cost, compute_cost_ratios
from sensitivity.analysis.curves import compute_curves
from sensitivity.analysis.draws import compute_draws
from sensitivity.analysis.importance import compute_importance
from sensitivity.analysis.lr_sensitivity import compute_lr_sensitivity
from sensitivity.analysis.maps import compute_maps
from sensitivity.analysis.price import compute_price_ratios, compute_prices
from sensitivity.analysis.profiles import compute_profiles
from sensitivity.analysis.regions import compute_regions
from sensitivity.analysis.scaling import compute_scaling
from sensitivity.analysis.success import compute_success, compute_success_difference
from sensitivity.analysis.success_plane import compute_success_planes
from sensitivity.analysis.time_split import compute_time_split
from sensitivity.analysis.times import UNITS, compute_times
from sensitivity.analysis.tuning import compute_tuning
from sensitivity.analysis.verdict_scaling import compute_scaling_verdict
from sensitivity.analysis.verdict_sensitivity import compute_sensitivity_verdict
from sensitivity.study.metrics import METRICS

METRIC = "train_loss"


def whatever_the_design(runs, curves, target=0.5):
    """Return what the functions make of a study that no design matters to."""
    times = compute_times(runs, curves, METRIC, target)
    scaling = {unit: compute_scaling(times, unit) for unit in UNITS}
    return {
        "times": times,
        "scaling": scaling,
        "profiles": compute_profiles({"target": scaling["steps"]}),
        "planes": compute_success_planes(times),
        "cost": compute_cost(runs),
        "lr": compute_lr_sensitivity(runs, curves, METRIC),
        "clipping": compute_clipping(runs, curves),
        "split": compute_time_split(runs),
    }


def by_design(runs, curves, before, target=0.5, designs=None):
    """Return what the others make of it, after `whatever_the_design`."""
    common = compute_regions(runs, curves, METRIC, target=target, designs=designs)
    surfaces = compute_success(runs, curves, METRIC, [target], designs=designs)
    draws = compute_draws(runs, before["times"], designs=designs)
    found = {
        "regions": (*compute_regions(runs, curves, METRIC, designs=designs), *common),
        "success": surfaces,
        "open success": compute_success(runs, curves, METRIC, designs=designs),
        "prices": compute_prices(draws),
        "best of k": compute_best_of_k(runs, curves, METRIC, designs=designs),
        "importance": compute_importance(runs, curves, METRIC, designs=designs),
        "tuning": compute_tuning(runs, curves, METRIC, designs=designs),
    }
    names = list(dict.fromkeys(runs["optimizer"]))
    if len(names) > 1:
        found["price ratios"] = compute_price_ratios(*draws[:2])
        found["difference"] = compute_success_difference(*surfaces[:2])
        found["ratios"] = compute_cost_ratios(before["cost"], *names[:2])
        found["verdicts"] = (
            compute_scaling_verdict(runs, before["scaling"]["steps"], *names[:2]),
            compute_sensitivity_verdict(runs, draws, *names[:2]),
        )
    return found


def everything(runs, curves, target=0.5):
    """Return what all functions make of a study."""
    before = whatever_the_design(runs, curves, target)
    return before | by_design(runs, curves, before, target)


def rows(plain, *, optimizers="ab", batches=(8, 16, 32), seeds=3, cells=3, **changes):
    rng = np.random.default_rng(0)
    return [
        plain.row(
            name,
            batch,
            seed,
            **{
                "time": int(rng.integers(20, 40)) + 10 * place,
                "final": 0.2 + 0.1 * place,
                "lr": 0.1 * 3**place,
                **changes,
            },
        )
        for name in optimizers
        for batch in batches
        for seed in range(seeds)
        for place in range(cells)
    ]


@pytest.fixture(scope="module")
def found_in_whole(plain):
    """What all functions make of the whole study."""
    return everything(*plain.tables(rows(plain)))


STUDIES = {
    "whole": {},
    "pending": {"status": "pending"},
    "failed": {"status": "failed"},
    "all diverged": {"status": "diverged", "steps": 3, "time": None},
    "never reached": {"time": None, "final": 1.0},
    "single cell": {"cells": 1},
    "single seed": {"seeds": 1},
    "two seeds": {"seeds": 2},
    "one optimizer": {"optimizers": "a"},
    "one batch size": {"batches": (8,)},
    "one run": {"optimizers": "a", "batches": (8,), "seeds": 1, "cells": 1},
}


@pytest.mark.parametrize("name", STUDIES)
def test_every_function_says_what_it_can(plain, name):
    tables = plain.tables(rows(plain, **STUDIES[name]))
    before = whatever_the_design(*tables)
    for designs in (None, {"a": "random", "b": "random"}, {"a": "tpe", "b": "grid"}):
        for verdict in by_design(*tables, before, designs=designs).get("verdicts", ()):
            assert verdict.answer == "undetermined", "three seeds"
            assert verdict.reasons
            assert verdict.settle


@pytest.mark.parametrize("share", [0.0, 0.3, 0.7])
def test_half_finished_studies(plain, share):
    runs, curves = plain.tables(rows(plain))
    waiting = np.random.default_rng(1).random(len(runs)) >= share
    runs.loc[waiting, "status"] = "pending"
    runs.loc[waiting, ["train_loss", "train_seconds", "eval_seconds", "flops", "steps"]] = np.nan
    curves = curves[curves["trial_id"].isin(runs.loc[~waiting, "trial_id"])]
    found = everything(runs, curves)
    for verdict in found["verdicts"]:
        assert verdict.reasons[0].code == "incomplete"
        assert verdict.settle[0].runs == waiting.sum()
    outcomes = found["times"]["outcome"].value_counts()
    assert outcomes["waiting"] == waiting.sum()


def test_a_study_of_nothing(plain):
    runs, curves = plain.tables(rows(plain))
    found = everything(runs[:0], curves[:0])
    assert found["cost"] == found["best of k"] == found["success"] == ()


def test_inputs_stay_as_they_are_and_no_global_generator_is_touched(plain, found_in_whole):
    runs, curves = plain.tables(rows(plain))
    before = runs.copy(deep=True), curves.copy(deep=True)
    np.random.seed(7)  # noqa: NPY002 the global generator is what is watched
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    found = everything(runs, curves)
    assert (np.random.get_state()[1] == state).all()  # noqa: NPY002
    pd.testing.assert_frame_equal(runs, before[0])
    pd.testing.assert_frame_equal(curves, before[1])
    assert repr(found) == repr(found_in_whole), "which another state of the generator saw"


def test_a_nan_epoch_is_left_out_and_not_filled_with_the_initial_performance(plain):
    """DeepOBS fills it with the initial performance."""
    runs, curves = plain.tables([plain.row(seed=s, time=20) for s in range(3)])
    curves.loc[(curves["step"] == 20) & (curves["trial_id"] == "t1"), METRIC] = np.nan
    (cell,) = compute_curves(runs, curves, METRICS[METRIC], [runs["cell_id"].iloc[0]])
    assert cell.high == (2.5, 2.5, 0.2)
    assert cell.seeds[1].measured == (2.5, 2.5, 0.2)
    assert compute_times(runs, curves, METRIC, 0.5)["steps"].tolist() == [20, 100, 20]


def test_extra_columns_and_another_index_do_not_matter(plain, found_in_whole):
    runs, curves = plain.tables(rows(plain))
    other = runs.assign(note="x").set_index(pd.Index(np.arange(len(runs))[::-1] + 1000))
    found = everything(other, curves)
    for name in ("regions", "success"):
        assert repr(found[name]) == repr(found_in_whole[name])


def test_an_evaluation_that_is_there_twice_counts_once_and_the_last_of_them(plain, found_in_whole):
    runs, curves = plain.tables(rows(plain))
    stale = curves[curves["step"] > 0].assign(train_loss=3.0)
    assert repr(everything(runs, pd.concat([stale, curves]))) == repr(found_in_whole)
    doubled = pd.concat([curves, curves])
    cells = list(runs["cell_id"].unique())
    twice = compute_curves(runs, doubled, METRICS[METRIC], cells)
    assert twice == compute_curves(runs, curves, METRICS[METRIC], cells)
    pd.testing.assert_frame_equal(compute_times(runs, doubled, METRIC, 0.5), compute_times(runs, curves, METRIC, 0.5))


@pytest.mark.parametrize("loss", [1e308, np.finfo(float).max])
def test_enormous_losses_overflow_nowhere(plain, loss):
    runs, curves = plain.tables(rows(plain))
    huge = runs.index[::2]
    runs.loc[huge, "train_loss"] = loss
    last = curves["trial_id"].isin(runs.loc[huge, "trial_id"]) & (curves["step"] > 0)
    curves.loc[last, "train_loss"] = loss
    everything(runs, curves)
    compute_curves(runs, curves, METRICS[METRIC], list(runs["cell_id"].unique()))
    compute_maps(runs, curves, METRICS[METRIC])


def test_a_target_that_the_untrained_network_meets_is_no_time(plain):
    runs, curves = plain.tables(rows(plain))
    found = everything(runs, curves, target=10.0)
    sound = found["times"]["outcome"] == "reached"
    assert (found["times"].loc[sound, "steps"] == 0).all()
    assert found["times"].loc[sound, "untrained"].all()
    scaling, _ = found["verdicts"]
    assert "untrained" in {block.code for block in scaling.blocks}
    assert "target" in {remedy.code for remedy in scaling.remedies}
