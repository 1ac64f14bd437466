"""Worlds of two optimizers with a known ratio of critical batch sizes, and what the scaling verdict makes of studies of them.

A study is drawn as runs would have it: every cell and seed has a time to the target, which its evaluations only tell to
lie between two of them, and its budget may cut off. From there on it goes the package's own way, from a table of times
to the answer.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd

from sensitivity.analysis.estimates import Floats
from sensitivity.analysis.scaling import compute_scaling
from sensitivity.analysis.times import AFTER, CAP, UNITS
from sensitivity.analysis.verdict import Margins, Verdict
from sensitivity.analysis.verdict_scaling import compute_scaling_verdict

MARGIN = Margins().scaling_ratio
_FRESH = 1_000_000_000


@dataclass(frozen=True, kw_only=True)
class Arm:
    """An optimizer: S(B) = s_min (1 + size / B) for its best cell, and a grid of lr around it."""

    size: float
    s_min: float = 100.0
    cells: int = 5
    best: float = 2.0
    """Place of the optimum among the cells; outside of them, or between two, is allowed."""
    bend: float = 0.2
    """log S rises by this a squared step of the grid from the optimum."""
    ties: int = 1
    """Copies of every cell that only noise tells apart."""
    design: str = "grid"
    stopped: float = 0.0
    """Share of the slowest runs at a batch size that are stopped half-way."""
    diverge_from: int = 99
    """The first cell whose runs diverge, every other seed."""


@dataclass(frozen=True, kw_only=True)
class World:
    """A truth and how it is measured; `arms` are the candidate and the reference."""

    name: str
    arms: tuple[Arm, Arm]
    batch_sizes: tuple[int, ...] = (32, 128, 512)
    choosing: int = 6
    """Seeds that choose the winners; with as many or one more to judge, the study is split as the package does."""
    judging: int = 12
    confirmed: bool = True
    """The judging seeds are fresh ones, on which the winners alone were run."""
    noise: float = 0.1
    tails: str = "normal"
    shared: float = 0.0
    """Share of the noise's variance that all cells and batch sizes of a seed have in common."""
    growth: float | None = 0.1
    """Evaluations come this much later each; None: at the fixed steps of `every`."""
    every: tuple[int, ...] = ()
    """Steps between evaluations, a batch size."""
    budget: float = math.inf
    """Steps, as a multiple of the slower optimizer's S at the batch size."""
    falls_back: float = 0.0
    bend_curve: float = 0.0
    """log S of the middle batch sizes is larger by this: no critical batch size describes it."""
    rng: int = 0
    expect: Mapping[str, str] = field(default_factory=dict)

    @property
    def ratio(self) -> float:
        """Of the critical batch sizes."""
        return self.arms[0].size / self.arms[1].size


def _evaluations(world: World, place: int, most: float) -> Floats:
    """Return the steps at which is evaluated, from the first."""
    if world.growth is None:
        return np.arange(1.0, most / world.every[place] + 2) * world.every[place]
    steps = [1]
    while steps[-1] < most:
        steps.append(max(steps[-1] + 1, round(steps[-1] * (1 + world.growth))))
    return np.array(steps, dtype=float)


def _noise(world: World, shape: tuple[int, ...], rng: np.random.Generator) -> Floats:
    if world.tails == "t3":
        return np.asarray(rng.standard_t(3, shape) / math.sqrt(3))
    if world.tails == "skewed":
        return np.asarray(rng.standard_exponential(shape) - 1)
    return rng.standard_normal(shape)


def draw(world: World, rng: np.random.Generator) -> pd.DataFrame:
    """Return the table of times (``times.compute_times``) of a study."""
    frames = []
    seeds = np.arange(world.choosing + world.judging)
    numbers = np.where(seeds < world.choosing, seeds, _FRESH + seeds - world.choosing) if world.confirmed else seeds
    common = _noise(world, (len(seeds), 1), rng)
    for name, arm in zip("ab", world.arms, strict=True):
        offset = arm.bend * (np.repeat(np.arange(arm.cells), arm.ties) - arm.best) ** 2
        for place, batch in enumerate(world.batch_sizes):
            inner = 0 < place < len(world.batch_sizes) - 1
            level = math.log(arm.s_min * (1 + arm.size / batch)) + (world.bend_curve if inner else 0.0)
            own = _noise(world, (len(seeds), len(offset)), rng)
            noise = math.sqrt(1 - world.shared) * own + math.sqrt(world.shared) * common
            exact = np.exp(level + offset + world.noise * noise)
            budget = world.budget * max(a.s_min * (1 + a.size / batch) for a in world.arms)
            frames.append(_table(world, arm, name, place, exact, numbers, budget, rng))
    return pd.concat(frames, ignore_index=True)


