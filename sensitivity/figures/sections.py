"""Sections of the report and of the dashboard's pages, with introductions that explain how to read them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sensitivity.analysis.designs import NEAR_BOUND
from sensitivity.analysis.study_results import StudyResults


@dataclass(frozen=True, kw_only=True)
class Section:
    """A section of the report, and of a page of the dashboard."""

    name: str
    title: str
    short: str
    """Title in a table of contents."""
    introduction: Callable[[StudyResults], str] = lambda _: ""
    """Text that explains how to read the section."""


def _budget(results: StudyResults) -> str:
    budget = results.spec.budget
    if budget is None:
        return "The budgets are those of the runs, which were trained elsewhere."
    words = f"The budget of this study is {budget.words()}"
    if budget.steps is not None:
        return f"{words}, the same for every batch size."
    return (
        f"{words}. Beyond the critical batch size, the epochs needed to reach a target grow linearly with the batch"
        " size, so a budget in epochs that grows more slowly builds in a decline."
    )


SECTIONS: tuple[Section, ...] = (
    Section(name="answers", title="", short="Answers"),
    Section(
        name="settling",
        title="How it was settled",
        short="Settling",
        introduction=lambda _: (
            "Settling runs only what the questions need: it scouts, searches each optimizer's box until the best"
            " setting lies inside, freezes its choices, and judges them on fresh seeds. Its runs are kept apart from"
            " those of the study file's own design, and enter no other figure here."
        ),
    ),
    Section(
        name="maps",
        title="Robustness maps",
        short="Robustness",
        introduction=lambda _: (
            "A cell is one configuration at one batch size; its value is the median over its seeds. A diverged run"
            " counts as the untrained network, so divergence loses all progress; failed and waiting runs have no value"
            " but stay in the counts. All panels of a metric, for every optimizer, share one colour scale, which ends"
            " at the untrained network. The tolerance is 1 percentage point of accuracy, or 2% of the untrained"
            " network's loss. ○ marks cells that are indistinguishable from the best: the 95% Student t interval of"
            " their difference, paired by seed, contains zero, for each cell separately; with few seeds this also"
            " holds for cells that vary widely. The cells of a grid are chosen, not sampled, so their shares are not"
            " probabilities. An arrow marks a best cell on the edge of its grid or, for random designs and searches,"
            f" within {NEAR_BOUND:.0%} of a bound of its box, on the scale of its axis: there the map should be"
            " extended."
        ),
    ),
    Section(
        name="success",
        title="Success rates",
        short="Success rates",
        introduction=lambda _: (
            "The share of configurations that reach a target within the budget, for every target from the untrained"
            " network to the best value seen; a diverged run never reaches one. For configurations sampled from the"
            " declared box it is a probability; for a grid it is the share of grid points."
        ),
    ),
    Section(
        name="scaling",
        title="Scaling with batch size",
        short="Scaling",
        introduction=lambda results: (
            "The time to a target with the fastest configuration at each batch size. A completed run reaches a target"
            " at its first evaluation that meets it; one that never does is censored at its budget. A diverged run"
            f" never reaches it, even if it met it on the way. {_budget(results)}"
        ),
    ),
    Section(
        name="targets",
        title="Runs that reach a target",
        short="Targets",
        introduction=lambda _: (
            "Expected running time is the number of steps of all observed runs, with unsuccessful ones counted at the"
            " full budget, divided by the successes; without a success it is only known to exceed that total."
        ),
    ),
    Section(
        name="cost",
        title="Cost",
        short="Cost",
        introduction=lambda _: (
            "Wall-clock time is device-seconds: each run's share of the time of the pack it was trained in. Computation"
            " is counted in floating-point operations, and does not depend on the machine."
        ),
    ),
    Section(
        name="tuning",
        title="The price of tuning",
        short="Tuning",
        introduction=lambda _: (
            "An optimizer's sensitivity shows in the effort needed to find a setting that works. If a share p of the"
            " settings in its declared box reaches the target within the budget, a random search in the box expects"
            " 1/p trials until one does; diverged and failed trials count at their cost. More hyperparameters to tune"
            " make p smaller, and so does a wider box: the box is part of the answer. Below: what the best of k trials"
            " can be expected to reach."
        ),
    ),
    Section(
        name="regions",
        title="Robust region and sensitivity",
        short="Robust region",
        introduction=lambda _: (
            "How many decades of its hyperparameters keep an optimizer good enough, by two rules: within a tolerance"
            " of its own best, and for a target common to all. This describes one optimizer: decades per dimension are"
            " not comparable when the number or kind of hyperparameters differs; the price of tuning is. Below: the"
            " cost of missing the best learning rate, and of using one setting for all batch sizes."
        ),
    ),
    Section(
        name="importance",
        title="Which hyperparameters matter",
        short="Importance",
        introduction=lambda _: (
            "How much of the metric's variance over the box each hyperparameter explains, alone and in pairs, in"
            " decades. For K-FAC a large learning rate tends to go with a large damping: such a ridge shows as"
            " interaction, and as a large share of lr / damping."
        ),
    ),
    Section(
        name="curves",
        title="Learning curves",
        short="Curves",
        introduction=lambda _: (
            "For each optimizer and batch size: the best cell, by any metric; the cell in the middle of the ranking;"
            " and, of the cells with a lost seed, one with the smallest learning rate. After the last evaluation of a"
            " diverged run, the median and the band count it as the untrained network."
        ),
    ),
    Section(name="runs", title="Every planned run", short="Runs"),
)
