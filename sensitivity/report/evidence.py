"""The sections on what follows: success rates, scaling, cost, tuning, robust regions, importance, a step's time.

Each says in plain words why it can't, where an estimate would mislead.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

from sensitivity.analysis.estimates import Caution, Estimate
from sensitivity.analysis.names import merged, optimizer_name
from sensitivity.analysis.scaling import ScalingCurve
from sensitivity.figures.exhibits.best_of_k import draw_best_of_k
from sensitivity.figures.exhibits.comparison import draw_profiles
from sensitivity.figures.exhibits.cost import draw_cost, draw_time_split
from sensitivity.figures.exhibits.critical import draw_critical
from sensitivity.figures.exhibits.importance import draw_importance, draw_ridge
from sensitivity.figures.exhibits.planes import draw_planes
from sensitivity.figures.exhibits.prices import draw_prices
from sensitivity.figures.exhibits.regions import draw_regions, draw_sensitivity
from sensitivity.figures.exhibits.scaling import UNIT_WORDS, draw_efficiency, draw_scaling
from sensitivity.figures.exhibits.success import draw_success, draw_success_3d, draw_success_difference
from sensitivity.figures.exhibits.targets import draw_targets
from sensitivity.report import figure_data as data
from sensitivity.report import tables
from sensitivity.report.blocks import drawn, notes, nothing, section, tabs, themed
from sensitivity.report.embed import Figures
from sensitivity.report.results import Results
from sensitivity.report.words import refusals, target_in_words

NO_TARGET = (
    "The study declares no target, so this can't be shown. Add one to the study file, such as [targets]"
    " test_accuracy = [0.95], run the study again (nothing is trained anew: the learning curves that are there"
    " suffice), and report."
)


def success_section(results: Results, figures: Figures, prefix: str) -> str:
    """Return the success-rate surfaces, their difference, and where in the plane the primary target is reached."""
    surfaces, difference = results.success, results.difference
    views = {
        "contours": (
            "contours",
            drawn(figures, f"{prefix}success", themed(draw_success, surfaces), partial(data.success_data, surfaces)),
        ),
        "surface": (
            "3-D",
            drawn(
                figures, f"{prefix}success-3d", themed(draw_success_3d, surfaces), partial(data.success_data, surfaces)
            ),
        ),
    }
    if difference is not None and not any(surface.refused for surface in surfaces):
        views["difference"] = (
            "difference",
            drawn(
                figures,
                f"{prefix}success-difference",
                themed(draw_success_difference, difference, surfaces),
                partial(data.difference_data, difference),
            ),
        )
    content = tabs(f"{prefix}success", "Success rate as", _there(views))
    content += nothing(*refusals(surface.refused for surface in surfaces))
    content = content or nothing("No run has a result, so there are no success rates.")
    content += notes(merged(w.text for surface in surfaces for w in surface.warnings)) + _planes(
        results, figures, prefix
    )
    introduction = (
        "The share of configurations that reach a target within the budget, for every target from the untrained network"
        " to the best value seen; a diverged run never reaches one. Of configurations drawn from the declared box it is"
        " a probability; of a grid it is a quadrature of the box."
    )
    return section(f"{prefix}success", "Success rates", introduction, content)


def _planes(results: Results, figures: Figures, prefix: str) -> str:
    target = target_in_words(results.verdicts)
    parts = []
    for optimizer in dict.fromkeys(plane.optimizer for plane in results.planes):
        own = [plane for plane in results.planes if plane.optimizer == optimizer]
        best = {
            point.batch_size: point.parameters
            for curve in results.verdicts.curves
            if curve.optimizer == optimizer
            for point in curve.points
        }
        draw = themed(draw_planes, own, target, best=best)
        parts.append(drawn(figures, f"{prefix}reached-{optimizer}", draw, partial(data.plane_data, own)))
    return "".join(parts)


def scaling_section(results: Results, figures: Figures, prefix: str) -> str:
    """Return time to target in each unit, efficiency, critical batch sizes, profiles, and every target's outcomes."""
    if not results.targets:
        return section(f"{prefix}scaling", "Scaling with batch size", "", nothing(NO_TARGET))
    views: dict[str, tuple[str, str]] = {
        unit: (
            words.replace("floating-point operations", "FLOPs"),
            drawn(
                figures,
                f"{prefix}scaling-{unit}",
                themed(draw_scaling, results.scaling[unit]),
                partial(data.scaling_data, results.scaling[unit]),
            ),
        )
        for unit, words in UNIT_WORDS.items()
    }
    steps = results.scaling["steps"]
    views["efficiency"] = (
        "efficiency",
        drawn(figures, f"{prefix}efficiency", themed(draw_efficiency, steps), partial(data.scaling_data, steps)),
    )
    content = tabs(f"{prefix}unit", "Time to target in", _there(views))
    content += drawn(
        figures, f"{prefix}critical-batch-size", themed(draw_critical, steps), partial(data.critical_data, steps)
    )
    curves = [curve for group in steps.values() for curve in group]
    content += notes(
        merged(
            text
            for curve in curves
            for text in (
                *(caution.text for caution in curve.warnings),
                *(f"{optimizer_name(curve.optimizer)}: {caution.text}" for caution in _of_fit(curve)),
            )
        )
    )
    if len({curve.optimizer for curve in curves}) > 1:
        content += drawn(
            figures,
            f"{prefix}profiles",
            themed(draw_profiles, results.profiles),
            partial(data.profile_data, results.profiles),
        )
    targets = drawn(
        figures, f"{prefix}targets", themed(draw_targets, results.targets), partial(data.target_data, results.targets)
    )
    content += f"<h3>Runs that reach a target</h3>{targets}{tables.target_table(results.targets)}"
    introduction = (
        "The time to a target by the best configuration of each batch size. A completed run reaches a target at its"
        " first evaluation that meets it; one that never does is censored at its budget. A diverged run never reaches"
        " it, even where it met it on its way. Expected running time is the steps of all observed runs, those without"
        " success at the full budget, over the successes; without a success it is only known to exceed that total."
        f" {_budget(results)}"
    )
    return section(f"{prefix}scaling", "Scaling with batch size", introduction, content)


