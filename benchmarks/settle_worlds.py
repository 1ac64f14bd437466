"""Simulated worlds of two optimizers with a known truth, in which `settle` requests runs and gets their results.

A run takes log T = log Smin (1 + Bc / B) + excess(x - optimum at B) + noise steps, which evaluations locate in an
interval; a budget censors runs, and a cliff and chance make runs diverge. So the ratio of critical batch sizes, that of
the success probabilities over the declared boxes, and which runs succeed are all known.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from sensitivity.analysis.estimates import Floats
from sensitivity.settling.declaring import LOOKS
from sensitivity.study.amendments import Claim, Declaration, DeclaredArm, Observation, Point, Side
from sensitivity.study.axes import Axis
from sensitivity.study.primary import Question

NAMES = ("lr", "damping", "eps", "kl_clip")


@dataclass(frozen=True, kw_only=True)
class Arm:
    """An optimizer: its law S(B), and the bowl of its hyperparameters in decades."""

    size: float = 100.0
    s_min: float = 100.0
    dimensions: int = 2
    bend: float = 0.6
    """Twice the increase of log T per squared decade from the optimum."""
    ridge: float = 1.0
    """Factor by which the increase is smaller along the diagonal of the first two hyperparameters."""
    skew: float = 0.0
    """log T increases as bend (exp(skew z) - skew z - 1) / skew^2 along each hyperparameter; 0 is the parabola."""
    optimum: float = 0.0
    """Decades from the middle of the box to the optimum at the middle batch size, along every hyperparameter."""
    drift: float = 0.25
    """Decades by which the optimum of the first hyperparameter moves when the batch size grows by a factor of 4."""
    bent: float = 0.0
    """Decades by which the optimum deviates from that line at the middle batch sizes."""
    cliff: float = math.inf
    """Runs diverge where the first hyperparameter is this far above its optimum."""
    diverges: float = 0.0
    """Probability that a run diverges, anywhere in the box."""
    half_width: float = 2.0
    """Half width of the box, in decades."""
    works: float | None = None
    """Probability that a run reaches the target, regardless of its setting; replaces the law for sensitivity."""


@dataclass(frozen=True, kw_only=True, eq=False)
class World:
    """A truth and how it is measured; `arms` are the candidate "a" and the reference "b"."""

    name: str
    arms: tuple[Arm, Arm]
    batch_sizes: tuple[int, ...] = (32, 128, 512)
    noise: float = 0.1
    tails: str = "normal"
    shared: float = 0.0
    """Share of the noise's variance common to all runs of a seed."""
    growth: float = 0.1
    """Relative growth of the time between evaluations."""
    budget: float = 8.0
    """Budget in steps, as a multiple of the slower optimizer's S(B)."""
    metric: bool = True
    """Whether censored runs report how far they came."""
    questions: tuple[Question, ...] = ("scaling",)
    margins: tuple[float, float] = (1.25, 1.5)
    ratio: float | None = None
    """True ratio of success probabilities; None to find it by sampling."""

    def study(self, rng: np.random.Generator) -> Study:
        """Return one replication."""
        return Study(self, rng)

    @property
    def log_ratio(self) -> float:
        """Log ratio of the critical batch sizes."""
        return math.log(self.arms[0].size / self.arms[1].size)

    def level(self, arm: Arm) -> Floats:
        """Return log S(B)."""
        return np.log(arm.s_min * (1 + arm.size / np.array(self.batch_sizes)))

    @cached_property
    def caps(self) -> tuple[int, ...]:
        """Budget in steps at each batch size."""
        slower = np.maximum(*(self.level(arm) for arm in self.arms))
        return tuple(int(self.budget * math.exp(level)) for level in slower)

    def optima(self, arm: Arm) -> Floats:
        """Return the optimum at each batch size [batches, dimensions]."""
        k = len(self.batch_sizes)
        found = np.full((k, arm.dimensions), arm.optimum)
        if arm.dimensions:
            steps = np.log(np.array(self.batch_sizes) / math.sqrt(self.batch_sizes[0] * self.batch_sizes[-1]))
            found[:, 0] += arm.drift * steps / math.log(4)
            found[1:-1, 0] += arm.bent
        return found

    def declaration(self, study: str) -> Declaration:
        """Return the declaration of a settlement."""
        alpha = 0.05 / len(self.questions)
        margins = {"scaling": self.margins[0], "sensitivity": self.margins[1]}
        return Declaration(
            study=study,
            spec_hash=self.name,
            batch_sizes=self.batch_sizes,
            caps=self.caps,
            target=("test_loss", 0.1),
            arms=tuple(_declared(name, arm) for name, arm in zip("ab", self.arms, strict=True)),
            claims=tuple(
                Claim(question=q, candidate="a", reference="b", margin=margins[q], alpha=alpha) for q in self.questions
            ),
            looks=LOOKS,
            most_blocks=512,
            grid_runs=2 * 64 * 12 * len(self.batch_sizes),
        )


