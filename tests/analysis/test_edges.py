"""Best cells at a bound of the box that draws and searches come from."""

import math
import tomllib

import numpy as np
import pandas as pd
import pytest
from pydantic import TypeAdapter

from sensitivity.analysis.cautions import compute_cautions
from sensitivity.analysis.designs import NEAR_BOUND, Edge, box_edges, table_edges
from sensitivity.analysis.maps import compute_maps
from sensitivity.analysis.remedies_edge import extend
from sensitivity.analysis.scaling import compute_scaling
from sensitivity.analysis.summary import compute_summary
from sensitivity.analysis.times import compute_times
from sensitivity.analysis.verdict_scaling import compute_scaling_verdict
from sensitivity.study.axes import Axis, AxisField
from sensitivity.study.metrics import METRICS
from sensitivity.study.section import CONFIRMATION_SEEDS

LOG = Axis(scale="log", low=1e-4, high=1.0)
LINEAR = Axis(scale="linear", low=0.0, high=0.9)
LIST = Axis(scale="values", values=(0.9, 0.0, 0.5))


@pytest.mark.parametrize(
    ("axis", "value", "sides"),
    [
        (LOG, 10**-0.19, ["high"]),  # 4.75% of four decades below the bound
        (LOG, 10**-0.21, []),  # 5.25%: in linear coordinates it would be 38%
        (LOG, 10**-3.81, ["low"]),
        (LOG, 10**-3.79, []),
        (LOG, 1e-4, ["low"]),
        (LOG, 2.0, ["high"]),  # a run from before the box was narrowed
        (LINEAR, 0.86, ["high"]),
        (LINEAR, 0.85, []),
        (LINEAR, 0.0, []),  # nothing lies below zero
        (Axis(scale="linear", low=0.1, high=0.9), 0.13, ["low"]),
        (LIST, 0.9, ["high"]),
        (LIST, 0.5, []),
        (LIST, 0.0, []),
        (Axis(scale="values", values=(0.3,)), 0.3, []),  # does not vary
    ],
)
def test_near_a_bound_is_in_the_scale_that_the_box_is_drawn_in(axis, value, sides):
    assert NEAR_BOUND == 0.05
    edges = box_edges({"lr": axis}, {"lr": value}, ("lr",))
    assert [edge.side for edge in edges] == sides
    assert all(edge.of == "box" and edge.value == axis.bounds()[edge.side == "high"] for edge in edges)


def test_the_least_value_that_there_can_be_is_no_edge():
    """An interval of 1 step can't be extended downwards, whatever the grid or the box."""
    steps = Axis(scale="values", values=(1.0, 10.0, 100.0))
    assert box_edges({"inverse_interval": steps}, {"inverse_interval": 1.0}, ("inverse_interval",)) == ()
    table = pd.DataFrame({"inverse_interval": [1.0, 10.0], "damping": [1.0, 10.0]})
    edges = table_edges(table, {"inverse_interval": 1.0, "damping": 1.0}, ("inverse_interval", "damping"))
    assert [(edge.parameter, edge.side) for edge in edges] == [("damping", "low")]


def test_a_hyperparameter_without_a_declared_axis_or_a_value_has_no_edge():
    assert box_edges({}, {"lr": 1.0}, ("lr",)) == ()
    assert box_edges({"lr": LOG}, {"lr": float("nan")}, ("lr",)) == ()


def search(plain, optimum, *, seeds=11):
    """Two optimizers over draws of lr and damping; the fewest steps are at an lr of 10^`optimum`."""
    rng = np.random.default_rng(0)
    rows = []
    for name, size in (("a", 100), ("b", 10)):
        cells = [(-3.9, 0.0), (-2, 0.3), (-1.2, -0.4), (-0.1, 0.1)]
        for batch in (8, 16, 32, 64):
            for lr, damping in cells:
                for seed in range(seeds):
                    steps = 100 * (1 + size / batch) * (1.2 + abs(lr - optimum)) * np.exp(0.01 * rng.standard_normal())
                    params = {"lr": round(10**lr, 6), "damping": round(10**damping, 6)}
                    final = 0.1 + 0.05 * abs(lr - optimum)
                    rows.append(plain.row(name, batch, seed, time=round(steps), steps=10_000, final=final, **params))
    return plain.tables(rows)


