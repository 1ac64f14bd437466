"""Response surface of log T over the coordinates of an arm, with a separate optimum at each batch size.

    y = a_B + g_B'x + x'Hx / 2 + sum_i c_i x_i^3 / 6

Batch sizes share the curvature H unless an F test rejects this, for instance if the optimum of a small batch is limited
by noise and that of a large one by the edge of stability. They never share the optimum: an optimum linear in log B
would cost a regret of 0.1 where it bends. Cubic terms are included if they are significant; without them, the optimum
of a skewed bowl is estimated at the midpoint of its two sides. The surface is fitted by least squares to the points
with a small predicted excess over the optimum, iterated until this set is stable. Runs far above the surface are
excluded: they are beyond a wall, such as the edge of stability, that a bowl does not describe. Beyond a wall a surface
without a minimum may descend without end, so its lowest point is looked for where runs survive.

Arrays: x [points, dimensions], b [points] the index of the batch size, y [points].
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.special import fdtrc

from sensitivity.analysis.estimates import Floats

Ints = NDArray[np.int_]
Bools = NDArray[np.bool_]
Survives = Callable[[Floats, int], Bools]
"""Returns whether runs survive at points [points, dimensions], at the batch size with this index."""

_MAX_ITERATIONS = 6
_NEWTON_STEPS = 12
_SLOPE_DEVIATION = 3.0
"""Prior standard deviation of the slopes of batch sizes about their mean, in nats per decade. It is so weak that it
matters only for a batch size with too few points to determine its slope."""
_MIN_NOISE = 0.01
_MIN_CURVATURE = 1e-3
"""Curvature, in nats per squared decade, below which cubic terms are ignored."""
_MIN_RISE = 0.02
"""Rise in nats, in every direction from the lowest point to the end of the points, below which a surface is a ridge.
The position of the lowest point along a ridge can't be determined, and hardly matters."""
_CUBIC_ERRORS = 2.5
"""Size of a significant cubic term, in standard errors."""
_GRID_POINTS = (65, 17, 9, 5)
"""Number of grid points along each coordinate, by the number of coordinates."""
_DRAWS = 64
_SEPARATE_P_VALUE = 1e-3
"""p-value below which batch sizes have separate curvatures."""
_WALL = 1.0
"""Distance above the surface, in nats, of a run that is beyond a wall; see the module docstring."""
_SPARE_POINTS = 8
"""Smallest number of points in excess of the coefficients for a surface with cubic terms."""


