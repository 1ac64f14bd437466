import json
import math
import random
import re

import numpy as np
import pytest

from sensitivity.analysis.curves import compute_curves
from sensitivity.analysis.maps import compute_maps
from sensitivity.analysis.targets import compute_targets
from sensitivity.figures.exhibits.curves import draw_curves
from sensitivity.figures.exhibits.maps import draw_maps
from sensitivity.figures.exhibits.targets import draw_targets
from sensitivity.figures.labels import tick_labels
from sensitivity.figures.outline import outline
from sensitivity.figures.scales import map_scale, metric_scale
from sensitivity.figures.theme import CONFIG, DARK, LIGHT
from sensitivity.store.reader import read_study
from sensitivity.study.metrics import METRICS
from sensitivity.study.results import Status

LOSS, ACCURACY = METRICS["train_loss"], METRICS["test_accuracy"]


@pytest.fixture
def study(synthetic, tmp_path):
    def make(outcome, **changes):
        return read_study(synthetic.write_study(tmp_path, synthetic.make_spec(**changes), outcome))

    return make


@pytest.fixture
def mixed(synthetic, study):
    """Diverged where lr is 1 (except one seed where momentum is 0.5), failed at one cell, one pending."""

    def outcome(trial):
        values = dict(trial.hyperparameters)
        if values["lr"] == 1.0:
            partly = values["momentum"] == 0.5 and trial.seed == 0
            return synthetic.run(trial, [0.6] if partly else [9.0], Status.COMPLETED if partly else Status.DIVERGED)
        if values == {"lr": 0.01, "momentum": 0.9, "weight_decay": 0.0}:
            return synthetic.run(trial, [], Status.FAILED)
        if values["lr"] == 0.01 and values["momentum"] == 0.0:
            return None
        return synthetic.run(trial, [2.0, values["lr"] + values["momentum"] + 0.05 * trial.seed])

    sgd = {"sgd": {"kind": "sgd", "lr": [0.01, 0.1, 1.0], "momentum": [0.0, 0.5, 0.9]}}
    return study(outcome, optimizers=sgd)


def traces(figure, name):
    return [trace for trace in figure.data if trace.name == name]


def test_heatmap_cells_are_at_integers_with_the_map_values(mixed):
    maps = compute_maps(mixed.runs, mixed.curves, LOSS)
    figure = draw_maps(maps)
    heat = [trace for trace in figure.data if trace.type == "heatmap"]
    assert len(heat) == 2, "one panel per batch size"
    assert list(heat[0].x) == [0, 1, 2]
    z = np.array(heat[0].z, dtype=float)  # rows: momentum; columns: lr
    assert z[0, 1] == pytest.approx(math.log10(0.15))
    assert z[1, 2] == pytest.approx(math.log10(2.5)), "two of three seeds diverged: clipped at the untrained loss"
    assert np.isnan(z[0, 0])
    assert np.isnan(z[2, 0])
    assert list(figure.layout.xaxis.ticktext) == ["0.01", "0.1", "1"]
    ids = {cell.cell_id for map_ in maps for cell in map_.cells}
    assert {cell for trace in heat for row in trace.customdata for cell in row} == ids


def test_states_without_a_value_have_distinct_hatching(mixed):
    figure = draw_maps(compute_maps(mixed.runs, mixed.curves, LOSS))
    shapes = {}
    for name in ("every seed diverged", "failed", "no result yet"):
        first = traces(figure, name)[0]
        shapes[name] = first.marker.pattern.shape
        assert "of 3 completed" in first.hovertext[0]
    assert len(set(shapes.values())) == 3
    assert list(traces(figure, "every seed diverged")[0].x) == [2, 2]
    assert len(traces(figure, "some seeds diverged")[0].x) == 1
    legend = [trace.name for trace in figure.data if trace.showlegend]
    assert len(legend) == len(set(legend)), "each legend entry once"


