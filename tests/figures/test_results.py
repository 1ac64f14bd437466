"""The figures of results: they draw the numbers that came in, and their texts name them."""

import json
import math
import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from sensitivity.analysis.best_of_k import compute_best_of_k
from sensitivity.analysis.cost import compute_cost
from sensitivity.analysis.draws import Draws
from sensitivity.analysis.estimates import Estimate
from sensitivity.analysis.importance import compute_importance
from sensitivity.analysis.lr_sensitivity import compute_lr_sensitivity
from sensitivity.analysis.maps import compute_maps
from sensitivity.analysis.price import compute_prices
from sensitivity.analysis.profiles import compute_profiles
from sensitivity.analysis.regions import compute_regions
from sensitivity.analysis.scaling import compute_scaling
from sensitivity.analysis.success import compute_success, compute_success_difference
from sensitivity.analysis.success_plane import compute_success_planes
from sensitivity.analysis.time_split import TimeSplit
from sensitivity.analysis.times import UNITS, compute_times
from sensitivity.analysis.tuning import compute_tuning
from sensitivity.analysis.verdict_scaling import compute_scaling_verdict
from sensitivity.analysis.verdict_sensitivity import compute_sensitivity_verdict
from sensitivity.figures.exhibits.best_of_k import draw_best_of_k
from sensitivity.figures.exhibits.comparison import draw_profiles, draw_verdict
from sensitivity.figures.exhibits.cost import draw_cost, draw_time_split
from sensitivity.figures.exhibits.critical import draw_critical
from sensitivity.figures.exhibits.importance import draw_importance, draw_ridge
from sensitivity.figures.exhibits.planes import draw_planes
from sensitivity.figures.exhibits.prices import draw_prices
from sensitivity.figures.exhibits.regions import draw_regions, draw_sensitivity
from sensitivity.figures.exhibits.scaling import draw_efficiency, draw_scaling
from sensitivity.figures.exhibits.success import draw_success, draw_success_3d, draw_success_difference
from sensitivity.figures.labels import number
from sensitivity.figures.nothing import NothingToShowError
from sensitivity.figures.panels import log_axis, wrapped
from sensitivity.figures.theme import DARK, LIGHT
from sensitivity.store.reader import read_study
from sensitivity.study.metrics import METRICS

TARGET = ("train_loss", 0.2)
GRIDS = {
    "kfac": {"kind": "kfac", "lr": {"log": [1e-2, 3.0], "points": 5}, "damping": {"log": [1e-4, 1.0], "points": 5}},
    "sgd": {"kind": "sgd", "lr": {"log": [1e-2, 3.0], "points": 5}, "momentum": [0.0, 0.5, 0.9]},
}
SPLITS = (
    TimeSplit(
        optimizer="kfac",
        batch_size=32,
        phases=(("gradients", 0.002), ("inverses", 0.001)),
        rest=0.0005,
        runs=4,
        steps=40,
    ),
)


def draws_of(optimizer, shares):
    """Return draws of 12 seeds at two batch sizes, with success shares `shares` [seeds] and none at the larger size."""
    ones = np.ones((12, 2))
    return Draws(
        optimizer=optimizer,
        design="drawn",
        prior="learning rate 0.01 to 3 (log)",
        batch_sizes=(32, 128),
        of="seeds",
        blocks=tuple(range(12)),
        success=np.stack([np.array(shares) / 4, np.zeros(12)], axis=1),
        flops=2e9 * ones,
        seconds=0.5 * ones,
        count=(48, 48),
        reached=(sum(shares), 0),
        touches=(),
        at_touches=(),
        warnings=(),
        refused=None,
        unjudged=None,
    )


DRAWS = (draws_of("kfac", [1, 2, 1, 0, 1, 1] * 2), draws_of("sgd", [2, 3, 2, 2, 3, 1] * 2))
PRICES = compute_prices(DRAWS)


