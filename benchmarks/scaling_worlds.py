"""Simulated worlds of two optimizers with a known ratio of critical batch sizes, and verdicts on studies of them.

A study is simulated as real runs would give it: every cell and seed has a time to the target, which evaluations locate
between two of them, and which the budget may cut off. From there on the package's own code is used, from the choice of
winners to the answer; the tests also use it from the tables of a study on.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sensitivity.analysis.designs import Design
from sensitivity.analysis.estimates import Floats
from sensitivity.analysis.looks import RATE
from sensitivity.analysis.scaling import scaling_curves
from sensitivity.analysis.scaling_points import Configurations
from sensitivity.analysis.verdict import Margins
from sensitivity.analysis.verdict_scaling import compute_scaling_verdict
from sensitivity.analysis.winners import SeedTable
from sensitivity.study.axes import Axis

MARGIN = Margins().scaling_ratio
_FRESH = 1_000_000_000


@dataclass(frozen=True, kw_only=True)
class Arm:
    """An optimizer: S(B) = s_min (1 + size / B) for its best cell, and a grid of learning rates around it."""

    size: float
    s_min: float = 100.0
    cells: int = 5
    best: float = 2.0
    """Position of the optimum among the cells; it may be outside of them, or between two."""
    bend: float = 0.2
    """Increase of log S per squared grid step from the optimum."""
    ties: int = 1
    """Number of copies of every cell, which differ by noise only."""
    design: str = "grid"
    stopped: float = 0.0
    """Share of the slowest runs at a batch size that are stopped halfway."""
    diverge_from: int = 99
    """The first cell whose runs diverge, on every other seed."""


@dataclass(frozen=True, kw_only=True)
class World:
    """A truth and how it is measured; `arms` are the candidate and the reference."""

    name: str
    arms: tuple[Arm, Arm]
    batch_sizes: tuple[int, ...] = (32, 128, 512)
    choosing: int = 6
    """Seeds that choose the winners; with as many judging seeds or one more, the package splits the study."""
    judging: int = 12
    confirmed: bool = True
    """Whether the judging seeds are fresh ones, on which only the winners were run."""
    noise: float = 0.1
    tails: str = "normal"
    shared: float = 0.0
    """Share of the noise's variance common to all cells and batch sizes of a seed."""
    growth: float | None = 0.1
    """Relative growth of the time between evaluations; None for the fixed steps in `every`."""
    every: tuple[int, ...] = ()
    """Steps between evaluations, per batch size."""
    budgets: tuple[float, ...] = ()
    """Budget at each batch size, as a multiple of the slower optimizer's S there; by default nothing is cut off."""
    copies: bool = False
    """Whether the reference repeats the candidate's runs."""
    falls_back: float = 0.0
    bent: float = 0.0
    """Increase of log S at the middle batch sizes, so that no critical batch size fits."""
    looks: tuple[int, ...] = ()
    """Numbers of seeds at which the verdict is read: judging seeds or, for split halves, all seeds. It stops at the
    first claim, and each look has the level that is left for it (``looks``). Empty for one look at the end, at 5%."""
    rng: int = 0

    @property
    def ratio(self) -> float:
        """Ratio of the critical batch sizes."""
        return self.arms[0].size / self.arms[1].size


def _evaluations(world: World, place: int, most: float) -> Floats:
    """Return the steps of the evaluations."""
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


def draw(world: World, rng: np.random.Generator) -> list[SeedTable]:
    """Return the times of a study."""
    tables = []
    seeds = np.arange(world.choosing + world.judging)
    numbers = np.where(seeds < world.choosing, seeds, _FRESH + seeds - world.choosing) if world.confirmed else seeds
    common = _noise(world, (len(seeds), 1), rng)
    for name, arm in zip("ab", world.arms, strict=True):
        offset = arm.bend * (np.repeat(np.arange(arm.cells), arm.ties) - arm.best) ** 2
        for place, batch in enumerate(world.batch_sizes):
            inner = 0 < place < len(world.batch_sizes) - 1
            level = math.log(arm.s_min * (1 + arm.size / batch)) + (world.bent if inner else 0.0)
            own = _noise(world, (len(seeds), len(offset)), rng)
            noise = math.sqrt(1 - world.shared) * own + math.sqrt(world.shared) * common
            exact = np.exp(level + offset + world.noise * noise)
            slower = max(a.s_min * (1 + a.size / batch) for a in world.arms)
            budget = world.budgets[place] * slower if world.budgets else math.inf
            tables.append(_table(world, arm, name, place, exact, numbers, budget, rng))
    if world.copies:
        half = len(tables) // 2
        tables[half:] = [
            replace(table, optimizer="b", cells=_cells("b", world, k)) for k, table in enumerate(tables[:half])
        ]
    return tables


