"""A response surface of log T over an arm's coordinates, with an optimum of its own at each batch size.

    y = a_B + g_B'x + x'Hx / 2 + sum_i c_i x_i^3 / 6

The curvature H is shared by batch sizes unless an F test shows that it isn't, as where a small batch has its optimum in
the noise and a large one at the edge of stability. The optimum is never shared: one that is linear in log B would cost
a regret of .1 where it bends (SETTLE.md). The cubic terms are there where the points show them: without them the
optimum of a skewed bowl is taken for where its two sides balance. The fit is by least squares on the points whose
predicted excess over the optimum is small, and is repeated until these are the points that it was fitted to. Runs far
above the surface are left out: they have met a wall, such as the edge of stability, that no bowl describes.

Arrays: x [points, dimensions], b [points] the place of the batch size, y [points].
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.special import fdtrc

from sensitivity.analysis.estimates import Floats

Ints = NDArray[np.int_]
Bools = NDArray[np.bool_]

_ROUNDS = 6
_NEWTON = 12
_SLOPES = 3.0
"""Prior standard deviation of a batch size's slope about their mean, in nats a decade: so weak that it only decides
where a batch size has too few points for a slope of its own."""
_LEAST_NOISE = 0.01
_LEAST_BEND = 1e-3
"""Curvature, in nats a squared decade, below which cubic terms are not believed."""
_FLAT = 0.02
"""Nats that a surface has to rise in every direction, from its lowest point to the end of the points, or it is a ridge:
where along it the lowest point lies hardly matters, and can't be told."""
_SKEWED = 2.5
"""Standard errors from which a cubic term is taken to be there."""
_STEPS = (65, 17, 9, 5)
"""Points of a grid along each coordinate, by the number of coordinates."""
_DRAWS = 64
_APART = 1e-3
"""p-value at which batch sizes are taken to have curvatures of their own."""
_WALL = 1.0
"""Nats above the surface from which a run has met a wall, such as the edge of stability, that no bowl describes."""
_SPARE = 8
"""Points beyond its coefficients that a surface with cubic terms is fitted to at least."""


