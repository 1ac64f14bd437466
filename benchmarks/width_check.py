"""Coordinate check of the maximal-update parametrisation: how much steps change activations, by width.

    python benchmarks/width_check.py [--widths 32 64 128 256] [--seeds 3] [--steps 10] [--record]

A transformer with two blocks is trained on the default text for some steps of Adam at one learning rate, at each width,
in the standard parametrisation and in µP (Yang et al. 2022, appendix D.1). The measure is the mean absolute change of
the last block's output and of the logits, on 32 held-out sequences; its slope over width, both in logarithms, is 0 if a
learning rate has the same effect at each width. Takes about a minute.
"""

from __future__ import annotations

import argparse
import math
import os
from pathlib import Path

import plotly.graph_objects as go
import torch
from torch import Tensor

from sensitivity.figures.axes import add_panel_title
from sensitivity.figures.panels import batch_axis, log_axis, make_panels
from sensitivity.figures.theme import LIGHT
from sensitivity.report.images import write_image
from sensitivity.study.load import parse_study
from sensitivity.study.provenance import machine, package_versions
from sensitivity.study.trials import Pack, expand
from sensitivity.training.batches import PackBatches
from sensitivity.training.packed_model import PackedModel
from sensitivity.training.problems import Problem, load_problem
from sensitivity.training.step import make_optimizer, take_step

RESULTS = Path(__file__).parent / "results" / "width_check.md"
FIGURE = Path(__file__).parents[1] / "docs" / "width_check.svg"
RATE, BATCH, SEQUENCES = 0.01, 16, 32
PLACES = ("last block", "outputs")
Changes = dict[tuple[str, str], dict[int, list[float]]]
"""(parametrisation, place) -> width -> change for each seed."""


def changes_of(widths: list[int], seeds: int, steps: int) -> Changes:
    """Measure the changes for all parametrisations, widths and seeds."""
    found: Changes = {}
    for parametrisation in ("standard", "mup"):
        for width in widths:
            raw = {
                "name": "check", "batch_sizes": [BATCH], "seeds": seeds, "budget": {"steps": steps},
                "problem": {
                    "dataset": "text", "model": "transformer",
                    "model_arguments": {"width": width, "parametrisation": parametrisation},
                },
                "optimizers": {"adam": {"kind": "adam", "lr": RATE}},
            }  # fmt: skip
            spec = parse_study(raw, source="check")
            for place, each in changed(load_problem(spec.required_problem), Pack(expand(spec)), steps).items():
                found.setdefault((parametrisation, place), {})[width] = each
    return found


def changed(problem: Problem, pack: Pack, steps: int) -> dict[str, list[float]]:
    """Train a pack, and return by place how much that changed each member's activations."""
    seeds = [trial.seed for trial in pack.trials]
    model = PackedModel(problem.build_model, seeds, shipped=True)
    optimizer = make_optimizer(pack, model, problem)
    batches = PackBatches(seeds, problem, batch_size=BATCH, micro_batch=None, augment=False)
    before = computed(model, problem)
    for step in range(steps):
        take_step(model, problem, optimizer, batches, step=step, lr_scale=1.0)
    after = computed(model, problem)
    return {
        place: [(b - a).abs().mean().item() for a, b in zip(before[place], after[place], strict=True)]
        for place in PLACES
    }


@torch.no_grad()
def computed(model: PackedModel, problem: Problem) -> dict[str, list[Tensor]]:
    """Return the outputs of each member's last block and head for held-out sequences."""
    found: dict[str, list[Tensor]] = {place: [] for place in PLACES}
    for place in range(model.trials):
        network = model.member(place)
        network.get_submodule("norm").register_forward_pre_hook(lambda _, x: found["last block"].append(x[0].clone()))
        ids = problem.dataset.standardised(problem.dataset.test_inputs[:SEQUENCES])
        found["outputs"].append(network(ids).clone())
    return found


def slope(by_width: dict[int, list[float]]) -> float:
    """Return the least-squares slope of the mean change over width, in logarithms."""
    xs = [math.log(width) for width in by_width]
    ys = [math.log(sum(each) / len(each)) for each in by_width.values()]
    middle, level = sum(xs) / len(xs), sum(ys) / len(ys)
    return sum((x - middle) * (y - level) for x, y in zip(xs, ys, strict=True)) / sum((x - middle) ** 2 for x in xs)


def drawn(found: Changes, seeds: int, steps: int) -> go.Figure:
    """Draw change against width: one panel per place, one line per parametrisation, one dot per seed."""
    panels = make_panels(len(PLACES), columns=2, height=300)
    for (row, column), place in zip(panels.places(), PLACES, strict=True):
        for position, (name, label) in enumerate((("standard", "standard"), ("mup", "maximal update (µP)"))):
            by_width, style = found[name, place], LIGHT.style(position)
            widths = list(by_width)
            means = [sum(each) / len(each) for each in by_width.values()]
            line = {"color": style.colour, "dash": style.dash}
            marker = {"symbol": style.symbol, "color": style.colour}
            panels.figure.add_scatter(
                x=widths, y=means, mode="lines", line=line, name=label, showlegend=column == 1, row=row, col=column
            )
            dots = [(width, value) for width, each in by_width.items() for value in each]
            panels.figure.add_scatter(
                x=[x for x, _ in dots], y=[y for _, y in dots], mode="markers", marker=marker, showlegend=False,
                row=row, col=column,
            )  # fmt: skip
        slopes = f"slopes {slope(found['standard', place]):.2f} and {slope(found['mup', place]):.2f}"
        add_panel_title(panels.figure, place, row, column, below=slopes)
    every = [value for by_width in found.values() for each in by_width.values() for value in each]
    panels.figure.update_xaxes(**{**batch_axis(list(found["mup", PLACES[0]])), "title": {"text": "width"}})
    panels.figure.update_yaxes(**log_axis(every))
    panels.figure.update_yaxes(title_text="mean absolute change", col=1)
    return panels.finish(
        LIGHT,
        "How much steps change activations, by width",
        [f"n = {seeds} seeds, each a dot", f"{steps} steps of Adam at a rate of {RATE:g}", "line: mean over seeds"],
        panel_width=440,
    )


def main() -> None:
    """Print the table, and record it and the figure on request."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--widths", type=int, nargs="+", default=[32, 64, 128, 256])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--record", action="store_true", help="write benchmarks/results and the figure in docs")
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = changes_of(options.widths, options.seeds, options.steps)
    lines = [f"| parametrisation | place | {' | '.join(map(str, options.widths))} | slope |"]
    lines.append("| --- | --- |" + " ---: |" * (len(options.widths) + 1))
    for (name, place), by_width in found.items():
        means = " | ".join(f"{sum(each) / len(each):.3g}" for each in by_width.values())
        lines.append(f"| {name} | {place} | {means} | {slope(by_width):.2f} |")
    print("\n".join(lines))
    if options.record:
        host = machine()
        head = [
            "# Coordinate check by width",
            "",
            f"`python benchmarks/width_check.py --record`: mean absolute change in {options.steps} steps of Adam at "
            f"{RATE:g}, by width; means over n = {options.seeds} seeds.",
            "",
            f"{host['cpu']}, {host['cores']} cores, load {os.getloadavg()[0]:.0f} at the end; Python {host['python']}, "
            f"torch {package_versions()['torch']}.",
            "",
        ]
        RESULTS.write_text("\n".join([*head, *lines]) + "\n")
        write_image(drawn(found, options.seeds, options.steps).to_json(), FIGURE)


if __name__ == "__main__":
    main()