def _table(
    world: World,
    arm: Arm,
    name: str,
    place: int,
    exact: Floats,
    seeds: NDArray[np.int_],
    budget: float,
    rng: np.random.Generator,
) -> SeedTable:
    steps = _evaluations(world, place, float(exact.max()))
    at = np.searchsorted(steps, exact)
    time, after = steps[at], np.where(at > 0, steps[at - 1], 0.0)
    cap = np.full(exact.shape, budget if math.isfinite(budget) else 4 * steps[-1])
    reached = time <= cap
    own = np.where(reached, time, cap)
    choosing = np.arange(len(seeds)) < world.choosing if world.confirmed else np.ones(len(seeds), dtype=bool)
    stopped = (time > np.quantile(time, 1 - arm.stopped)) & choosing[:, None] if arm.stopped else np.zeros_like(reached)
    lost = np.zeros_like(reached)
    lost[::2, arm.diverge_from * arm.ties :] = True
    own = np.where(stopped, own / 2, np.where(lost, np.inf, own))
    reached = reached & ~stopped & ~lost
    after = np.where(reached, after, own)
    run = np.ones(exact.shape, dtype=bool)
    if world.confirmed:
        score = np.where(reached, own, np.inf)[: world.choosing].mean(axis=0)
        run[world.choosing :] = np.arange(exact.shape[1]) == int(score.argmin())
    return SeedTable(
        optimizer=name,
        batch_size=world.batch_sizes[place],
        seeds=tuple(int(seed) for seed in seeds),
        cells=_cells(name, world, place),
        time=np.where(run, own, np.nan),
        after=np.where(run, after, np.nan),
        cap=np.where(run, cap, np.nan),
        reached=reached & run,
        share=np.where(reached & run, rng.uniform(0.01, 1, exact.shape), np.nan),
        counts={
            "reached": int((reached & run).sum()),
            "diverged": int((lost & run).sum()),
            "censored": int((~reached & ~lost & run).sum()),
            "stopped": int((stopped & run).sum()),
            "fell_back": int((reached & run & (rng.random(exact.shape) < world.falls_back)).sum()),
        },
    )


def _cells(name: str, world: World, place: int) -> tuple[str, ...]:
    arm = world.arms["ab".index(name)]
    return tuple(f"{name}-{world.batch_sizes[place]}-{k}" for k in range(arm.cells * arm.ties))


def _plan(world: World) -> tuple[dict[str, Configurations], pd.DataFrame]:
    """Return the configurations of both arms, and one run per cell, for the prices of remedies."""
    found, runs = {}, []
    for name, arm in zip("ab", world.arms, strict=True):
        lr = 10.0 ** (np.repeat(np.arange(arm.cells), arm.ties) - 2.0)
        values = {"lr": lr, "tie": np.tile(np.arange(float(arm.ties)), arm.cells)}
        varying = {key: value for key, value in values.items() if len(set(value)) > 1 or key == "lr"}
        places = range(len(world.batch_sizes))
        ids = [cell for place in places for cell in _cells(name, world, place)]
        every = {key: np.tile(value, len(places)) for key, value in varying.items()}
        design: Design = "adaptive" if arm.design == "tpe" else "grid"
        box = None if design == "grid" else {"lr": Axis(scale="log", low=1e-4, high=1e2 * 10.0**arm.cells)}
        found[name] = Configurations(design=design, parameters=pd.DataFrame(every, index=ids), box=box)
        runs.append(
            pd.DataFrame(
                {
                    "optimizer": name,
                    "cell_id": ids,
                    "batch_size": np.repeat(world.batch_sizes, len(lr)),
                    "seed": 0,
                    "status": "completed",
                    "train_seconds": 1.0,
                    "eval_seconds": 0.0,
                    **{f"param.{key}": value for key, value in every.items()},
                }
            )
        )
    return found, pd.concat(runs, ignore_index=True)