@dataclass(frozen=True, eq=False)
class Response:
    """A fitted surface; `x` is measured from `centre`."""

    centre: Floats
    """[dimensions]"""
    level: Floats
    """[batches]"""
    slope: Floats
    """[batches, dimensions]"""
    curvature: Floats
    """[batches, dimensions, dimensions]"""
    third: Floats
    """[batches, dimensions]; 0 where no cubic terms were fitted."""
    reach: Floats
    """[2, dimensions]: the hull of the points, beyond which cubic terms are not believed."""
    terms: Terms
    """The coefficients that were fitted."""
    covariance: Floats
    """Of the coefficients, in the order of ``Terms.columns``."""
    noise: float
    """Residual standard deviation."""
    freedom: float
    """Degrees of freedom of the residuals."""

    @cached_property
    def definite(self) -> Bools:
        """Where the surface has a minimum: [batches]."""
        half = (self.reach[1] - self.reach[0]) / 2
        return np.asarray(np.linalg.eigvalsh(self.curvature * np.outer(half, half)).min(axis=-1) / 2 > _FLAT)

    def predict(self, x: Floats, b: Ints) -> Floats:
        """Return log T at points [points]."""
        d = x - self.centre
        curved = np.einsum("ni,nij,nj->n", d, self.curvature[b], d) / 2
        cubic = (self._bounded(x) ** 3 * self.third[b]).sum(axis=1) / 6
        return np.asarray(self.level[b] + (self.slope[b] * d).sum(axis=1) + curved + cubic)

    def _bounded(self, x: Floats) -> Floats:
        """Return x from the centre, as far as the points go."""
        return np.asarray(np.clip(x, self.reach[0], self.reach[1]) - self.centre)

    def curvature_at(self, x: Floats) -> Floats:
        """Return the curvature at a point of each batch size [batches, dimensions, dimensions], cubic terms included.

        Where it would be less than a tenth of that without them, in some direction, it is that: far on the flat side of
        a skewed bowl a cubic surface bends the other way.
        """
        found, i = self.curvature.copy(), np.arange(x.shape[1])
        found[:, i, i] += self._bounded(x) * self.third
        least = 0.1 * np.linalg.eigvalsh(self.curvature).min(axis=1)
        bends = np.linalg.eigvalsh(found).min(axis=1) > np.maximum(least, _LEAST_BEND)
        return np.asarray(np.where(bends[:, None, None], found, self.curvature))

    def optimum(self, least: Floats, most: Floats) -> Floats:
        """Return where each batch size is lowest between two ends: [batches, dimensions].

        Where the surface has a minimum it is found by Newton's method, or coordinate by coordinate at an end. Where it
        has none, as on a ridge along which nothing changes, it is the lowest point of a grid between the ends, no
        further out than the points go that the surface was fitted to.
        """
        found = np.empty_like(self.slope)
        if self.definite.any():
            free = self._newton()
            if not bool(((free >= least) & (free <= most))[self.definite].all()):
                free = self._descend(np.clip(free, least, most), least, most)
            found[self.definite] = free[self.definite]
        if not self.definite.all():
            grid = self._supported(least, most)
            for k in np.flatnonzero(~self.definite):
                found[k] = grid[self.predict(grid, np.full(len(grid), k)).argmin()]
        return found

    def _supported(self, least: Floats, most: Floats) -> Floats:
        """Return a grid between two ends [points, dimensions], no further out than the fitted points go."""
        low, high = np.clip(self.reach, least, most)
        return _grid(low, high)

    def _gradient(self, x: Floats) -> Floats:
        linear = np.einsum("kij,kj->ki", self.curvature, x - self.centre)
        return np.asarray(self.slope + linear + self._bounded(x) ** 2 * self.third / 2)

    def _bent(self) -> Floats:
        """Return the curvature where there is a minimum, and that of any bowl elsewhere [batches, ., .]."""
        return np.where(self.definite[:, None, None], self.curvature, np.eye(self.slope.shape[1]))

    def _newton(self) -> Floats:
        x = self.centre - np.linalg.solve(self._bent(), self.slope[..., None])[..., 0]
        if not self.third.any():
            return np.asarray(x)
        x = np.clip(x, self.reach[0], self.reach[1])
        for _ in range(_NEWTON):
            x = x - np.linalg.solve(self.curvature_at(x), self._gradient(x)[..., None])[..., 0]
        return np.asarray(x)

    def _descend(self, x: Floats, least: Floats, most: Floats) -> Floats:
        x, bent = x.copy(), self._bent()
        for _ in range(20):
            for i in range(x.shape[1]):
                x[:, i] = np.clip(x[:, i] - self._gradient(x)[:, i] / bent[:, i, i], least[i], most[i])
        return x

    def regret(self, x: Floats, least: Floats, most: Floats) -> Floats:
        """Return the expected regret of x, its optimum [batches, dimensions], under the true surface: [batches].

        Where there is a minimum: the gradient at x is linear in the coefficients, with covariance V; the regret is half
        of its square in the metric of the inverse curvature, on average tr(H^-1 V) / 2. Where there is none: the mean,
        over surfaces drawn with the covariance, of what x lies above the lowest point between two ends. Along a flat
        ridge any point is about as good as another.
        """
        curvature, found = self.curvature_at(x), np.empty(len(self.slope))
        for place in np.flatnonzero(self.definite).tolist():
            gradient = self.terms.gradient(x[place] - self.centre, place)
            found[place] = 0.5 * np.trace(np.linalg.solve(curvature[place], gradient @ self.covariance @ gradient.T))
        if self.definite.all():
            return found
        grid = self._supported(least, most)
        spread = (self.covariance + self.covariance.T) / 2  # which rounding has made unlike, far from the centre
        random = np.random.default_rng(0)
        draws = random.multivariate_normal(self._coefficients(), spread, _DRAWS, check_valid="ignore")
        for place in np.flatnonzero(~self.definite).tolist():
            points = np.concatenate([x[place : place + 1], grid]) - self.centre
            values = draws @ self.terms.columns(points, np.full(len(points), place)).T
            found[place] = (values[:, 0] - values.min(axis=1)).mean()
        return found

    def _coefficients(self) -> Floats:
        """Return the coefficients in the order of ``Terms.columns``."""
        upper, right = _pairs(len(self.centre))
        own = slice(1) if self.terms.shared else slice(None)
        third = [self.third[own].ravel()] if self.terms.cubic else []
        return np.concatenate([self.level, self.slope.ravel(), self.curvature[own, upper, right].ravel(), *third])