@pytest.fixture(scope="module")
def results(synthetic, tmp_path_factory):
    spec = synthetic.make_spec(batch_sizes=[32, 128, 512], optimizers=GRIDS, budget={"epochs": 20})
    study = read_study(synthetic.write_study(tmp_path_factory.mktemp("study"), spec, synthetic.landscape))
    runs, curves = study.runs, study.curves
    times = compute_times(runs, curves, *TARGET)
    name = TARGET[0]
    scaling = {unit: {"training loss ≤ 0.2": compute_scaling(times, unit)} for unit in UNITS}
    success = compute_success(runs, curves, name)
    common = compute_regions(runs, curves, name, target=TARGET[1])
    steps = scaling["steps"]["training loss ≤ 0.2"]
    return SimpleNamespace(
        runs=runs,
        curves=curves,
        times=times,
        scaling=scaling,
        success=success,
        difference=compute_success_difference(*success),
        planes=compute_success_planes(times),
        costs=compute_cost(runs),
        best_of_k=compute_best_of_k(runs, curves, name),
        regions=(*compute_regions(runs, curves, name), *common),
        importance=compute_importance(runs, curves, name),
        maps=compute_maps(runs, curves, METRICS[name]),
        lr=compute_lr_sensitivity(runs, curves, name),
        tuning=compute_tuning(runs, curves, name),
        profiles=compute_profiles(scaling["steps"]),
        verdicts=(
            compute_scaling_verdict(runs, steps, "kfac", "sgd"),
            compute_sensitivity_verdict(runs, DRAWS, "kfac", "sgd"),
        ),
    )


def planes_of(results, optimizer):
    return [plane for plane in results.planes if plane.optimizer == optimizer]


DRAWN = {
    "scaling": lambda r, t: draw_scaling(r.scaling["steps"], theme=t),
    "scaling in seconds": lambda r, t: draw_scaling(r.scaling["seconds"], theme=t),
    "efficiency": lambda r, t: draw_efficiency(r.scaling["flops"], theme=t),
    "critical": lambda r, t: draw_critical(r.scaling["steps"], theme=t),
    "success": lambda r, t: draw_success(r.success, theme=t),
    "3-D": lambda r, t: draw_success_3d(r.success, theme=t),
    "difference": lambda r, t: draw_success_difference(r.difference, r.success, theme=t),
    "planes": lambda r, t: draw_planes(planes_of(r, "sgd"), "training loss ≤ 0.2", theme=t),
    "cost": lambda r, t: draw_cost(r.costs, theme=t),
    "time split": lambda r, t: draw_time_split(SPLITS, theme=t),
    "best of k": lambda r, t: draw_best_of_k(r.best_of_k, theme=t),
    "best of k in seconds": lambda r, t: draw_best_of_k(r.best_of_k, by="seconds", theme=t),
    "prices": lambda r, t: draw_prices(PRICES, "training loss ≤ 0.2", theme=t),
    "regions": lambda r, t: draw_regions(r.regions, theme=t),
    "sensitivity": lambda r, t: draw_sensitivity(r.lr, r.tuning, theme=t),
    "importance": lambda r, t: draw_importance(r.importance, theme=t),
    "ridge": lambda r, t: draw_ridge(r.maps, r.importance, theme=t),
    "profiles": lambda r, t: draw_profiles(r.profiles, theme=t),
    "verdict on scaling": lambda r, t: draw_verdict(r.verdicts[0], theme=t),
    "verdict on sensitivity": lambda r, t: draw_verdict(r.verdicts[1], theme=t),
}
NOTHING = {
    "scaling": lambda: draw_scaling({}),
    "critical": lambda: draw_critical({}),
    "success": lambda: draw_success(()),
    "planes": lambda: draw_planes((), "x"),
    "cost": lambda: draw_cost(()),
    "time split": lambda: draw_time_split(()),
    "best of k": lambda: draw_best_of_k(()),
    "prices": lambda: draw_prices((), "x"),
    "regions": lambda: draw_regions(()),
    "sensitivity": lambda: draw_sensitivity((), ()),
    "importance": lambda: draw_importance(()),
    "ridge": lambda: draw_ridge((), ()),
    "profiles": lambda: draw_profiles(()),
}