@dataclass(frozen=True, eq=False)
class Response:
    """A fitted surface; its terms are in `x - centre`."""

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
    """[2, dimensions]: bounding box of the points, outside of which cubic terms are constant."""
    terms: Terms
    """Structure of the fitted coefficients."""
    covariance: Floats
    """Covariance of the coefficients, in the order of ``Terms.columns``."""
    noise: float
    """Residual standard deviation."""
    freedom: float
    """Degrees of freedom of the residuals."""

    @cached_property
    def definite(self) -> Bools:
        """Whether the surface of each batch size has a minimum, [batches]."""
        half = (self.reach[1] - self.reach[0]) / 2
        return np.asarray(np.linalg.eigvalsh(self.curvature * np.outer(half, half)).min(axis=-1) / 2 > _MIN_RISE)

    def predict(self, x: Floats, b: Ints) -> Floats:
        """Return log T at points [points]."""
        d = x - self.centre
        curved = np.einsum("ni,nij,nj->n", d, self.curvature[b], d) / 2
        cubic = (self._bounded(x) ** 3 * self.third[b]).sum(axis=1) / 6
        return np.asarray(self.level[b] + (self.slope[b] * d).sum(axis=1) + curved + cubic)

    def _bounded(self, x: Floats) -> Floats:
        """Return x clipped to the bounding box of the points, relative to the centre."""
        return np.asarray(np.clip(x, self.reach[0], self.reach[1]) - self.centre)

    def curvature_at(self, x: Floats) -> Floats:
        """Return the curvature at one point per batch size, including cubic terms: [batches, dimensions, dimensions].

        If cubic terms reduce the smallest curvature below a tenth of that without them, they are omitted: far on the
        flat side of a skewed bowl, a cubic surface bends downwards.
        """
        found, i = self.curvature.copy(), np.arange(x.shape[1])
        found[:, i, i] += self._bounded(x) * self.third
        least = 0.1 * np.linalg.eigvalsh(self.curvature).min(axis=1)
        bends = np.linalg.eigvalsh(found).min(axis=1) > np.maximum(least, _MIN_CURVATURE)
        return np.asarray(np.where(bends[:, None, None], found, self.curvature))

    def optimum(self, least: Floats, most: Floats, survives: Survives) -> Floats:
        """Return the lowest point of each batch size between two ends: [batches, dimensions].

        If the surface has a minimum, it is computed by Newton's method, or by coordinate descent if it is at an end.
        Otherwise, for instance on a flat ridge, it is the lowest point of a grid between the ends and within the
        bounding box of the fitted points, where runs survive.
        """
        found = np.empty_like(self.slope)
        if self.definite.any():
            free = self._newton()
            if not bool(((free >= least) & (free <= most))[self.definite].all()):
                free = self._descend(np.clip(free, least, most), least, most)
            found[self.definite] = free[self.definite]
        if not self.definite.all():
            for k in np.flatnonzero(~self.definite).tolist():
                grid = self._supported(least, most, k, survives)
                found[k] = grid[self.predict(grid, np.full(len(grid), k)).argmin()]
        return found

    def _supported(self, least: Floats, most: Floats, place: int, survives: Survives) -> Floats:
        """Return a grid between two ends, within the bounding box of the fitted points: [points, dimensions].

        Points at which runs of a batch size don't survive are left out, unless there are no others.
        """
        low, high = np.clip(self.reach, least, most)
        grid = _grid(low, high)
        kept = survives(grid, place)
        return grid[kept] if kept.any() else grid

    def _gradient(self, x: Floats) -> Floats:
        linear = np.einsum("kij,kj->ki", self.curvature, x - self.centre)
        return np.asarray(self.slope + linear + self._bounded(x) ** 2 * self.third / 2)

    def _curvature_or_identity(self) -> Floats:
        """Return the curvature of batch sizes with a minimum, and the identity for others [batches, ., .]."""
        return np.where(self.definite[:, None, None], self.curvature, np.eye(self.slope.shape[1]))

    def _newton(self) -> Floats:
        x = self.centre - np.linalg.solve(self._curvature_or_identity(), self.slope[..., None])[..., 0]
        if not self.third.any():
            return np.asarray(x)
        x = np.clip(x, self.reach[0], self.reach[1])
        for _ in range(_NEWTON_STEPS):
            x = x - np.linalg.solve(self.curvature_at(x), self._gradient(x)[..., None])[..., 0]
        return np.asarray(x)

    def _descend(self, x: Floats, least: Floats, most: Floats) -> Floats:
        x, bent = x.copy(), self._curvature_or_identity()
        for _ in range(20):
            for i in range(x.shape[1]):
                x[:, i] = np.clip(x[:, i] - self._gradient(x)[:, i] / bent[:, i, i], least[i], most[i])
        return x

    def regret(self, x: Floats, least: Floats, most: Floats, survives: Survives) -> Floats:
        """Return the expected regret of the estimated optimum x [batches, dimensions] on the true surface: [batches].

        With a minimum: the gradient at x is linear in the coefficients and has a covariance V; the regret is half its
        square in the metric of the inverse curvature, with mean tr(H^-1 V) / 2. Without a minimum: the mean, over
        surfaces drawn with the covariance, of the height of x above the lowest point between the two ends at which runs
        survive. Along a flat ridge, all points are about equally good.
        """
        curvature, found = self.curvature_at(x), np.empty(len(self.slope))
        for place in np.flatnonzero(self.definite).tolist():
            gradient = self.terms.gradient(x[place] - self.centre, place)
            found[place] = 0.5 * np.trace(np.linalg.solve(curvature[place], gradient @ self.covariance @ gradient.T))
        if self.definite.all():
            return found
        spread = (self.covariance + self.covariance.T) / 2  # rounding makes it asymmetric far from the centre
        random = np.random.default_rng(0)
        draws = random.multivariate_normal(self._coefficients(), spread, _DRAWS, check_valid="ignore")
        for place in np.flatnonzero(~self.definite).tolist():
            grid = self._supported(least, most, place, survives)
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
    """Return a grid between two ends, including them: [points, dimensions]."""
    count = _GRID_POINTS[min(len(least), len(_GRID_POINTS)) - 1]
    steps = (np.linspace(low, high, count) for low, high in zip(least, most, strict=True))
    return np.array(list(itertools.product(*steps)))


def _pairs(dimensions: int) -> tuple[Ints, Ints]:
    return np.triu_indices(dimensions)


@dataclass(frozen=True, kw_only=True)
class Terms:
    """Structure of the coefficients: levels, slopes by batch size, upper triangles of curvatures, cubic terms."""

    batches: int
    dimensions: int
    cubic: bool = False
    shared: bool = True
    """Whether all batch sizes share the curvature and cubic terms."""

    @property
    def bends(self) -> int:
        """Number of sets of curvature and cubic terms."""
        return 1 if self.shared else self.batches

    @property
    def count(self) -> int:
        """Number of coefficients."""
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
        """Return the matrix [dimensions, coefficients] from coefficients to the gradient at x of a batch size."""
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