AXES = {name: {"lr": LOG, "damping": Axis(scale="log", low=0.1, high=10.0)} for name in "ab"}
PROVENANCE = {
    "code_version": "1",
    "host": "h",
    "device": "cpu",
    "started_at": pd.Timestamp(0),
    "finished_at": pd.Timestamp(9),
}
DESIGNS = {"a": "sobol", "b": "random"}


def curves_of(tables, **options):
    return compute_scaling(compute_times(*tables, "train_loss", 0.5), designs=DESIGNS, **options)


@pytest.mark.parametrize(
    ("optimum", "side", "has", "extend"),
    [
        (0.5, "high", "at the upper bound (1)", "larger learning rate"),
        (-5.0, "low", "at the lower bound (0.0001)", "smaller learning rate"),
    ],
)
def test_a_best_setting_at_the_bound_of_a_box_is_flagged_as_a_grids_edge_is(plain, optimum, side, has, extend):
    tables = search(plain, optimum)
    for curve in curves_of(tables, axes=AXES):
        assert [[(e.parameter, e.side, e.of) for e in p.edges] for p in curve.points] == [[("lr", side, "box")]] * 4
        flagged = [warning.text for warning in curve.warnings if warning.code == "edge"]
        assert len(flagged) == 4
        assert f"has a learning rate {has} of its search box; a better one may lie beyond it" in flagged[0]
    maps = compute_maps(*tables, METRICS["train_loss"], designs=DESIGNS, axes=AXES)
    runs = tables[0].assign(**PROVENANCE)
    assert all([(e.parameter, e.side) for e in map_.edges] == [("lr", side)] for map_ in maps)
    cautions = [c.text for c in compute_cautions(runs, compute_summary(runs), maps)]
    assert sum(f"extend its search box to {extend} before comparing it" in text for text in cautions) == 8


def test_within_the_box_nothing_is_flagged_however_many_draws_lie_at_its_bounds(plain):
    tables = search(plain, -1.2)
    assert not any(warning.code == "edge" for curve in curves_of(tables, axes=AXES) for warning in curve.warnings)
    assert not any(map_.edges for map_ in compute_maps(*tables, METRICS["train_loss"], designs=DESIGNS, axes=AXES))


def test_without_a_declared_box_draws_have_no_edge(plain):
    assert not any(point.edges for curve in curves_of(search(plain, 0.5)) for point in curve.points)


def test_the_verdict_refuses_and_prices_a_search_of_a_larger_box(plain):
    tables = search(plain, 0.5)
    runs = tables[0]
    inside = compute_scaling_verdict(runs, curves_of(search(plain, -1.2), axes=AXES), "a", "b")
    assert inside.answer == "better"
    found = compute_scaling_verdict(runs, curves_of(tables, axes=AXES), "a", "b")
    assert (found.answer, found.reasons[0].code) == ("undetermined", "edge")
    (remedy, _) = [remedy for remedy in found.settle if remedy.code == "edge"]
    assert remedy.text == (
        "Widen a's box: set lr = { log = [0.0001, 10] } under [optimizers.a] in the study file. Its 176 runs at 4 batch"
        " sizes are repeated."
    )
    assert remedy.runs == 4 * 4 * 11
    assert remedy.device_seconds == pytest.approx(runs.loc[runs["optimizer"] == "a", "train_seconds"].sum())


def grid_runs(lrs=(0.1, 0.3, 0.9), momenta=(0.0, 0.9, 0.99), sizes=((8, 10.0), (32, 2.0)), seeds=2):
    """Runs of a grid, whose cost depends on the batch size, and of two winners on a fresh seed."""
    rows = [
        {"optimizer": "b", "batch_size": size, "seed": seed, "param.lr": lr, "param.momentum": momentum}
        | {"seconds": seconds, "status": "completed"}
        for size, seconds in sizes
        for seed in (*range(seeds), CONFIRMATION_SEEDS)
        for lr in lrs
        for momentum in momenta
        if seed < CONFIRMATION_SEEDS or (lr, momentum) == (lrs[-1], momenta[-1])
    ]
    return pd.DataFrame(rows)