def test_best_cell_has_a_star_and_advises_to_extend_the_grid(mixed):
    figure = draw_maps(compute_maps(mixed.runs, mixed.curves, LOSS))
    (star, _) = traces(figure, "best")
    assert (round(star.x[0]), round(star.y[0])) == (1, 0)
    assert not any("extend" in note.text for note in figure.layout.annotations), "momentum 0 is not an edge"
    maps = compute_maps(mixed.runs[mixed.runs["param.lr"] < 1], mixed.curves, LOSS)
    assert "extend: higher learning rate" in draw_maps(maps).layout.annotations[0].text


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=lambda theme: theme.name)
def test_no_two_optimizers_have_the_same_style(theme):
    styles = [theme.style(position) for position in range(36)]
    assert len({(style.colour, style.dash) for style in styles}) == 36
    assert len({(style.colour, style.symbol) for style in styles}) == 36
    for start in range(0, 36, 6):
        assert len({style.dash for style in styles[start : start + 6]}) == 6, "six differ in black and white"


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=lambda theme: theme.name)
@pytest.mark.parametrize("metric", [LOSS, ACCURACY], ids=lambda metric: metric.name)
def test_every_figure_states_its_n_and_follows_the_theme(mixed, metric, theme):
    maps = compute_maps(mixed.runs, mixed.curves, metric)
    cells = compute_curves(mixed.runs, mixed.curves, metric, [m.best_cell.cell_id for m in maps])
    outcomes = compute_targets(mixed.runs, mixed.curves, {"train_loss": [0.5]})
    expected = [
        (draw_maps(maps, theme=theme), "n = 54 runs planned, 26 completed, 16 diverged, 6 failed, 6 waiting"),
        (draw_curves(cells, theme=theme), "n = 6 of 6 runs in 2 cells, 0 diverged"),
        (draw_targets(outcomes, theme=theme), "n = 54 planned runs"),
    ]
    for figure, said in expected:
        assert said in figure.layout.title.subtitle.text
        assert figure.layout.template.layout.paper_bgcolor == theme.paper
        assert all(axis.title.text != "" for axis in figure.select_xaxes())
        json.loads(figure.to_json())


def test_figures_have_no_upload_button():
    assert CONFIG["showSendToCloud"] is False
    assert CONFIG["displaylogo"] is False


def test_one_scale_spans_maps_and_ends_at_the_untrained_network(mixed):
    scale = map_scale(compute_maps(mixed.runs, mixed.curves, LOSS))
    assert scale.top == pytest.approx(math.log10(2.5))
    assert scale.bottom == pytest.approx(math.log10(0.15))
    assert scale.position(100.0) == scale.top
    assert scale.ticktext[-1] == "≥ 2.5"
    accuracy = map_scale(compute_maps(mixed.runs, mixed.curves, ACCURACY))
    assert accuracy.bottom == pytest.approx(-math.log10(1 - 0.12))
    assert accuracy.position(0.8) - accuracy.position(0.6) == pytest.approx(math.log10(2))


@pytest.mark.parametrize("values", [[], [1.0], [math.nan], [0.0], [2.5, 2.5]])
@pytest.mark.parametrize("worst", [math.nan, 2.5])
def test_scales_of_few_values_have_a_positive_range(values, worst):
    scale = metric_scale(LOSS, values, worst=worst)
    assert scale.bottom < scale.top
    assert math.isnan(scale.position(math.nan))


def test_text_contrasts_with_every_colour():
    scale = metric_scale(ACCURACY, [0.99], worst=0.1)
    assert scale.ink_on(0.99) == "#000000"
    assert scale.ink_on(0.1) == "#ffffff"


def signed_area(loop):
    xs, ys = (np.array(part) for part in loop)
    return float(np.sum(xs[:-1] * ys[1:] - xs[1:] * ys[:-1]) / 2)


def test_outline_of_a_ring_has_a_hole():
    ring = {(x, y) for x in range(3) for y in range(3)} - {(1, 1)}
    assert sorted(signed_area(loop) for loop in outline(ring)) == [-1.0, 9.0]


def test_cells_that_touch_at_a_corner_have_separate_outlines():
    loops = outline({(0, 0), (1, 1)})
    assert [signed_area(loop) for loop in loops] == [1.0, 1.0]


