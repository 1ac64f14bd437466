"""The sections of a study: parts of the report and of the dashboard's pages, with how to read what is in them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sensitivity.analysis.designs import NEAR_BOUND
from sensitivity.analysis.study_results import StudyResults


@dataclass(frozen=True, kw_only=True)
class Section:
    """A part of the report, and of a page of the dashboard."""

    name: str
    title: str
    short: str
    """In a list of contents."""
    introduction: Callable[[StudyResults], str] = lambda _: ""
    """How to read what follows."""


def _budget(results: StudyResults) -> str:
    budget = results.spec.budget
    if budget is None:
        return "Budgets are whatever the runs had: they were trained elsewhere."
    words = f"The budget of this study is {budget.words()}"
    if budget.steps is not None:
        return f"{words}, alike for every batch size."
    return (
        f"{words}. To reach a target takes a number of epochs that grows linearly in the batch size beyond the critical"
        " one, so a budget in epochs that grows more slowly builds in a decline."
    )


SECTIONS: tuple[Section, ...] = (
    Section(name="answers", title="", short="Answers"),
    Section(
        name="settling",
        title="How it was settled",
        short="Settling",
        introduction=lambda _: (
            "Settling runs what the questions need and no more: it scouts, searches each optimizer's box"
            " until the best setting lies inside, freezes its choices, and judges them on fresh seeds. Its runs are"
            " kept apart from those of the study file's own design, and enter no other figure here."
        ),
    ),
    Section(
        name="maps",
        title="Robustness maps",
        short="Robustness",
        introduction=lambda _: (
            "A cell is one configuration at one batch size; its value is the median over its seeds. A diverged run"
            " counts as the untrained network, so divergence costs what had been learned; failed and waiting runs"
            " have no value and stay in the counts. All panels of a metric, of every optimizer, share one colour"
            " scale, which ends at the untrained network. The tolerance is 1 percentage point of accuracy, or 2% of"
            " the untrained network's loss. ○ marks cells that can't be told from the best: the 95% Student t"
            " interval of their difference, paired by seed, contains zero, for each cell by itself; with few seeds"
            " that holds also for cells that vary widely. The cells of a grid are chosen, not drawn: their shares are"
            " no probabilities. An arrow marks a best cell on the edge of its grid or, of draws and searches, within"
            f" {NEAR_BOUND:.0%} of a bound of its box, in the scale that it is drawn in: there the map has to be"
            " extended."
        ),
    ),
    Section(
        name="success",
        title="Success rates",
        short="Success rates",
        introduction=lambda _: (
            "The share of configurations that reach a target within the budget, for every target from the untrained"
            " network to the best value seen; a diverged run never reaches one. Of configurations drawn from the"
            " declared box it is a probability; of a grid it is the share of the grid's points."
        ),
    ),
    Section(
        name="scaling",
        title="Scaling with batch size",
        short="Scaling",
        introduction=lambda results: (
            "The time to a target by the fastest configuration of each batch size. A completed run reaches a target at"
            " its first evaluation that meets it; one that never does is censored at its budget. A diverged run never"
            f" reaches it, even where it met it on its way. {_budget(results)}"
        ),
    ),
    Section(
        name="targets",
        title="Runs that reach a target",
        short="Targets",
        introduction=lambda _: (
            "Expected running time is the steps of all observed runs, those without success at the full budget, over"
            " the successes; without a success it is only known to exceed that total."
        ),
    ),
    Section(
        name="cost",
        title="Cost",
        short="Cost",
        introduction=lambda _: (
            "Wall-clock is device-seconds: each run's share of the time of the pack that it was trained in. Computation"
            " is counted in floating-point operations, and does not depend on the machine."
        ),
    ),
    Section(
        name="tuning",
        title="The price of tuning",
        short="Tuning",
        introduction=lambda _: (
            "How sensitive an optimizer is shows in what it takes to find a setting that works. If a share p of the"
            " settings in its declared box reaches the target within the budget, a search that draws from the box"
            " expects 1/p trials until one does, diverged and failed ones at what they cost. More hyperparameters to"
            " tune make p smaller, and a wider box does too: the box is part of the answer. Below: what the best of k"
            " trials can be expected to reach."
        ),
    ),
    Section(
        name="regions",
        title="Robust region and sensitivity",
        short="Robust region",
        introduction=lambda _: (
            "How many decades of its hyperparameters leave an optimizer good enough, by two rules: within a tolerance"
            " of its own best, and for a target common to all. This describes one optimizer: decades a dimension do"
            " not compare where the number or the kind of hyperparameters differs; the price of tuning does. Below:"
            " what it costs to miss the best learning rate, and to use one setting for all batch sizes."
        ),
    ),
    Section(
        name="importance",
        title="Which hyperparameters matter",
        short="Importance",
        introduction=lambda _: (
            "How much of the variance of the metric over the box each hyperparameter explains, alone and in pairs, in"
            " decades. A large learning rate of K-FAC tends to go with a large damping: such a ridge shows as"
            " interaction, and as a large share of lr / damping."
        ),
    ),
    Section(
        name="curves",
        title="Learning curves",
        short="Curves",
        introduction=lambda _: (
            "The best cell of each optimizer and batch size, by any metric; the cell in the middle of the ranking; and,"
            " of the cells that lost a seed, one with the smallest learning rate. After the last evaluation of a"
            " diverged run, the median and the band count it as the untrained network."
        ),
    ),
    Section(name="runs", title="Every planned run", short="Runs"),
)