def _declared(name: str, arm: Arm) -> DeclaredArm:
    low, high = 10.0**-arm.half_width, 10.0**arm.half_width
    return DeclaredArm(
        name=name,
        sides=tuple(
            Side(
                name=NAMES[i],
                axis=Axis(scale="log", low=low, high=high),
                scale="decades",
                low=low,
                high=high,
                least=low / 100,
                most=high * 100,
            )
            for i in range(arm.dimensions)
        ),
    )


@dataclass
class Study:
    """One replication of a world, which returns the runs that `settle` requests."""

    world: World
    rng: np.random.Generator
    common: dict[int, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Precompute what doesn't change from run to run."""
        w = self.world
        self._optima = {name: w.optima(arm) for name, arm in zip("ab", w.arms, strict=True)}
        self._levels = {name: w.level(arm) for name, arm in zip("ab", w.arms, strict=True)}
        self._arms = dict(zip("ab", w.arms, strict=True))
        self._place = {size: k for k, size in enumerate(w.batch_sizes)}

    def noise(self, n: int) -> Floats:
        """Return noise of unit variance (for t3 tails: of unit scale)."""
        if self.world.tails == "t3":
            return self.rng.standard_t(3, n) / math.sqrt(3)
        if self.world.tails == "skewed":
            return self.rng.standard_exponential(n) - 1
        return self.rng.standard_normal(n)

    def observe(self, points: Sequence[Point]) -> list[Observation]:
        """Return the results of runs, in the order of the points."""
        if not points:
            return []
        w, n = self.world, len(points)
        fresh = self.noise(n)
        if w.shared:
            for point in points:
                if point.seed not in self.common:
                    self.common[point.seed] = float(self.noise(1)[0])
            own = np.array([self.common[point.seed] for point in points])
            fresh = math.sqrt(1 - w.shared) * fresh + math.sqrt(w.shared) * own
        chance = self.rng.random(n)
        caps = np.log(np.array([w.caps[self._place[point.batch_size]] for point in points], dtype=float))
        log_t, lost = self.log_steps(points, chance, caps)
        log_t = log_t + w.noise * fresh
        return [self.observation(*one) for one in zip(log_t.tolist(), lost.tolist(), caps.tolist(), strict=True)]

    def log_steps(self, points: Sequence[Point], chance: Floats, caps: Floats) -> tuple[Floats, NDArray[np.bool_]]:
        """Return log T of runs without noise, and which of them diverge."""
        n = len(points)
        log_t, lost = np.empty(n), np.zeros(n, dtype=bool)
        names = np.array([point.arm for point in points])
        places = np.array([self._place[point.batch_size] for point in points])
        for name, arm in self._arms.items():
            own = np.flatnonzero(names == name)
            if not len(own):
                continue
            x = np.log10([[value for _, value in points[int(i)].hyperparameters] for i in own]).reshape(len(own), -1)
            z = x - self._optima[name][places[own]]
            log_t[own] = self._levels[name][places[own]] + excess(arm, z)
            lost[own] = chance[own] < arm.diverges
            if arm.dimensions:
                lost[own] |= z[:, 0] > arm.cliff
            if arm.works is not None:
                log_t[own] = np.where(chance[own] < arm.works, caps[own] - 1, caps[own] + 1)
        return log_t, lost

    def observation(self, log_t: float, lost: bool, cap: float) -> Observation:
        """Return the result of a run with this log T."""
        if lost:
            return Observation.model_construct(outcome="diverged", steps=0.0, after=0.0, shortfall=None)
        if log_t > cap:
            short = 1 - math.exp(-(log_t - cap) / 2) if self.world.metric else None
            return Observation.model_construct(outcome="censored", steps=math.exp(cap), after=0.0, shortfall=short)
        after, steps = evaluation(math.exp(log_t), self.world.growth)
        return Observation.model_construct(outcome="reached", steps=steps, after=after, shortfall=None)


def excess(arm: Arm, z: Floats) -> Floats:
    """Return the excess of log T over its minimum at distances z [points, dimensions] in decades."""
    if not arm.dimensions:
        return np.zeros(len(z))
    bend = np.full(arm.dimensions, arm.bend)
    if arm.ridge != 1.0 and arm.dimensions > 1:
        u, v = (z[:, 0] + z[:, 1]) / math.sqrt(2), (z[:, 0] - z[:, 1]) / math.sqrt(2)
        z = np.column_stack([u, v, z[:, 2:]])
        bend = np.array([arm.bend / arm.ridge, *bend[1:]])
    if arm.skew:
        value = (np.exp(np.clip(arm.skew * z, -30, 30)) - arm.skew * z - 1) / arm.skew**2
        return np.asarray(np.minimum(value @ bend, 30.0))
    return np.asarray(0.5 * (z**2) @ bend)


_SCHEDULES: dict[float, Floats] = {}


def evaluation(time: float, growth: float) -> tuple[float, float]:
    """Return the evaluations before and after a time, in steps."""
    if growth not in _SCHEDULES:
        steps = [1.0]
        while steps[-1] < 1e8:
            steps.append(max(steps[-1] + 1, math.floor(steps[-1] * (1 + growth))))
        _SCHEDULES[growth] = np.array(steps)
    schedule = _SCHEDULES[growth]
    at = int(np.searchsorted(schedule, time))
    return (float(schedule[at - 1]) if at else 0.0), float(schedule[at])


def success_ratio(world: World) -> float:
    """Return the true ratio of success probabilities over the declared boxes, candidate over reference."""
    if world.ratio is not None:
        return world.ratio
    shares = []
    for name, arm in zip("ab", world.arms, strict=True):
        study = Study(world, np.random.default_rng(7))
        x = np.random.default_rng(8).uniform(-arm.half_width, arm.half_width, (100_000, arm.dimensions))
        per_batch = []
        for k, level in enumerate(study._levels[name]):
            z = x - study._optima[name][k]
            reached = level + excess(arm, z) + world.noise * study.noise(len(x)) <= math.log(world.caps[k])
            lives = (z[:, 0] <= arm.cliff) if arm.dimensions else np.ones(len(x), dtype=bool)
            per_batch.append(float((reached & lives).mean() * (1 - arm.diverges)))
        shares.append(np.mean(per_batch))
    return float(shares[0] / shares[1])


@dataclass(frozen=True, kw_only=True, eq=False)
class QuadraticWorld(World):
    """The noisy quadratic (Zhang et al. 2019, arXiv 1907.04164): Newton's method "a" against SGD "b", without momentum.

    It has 100 curvatures from 1 to 1/100. A run takes the number of steps in which the expected loss reaches the target
    by its closed form, with noise. At the fastest settings Newton's method takes 165, 41 and 10 steps, in proportion to
    1/B, so its critical batch size is unbounded. SGD takes 430 to 46 steps, and its critical batch size is about 50.
    """

    arms: tuple[Arm, Arm] = (Arm(), Arm(dimensions=1))
    batch_sizes: tuple[int, ...] = (4, 16, 64)
    level_reached: float = 0.1
    """Target value of the expected loss, which is 2.59 untrained."""
    steps: int = 1000

    def study(self, rng: np.random.Generator) -> Study:
        """Return one replication."""
        return QuadraticStudy(self, rng)

    @property
    def caps(self) -> tuple[int, ...]:
        """Budget in steps at each batch size."""
        return (self.steps,) * len(self.batch_sizes)

    @cached_property
    def log_ratio(self) -> float:
        """Log ratio of the critical batch sizes of S(B) through the fastest settings at both ends; may be infinite."""
        first, last = min(self.batch_sizes), max(self.batch_sizes)
        lr = 10.0 ** np.linspace(-3, 0.3, 67)
        damping = 10.0 ** np.linspace(-3, 1, 17)
        size = []
        for dampings in (damping, np.array([np.nan])):
            grid = np.array([(a, b) for a in lr for b in dampings])
            found = (steps_to(self.level_reached, grid, np.full(len(grid), b), self.steps) for b in (first, last))
            s = [float(np.nanmin(each)) for each in found]
            least = s[1] / first - s[0] / last
            size.append((s[0] - s[1]) / least if least > 0 else math.inf)
        return math.log(size[0] / size[1])

    def declaration(self, study: str) -> Declaration:
        """Return the declaration of a settlement."""
        boxes = {"a": {"lr": (1e-3, 1.0), "damping": (1e-2, 3.0)}, "b": {"lr": (0.03, 1.9)}}
        arms = tuple(
            DeclaredArm(
                name=name,
                sides=tuple(
                    Side(
                        name=each,
                        axis=Axis(scale="log", low=low, high=high),
                        scale="decades",
                        low=low,
                        high=high,
                        least=low / 100,
                        most=high * 100,
                    )
                    for each, (low, high) in box.items()
                ),
            )
            for name, box in boxes.items()
        )
        return super().declaration(study).model_copy(update={"arms": arms})


class QuadraticStudy(Study):
    """One replication of the noisy quadratic."""

    def log_steps(self, points: Sequence[Point], chance: Floats, caps: Floats) -> tuple[Floats, NDArray[np.bool_]]:
        """Return log T of runs without noise, and which of them diverge."""
        assert isinstance(self.world, QuadraticWorld)
        values = [dict(point.hyperparameters) for point in points]
        settings = np.array([(each["lr"], each.get("damping", np.nan)) for each in values])
        sizes = np.array([point.batch_size for point in points])
        found = steps_to(self.world.level_reached, settings, sizes, self.world.steps)
        return np.log(np.minimum(found, 1e9)), np.isnan(found)


def steps_to(level: float, settings: Floats, batch_sizes: NDArray[np.int_], most: int) -> Floats:
    """Return the first step at which the expected loss is at most `level`, interpolated between steps.

    `settings` [runs, 2] are learning rates and dampings, NaN for SGD. The result is infinite if `most` steps are not
    enough, and NaN if the loss grows.
    """
    h = 1 / np.arange(1, 101)
    lr, damping = settings[:, :1], settings[:, 1:]
    p = np.where(np.isnan(damping), 1.0, 1 / (h + damping))
    r = (1 - lr * p * h) ** 2
    q = (lr * p) ** 2 * h / batch_sizes[:, None]
    found = np.full(len(r), np.inf)
    found[(r >= 1).any(axis=1)] = np.nan
    runs = np.flatnonzero(np.isinf(found))
    second, last = np.ones((len(runs), len(h))), np.full(len(runs), h.sum() / 2)
    for step in range(1, most + 1):
        if not len(runs):
            break
        second = r[runs] * second + q[runs]
        loss = second @ h / 2
        hit = loss <= level
        found[runs[hit]] = step - 1 + (last[hit] - level) / np.maximum(last[hit] - loss[hit], 1e-12)
        runs, second, last = runs[~hit], second[~hit], loss[~hit]
    return found