@pytest.mark.parametrize("seed", range(20))
def test_outlines_enclose_exactly_the_region(seed):
    rng = random.Random(seed)
    region = {(x, y) for x in range(7) for y in range(6) if rng.random() < 0.5}
    loops = outline(region)
    assert sum(signed_area(loop) for loop in loops) == pytest.approx(len(region))
    assert all(xs[0] == xs[-1] and ys[0] == ys[-1] for xs, ys in loops)
    edges = sum((x + dx, y + dy) not in region for x, y in region for dx, dy in ((1, 0), (-1, 0), (0, 1), (0, -1)))
    assert sum(len(xs) - 1 for xs, _ in loops) == edges


def test_one_hyperparameter_is_drawn_as_a_profile(synthetic, study):
    one = {"sgd": {"kind": "sgd", "lr": [0.1, 1.0, 10.0], "momentum": 0.9}}
    made = study(lambda t: synthetic.run(t, [dict(t.hyperparameters)["lr"] / 4]), optimizers=one)
    figure = draw_maps(compute_maps(made.runs, made.curves, LOSS))
    line = traces(figure, "median; bar: smallest to largest seed")[0]
    assert list(line.x) == [0.1, 1.0, 10.0]
    assert line.y[1] == pytest.approx(math.log10(0.25))


def test_sampled_configurations_are_points(synthetic, study):
    box = {"lr": {"log": [0.01, 1.0]}, "momentum": {"linear": [0.0, 0.9]}, "design": "sobol", "samples": 16}
    made = study(
        lambda t: synthetic.run(t, [dict(t.hyperparameters)["lr"]]), optimizers={"sgd": {"kind": "sgd", **box}}
    )
    figure = draw_maps(compute_maps(made.runs, made.curves, LOSS, designs={"sgd": "sobol"}))
    inside, outside = (
        sum(len(trace.x) for trace in traces(figure, name))
        for name in ("within the tolerance of the best", "outside the tolerance")
    )
    assert inside + outside == 2 * 3 * 16, "each of three seeds has its own samples"
    assert figure.layout.xaxis.type == "log"


def test_best_sample_at_the_bound_of_its_box_has_an_arrow(synthetic, study):
    box = {"lr": {"log": [0.01, 1.0]}, "momentum": {"linear": [0.0, 0.9]}, "design": "sobol", "samples": 64}
    made = study(
        lambda t: synthetic.run(t, [2 - dict(t.hyperparameters)["lr"]]), optimizers={"sgd": {"kind": "sgd", **box}}
    )
    axes = {"sgd": made.manifest.spec.optimizers["sgd"].axes()}
    maps = compute_maps(made.runs, made.curves, LOSS, designs={"sgd": "sobol"}, axes=axes)
    figure = draw_maps(maps)
    arrows = [trace for trace in figure.data if trace.marker and trace.marker.symbol == "triangle-right"]
    assert [(arrow.x[0], arrow.y[0]) for arrow in arrows] == [(1.0, 1 - map_.best_cell.y) for map_ in maps], (
        "of momentum, 1 - momentum"
    )
    assert max(cell.x for cell in maps[0].cells) < 1, "the axis reaches the bound, which no sample does"
    assert figure.layout.xaxis.range[1] > 0
    assert sum("extend: higher learning rate" in note.text for note in figure.layout.annotations) == 2


def test_whiskers_are_wilson_intervals(synthetic, study):
    made = study(lambda t: synthetic.run(t, [0.4]), seeds=1, batch_sizes=[32])
    outcomes = compute_targets(made.runs, made.curves, {"train_loss": [0.5]}, designs={"kfac": "random"})
    figure = draw_targets(outcomes)
    (reached,) = traces(figure, "reached")
    assert reached.error_x.arrayminus[0] == pytest.approx(1 - 9 / (9 + 1.96**2), abs=1e-3)
    assert "Wilson" in figure.layout.title.subtitle.text