@dataclass(frozen=True)
class Outcome:
    """Results of the studies of a world."""

    world: World
    false: Floats
    """[studies]: whether a false claim was made."""
    covered: Floats
    """[studies]: whether the interval of the ratio contained it; NaN if the verdict was refused or had no interval."""
    given: tuple[str, ...]
    """[studies]: answers."""

    def hits(self, answer: str) -> Floats:
        """Return which studies have this answer [studies]."""
        return np.array([given == answer for given in self.given], dtype=float)


def simulate(world: World, studies: int) -> Outcome:
    """Judge `studies` studies of a world, numbered from 0."""
    answers: list[str] = []
    false, covered = [], []
    true = math.log(world.ratio)
    configurations, runs = _plan(world)
    fresh = range(_FRESH, _FRESH + world.judging) if world.confirmed else ()
    for study in range(studies):
        tables = draw(world, np.random.default_rng([world.rng, study]))
        for k, looked in enumerate(world.looks or (None,), start=1):
            seen = tables if looked is None else [_first_seeds(table, looked, world) for table in tables]
            curves = scaling_curves(seen, configurations, confirmation_seeds=fresh)
            level = 0.05 if looked is None else 2 * RATE / (k * (k + 1))
            found = compute_scaling_verdict(runs, curves, "a", "b", alpha=level)
            if found.answer != "undetermined":
                break
        answers.append(found.answer)
        false.append(_is_false(found.answer, true))
        interval = found.effect.interval
        open_ = found.blocks or interval is None
        covered.append(math.nan if open_ or interval is None else interval[0] <= world.ratio <= interval[1])
    return Outcome(world, np.array(false, dtype=float), np.array(covered, dtype=float), tuple(answers))


def _first_seeds(table: SeedTable, count: int, world: World) -> SeedTable:
    """Return the table with the first `count` seeds: judging seeds or, if they are split in halves, all seeds."""
    return table.keep(np.arange(len(table.seeds)) < count + (world.choosing if world.confirmed else 0))


def _is_false(answer: str, true: float) -> bool:
    beyond = math.log(MARGIN) * (1 + 1e-9)
    return {
        "better": true <= beyond,
        "worse": true >= -beyond,
        "equivalent": abs(true) >= math.log(MARGIN) * (1 - 1e-9),
        "undetermined": False,
    }[answer]


def pair(first: float, second: float = 100.0, **both: float) -> tuple[Arm, Arm]:
    """Return two arms with these critical batch sizes."""
    one, other = Arm(size=first), Arm(size=second)
    return replace(one, **both), replace(other, **both)  # type: ignore[arg-type]


_NINE = tuple(2**k for k in range(6, 15))
_EPOCHS: dict[str, Any] = {"growth": None, "every": (45, 12, 3)}
_EACH: dict[str, Any] = {"growth": None, "every": (1, 1, 1)}
_LOOKS = (6, 8, 10, 12, 15, 20)
_SPLIT: dict[str, Any] = {"confirmed": False, "choosing": 12}


def _speeds(ratio: float, *s_min: float) -> tuple[Arm, Arm]:
    one, other = pair(100 * ratio)
    return replace(one, s_min=s_min[0]), replace(other, s_min=s_min[1])