def _grid(least: Floats, most: Floats) -> Floats:
    """Return points between two ends [points, dimensions], these included."""
    count = _STEPS[min(len(least), len(_STEPS)) - 1]
    steps = (np.linspace(low, high, count) for low, high in zip(least, most, strict=True))
    return np.array(list(itertools.product(*steps)))


def _pairs(dimensions: int) -> tuple[Ints, Ints]:
    return np.triu_indices(dimensions)


@dataclass(frozen=True, kw_only=True)
class Terms:
    """The coefficients of a surface: levels, slopes by batch size, the curvature's upper triangle, cubic terms."""

    batches: int
    dimensions: int
    cubic: bool = False
    shared: bool = True
    """Whether curvature and cubic terms are those of all batch sizes; else each has its own."""

    @property
    def bends(self) -> int:
        """Sets of curvature and cubic terms."""
        return 1 if self.shared else self.batches

    @property
    def count(self) -> int:
        """Of all coefficients."""
        k, d = self.batches, self.dimensions
        return k * (1 + d) + self.bends * (d * (d + 1) // 2 + (d if self.cubic else 0))

    def columns(self, x: Floats, b: Ints) -> Floats:
        """Return the design matrix [points, coefficients]."""
        n, d = x.shape
        one = np.zeros((n, self.batches))
        one[np.arange(n), b] = 1.0
        i, j = _pairs(d)
        bends = [x[:, i] * x[:, j] * np.where(i == j, 0.5, 1.0), *([x**3 / 6] if self.cubic else [])]
        if not self.shared:
            bends = [_by_batch(one, each) for each in bends]
        return np.concatenate([one, _by_batch(one, x), *bends], axis=1)

    def gradient(self, x: Floats, place: int) -> Floats:
        """Return the matrix [dimensions, coefficients] that gives the gradient at x of the batch size at `place`."""
        k, d = self.batches, self.dimensions
        found = np.zeros((d, self.count))
        found[:, k + place * d : k + (place + 1) * d] = np.eye(d)
        upper, right = _pairs(d)
        own = 0 if self.shared else place
        first = k * (1 + d) + own * len(upper)
        for column, (i, j) in enumerate(zip(upper, right, strict=True), start=first):
            found[i, column] += x[j]
            if i != j:
                found[j, column] += x[i]
        if self.cubic:
            first = k * (1 + d) + self.bends * len(upper) + own * d
            found[:, first : first + d] = np.diag(x**2 / 2)
        return found

    def split(self, beta: Floats) -> tuple[Floats, Floats, Floats, Floats]:
        """Return levels, slopes, curvatures and cubic terms by batch size, from all coefficients."""
        k, d = self.batches, self.dimensions
        upper, right = _pairs(d)
        first = k * (1 + d)
        then = first + self.bends * len(upper)
        curvature = np.zeros((self.bends, d, d))
        bends = beta[first:then].reshape(self.bends, -1)
        curvature[:, upper, right] = curvature[:, right, upper] = bends
        third = beta[then:].reshape(self.bends, -1) if self.cubic else np.zeros((self.bends, d))
        each = k // self.bends
        return beta[:k], beta[k:first].reshape(k, d), np.repeat(curvature, each, 0), np.repeat(third, each, 0)


def _by_batch(one: Floats, x: Floats) -> Floats:
    return np.asarray((one[:, :, None] * x[:, None, :]).reshape(len(x), -1))


def fit(x: Floats, b: Ints, y: Floats, lower: Bools, batches: int, within: float, box: Floats) -> Response | None:
    """Fit a surface to the points predicted to lie less than `within` above the optimum of their batch size.

    `lower` [points] marks values that are only lower bounds (censored runs): where the surface lies above one, it is no
    residual. `box` [2, dimensions] is where optima are looked for. None where too few points are left.
    """
    d = x.shape[1]
    need = Terms(batches=batches, dimensions=d).count + 2
    lowest = np.array([y[b == k].min() if (b == k).any() else np.inf for k in range(batches)])
    kept = y - lowest[b] < within
    for share in (1.5, 2.5):  # noise and a coarse start: a wider choice where the first is too small
        if kept.sum() < need:
            kept = y - lowest[b] < share * within
    found: Response | None = None
    target, noise = y, 1.0
    for _ in range(_ROUNDS):
        if kept.sum() < need or len(np.unique(b[kept])) < batches:
            return None
        found = _surface(x[kept], b[kept], target[kept], batches, noise)
        noise = max(found.noise, _LEAST_NOISE)
        predicted = found.predict(x, b)
        target = np.where(lower, np.maximum(y, predicted), y)
        base = found.predict(found.optimum(box[0], box[1]), np.arange(batches))
        chosen = (predicted - base[b] < within) & ~walled(predicted, y)
        if bool((chosen == kept).all()) and not lower.any():
            break
        if chosen.sum() >= need and np.bincount(b[chosen], minlength=batches).min() > 0:
            kept = chosen
    return found


def walled(predicted: Floats, y: Floats) -> Bools:
    """Return which runs took so much longer than predicted that they tell of a wall rather than of the surface."""
    return np.asarray(y - predicted > _WALL)


def _surface(x: Floats, b: Ints, y: Floats, batches: int, noise: float) -> Response:
    """Return the surface whose batch sizes share their curvature, unless the points show that they don't."""
    found = _skewed_or_not(x, b, y, noise, Terms(batches=batches, dimensions=x.shape[1]))
    alone = Terms(batches=batches, dimensions=x.shape[1], shared=False)
    fewest = np.bincount(b, minlength=batches).min()
    if batches == 1 or fewest < alone.count // batches + _SPARE // 2:
        return found
    apart = _skewed_or_not(x, b, y, noise, alone)
    more = found.freedom - apart.freedom
    if more <= 0:
        return found
    f = (found.noise**2 * found.freedom - apart.noise**2 * apart.freedom) / more / max(apart.noise, _LEAST_NOISE) ** 2
    return apart if f > 0 and fdtrc(more, apart.freedom, f) < _APART else found


def _skewed_or_not(x: Floats, b: Ints, y: Floats, noise: float, terms: Terms) -> Response:
    """Return the surface with cubic terms where the points show one, and without them elsewhere."""
    cubic = replace(terms, cubic=True)
    if len(x) >= cubic.count + _SPARE:
        found = _least_squares(x, b, y, noise, cubic)
        thirds = terms.bends * terms.dimensions
        error = np.sqrt(np.diag(found.covariance)[-thirds:]).reshape(terms.bends, -1)
        if found.definite.all() and (np.abs(found.third[:: terms.batches // terms.bends]) > _SKEWED * error).any():
            return found
    return _least_squares(x, b, y, noise, terms)


def _least_squares(x: Floats, b: Ints, y: Floats, noise: float, terms: Terms) -> Response:
    (n, d), batches = x.shape, terms.batches
    centre = x.mean(axis=0)
    design = terms.columns(x - centre, b)
    # Slopes are drawn towards their mean over batch sizes: (I - J/k) / prior variance.
    pull = np.zeros((terms.count, terms.count))
    spread = (np.eye(batches) - 1 / batches) / _SLOPES**2
    at = batches + np.arange(batches) * d
    for i in range(d):
        pull[np.ix_(at + i, at + i)] = spread
    pull[np.diag_indices_from(pull)] += 1e-9
    gram = design.T @ design
    inverse = np.linalg.inv(gram + noise**2 * pull)
    beta = inverse @ (design.T @ y)
    rest = y - design @ beta
    freedom = max(n - float(np.trace(inverse @ gram)), 1.0)
    sd = float(np.sqrt((rest @ rest) / freedom))
    level, slope, curvature, third = terms.split(beta)
    return Response(
        centre=centre,
        level=level,
        slope=slope,
        curvature=curvature,
        third=third,
        reach=np.array([x.min(axis=0), x.max(axis=0)]),
        terms=terms,
        covariance=np.asarray(max(sd, _LEAST_NOISE) ** 2 * inverse),
        noise=sd,
        freedom=freedom,
    )
