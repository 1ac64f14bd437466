"""Search of an arm: scouting its box, extending the box, and refining around the optimum of each batch size.

Every arm is searched by the same rules, with the same number of runs per round. Its winner at a batch size is the
optimum of a response surface (``response``), which all runs determine, instead of the best of many noisy runs.

* Scout: a Latin hypercube of the box at each batch size. Coordinates of hyperparameters with the same name, and seeds,
  are the same in every arm.
* Extend: if the optimum at some batch size is at a side of the box or beyond it, that side is extended. Half of the
  round samples the added strip, and half the part of the strip nearest to the optimum.
* Refine: mirrored pairs of points within the ellipse of a small predicted excess around each optimum. The ellipse
  shrinks to the size that the noise allows in three rounds.
* An optimum is not extrapolated to a region where runs diverge: it is moved towards the best run until most of the
  nearest runs have survived. Points of a refinement are moved towards the optimum in the same way.

Arrays: x [points, dimensions], one row per observed run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from scipy.special import ndtri

from sensitivity.analysis.estimates import Floats
from sensitivity.settling.boxes import Box
from sensitivity.settling.response import Bools, Ints, Response, fit, walled
from sensitivity.study.amendments import Hyperparameters, Observation

MAX_ROUNDS = 12
MIN_REFINEMENTS = 2
SUFFICIENT_REGRET = 0.02
"""Expected regret at or below which an arm needs no further round."""
BLOCKING_REGRET = 0.1
"""Expected regret above which the frontier counts as not found. Below it, the regret widens every interval."""
_MAX_RESCOUTS = 3
_UNKNOWN_SHORTFALL = 0.5
_NEIGHBOURS = 3
_SHARES = (1.0, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125, 0.0)
"""Shares of a way that are tried until runs survive at its end."""
_STRIP_HALF_LENGTH = 0.5
"""Distance from the optimum along a strip, in decades, that the second half of the points covers."""

Move = Literal["scout", "extend", "refine"]


def scout_size(dimensions: int) -> int:
    """Return the number of scouting points at each batch size."""
    return min(max(8 * dimensions, 8), 32)


def round_size(dimensions: int) -> int:
    """Return the number of points of a round at each batch size: an even number, for pairs."""
    return min(max(2 * dimensions + 2, 4), 10)


@dataclass(frozen=True, eq=False)
class _Survival:
    """Whether runs survive at a point: at most half of the nearest runs at the batch size are lost."""

    x: Floats
    """[runs, dimensions]"""
    b: Ints
    lost: Bools
    width: Floats
    """Of the box, [dimensions]: distances are measured in it."""

    def __call__(self, points: Floats, place: int) -> Bools:
        own = self.b == place
        lost = self.lost[own]
        if not lost.any() or lost.all():
            return np.ones(len(points), dtype=bool)
        apart = (points[:, None] - self.x[own]) / self.width
        near = np.argsort((apart**2).sum(axis=2), axis=1, kind="stable")[:, :_NEIGHBOURS]
        return np.asarray(2 * lost[near].sum(axis=1) <= near.shape[1])

    def moved(self, points: Floats, towards: Floats, place: int) -> Floats:
        """Return the points, each moved towards another one until runs survive there."""
        found = np.tile(towards, (len(points), 1))
        open_ = np.ones(len(points), dtype=bool)
        for share in _SHARES:
            at = points if share == 1.0 else towards + share * (points - towards)
            fits = open_ & self(at, place)
            found[fits] = at[fits]
            open_ &= ~fits
        return found


@dataclass(frozen=True, eq=False)
class Found:
    """Analysis of the runs of an arm so far."""

    response: Response | None
    """Fitted surface; None if too few runs reached the target."""
    optimum: Floats
    """[batches, dimensions]"""
    regret: Floats
    """Expected regret [batches]; infinite without a response, or if no run has reached the target."""
    hits: Floats
    """Distance of an optimum beyond a side that it is beyond or close to, otherwise -inf: [batches, 2, dimensions]."""
    beyond: bool
    """Whether some optimum is at or beyond an extension limit."""
    survival: _Survival
    """Where runs survive; with a response, runs beyond a wall count as lost."""

    @property
    def extend(self) -> bool:
        """Whether some side must be extended."""
        return bool(np.isfinite(self.hits).any())


class ArmSearch:
    """The search of one arm."""

    def __init__(self, box: Box, batches: int) -> None:
        self.box = box
        self.batches = batches
        self.refined = 0
        self.rescouts = 0
        self.extensions: list[str] = []
        self._x: list[Floats] = []
        self._b: list[int] = []
        self._y: list[float] = []
        self._lower: list[bool] = []
        self._lost: list[bool] = []
        self._configurations: list[Hyperparameters] = []
        self.found: Found | None = None

    @property
    def trivial(self) -> bool:
        """Whether the box has no searched sides."""
        return self.box.dimensions == 0

    def observe(self, configuration: Hyperparameters, place: int, observation: Observation) -> None:
        """Record the observation of a run at the batch size with index `place`."""
        self._x.append(self.box.point(configuration))
        self._b.append(place)
        self._configurations.append(configuration)
        y, lower = score(observation)
        self._y.append(y)
        self._lower.append(lower)
        self._lost.append(not np.isfinite(y))

    def choose_levels(self) -> dict[str, float]:
        """Choose the value of each side without a coordinate that has the lowest score.

        The score is the mean over batch sizes of the best score among the scouting runs with the value.
        """
        chosen: dict[str, float] = {}
        y, b = np.array(self._y), np.array(self._b)
        for side in self.box.open_levels:
            own = np.array([dict(c)[side.name] for c in self._configurations])
            best: dict[float, float] = {}
            for value in side.axis.values or tuple(np.unique(own)):
                lowest = [y[(b == k) & (own == value)].min(initial=np.inf) for k in range(self.batches)]
                worst = y[np.isfinite(y)].max(initial=0.0)
                best[float(value)] = float(np.mean(np.minimum(lowest, worst + 1)))
            chosen[side.name] = min(best, key=lambda value: best[value])
        self.box = self.box.with_levels({**dict(self.box.levels), **chosen})
        return chosen

    def analyse(self) -> Found:
        """Fit the response surface to all runs so far, and analyse its optima in the current box."""
        same = np.array([self.box.has_levels(c) for c in self._configurations])
        x, b, y = np.array(self._x)[same], np.array(self._b)[same], np.array(self._y)[same]
        lower, lost = np.array(self._lower)[same], np.array(self._lost)[same]
        box, d = self.box, self.box.dimensions
        alive = ~lost
        survival = _Survival(x, b, lost, box.width)
        ends_of_box = np.array([box.low, box.high])
        response = fit(x[alive], b[alive], y[alive], lower[alive], self.batches, self._within(), ends_of_box, survival)
        none = np.full((self.batches, 2, d), -np.inf)
        if response is None:
            nothing = np.tile((box.low + box.high) / 2, (self.batches, 1))
            self.found = Found(None, nothing, np.full(self.batches, np.inf), none, False, survival)
            return self.found
        survival = replace(survival, lost=lost | walled(response.predict(x, b), y))
        # A surface with a minimum may have its optimum beyond the box, but not beyond a closed limit.
        least, most = np.where(box.closed[0], box.least, -np.inf), np.full(d, np.inf)
        definite = response.definite
        free = response.optimum(least, most, survival)
        if not definite.all():
            free = np.where(definite[:, None], free, self._lowest(response, survival))
        optimum, moved = self._survivable(free, y, survival)
        hits = none.copy()
        margin = 0.1 * np.minimum(box.width, 3.0)
        over = np.stack([box.low - optimum, optimum - box.high], axis=1)  # [batches, 2, dimensions]
        stays, growing = ~moved[:, None, None], box.can_grow()
        near = (over > -margin) & stays & growing
        hits[near] = over[near]
        # The lowest point of a ridge close to a limit indicates that the surface may be lower beyond the limit.
        close = np.where(definite[:, None, None], 0.0, -1.02 * margin)
        beyond = bool(((over >= close) & stays & ~growing & ~box.closed).any())
        inside = np.clip(optimum, box.low, box.high)
        regret = response.regret(inside, box.low, box.high, survival)
        reached = np.array([(~lower & alive & (b == k)).any() for k in range(self.batches)])
        self.found = Found(response, inside, np.where(reached, regret, np.inf), hits, beyond, survival)
        return self.found

    def _lowest(self, response: Response, survival: _Survival) -> Floats:
        """Return the lowest point of the box at each batch size for surfaces without a minimum: [batches, dimensions].

        Points away from the sides are preferred if they are about as low, so that a ridge across a side does not extend
        the box.
        """
        box, place = self.box, np.arange(self.batches)
        margin = 0.1 * np.minimum(box.width, 3.0)
        anywhere = response.optimum(box.low, box.high, survival)
        inside = response.optimum(box.low + 1.01 * margin, box.high - 1.01 * margin, survival)
        gain = response.predict(inside, place) - response.predict(anywhere, place)
        return np.asarray(np.where((gain <= SUFFICIENT_REGRET)[:, None], inside, anywhere))

    def _within(self) -> float:
        """Return the largest predicted excess of runs in the fit."""
        if self.refined < 2 or self.found is None or self.found.response is None:
            return (2.0, 1.2)[min(self.refined, 1)]
        return float(np.clip(4.8 * self.found.response.noise, 0.5, 0.9))

    def _radius(self) -> float:
        """Return the predicted excess at the boundary of the refinement ellipse."""
        assert self.found is not None
        assert self.found.response is not None
        if self.refined < 2:
            return (0.5, 0.3)[self.refined]
        return float(np.clip(1.2 * self.found.response.noise, 0.12, 0.3))

    def _survivable(self, optimum: Floats, y: Floats, survival: _Survival) -> tuple[Floats, Bools]:
        """Return the optima, moved to regions where runs survive, and which of them were moved: [batches]."""
        found = optimum.copy()
        for k in range(self.batches):
            own = np.flatnonzero(survival.b == k)
            lost = survival.lost[own]
            if lost.any() and not lost.all():
                anchor = survival.x[own[np.argmin(np.where(lost, np.inf, y[own]))]]
                found[k] = survival.moved(optimum[k : k + 1], anchor, k)[0]
        return found, (found != optimum).any(axis=1)

    def prediction(self, place: int) -> tuple[float, float]:
        """Return the predicted log T of the optimum at a batch size, and the standard deviation of a run."""
        assert self.found is not None
        assert self.found.response is not None
        at = self.found.optimum[place : place + 1]
        response = self.found.response
        return float(response.predict(at, np.array([place]))[0]), max(response.noise, 0.01)

    def best_observed(self, place: int, count: int) -> list[Hyperparameters]:
        """Return the `count` configurations with the fastest runs at a batch size that reached the target."""
        own = [
            (y, c)
            for y, c, b, lower in zip(self._y, self._configurations, self._b, self._lower, strict=True)
            if b == place and not lower and np.isfinite(y) and self.box.has_levels(c)
        ]
        return list(dict.fromkeys(configuration for _, configuration in sorted(own)))[:count]

    def done(self) -> bool:
        """Return whether no further round is needed."""
        return self.trivial or (
            self.found is not None
            and not self.found.extend
            and self.refined >= MIN_REFINEMENTS
            and bool((self.found.regret <= SUFFICIENT_REGRET).all())
        )

    def problem(self) -> str:
        """Return the reason why the frontier was not found; empty if it was."""
        if self.trivial:
            return ""
        found = self.found
        if found is None or found.response is None:
            return "too few of its runs reach the target to tell where it is fastest"
        if np.isinf(found.regret).any():
            return "at some batch size none of its runs reaches the target: raise the budget, or choose another target"
        if found.extend or found.beyond:
            return "its fastest setting lies beyond the limit to which its box may be extended"
        if (found.regret > BLOCKING_REGRET).any():
            worst = float(found.regret.max())
            return f"its fastest setting is known too poorly: expect it to be {percent(worst)} slower than the best one"
        return ""

    def propose(self, unit: Sequence[Floats]) -> tuple[Move, list[Floats]]:
        """Return the move and the points of the next round by batch size, from uniform numbers [points, dimensions].

        The move is "scout" if too few runs reach the target, "extend" if an optimum is at a side, otherwise "refine".
        """
        assert self.found is not None
        if self.found.response is None:
            if self.rescouts >= _MAX_RESCOUTS:
                self._grow(np.full((2, self.box.dimensions), 0.5))
            self.rescouts += 1
            return "scout", [self.box.low + u * self.box.width for u in unit]
        if self.found.extend:
            return "extend", self._strips(unit)
        points = [self._ellipse(k, u) for k, u in enumerate(unit)]
        self.refined += 1
        return "refine", points

    def _grow(self, by: Floats) -> Box:
        before, self.box = self.box, self.box.extended(by[0], by[1])
        for side, low, high, old_low, old_high in zip(
            self.box.record().sides, self.box.low, self.box.high, before.low, before.high, strict=False
        ):
            if low < old_low or high > old_high:
                self.extensions.append(f"{side[0]} to [{side[1]:.3g}, {side[2]:.3g}]")
        return before

    def _strips(self, unit: Sequence[Floats]) -> list[Floats]:
        """Extend the sides that were hit, and return points in the added strips."""
        assert self.found is not None
        hits, optimum = self.found.hits, self.found.optimum
        over = hits.max(axis=0)
        before = self._grow(np.where(np.isfinite(over), np.clip(over + 0.5, 0.5, 1.0), 0.0))
        box, found = self.box, []
        for k, u in enumerate(unit):
            sides = np.argwhere(np.isfinite(hits[k]))
            if not len(sides):
                found.append(self._ellipse(k, u))
                continue
            low, high = np.tile(box.low, (len(u), 1)), np.tile(box.high, (len(u), 1))
            near = np.arange(len(u)) % 2 == 1  # every other point is close to the optimum along the strip
            low[near] = np.maximum(low[near], optimum[k] - _STRIP_HALF_LENGTH)
            high[near] = np.minimum(high[near], optimum[k] + _STRIP_HALF_LENGTH)
            for row in range(len(u)):
                side, i = sides[row // 2 % len(sides)]
                low[row, i], high[row, i] = (box.low[i], before.low[i]) if side == 0 else (before.high[i], box.high[i])
            found.append(low + u * (high - low))
        return found

    def _ellipse(self, k: int, u: Floats) -> Floats:
        """Return mirrored pairs of points within the ellipse around the optimum of the batch size with index `k`."""
        assert self.found is not None
        assert self.found.response is not None
        box, centre = self.box, self.found.optimum[k]
        values, vectors = np.linalg.eigh(self.found.response.curvature_at(self.found.optimum)[k])
        half = box.width / 2
        # Directions of small curvature are explored up to the sides of the box.
        reach = np.minimum(np.sqrt(2 * self._radius() / np.maximum(values, 1e-6)), np.linalg.norm(half))
        pairs = u[: len(u) // 2]
        angle = _ball(pairs)
        offset = angle * reach @ vectors.T
        longest = np.maximum(np.abs(offset) / half, 1.0).max(axis=1, keepdims=True)
        offset = offset / longest
        points = np.clip(np.concatenate([centre + offset, centre - offset]), box.low, box.high)
        return self.found.survival.moved(points, centre, k)


def _ball(u: Floats) -> Floats:
    """Map uniform numbers to points of the unit ball, with radii from 0.6 to 1: [points, dimensions]."""
    z = ndtri(np.clip(u, 1e-6, 1 - 1e-6))
    length = np.maximum(np.linalg.norm(z, axis=1, keepdims=True), 1e-9)
    radius = 0.6 + 0.4 * np.modf(u.sum(axis=1, keepdims=True) * 7.0)[0]
    return np.asarray(z / length * radius)


def percent(regret: float) -> str:
    """Return an expected regret as text."""
    return f"{100 * regret:.2g}%" if regret < 1 else "more than 100%"


def score(observation: Observation) -> tuple[float, bool]:
    """Return log T of a run for a search, and whether it is a lower bound; infinity for diverged and failed runs.

    An interval is represented by its geometric midpoint. The score of a run that did not reach the target depends on
    its budget and on its distance from the target: a constant score would hide the direction of a target outside the
    box.
    """
    low, high = observation.log_steps
    if observation.outcome == "reached":
        return ((low + high) / 2 if np.isfinite(low) else max(high, 0.0)), False
    if observation.outcome == "censored":
        missing = _UNKNOWN_SHORTFALL if observation.shortfall is None else min(observation.shortfall, 2.0)
        return low + 2 * missing, True
    return np.inf, False