WORLDS = (
    World(name="ratio 1", arms=pair(100)),
    World(name="ratio 1.25, the margin", arms=pair(125)),
    World(name="ratio 2", arms=pair(200)),
    World(name="ratio 1/2", arms=pair(50)),
    World(name="ratio 2, 24 seeds split in halves", arms=pair(200), **_SPLIT),
    World(name="ratio 1.25, 12 seeds split in halves", arms=pair(125), confirmed=False, judging=6),
    World(name="ratio 1.25, 3 seeds", arms=pair(125), confirmed=False, choosing=0, judging=3),
    World(name="an evaluation each 45, 12, 3 steps; Smin 5 and 30", arms=_speeds(1, 5, 30), **_EPOCHS),
    World(name="an evaluation each 45, 12, 3 steps; Smin 12 and 20", arms=_speeds(1, 12, 20), **_EPOCHS),
    World(name="an evaluation each 45, 12, 3 steps; Smin 12 and 20, ratio 1/2", arms=_speeds(0.5, 12, 20), **_EPOCHS),
    World(name="evaluations 10% apart, Smin 30 and 180", arms=_speeds(1, 30, 180)),
    World(name="evaluations 10% apart, Smin 30 and 180, ratio 1/2", arms=_speeds(0.5, 30, 180)),
    World(name="4 ties of every cell, ratio 1.25", arms=pair(125, ties=4)),
    World(name="no noise, ratio 1.05", arms=pair(105), noise=0.0),
    World(name="no noise, ratio 1.05, evaluated each step", arms=pair(105), noise=0.0, **_EACH),
    World(name="no noise, ratio 2", arms=pair(200), noise=0.0),
    World(name="exact copies", arms=pair(100), copies=True),
    World(name="noise 1%, ratio 1.25", arms=pair(125), noise=0.01),
    World(name="noise 3%, ratio 1.25", arms=pair(125), noise=0.03),
    World(name="noise 2%, ratio 1.25, evaluated each step", arms=pair(125), noise=0.02, **_EACH),
    World(
        name="the optimum of one half a step outside its grid, ratio 1", arms=(Arm(size=100, best=4.5), Arm(size=100))
    ),
    World(name="the optimum of one 2 steps outside its grid, ratio 1", arms=(Arm(size=100, best=6), Arm(size=100))),
    World(name="a budget of 1.15 S(B), ratio 1.25", arms=pair(125), budgets=(1.15, 1.15, 1.15)),
    World(name="a batch size that no run reaches, ratio 2", arms=pair(200), budgets=(0.5, 9, 9)),
    World(name="30% of runs fall back, ratio 1.25", arms=pair(125), falls_back=0.3),
    World(name="cells beside the best diverge, ratio 1.25", arms=pair(125, diverge_from=3)),
    World(name="the best cells diverge on every other seed, ratio 1", arms=pair(100, diverge_from=0)),
    World(name="t3 noise, ratio 1.25", arms=pair(125), tails="t3"),
    World(name="t3 noise, ratio 2", arms=pair(200), tails="t3"),
    World(name="skewed noise, ratio 1.25", arms=pair(125), tails="skewed"),
    World(
        name="64 configurations against 8, ratio 1.25",
        arms=(Arm(size=125, cells=64, best=30.3, bend=0.01), Arm(size=100, cells=8, best=4.2)),
    ),
    World(name="one searched by TPE, ratio 2", arms=(Arm(size=200, design="tpe"), Arm(size=100)), **_SPLIT),
    World(name="one searched by TPE, winners confirmed, ratio 2", arms=(Arm(size=200, design="tpe"), Arm(size=100))),
    World(name="one pruned, ratio 2", arms=(Arm(size=200, stopped=0.3), Arm(size=100)), **_SPLIT),
    World(name="one pruned, winners confirmed, ratio 1.25", arms=(Arm(size=125, stopped=0.3), Arm(size=100))),
    World(name="no critical batch size, ratio 1", arms=pair(100), bent=0.5),
    World(name="80% of the noise shared by a seed's runs, ratio 1.25", arms=pair(125), shared=0.8),
    World(name="looks at 6, 8, 10, 12, 15 and 20 fresh seeds, ratio 1", arms=pair(100), judging=20, looks=_LOOKS),
    World(name="looks at 6, 8, 10, 12, 15 and 20 fresh seeds, ratio 1.25", arms=pair(125), judging=20, looks=_LOOKS),
    World(
        name="looks at 12 to 40 seeds split in halves, ratio 1.25",
        arms=pair(125),
        confirmed=False,
        choosing=20,
        judging=20,
        looks=tuple(2 * n for n in _LOOKS),
    ),
    World(name="looks at 6, 8, 10, 12, 15 and 20 fresh seeds, ratio 2", arms=pair(200), judging=20, looks=_LOOKS),
    World(name="9 batch sizes, ratio 1.25", arms=pair(2500, 2000), batch_sizes=_NINE),
)

POWERED = tuple(
    world for world in WORLDS if world.name in ("ratio 2", "ratio 1/2", "ratio 2, 24 seeds split in halves")
)
"""Worlds in which claims must be possible: twelve judging seeds and 10% noise."""