def _budget(results: Results) -> str:
    budget = results.spec.budget
    words = f"The budget of this study is {budget.words()}"
    if budget.steps is not None:
        return f"{words}, alike for every batch size."
    return (
        f"{words}. To reach a target takes a number of epochs that grows linearly in the batch size beyond the critical"
        " one, so a budget in epochs that grows more slowly builds in a decline."
    )


def cost_section(results: Results, figures: Figures, prefix: str) -> str:
    """Return wall-clock and computation side by side, ratios, and a step's time by phase."""
    content = drawn(figures, f"{prefix}cost", themed(draw_cost, results.costs), partial(data.cost_data, results.costs))
    if results.cost_ratios:
        content += tables.ratio_table(results.cost_ratios)
    warned = [*(r.warnings for r in results.cost_ratios), *(c.warnings for c in results.costs)]
    content += notes(merged(caution.text for warnings in warned for caution in warnings))
    content += drawn(
        figures,
        f"{prefix}time-split",
        themed(draw_time_split, results.time_splits),
        partial(data.time_split_data, results.time_splits),
    ) or nothing("No run measured where the time of its steps went.")
    introduction = (
        "Wall-clock is device-seconds: each run's share of the time of the pack that it was trained in. Computation is"
        " counted in floating-point operations, and does not depend on the machine."
    )
    return section(f"{prefix}cost", "Cost", introduction, content)


