"""Median pruning within a pack, compared with the curves of the unpruned pack."""

import statistics

import pytest

from sensitivity.study.results import Status
from sensitivity.study.trials import Pack, expand
from sensitivity.training.loop import train_pack
from sensitivity.training.problems import load_problem


def spec(make_study, prune, lrs=(1e-4, 1e-3, 1e-2, 3e-2, 0.1, 1e6), **changes):
    arm = {"kind": "sgd", "lr": list(lrs), "prune": prune}
    return make_study(optimizers={"a": arm}, budget={"steps": 40}, evaluation={"every_steps": 10}, **changes)


def train(study):
    return train_pack(Pack(expand(study)), load_problem(study.problem))


def test_pruning_stops_the_worse_half_and_leaves_others_unchanged(make_study):
    whole, pruned = train(spec(make_study, "none")), train(spec(make_study, "median"))
    assert [run.status for run in whole] == [Status.COMPLETED] * 5 + [Status.DIVERGED]
    curves = [[m.train_loss for m in run.measurements] for run in whole]
    alive, stopped_at = set(range(5)), {}
    best = [curve[0] for curve in curves[:5]]
    for k in range(1, 4):
        for place in alive:
            best[place] = min(best[place], curves[place][k])
        median = statistics.median([*best, float("inf")])
        for place in [place for place in alive if best[place] > median]:
            alive.discard(place)
            stopped_at[place] = 10 * k
    assert stopped_at, "nothing to see"
    for place, (a, b) in enumerate(zip(whole, pruned, strict=True)):
        if place in stopped_at:
            assert b.status == Status.STOPPED
            assert b.steps == stopped_at[place]
            assert "its pack's median" in b.message
        else:
            assert b.status == a.status
            assert b.steps == a.steps
        shared = len(b.measurements)
        assert [m.train_loss for m in b.measurements] == pytest.approx(curves[place][:shared], rel=1e-5)


def test_a_pack_of_one_is_never_stopped(make_study):
    (run,) = train(spec(make_study, "median", lrs=(1e-4,)))
    assert run.status == Status.COMPLETED


def test_pruned_runs_are_not_those_of_an_unpruned_study(make_study):
    plain, pruned = (expand(spec(make_study, prune))[0] for prune in ("none", "median"))
    assert plain.id != pruned.id
    assert "prune" not in plain.settings