@pytest.mark.parametrize(
    ("edges", "edit", "added"),
    [
        ([("lr", "high")], "lr = [0.1, 0.3, 0.9, 2.7]", 6),
        ([("lr", "low")], "lr = [0.0333333, 0.1, 0.3, 0.9]", 6),
        ([("lr", "low"), ("lr", "high")], "lr = [0.0333333, 0.1, 0.3, 0.9, 2.7]", 12),
        ([("momentum", "high")], "momentum = [0, 0.9, 0.99, 0.999]", 6),
        ([("lr", "high"), ("lr", "high")], "lr = [0.1, 0.3, 0.9, 2.7]", 6),
        ([("lr", "high"), ("momentum", "high")], "lr = [0.1, 0.3, 0.9, 2.7] and momentum = [0, 0.9, 0.99, 0.999]", 14),
    ],
)
def test_a_grids_extension_is_an_edit_of_the_study_file_and_keeps_its_cells(edges, edit, added):
    """`added` is at each batch size; fresh seeds of the winners are no part of the grid."""
    found = extend(grid_runs(), "b", [Edge(parameter=name, side=side, value=0.0) for name, side in edges])
    (remedy,) = found
    assert f"Extend b's grid: set {edit} under [optimizers.b] in the study file." in remedy.text
    assert remedy.runs == 2 * added
    assert remedy.device_seconds == pytest.approx(added * (10.0 + 2.0))
    values = tomllib.loads("\n".join(edit.split(" and ")))
    assert {0.1, 0.3, 0.9} <= set(values.get("lr", (0.1, 0.3, 0.9))), "the cells that there are keep their names"


@pytest.mark.parametrize(
    ("name", "axis", "side", "edit"),
    [
        ("lr", LOG, "low", "lr = { log = [1e-05, 1] }"),
        ("momentum", LINEAR, "high", "momentum = { linear = [0, 0.99] }"),
        ("momentum", LIST, "high", "momentum = [0, 0.5, 0.9, 0.98]"),
        ("momentum", Axis(scale="linear", low=0.5, high=0.9), "low", "momentum = { linear = [0.3, 0.9] }"),
    ],
)
def test_a_box_is_widened_by_an_edit_that_a_study_file_takes(name, axis, side, edit):
    edge = Edge(parameter=name, side=side, value=axis.bounds()[side == "high"], of="box", axis=axis)
    (remedy,) = extend(grid_runs(), "b", [edge])
    assert f"set {edit} under" in remedy.text
    assert remedy.runs == 36, "all runs but those of fresh seeds"
    again = TypeAdapter(AxisField).validate_python(tomllib.loads(edit)[name])
    low, high = axis.bounds()
    assert again.scale == axis.scale
    assert (again.bounds()[0] < low) if side == "low" else (again.bounds()[1] > high)


@pytest.mark.parametrize(("name", "values", "edges"), [("model.width", [32, 64], 0), ("model.dropout", [0.0, 0.1], 1)])
def test_the_largest_of_the_models_sizes_is_no_edge(name, values, edges):
    at, axis = {name: values[-1]}, Axis(scale="values", values=tuple(values))
    assert len(table_edges(pd.DataFrame({name: values}), at, (name,))) == edges
    assert len(box_edges({name: axis}, at, (name,))) == edges


def test_without_edges_or_costs_there_is_nothing_to_do_or_no_price():
    assert extend(grid_runs(), "b", []) == ()
    waiting = grid_runs()
    waiting.loc[waiting["batch_size"] == 32, "status"] = "pending"
    (remedy,) = extend(waiting, "b", [Edge(parameter="lr", side="high", value=0.9)])
    assert math.isnan(remedy.device_seconds)