def tuning_section(results: Results, figures: Figures, prefix: str) -> str:
    """Return the tuning curves in trials and in device-seconds."""
    verdicts, curves = results.verdicts, results.best_of_k
    prices, target = verdicts.prices, target_in_words(verdicts)
    content = drawn(figures, f"{prefix}prices", themed(draw_prices, prices, target), partial(data.price_data, prices))
    content += nothing(*refusals(price.refused for price in prices))
    content += notes(merged(w.text for price in prices for w in price.warnings))
    content += tables.price_table(prices, target) + tables.price_ratio_table(verdicts.price_ratios)
    views = {
        by: (
            label,
            drawn(
                figures,
                f"{prefix}best-of-k-{by}",
                themed(draw_best_of_k, curves, by=by),
                partial(data.best_of_k_data, curves),
            ),
        )
        for by, label in (("trials", "trials"), ("seconds", "device-seconds"))
    }
    content += tabs(f"{prefix}tuning", "Budget in", _there(views)) + nothing(*refusals(c.refused for c in curves))
    content = content or nothing("No run has a result, so there is no tuning curve.")
    content += notes(merged(w.text for curve in curves for w in curve.warnings))
    introduction = (
        "How sensitive an optimizer is shows in what it takes to find a setting that works. If a share p of the"
        " settings in its declared box reaches the target within the budget, a search that draws from the box expects"
        " 1/p trials until one does, diverged and failed ones at what they cost. More hyperparameters to tune make p"
        " smaller, and a wider box does too: the box is part of the answer. Below: what the best of k trials"
        " can be expected to reach."
    )
    return section(f"{prefix}tuning", "The price of tuning", introduction, content)


def region_section(results: Results, figures: Figures, prefix: str) -> str:
    """Return robust regions by both rules, and sensitivity scalars."""
    regions = (*results.own_regions, *results.verdicts.regions)
    lr, tunings = results.lr_sensitivity, results.tunings
    content = drawn(figures, f"{prefix}regions", themed(draw_regions, regions), partial(data.region_data, regions))
    content += nothing(*refusals(region.decades.refused for region in regions))
    content += notes(merged(w.text for region in regions for w in region.decades.warnings))
    content += drawn(
        figures,
        f"{prefix}sensitivity",
        themed(draw_sensitivity, lr, tunings),
        partial(data.sensitivity_data, lr, tunings),
    )
    gains = [at.gain for tuning in tunings for at in tuning.tunability]
    scalars = [*(one.sensitivity for one in lr), *(tuning.one_setting for tuning in tunings), *gains]
    content += notes(merged(c.text for scalar in scalars for c in _cautions(scalar)))
    content += tables.tuning_table(tunings)
    content = content or nothing("No run has a result, so nothing can be said of sensitivity.")
    introduction = (
        "How many decades of its hyperparameters leave an optimizer good enough, by two rules: within a tolerance of"
        " its own best, and for a target common to all. This describes one optimizer: decades a dimension do not"
        " compare where the number or the kind of hyperparameters differs; the price of tuning does. Below: what it"
        " costs to miss the best learning rate, and to use one setting for all batch sizes."
    )
    return section(f"{prefix}regions", "Robust region and sensitivity", introduction, content)


def importance_section(results: Results, figures: Figures, prefix: str) -> str:
    """Return importance bars, and the ridge of learning rate and damping."""
    importances, metric = results.importance, results.metric
    content = drawn(
        figures,
        f"{prefix}importance",
        themed(draw_importance, importances),
        partial(data.importance_data, importances),
    )
    content += nothing(*refusals(importance.refused for importance in importances))
    content += notes(merged(w.text for importance in importances for w in importance.warnings))
    maps = results.maps[metric.name] if metric else ()
    for optimizer in dict.fromkeys(map_.optimizer for map_ in maps if map_.y_name == "damping"):
        own = [map_ for map_ in maps if map_.optimizer == optimizer]
        draw = themed(draw_ridge, own, importances)
        content += drawn(figures, f"{prefix}ridge-{optimizer}", draw, partial(data.map_data, own))
    content = content or nothing("No run has a result, so there is no variance to split.")
    introduction = (
        "How much of the variance of the metric over the box each hyperparameter explains, alone and in pairs, in"
        " decades. A large learning rate of K-FAC tends to go with a large damping: such a ridge shows as interaction,"
        " and as a large share of lr / damping."
    )
    return section(f"{prefix}importance", "Which hyperparameters matter", introduction, content)


def _of_fit(curve: ScalingCurve) -> Iterable[Caution]:
    return _cautions(curve.critical.size) if curve.critical else ()


def _cautions(estimate: Estimate) -> Iterable[Caution]:
    return (*((estimate.refused,) if estimate.refused else ()), *estimate.warnings)


def _there(views: dict[str, tuple[str, str]]) -> dict[str, tuple[str, str]]:
    return {key: view for key, view in views.items() if view[1]}