def named(figure, name):
    return [trace for trace in figure.data if trace.name == name]


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=lambda theme: theme.name)
@pytest.mark.parametrize("name", DRAWN)
def test_figures_state_n_title_their_axes_and_follow_the_theme(results, name, theme):
    figure = DRAWN[name](results, theme)
    assert "n = " in figure.layout.title.subtitle.text
    assert figure.layout.template.layout.paper_bgcolor == theme.paper
    assert figure.layout.meta["min_width"] >= 500
    assert figure.layout.height > 200
    if name != "3-D":
        assert any(axis.title.text for axis in figure.select_xaxes())
    legend = [trace.name for trace in figure.data if trace.showlegend and trace.name]
    assert len(legend) == len(set(legend)), "each legend entry once"
    json.loads(figure.to_json())


@pytest.mark.parametrize("name", NOTHING)
def test_nothing_to_draw_raises_an_error_that_explains_why(name):
    with pytest.raises(NothingToShowError) as caught:
        NOTHING[name]()
    assert re.fullmatch(r"[A-Z].*\.", str(caught.value)), "a sentence for the reader"


def test_scaling_draws_the_times_and_ideal_scaling(results):
    curve = results.scaling["steps"]["training loss ≤ 0.2"][0]
    figure = draw_scaling(results.scaling["steps"])
    (line,) = named(figure, "K-FAC")
    assert list(line.y) == [point.time.value for point in curve.points]
    (ideal,) = named(figure, "K-FAC, ideal")
    assert [y * x for x, y in zip(ideal.x, ideal.y, strict=True)] == pytest.approx([ideal.x[0] * ideal.y[0]] * 3)
    assert figure.layout.yaxis.type == figure.layout.xaxis.type == "log"
    assert all(math.log2(tick).is_integer() for tick in figure.layout.yaxis.tickvals)


def test_ideal_times_far_below_measured_ones_leave_the_panel(results):
    """Ideal scaling of a curve that is flat over many batch sizes would squeeze the measured times to a line."""
    curve = results.scaling["steps"]["training loss ≤ 0.2"][1]
    wide = [replace(p, batch_size=p.batch_size * 64**k, time=Estimate(value=40.0)) for k, p in enumerate(curve.points)]
    figure = draw_scaling({"t": [replace(curve, points=tuple(wide))]})
    low, high = (10**end for end in figure.layout.yaxis.range)
    assert 5 < low < 40 < high
    assert min(named(figure, "SGD, ideal")[0].y) < 0.1, "it is drawn beyond the panel"


def test_runs_add_up_over_studies_but_not_over_targets(results):
    (group,) = results.scaling["steps"].values()
    planned = sum(point.planned for curve in group for point in curve.points)
    for several, expected in ((False, planned), (True, 2 * planned)):
        figure = draw_scaling({"one": group, "other": group}, several=several)
        assert f"n = {expected:,} runs planned" in figure.layout.title.subtitle.text


def test_markers_of_unreached_targets_and_divergence(results):
    hard = compute_scaling(compute_times(results.runs, results.curves, "train_loss", 1e-6))
    figure = draw_scaling({"training loss ≤ 1e-6": hard})
    (censored,) = named(figure, "SGD, not reached")
    assert censored.marker.symbol == "triangle-up-open"
    assert list(censored.y) == [200.0] * 3, "the budget"
    assert "> 200" in censored.hovertext[0]
    lost = results.runs.assign(status="diverged")
    figure = draw_scaling({"t": compute_scaling(compute_times(lost, results.curves, *TARGET))})
    assert {trace.marker.symbol for trace in named(figure, "K-FAC, all diverged")} == {"x"}


def test_open_intervals_of_critical_batch_sizes_have_arrows(results):
    (curve, _) = results.scaling["steps"]["training loss ≤ 0.2"]
    open_ended = replace(curve.critical, size=Estimate(value=4096.0, interval=(256.0, math.inf), n=3), says="Bc > 256")
    figure = draw_critical({"t": [replace(curve, critical=open_ended)]})
    line, arrow, point = figure.data
    assert list(line.x) == [256.0, 8192.0], "drawn to sixteen times the largest batch"
    assert list(arrow.marker.symbol) == ["triangle-right"]
    assert point.text == ("Bc &gt; 256",)
    with pytest.raises(ValueError, match="steps"):
        draw_critical(results.scaling["seconds"])