def test_divergence_is_marked_by_a_cross(synthetic, study):
    def outcome(trial):
        return synthetic.run(trial, [2.0, 1.5], Status.DIVERGED if trial.seed == 1 else Status.COMPLETED)

    made = study(outcome, optimizers={"sgd": {"kind": "sgd", "lr": 0.1}}, batch_sizes=[32])
    figure = draw_curves(compute_curves(made.runs, made.curves, LOSS, [made.runs["cell_id"].iloc[0]]))
    (cross,) = traces(figure, "SGD, diverged after here")
    assert list(cross.x) == [2.0]
    assert "1 diverged" in figure.layout.title.subtitle.text


def test_long_curves_and_many_seeds_are_thinned(synthetic, study):
    losses = [2.0 * 0.99**k for k in range(300)]
    one = {"optimizers": {"sgd": {"kind": "sgd", "lr": 0.1}}, "batch_sizes": [32], "budget": {"epochs": 300}}
    made = study(lambda trial: synthetic.run(trial, [loss * (1 + trial.seed) for loss in losses]), seeds=20, **one)
    (cell,) = compute_curves(made.runs, made.curves, LOSS, [made.runs["cell_id"].iloc[0]])
    figure = draw_curves([cell])
    thin = [trace for trace in figure.data if trace.line.width == 0.8]
    (bold,) = traces(figure, "SGD, median")
    assert len(thin) == 12
    assert {len(trace.x) for trace in (*thin, bold)} == {120}
    assert (bold.x[0], bold.x[-1]) == (0.0, 300.0)
    assert max(np.diff(bold.x)) == 3
    assert "n = 20 of 20 runs" in figure.layout.title.subtitle.text
    assert "12 of 20 seeds · at most 120 of 301 evaluations drawn" in figure.layout.title.subtitle.text


def test_values_fit_the_cells_of_eight_columns(synthetic, study):
    lrs = [10 ** (-4 + k / 2) for k in range(8)]
    one = {"optimizers": {"kfac": {"kind": "kfac", "lr": lrs, "damping": [0.1, 1.0]}}, "batch_sizes": [8, 16, 32, 64]}
    made = study(lambda trial: synthetic.run(trial, [0.0831]), seeds=1, **one)
    figure = draw_maps(compute_maps(made.runs, made.curves, LOSS))
    domains = {tuple(axis.domain) for axis in figure.select_xaxes()}
    assert len(domains) == 3
    cell = 1020 * np.ptp(next(iter(domains))) / 8
    (text,) = {text for trace in figure.select_traces({"type": "scatter", "mode": "text"}) for text in trace.text}
    assert 6.2 * len(text) < cell, "a digit is about 6 pixels wide"


def test_cells_without_a_value_are_not_interpolated(synthetic, study):
    """Optuna's contour drops cells that are not finite, and interpolates its colours over the gap."""

    def outcome(trial):
        middle = dict(trial.hyperparameters) == {**dict(trial.hyperparameters), "lr": 0.1, "damping": 0.01}
        return synthetic.run(trial, [9.0], Status.DIVERGED) if middle else synthetic.run(trial, [0.5])

    made = study(outcome, batch_sizes=[32])
    maps = [m for m in compute_maps(made.runs, made.curves, LOSS) if m.optimizer == "kfac"]
    figure = draw_maps(maps, scale=map_scale(maps))
    (heat,) = [trace for trace in figure.data if trace.type == "heatmap"]
    holes = np.argwhere(np.isnan(np.array(heat.z, dtype=float)))
    assert holes.tolist() == [[1, 1]]
    assert not heat.zsmooth
    assert not heat.connectgaps
    (hatched,) = traces(figure, "every seed diverged")
    assert (list(hatched.x), list(hatched.base)) == ([1], [0.5])
    assert hatched.marker.pattern.shape == "/"


def test_tick_labels_stay_distinct():
    assert tick_labels([0.99, 0.995, 0.999]) == ["0.99", "0.995", "0.999"]
    assert all(re.fullmatch(r"[\de.-]+", label) for label in tick_labels(list(np.geomspace(1e-5, 10, 8))))