def _table(
    world: World,
    arm: Arm,
    name: str,
    place: int,
    exact: Floats,
    seeds: np.ndarray,
    budget: float,
    rng: np.random.Generator,
) -> pd.DataFrame:
    steps = _evaluations(world, place, float(exact.max()))
    at = np.searchsorted(steps, exact)
    time, after = steps[at], np.where(at > 0, steps[at - 1], 0.0)
    cap = np.full(exact.shape, budget if math.isfinite(budget) else 4 * steps[-1])
    outcome = np.where(time <= cap, "reached", "censored").astype(object)
    status = np.full(exact.shape, "completed", dtype=object)
    cell = np.broadcast_to(np.arange(exact.shape[1]), exact.shape)
    if arm.stopped:
        slow = (time > np.quantile(time, 1 - arm.stopped)) & (seeds < _FRESH)[:, None]
        outcome[slow], status[slow] = "censored", "stopped"
        cap = np.where(slow, cap, cap)
        time = np.where(slow, time / 2, time)
    lost = (cell >= arm.diverge_from * arm.ties) & (np.arange(len(seeds)) % 2 == 0)[:, None]
    outcome[lost], status[lost] = "diverged", "diverged"
    unmet = np.where(lost, np.inf, np.where(status == "stopped", time, cap))
    time = np.where(outcome == "reached", time, unmet)
    after = np.where(outcome == "reached", after, unmet)
    rows = np.ones(exact.shape, dtype=bool)
    if world.confirmed:
        score = np.where(outcome == "reached", time, np.inf)[: world.choosing].mean(axis=0)
        rows[world.choosing :] = np.arange(exact.shape[1]) == int(score.argmin())
    flat = rows.ravel()
    batch = world.batch_sizes[place]
    seed = np.repeat(seeds, exact.shape[1])[flat]
    columns = {
        "trial_id": "",
        "cell_id": np.array([f"{name}-{batch}-{k}" for k in range(exact.shape[1])])[cell.ravel()[flat]],
        "optimizer": name,
        "batch_size": batch,
        "seed": seed,
        "confirmation": seed >= _FRESH,
        "status": status.ravel()[flat],
        "param.lr": 10.0 ** (cell.ravel()[flat] // arm.ties - 2.0),
        "param.tie": (cell.ravel()[flat] % arm.ties).astype(float),
        "outcome": outcome.ravel()[flat],
        "met": (outcome == "reached").ravel()[flat],
        "share": rng.uniform(0.01, 1, flat.sum()),
        "fell_back": ((rng.random(exact.shape) < world.falls_back) & (outcome == "reached")).ravel()[flat],
    }
    for unit in UNITS:
        columns |= {unit: time.ravel()[flat], AFTER + unit: after.ravel()[flat], CAP + unit: cap.ravel()[flat]}
    table = pd.DataFrame(columns)
    if arm.ties == 1:
        table = table.drop(columns="param.tie")
    return table.assign(untrained=False, at_first=(table["outcome"] == "reached") & (table[AFTER + "steps"] == 0))


def judge(world: World, times: pd.DataFrame) -> Verdict:
    """Return the verdict on a study."""
    designs = {name: arm.design for name, arm in zip("ab", world.arms, strict=True)}
    curves = compute_scaling(times, designs=designs)
    runs = times.assign(train_seconds=times["steps"].replace(math.inf, 10.0), eval_seconds=0.0)
    return compute_scaling_verdict(runs, curves, "a", "b")


@dataclass(frozen=True)
class Outcome:
    """What studies of a world came to."""

    world: World
    answers: Counter[str]
    false: Floats
    """[studies]: whether a claim was made that isn't true."""
    covered: Floats
    """[studies]: whether the interval of the ratio held it; NaN where the verdict was refused, or had none."""
    refused: Floats
    """[studies]: whether something blocked a claim."""
    blocks: Counter[str]


def simulate(world: World, studies: int, start: int = 0) -> Outcome:
    """Judge `studies` studies of a world, numbered from `start`."""
    answers, blocks = Counter[str](), Counter[str]()
    false, covered, refused = [], [], []
    true = math.log(world.ratio)
    for study in range(start, start + studies):
        rng = np.random.default_rng([world.rng, study])
        found = judge(world, draw(world, rng))
        answers[found.answer] += 1
        blocks.update({block.code for block in found.blocks})
        false.append(_is_false(found.answer, true))
        refused.append(bool(found.blocks))
        interval = found.effect.interval
        open_ = found.blocks or interval is None
        covered.append(math.nan if open_ or interval is None else interval[0] <= world.ratio <= interval[1])
    return Outcome(world, answers, *(np.array(x, dtype=float) for x in (false, covered, refused)), blocks)


def _is_false(answer: str, true: float) -> bool:
    beyond = math.log(MARGIN) * (1 + 1e-9)
    return {
        "better": true <= beyond,
        "worse": true >= -beyond,
        "equivalent": abs(true) >= math.log(MARGIN) * (1 - 1e-9),
        "undetermined": False,
    }[answer]


def pair(first: float, second: float = 100.0, **both: float) -> tuple[Arm, Arm]:
    """Return two arms of those critical batch sizes."""
    one, other = Arm(size=first), Arm(size=second)
    return replace(one, **both), replace(other, **both)  # type: ignore[arg-type]
