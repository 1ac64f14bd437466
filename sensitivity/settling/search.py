"""Where an arm is searched: scouting its box, extending it, and refining around each batch size's optimum.

Every arm is searched by the same rules with the same number of runs a round. Its winner at a batch size is the optimum
of a response surface (``response``), which all its runs determine, rather than the best of many noisy ones.

* An arm is scouted by a Latin hypercube of its box at each batch size. Coordinates of one name are the same in every
  arm, and so are seeds.
* Edge: where the optimum at some batch size lies at a side of the box or beyond, that side is moved out, and half of
  the round goes into the strip that this adds, half into the part of it that is nearest to the optimum.
* Refine: mirrored pairs of points within the ellipse of a small predicted excess about each optimum. In three rounds
  it narrows to what the noise allows.
* An optimum is not extrapolated to where runs diverge: it is moved towards the best run until most of the nearest runs
  have survived.

Arrays: x [points, dimensions], one row a run that was observed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.special import ndtri

from sensitivity.analysis.estimates import Floats
from sensitivity.settling.boxes import Box
from sensitivity.settling.response import Bools, Ints, Response, fit, walled
from sensitivity.study.amendments import Hyperparameters, Observation

MOST_ROUNDS = 12
FEWEST_REFINED = 2
ENOUGH = 0.02
"""Expected regret at which an arm needs no further round."""
BLOCKS = 0.1
"""Expected regret above which the frontier was not found. Below it, the regret widens every interval."""
_SCOUTED_AGAIN = 3
_UNKNOWN_SHORTFALL = 0.5
_NEAREST = 3
_STRIP = 0.5
"""Decades around the optimum, along a strip, that its second half covers."""

Move = Literal["scout", "extend", "refine"]


def scout_size(dimensions: int) -> int:
    """Return how many points scout a box at each batch size."""
    return min(max(8 * dimensions, 8), 32)


def round_size(dimensions: int) -> int:
    """Return how many points a round has at each batch size: an even number, for pairs."""
    return min(max(2 * dimensions + 2, 4), 10)


@dataclass(frozen=True, eq=False)
class Found:
    """What the runs so far say of an arm."""

    response: Response | None
    """None where too few runs reached the target."""
    optimum: Floats
    """[batches, dimensions]"""
    regret: Floats
    """[batches]; infinite without a response, and where no run has reached the target."""
    hits: Floats
    """[batches, 2, dimensions]: by how much an optimum lies beyond a side, or close to it; minus infinity elsewhere."""
    beyond: bool
    """Whether some optimum lies at or beyond an extension limit."""

    @property
    def extend(self) -> bool:
        """Whether some side is to be moved."""
        return bool(np.isfinite(self.hits).any())


class ArmSearch:
    """The search of one arm."""

    def __init__(self, box: Box, batches: int) -> None:
        self.box = box
        self.batches = batches
        self.refined = 0
        self.scouted_again = 0
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
        """Whether there is nothing to search."""
        return self.box.dimensions == 0

    def observe(self, configuration: Hyperparameters, place: int, observation: Observation) -> None:
        """Take a run at the batch size at `place` into account."""
        self._x.append(self.box.point(configuration))
        self._b.append(place)
        self._configurations.append(configuration)
        y, lower = score(observation)
        self._y.append(y)
        self._lower.append(lower)
        self._lost.append(not np.isfinite(y))

    def choose_levels(self) -> dict[str, float]:
        """Choose the value of each side without a coordinate: that with the lowest scores.

        It is the mean over batch sizes of the best score that the scout's runs have with it.
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
        """Fit the response to all runs so far, with the box as it is."""
        same = np.array([self.box.has_levels(c) for c in self._configurations])
        x, b, y = np.array(self._x)[same], np.array(self._b)[same], np.array(self._y)[same]
        lower, lost = np.array(self._lower)[same], np.array(self._lost)[same]
        box, d = self.box, self.box.dimensions
        alive = ~lost
        response = fit(
            x[alive], b[alive], y[alive], lower[alive], self.batches, self._within(), np.array([box.low, box.high])
        )
        none = np.full((self.batches, 2, d), -np.inf)
        if response is None:
            nothing = np.tile((box.low + box.high) / 2, (self.batches, 1))
            self.found = Found(None, nothing, np.full(self.batches, np.inf), none, False)
            return self.found
        # A definite surface may have its optimum beyond the box; where a limit is closed, it ends there.
        ends = [np.where(box.closed[0], box.least, -np.inf), np.full(d, np.inf)]
        definite = response.definite
        free = response.optimum(*ends)
        if not definite.all():
            free = np.where(definite[:, None], free, self._lowest(response))
        optimum, moved = self._survivable(free, x, b, y, lost | walled(response.predict(x, b), y))
        hits = none.copy()
        margin = 0.1 * np.minimum(box.width, 3.0)
        over = np.stack([box.low - optimum, optimum - box.high], axis=1)  # [batches, 2, dimensions]
        stays, growing = ~moved[:, None, None], box.can_grow()
        near = (over > -margin) & stays & growing
        hits[near] = over[near]
        # Of a ridge, a lowest point as near to a limit as may be chosen may well be lower still beyond it.
        least = np.where(definite[:, None, None], 0.0, -1.02 * margin)
        beyond = bool(((over >= least) & stays & ~growing & ~box.closed).any())
        inside = np.clip(optimum, box.low, box.high)
        regret = response.regret(inside, box.low, box.high)
        reached = np.array([(~lower & alive & (b == k)).any() for k in range(self.batches)])
        self.found = Found(response, inside, np.where(reached, regret, np.inf), hits, beyond)
        return self.found

    def _lowest(self, response: Response) -> Floats:
        """Return the lowest point of the box at each batch size, of a surface without a minimum: [batches, dimensions].

        A point away from the sides is taken where it is about as low: a ridge that leaves the box is no reason to
        extend it.
        """
        box, place = self.box, np.arange(self.batches)
        margin = 0.1 * np.minimum(box.width, 3.0)
        anywhere = response.optimum(box.low, box.high)
        inside = response.optimum(box.low + 1.01 * margin, box.high - 1.01 * margin)
        gain = response.predict(inside, place) - response.predict(anywhere, place)
        return np.asarray(np.where((gain <= ENOUGH)[:, None], inside, anywhere))

    def _within(self) -> float:
        """Return the predicted excess up to which runs enter the fit."""
        if self.refined < 2 or self.found is None or self.found.response is None:
            return (2.0, 1.2)[min(self.refined, 1)]
        return float(np.clip(4.8 * self.found.response.noise, 0.5, 0.9))

    def _radius(self) -> float:
        """Return the predicted excess that points are refined within."""
        assert self.found is not None
        assert self.found.response is not None
        if self.refined < 2:
            return (0.5, 0.3)[self.refined]
        return float(np.clip(1.2 * self.found.response.noise, 0.12, 0.3))

    def _survivable(self, optimum: Floats, x: Floats, b: Ints, y: Floats, lost: Bools) -> tuple[Floats, Bools]:
        """Return the optima, moved to where runs survive, and which of them were moved: [batches]."""
        moved = np.zeros(self.batches, dtype=bool)
        if not lost.any():
            return optimum, moved
        scaled = x / self.box.width
        found = optimum.copy()
        for k in range(self.batches):
            own = np.flatnonzero(b == k)
            if not lost[own].any() or lost[own].all():
                continue
            anchor = x[own[np.argmin(np.where(lost[own], np.inf, y[own]))]]
            for share in (1.0, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125, 0.0):
                at = anchor + share * (optimum[k] - anchor)
                near = own[np.argsort(((scaled[own] - at / self.box.width) ** 2).sum(axis=1))[:_NEAREST]]
                if 2 * lost[near].sum() <= len(near) or share == 0.0:
                    found[k], moved[k] = at, share < 1.0
                    break
        return found, moved

    def prediction(self, place: int) -> tuple[float, float]:
        """Return the predicted log T of the optimum at a batch size, and the noise of a run."""
        assert self.found is not None
        assert self.found.response is not None
        at = self.found.optimum[place : place + 1]
        response = self.found.response
        return float(response.predict(at, np.array([place]))[0]), max(response.noise, 0.01)

    def best_observed(self, place: int, count: int) -> list[Hyperparameters]:
        """Return the configurations of the fastest runs at a batch size that reached the target."""
        own = [
            (y, c)
            for y, c, b, lower in zip(self._y, self._configurations, self._b, self._lower, strict=True)
            if b == place and not lower and np.isfinite(y) and self.box.has_levels(c)
        ]
        return [configuration for _, configuration in sorted(own)[:count]]

    def done(self) -> bool:
        """Tell whether no further round is needed."""
        return self.trivial or (
            self.found is not None
            and not self.found.extend
            and self.refined >= FEWEST_REFINED
            and bool((self.found.regret <= ENOUGH).all())
        )

    def problem(self) -> str:
        """Return why the frontier was not found; empty if it was."""
        if self.trivial:
            return ""
        found = self.found
        if found is None or found.response is None:
            return "too few of its runs reach the target to tell where it is fastest"
        if np.isinf(found.regret).any():
            return "at some batch size none of its runs reaches the target: raise the budget, or choose another target"
        if found.extend or found.beyond:
            return "its fastest setting lies beyond the limit to which its box may be extended"
        if (found.regret > BLOCKS).any():
            worst = float(found.regret.max())
            return f"its fastest setting is known too poorly: expect it to be {percent(worst)} slower than the best one"
        return ""

    def propose(self, unit: Sequence[Floats]) -> tuple[Move, list[Floats]]:
        """Return the points of the next round, at each batch size, from uniform numbers [points, dimensions] of each.

        The move is "scout" where too few runs work, "extend" at an edge, and else "refine".
        """
        assert self.found is not None
        if self.found.response is None:
            if self.scouted_again >= _SCOUTED_AGAIN:
                self._grow(np.full((2, self.box.dimensions), 0.5))
            self.scouted_again += 1
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
        """Move the sides that were hit, and return points in the strips that this adds."""
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
            low[near] = np.maximum(low[near], optimum[k] - _STRIP)
            high[near] = np.minimum(high[near], optimum[k] + _STRIP)
            for row in range(len(u)):
                side, i = sides[row // 2 % len(sides)]
                low[row, i], high[row, i] = (box.low[i], before.low[i]) if side == 0 else (before.high[i], box.high[i])
            found.append(low + u * (high - low))
        return found

    def _ellipse(self, k: int, u: Floats) -> Floats:
        """Return mirrored pairs within the ellipse about the optimum of the batch size at `k`."""
        assert self.found is not None
        assert self.found.response is not None
        box, centre = self.box, self.found.optimum[k]
        values, vectors = np.linalg.eigh(self.found.response.curvature_at(self.found.optimum)[k])
        half = box.width / 2
        # A direction in which the surface hardly bends is explored as far as the box goes.
        reach = np.minimum(np.sqrt(2 * self._radius() / np.maximum(values, 1e-6)), np.linalg.norm(half))
        pairs = u[: len(u) // 2]
        angle = _ball(pairs)
        offset = angle * reach @ vectors.T
        longest = np.maximum(np.abs(offset) / half, 1.0).max(axis=1, keepdims=True)
        offset = offset / longest
        return np.asarray(np.clip(np.concatenate([centre + offset, centre - offset]), box.low, box.high))


def _ball(u: Floats) -> Floats:
    """Return points [points, dimensions] of the unit ball, by uniform numbers: directions at radii from .6 to 1."""
    z = ndtri(np.clip(u, 1e-6, 1 - 1e-6))
    length = np.maximum(np.linalg.norm(z, axis=1, keepdims=True), 1e-9)
    radius = 0.6 + 0.4 * np.modf(u.sum(axis=1, keepdims=True) * 7.0)[0]
    return np.asarray(z / length * radius)


def percent(regret: float) -> str:
    """Return an expected regret as it is read."""
    return f"{100 * regret:.2g}%" if regret < 1 else "more than 100%"


def score(observation: Observation) -> tuple[float, bool]:
    """Return log T of a run for a search, and whether it is a lower bound; infinite where the run was lost.

    An interval counts by its geometric midpoint. A run that didn't reach the target counts by its budget and by how far
    it came: a constant would hide in which direction a target that lies outside of the box is to be found.
    """
    low, high = observation.log_steps
    if observation.outcome == "reached":
        return ((low + high) / 2 if np.isfinite(low) else max(high, 0.0)), False
    if observation.outcome == "censored":
        missing = _UNKNOWN_SHORTFALL if observation.shortfall is None else min(observation.shortfall, 2.0)
        return low + 2 * missing, True
    return np.inf, False