def test_success_contours_match_the_rates(results):
    figure = draw_success(results.success)
    grounds = [trace for trace in figure.data if trace.type == "contour" and trace.coloraxis]
    assert len(grounds) == 2
    np.testing.assert_array_equal(np.array(grounds[0].z, dtype=float), results.success[0].rate.T)
    assert list(grounds[0].x) == [5.0, 7.0, 9.0], "log2 of the batch size"
    labelled = [trace for trace in figure.data if trace.type == "contour" and trace.contours.showlabels]
    assert {trace.line.color for trace in labelled} == {"#ffffff", "#000000"}


def test_rates_of_one_batch_size_are_drawn_as_lines(results):
    runs = results.runs[results.runs["batch_size"] == 32]
    figure = draw_success(compute_success(runs, results.curves, "train_loss"))
    assert "at batch size 32" in figure.layout.title.text
    (line,) = named(figure, "SGD")
    assert np.all(np.diff(line.y) <= 1e-12), "harder targets are reached no more often"
    one = compute_success(results.runs, results.curves, "train_loss", [0.2])
    figure = draw_success(one)
    assert list(named(figure, "SGD")[0].x) == [32.0, 128.0, 512.0]
    with pytest.raises(ValueError, match="two targets"):
        draw_success_3d(one)


def test_success_difference_is_signed_and_marks_clear_differences(results):
    figure = draw_success_difference(results.difference, results.success)
    heat, dots = figure.data
    np.testing.assert_array_equal(np.array(heat.z, dtype=float), results.difference.difference.T)
    told = (results.difference.low > 0) | (results.difference.high < 0)
    assert len(dots.x) == told.sum()
    largest = np.nanmax(np.abs(results.difference.difference))
    assert -figure.layout.coloraxis.cmin == figure.layout.coloraxis.cmax
    assert largest <= figure.layout.coloraxis.cmax <= max(2 * largest, 0.2)


def test_planes_show_one_minus_momentum_and_every_configuration(results):
    planes = planes_of(results, "sgd")
    best = {32: (("lr", 0.1), ("momentum", 0.9))}
    figure = draw_planes(planes, "training loss ≤ 0.2", best=best)
    glyphs = [trace for trace in figure.data if trace.name != "fastest to the target"]
    assert sum(len(trace.x) for trace in glyphs) == 3 * 5 * 3
    assert {round(y, 6) for trace in glyphs for y in trace.y} == {1.0, 0.5, 0.1}
    (star,) = named(figure, "fastest to the target")
    assert (star.x[0], star.y[0]) == (0.1, pytest.approx(0.1))
    assert "1 − momentum" in figure.layout.yaxis.title.text


def test_cost_shows_wall_clock_and_computation(results):
    figure = draw_cost(results.costs)
    titles = [note.text for note in figure.layout.annotations]
    assert titles[0].startswith("<b>Wall-clock per step")
    assert titles[1].startswith("<b>Computation per step")
    lines = named(figure, "SGD")
    own = [cost for cost in results.costs if cost.optimizer == "sgd"]
    assert list(lines[1].y) == [cost.flops_a_step for cost in own]
    assert list(lines[2].y) == [cost.device_seconds for cost in own]


def test_the_time_split_adds_up_to_the_step():
    figure = draw_time_split(SPLITS)
    assert sum(trace.y[0] for trace in figure.data) == pytest.approx(3.5), "milliseconds"
    assert [trace.name for trace in figure.data] == [
        "forward, backward, and updates not timed apart",
        "inverses",
        "rest",
    ]
    assert {trace.marker.pattern.fillmode for trace in figure.data} == {"overlay"}, "or the colour is not painted"


def test_best_of_k_is_over_trials_or_seconds(results):
    first = results.best_of_k[0]
    by_k, by_seconds = (named(draw_best_of_k(results.best_of_k, by=by), "K-FAC")[0] for by in ("trials", "seconds"))
    assert list(by_k.x) == [float(k) for k in first.k]
    assert list(by_seconds.x) == list(first.seconds)
    assert list(by_k.y) == pytest.approx([math.log10(value) for value in first.expected])


def test_region_at_the_edge_of_its_box_is_a_lower_bound(results):
    figure = draw_regions(results.regions)
    bounded = [region for region in results.regions if region.touches and region.decades.known]
    drawn = [trace for trace in figure.data if trace.marker.symbol == "triangle-up-open"]
    assert sum(len(trace.x) for trace in drawn) == len(bounded) > 0
    assert all("at least" in text for trace in drawn for text in trace.hovertext)