def fit(
    x: Floats, b: Ints, y: Floats, lower: Bools, batches: int, within: float, box: Floats, survives: Survives
) -> Response | None:
    """Fit a surface to the points whose predicted excess over the optimum of their batch size is below `within`.

    `lower` [points] marks values that are lower bounds (censored runs), which have no residual if the surface is above
    them. `box` [2, dimensions] bounds the optima. Returns None if too few points are left.
    """
    d = x.shape[1]
    need = Terms(batches=batches, dimensions=d).count + 2
    lowest = np.array([y[b == k].min() if (b == k).any() else np.inf for k in range(batches)])
    kept = y - lowest[b] < within
    for share in (1.5, 2.5):  # a wider selection if noise or a coarse scout leaves too few points
        if kept.sum() < need:
            kept = y - lowest[b] < share * within
    found: Response | None = None
    target, noise = y, 1.0
    for _ in range(_MAX_ITERATIONS):
        if kept.sum() < need or len(np.unique(b[kept])) < batches:
            return None
        found = _surface(x[kept], b[kept], target[kept], batches, noise)
        noise = max(found.noise, _MIN_NOISE)
        predicted = found.predict(x, b)
        target = np.where(lower, np.maximum(y, predicted), y)
        base = found.predict(found.optimum(box[0], box[1], survives), np.arange(batches))
        chosen = (predicted - base[b] < within) & ~walled(predicted, y)
        if bool((chosen == kept).all()) and not lower.any():
            break
        if chosen.sum() >= need and np.bincount(b[chosen], minlength=batches).min() > 0:
            kept = chosen
    return found


def walled(predicted: Floats, y: Floats) -> Bools:
    """Return which runs took so much longer than predicted that they are beyond a wall."""
    return np.asarray(y - predicted > _WALL)


def _surface(x: Floats, b: Ints, y: Floats, batches: int, noise: float) -> Response:
    """Return the surface with a shared curvature, or the one with separate curvatures if an F test rejects sharing."""
    found = _with_significant_cubic_terms(x, b, y, noise, Terms(batches=batches, dimensions=x.shape[1]))
    separate_terms = Terms(batches=batches, dimensions=x.shape[1], shared=False)
    fewest = np.bincount(b, minlength=batches).min()
    if batches == 1 or fewest < separate_terms.count // batches + _SPARE_POINTS // 2:
        return found
    separate = _with_significant_cubic_terms(x, b, y, noise, separate_terms)
    more = found.freedom - separate.freedom
    if more <= 0:
        return found
    f = (
        (found.noise**2 * found.freedom - separate.noise**2 * separate.freedom)
        / more
        / max(separate.noise, _MIN_NOISE) ** 2
    )
    return separate if f > 0 and fdtrc(more, separate.freedom, f) < _SEPARATE_P_VALUE else found


def _with_significant_cubic_terms(x: Floats, b: Ints, y: Floats, noise: float, terms: Terms) -> Response:
    """Return the surface with cubic terms if at least one is significant, otherwise the one without them."""
    cubic = replace(terms, cubic=True)
    if len(x) >= cubic.count + _SPARE_POINTS:
        found = _least_squares(x, b, y, noise, cubic)
        thirds = terms.bends * terms.dimensions
        error = np.sqrt(np.diag(found.covariance)[-thirds:]).reshape(terms.bends, -1)
        if (
            found.definite.all()
            and (np.abs(found.third[:: terms.batches // terms.bends]) > _CUBIC_ERRORS * error).any()
        ):
            return found
    return _least_squares(x, b, y, noise, terms)


def _least_squares(x: Floats, b: Ints, y: Floats, noise: float, terms: Terms) -> Response:
    (n, d), batches = x.shape, terms.batches
    centre = x.mean(axis=0)
    design = terms.columns(x - centre, b)
    # The prior shrinks slopes towards their mean over batch sizes: (I - J/k) / prior variance.
    precision = np.zeros((terms.count, terms.count))
    spread = (np.eye(batches) - 1 / batches) / _SLOPE_DEVIATION**2
    at = batches + np.arange(batches) * d
    for i in range(d):
        precision[np.ix_(at + i, at + i)] = spread
    precision[np.diag_indices_from(precision)] += 1e-9
    gram = design.T @ design
    inverse = np.linalg.inv(gram + noise**2 * precision)
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
        covariance=np.asarray(max(sd, _MIN_NOISE) ** 2 * inverse),
        noise=sd,
        freedom=freedom,
    )
