"""Choice of the next configurations: Optuna's samplers as one pure function.

The Optuna study is rebuilt from the known results each time, so that the next configurations are a function of the
earlier ones, their objectives, and the seed. A killed search therefore continues like an undisturbed one. Objectives
that measure time are not reproducible, nor are the last digits of Gaussian processes across machines.
"""

from __future__ import annotations

import hashlib
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import optuna
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, CmaEsSampler, GPSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.trial import TrialState, create_trial

from sensitivity.study.arms import Arm
from sensitivity.study.axes import Axis
from sensitivity.study.designs import Configuration

_STATEFUL = ("cmaes", "nsga2")
"""Samplers that store their state in the trials they generated, so that their history is replayed."""
_MAX_ASKS = 20
"""Most suggestions per requested configuration; a space that consists of lists can be exhausted."""
_MAX_REPEATS = 3
"""Consecutive suggestions without a new configuration after which configurations are drawn at random. A Gaussian
process repeats its suggestion if all runs are equal, or the best one is in a corner."""


Direction = Literal["minimize", "maximize"]


@dataclass(frozen=True)
class Tried:
    """A configuration and its objectives, which are None if its runs have no result."""

    configuration: Configuration
    objectives: tuple[float, ...] | None


def next_configurations(
    arm: Arm,
    tried: Sequence[Tried],
    count: int,
    *,
    directions: Sequence[Direction],
    stream: str,
    round_size: int,
    cancelled: Callable[[], bool] = lambda: False,
) -> tuple[Configuration, ...]:
    """Return at most `count` configurations that are not in `tried`; fewer if the space is exhausted.

    Args:
        arm: the optimizer, whose design names the sampler.
        tried: earlier configurations, in the order in which they were suggested.
        count: number of configurations.
        directions: "minimize" or "maximize" for each objective.
        stream: name of the search, so that several searches with the same seed differ.
        round_size: number of configurations of `tried` that were suggested at a time.
        cancelled: called before each suggestion; returns whether the result is no longer needed.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # warnings about experimental samplers
        replayed = 0 if arm.design in _STATEFUL else len(tried)
        seed = hashlib.sha256(f"{arm.design_seed}/{stream}/{replayed}".encode()).digest()
        study = optuna.create_study(
            sampler=_sampler(arm, int.from_bytes(seed[:4], "big"), round_size), directions=list(directions)
        )
        _add_history(study, arm, tried, round_size=round_size)
        return _ask(study, arm, {each.configuration for each in tried}, count, cancelled)


def distributions(arm: Arm) -> dict[str, BaseDistribution]:
    """Return the search space: intervals unchanged, lists by position, fixed values omitted."""
    return {name: _distribution(axis) for name, axis in arm.axes().items() if axis.varies}


def _distribution(axis: Axis) -> BaseDistribution:
    if axis.scale == "values":
        return IntDistribution(0, len(axis.values) - 1)
    return FloatDistribution(axis.low, axis.high, log=axis.scale == "log")


def _sampler(arm: Arm, seed: int, round_size: int) -> BaseSampler:
    # A generation is a round: CMA-ES would ignore the rest of a larger round.
    generation = max(round_size, 4 + int(3 * math.log(len(distributions(arm)))))
    match arm.design:
        case "tpe":
            return TPESampler(seed=seed, multivariate=True, constant_liar=True)
        case "gp":
            return GPSampler(seed=seed)
        case "cmaes":
            return CmaEsSampler(seed=seed, popsize=generation)
        case _:
            return NSGAIISampler(seed=seed, population_size=generation)


def _add_history(study: optuna.Study, arm: Arm, tried: Sequence[Tried], *, round_size: int) -> None:
    space = distributions(arm)
    if arm.design not in _STATEFUL:
        for each in tried:
            known = each.objectives is not None
            study.add_trial(
                create_trial(
                    state=TrialState.COMPLETE if known else TrialState.FAIL,
                    params=_params(arm, each.configuration),
                    distributions=space,
                    values=list(each.objectives) if each.objectives is not None else None,
                )
            )
        return
    for start in range(0, len(tried), round_size):
        part = tried[start : start + round_size]
        for each in part:
            study.enqueue_trial(_params(arm, each.configuration))
        asked = []
        for _ in part:
            trial = study.ask(space)
            # Optuna does not sample enqueued trials, so the sampler would not store its state in the trial.
            _ = trial.relative_params
            asked.append(trial)
        for trial, each in zip(asked, part, strict=True):
            if each.objectives is None:
                study.tell(trial, state=TrialState.FAIL)
            else:
                study.tell(trial, list(each.objectives))


def _ask(
    study: optuna.Study, arm: Arm, known: set[Configuration], count: int, cancelled: Callable[[], bool]
) -> tuple[Configuration, ...]:
    space, found = distributions(arm), dict.fromkeys(known)
    chosen, repeats = study.sampler, 0
    drawn = RandomSampler(seed=arm.design_seed + len(known))
    for _ in range(_MAX_ASKS * count):
        if len(found) == len(known) + count or cancelled():
            break
        study.sampler = drawn if repeats >= _MAX_REPEATS else chosen
        # Suggested trials stay running, so that samplers avoid their region.
        configuration = _configuration(arm, study.ask(space).params)
        repeats = repeats + 1 if configuration in found else 0
        found[configuration] = None
    return tuple(found)[len(known) :]


def _params(arm: Arm, configuration: Configuration) -> dict[str, float]:
    axes, params = arm.axes(), {}
    for name, value in configuration:
        if axes[name].varies:
            params[name] = axes[name].values.index(value) if axes[name].scale == "values" else value
    return params


def _configuration(arm: Arm, params: dict[str, float]) -> Configuration:
    def value(name: str, axis: Axis) -> float:
        if not axis.varies:
            return axis.values[0]
        if axis.scale == "values":
            return axis.values[int(params[name])]
        return min(max(axis.rounded(params[name]), axis.low), axis.high)

    return tuple((name, value(name, axis)) for name, axis in arm.axes().items())