def test_importance_bars_show_shares_with_intervals(results):
    figure = draw_importance(results.importance)
    first = results.importance[0]
    bar = named(figure, "batch size 32")[0]
    where = list(bar.y).index("lr / damping")
    share = first.share_of("lr / damping")
    assert bar.x[where] == share.value
    assert bar.error_x.array[where] == pytest.approx(share.interval[1] - share.value)


def test_ridge_shows_every_cell_at_its_ratio(results):
    figure = draw_ridge(results.maps, results.importance)
    plane = results.maps[0]
    measured = [cell for cell in plane.cells if cell.state == "measured"]
    assert list(figure.data[0].x) == [cell.x / cell.y for cell in measured]
    assert "explained by it" in figure.layout.annotations[0].text
    with pytest.raises(ValueError, match="divides"):
        draw_ridge([map_ for map_ in results.maps if map_.optimizer == "sgd"], ())


def test_profiles_are_step_functions(results):
    figure = draw_profiles(results.profiles)
    assert all(trace.line.shape == "hv" for trace in figure.data)
    assert [trace.y[0] for trace in figure.data] == [profile.share[0] for profile in results.profiles]


def test_prices_have_intervals_or_lower_bounds():
    figure = draw_prices(PRICES, "training loss ≤ 0.2")
    known = [price for price in PRICES if price.optimizer == "kfac" and price.trials.known]
    trials, seconds, flops = named(figure, "K-FAC")[:2], named(figure, "K-FAC")[2:4], named(figure, "K-FAC")[4:]
    for unit, group in (("trials", trials), ("seconds", seconds), ("flops", flops)):
        assert [trace.x[0] for trace in group] == [getattr(price, unit).value for price in known]
    bound = next(price for price in PRICES if price.batch_size == 128)
    least = named(figure, "K-FAC, at least")[0]
    assert (least.x[0], least.marker.symbol) == (bound.trials.interval[0], "triangle-right-open")
    assert list(figure.layout.yaxis.ticktext) == ["batch 32", "batch 128", "all batch sizes"]
    assert "0 of 48 draws reach the target" in least.hovertext[0]
    assert figure.layout.xaxis.type == "log"


def test_verdict_evidence_shows_seeds_mean_and_margin(results):
    scaling, sensitivity = results.verdicts
    figure = draw_verdict(scaling)
    pooled, by_batch = named(figure, "mean over seeds")
    assert list(by_batch.x) == pytest.approx([math.exp(c.effect.value) for c in scaling.by_batch])
    assert pooled.x[0] == pytest.approx(max(math.exp(scaling.primary.effect.value), 1e-3)), "clipped"
    assert number(math.exp(scaling.primary.effect.value), 3) in pooled.hovertext[0], "the text is not clipped"
    assert len(figure.layout.shapes) == 4, "margin and no difference, in two panels"
    figure = draw_verdict(sensitivity)
    dots = named(figure, "a seed")[0]
    assert list(dots.x)[:3] == pytest.approx([math.exp(d) for d in sensitivity.primary.differences[:3]])
    low, high = (10**end for end in figure.layout.xaxis.range)
    assert low < 1 / 1.5 < max(dots.x) < high
    assert "Fieller" in figure.layout.title.subtitle.text
    with pytest.raises(ValueError, match="comparison"):
        draw_verdict(replace(scaling, primary=None, by_batch=()))


@pytest.mark.parametrize("values", [[], [5.0], [1.0, 1.1], [1e-3, 1e9], [math.nan, 2.0]])
@pytest.mark.parametrize("base_two", [False, True])
def test_logarithmic_axes_have_a_range_and_few_ticks(values, base_two):
    axis = log_axis(values, base_two=base_two)
    low, high = axis["range"]
    assert low < high
    assert len(axis["tickvals"]) <= 10
    assert all(low <= math.log10(tick) <= high + 1e-12 for tick in axis["tickvals"])


def test_long_subtitles_are_wrapped_at_spaces():
    lines = wrapped(["n = 3 seeds", "", "a long part " * 6], 30)
    assert all(len(line) <= 30 for line in lines)
    assert lines[0].startswith("n = 3 seeds · a long")
