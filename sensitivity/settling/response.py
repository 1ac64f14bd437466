"""A response surface of log T over an arm's coordinates, with an optimum of its own at each batch size.

    y = a_B + g_B'x + x'Hx / 2 + sum_i c_i x_i^3 / 6

The curvature H is shared by batch sizes, the optimum is not: one that is linear in log B would cost a regret of .1
where it bends (SETTLE.md). The cubic terms are there where the points show them: without them the optimum of a skewed
bowl is taken for where its two sides balance. The fit is by least squares on the points whose predicted excess over the
optimum is small, and is repeated until these are the points that it was fitted to.

Arrays: x [points, dimensions], b [points] the place of the batch size, y [points].
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

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
    """[dimensions, dimensions]"""
    third: Floats
    """[dimensions]; 0 where no cubic terms were fitted."""
    reach: Floats
    """[2, dimensions]: the hull of the points, beyond which cubic terms are not believed."""
    covariance: Floats
    """Of the coefficients, in the order of ``_columns``."""
    noise: float
    """Residual standard deviation."""
    points: int
    """That it was fitted to."""

    @property
    def definite(self) -> bool:
        """Whether the surface has a minimum."""
        half = (self.reach[1] - self.reach[0]) / 2
        return bool(np.linalg.eigvalsh(self.curvature * np.outer(half, half)).min() / 2 > _FLAT)

    def predict(self, x: Floats, b: Ints) -> Floats:
        """Return log T at points [points]."""
        d = x - self.centre
        curved = ((d @ self.curvature) * d).sum(axis=1) / 2
        cubic = self._bounded(x) ** 3 @ self.third / 6
        return np.asarray(self.level[b] + (self.slope[b] * d).sum(axis=1) + curved + cubic)

    def _bounded(self, x: Floats) -> Floats:
        """Return x from the centre, as far as the points go."""
        return np.asarray(np.clip(x, self.reach[0], self.reach[1]) - self.centre)

    def curvature_at(self, x: Floats) -> Floats:
        """Return the curvature at points [points, dimensions, dimensions]: the shared one, and what cubic terms add.

        Where it would be less than a tenth of the shared one, in some direction, it is the shared one: far on the flat
        side of a skewed bowl a cubic surface bends the other way.
        """
        shared = np.repeat(self.curvature[None], len(x), axis=0)
        found, i = shared.copy(), np.arange(x.shape[1])
        found[:, i, i] += self._bounded(x) * self.third
        least = 0.1 * np.linalg.eigvalsh(self.curvature).min()
        bends = np.linalg.eigvalsh(found).min(axis=1) > max(least, _LEAST_BEND)
        return np.asarray(np.where(bends[:, None, None], found, shared))

    def optimum(self, least: Floats, most: Floats) -> Floats:
        """Return where each batch size is lowest between two ends: [batches, dimensions].

        Of a surface with a minimum it is found by Newton's method, or coordinate by coordinate at an end; of another,
        such as a ridge along which nothing changes, it is the lowest point of a grid between finite ends.
        """
        if self.definite:
            free = self._newton()
            if bool(((free >= least) & (free <= most)).all()):
                return free
            return self._descend(np.clip(free, least, most), least, most)
        grid = _grid(least, most)
        values = np.stack([self.predict(grid, np.full(len(grid), k)) for k in range(len(self.level))])
        return np.asarray(grid[values.argmin(axis=1)])

    def _gradient(self, x: Floats) -> Floats:
        return np.asarray(self.slope + (x - self.centre) @ self.curvature + self._bounded(x) ** 2 * self.third / 2)

    def _newton(self) -> Floats:
        x = self.centre - np.linalg.solve(self.curvature, self.slope.T).T
        if not self.third.any():
            return np.asarray(x)
        x = np.clip(x, self.reach[0], self.reach[1])
        for _ in range(_NEWTON):
            x = x - np.linalg.solve(self.curvature_at(x), self._gradient(x)[..., None])[..., 0]
        return np.asarray(x)

    def _descend(self, x: Floats, least: Floats, most: Floats) -> Floats:
        x = x.copy()
        for _ in range(20):
            for i in range(x.shape[1]):
                x[:, i] = np.clip(x[:, i] - self._gradient(x)[:, i] / self.curvature[i, i], least[i], most[i])
        return x

    def regret(self, x: Floats) -> Floats:
        """Return the expected regret of x, its optimum [batches, dimensions], under the true surface: [batches].

        The gradient at x is linear in the coefficients, with covariance V; the regret is half of its square in the
        metric of the inverse curvature, on average tr(H^-1 V) / 2.
        """
        k = len(self.slope)
        curvature = self.curvature_at(x)
        found = np.empty(k)
        for place in range(k):
            gradient = _gradient_columns(x[place] - self.centre, place, k, self.covariance.shape[0])
            found[place] = 0.5 * np.trace(np.linalg.solve(curvature[place], gradient @ self.covariance @ gradient.T))
        return found

    def regret_between(self, x: Floats, least: Floats, most: Floats) -> Floats:
        """Return the expected regret of x [batches, dimensions] against the lowest point between two ends: [batches].

        It is the mean over surfaces drawn with the covariance of the coefficients, without cubic terms, and holds for
        one that has no minimum: along a flat ridge any point is about as good as another.
        """
        grid, k = _grid(least, most), len(self.slope)
        spread = (self.covariance + self.covariance.T) / 2  # which rounding has made unlike, far from the centre
        random = np.random.default_rng(0)
        draws = random.multivariate_normal(self._coefficients(), spread, _DRAWS, check_valid="ignore")
        found = np.empty(k)
        for place in range(k):
            points = np.concatenate([x[place : place + 1], grid]) - self.centre
            values = draws @ _columns(points, np.full(len(points), place), k, cubic=False).T
            found[place] = (values[:, 0] - values.min(axis=1)).mean()
        return found

    def _coefficients(self) -> Floats:
        upper, right = _pairs(len(self.centre))
        return np.concatenate([self.level, self.slope.ravel(), self.curvature[upper, right]])


def _grid(least: Floats, most: Floats) -> Floats:
    """Return points between two ends [points, dimensions], these included."""
    count = _STEPS[min(len(least), len(_STEPS)) - 1]
    steps = (np.linspace(low, high, count) for low, high in zip(least, most, strict=True))
    return np.array(list(itertools.product(*steps)))


def parameters(batches: int, dimensions: int) -> int:
    """Return the number of coefficients of a surface without cubic terms."""
    return batches * (1 + dimensions) + dimensions * (dimensions + 1) // 2


def _pairs(dimensions: int) -> tuple[Ints, Ints]:
    return np.triu_indices(dimensions)


def _columns(x: Floats, b: Ints, batches: int, cubic: bool) -> Floats:
    """Return the design matrix [points, coefficients].

    Its columns are levels, slopes by batch size, the curvature's upper triangle, and the cubic terms.
    """
    n, d = x.shape
    one = np.zeros((n, batches))
    one[np.arange(n), b] = 1.0
    slopes = (one[:, :, None] * x[:, None, :]).reshape(n, batches * d)
    i, j = _pairs(d)
    curved = x[:, i] * x[:, j] * np.where(i == j, 0.5, 1.0)
    return np.concatenate([one, slopes, curved, *([x**3 / 6] if cubic else [])], axis=1)


def _gradient_columns(x: Floats, place: int, batches: int, columns: int) -> Floats:
    """Return the matrix [dimensions, coefficients] that gives the gradient at x of the batch size at `place`."""
    d = len(x)
    found = np.zeros((d, columns))
    found[:, batches + place * d : batches + (place + 1) * d] = np.eye(d)
    for column, (i, j) in enumerate(zip(*_pairs(d), strict=True), start=batches * (1 + d)):
        found[i, column] += x[j]
        if i != j:
            found[j, column] += x[i]
    if columns > parameters(batches, d):
        found[:, -d:] = np.diag(x**2 / 2)
    return found


def fit(x: Floats, b: Ints, y: Floats, lower: Bools, batches: int, within: float, box: Floats) -> Response | None:
    """Fit a surface to the points predicted to lie less than `within` above the optimum of their batch size.

    `lower` [points] marks values that are only lower bounds (censored runs): where the surface lies above one, it is no
    residual. `box` [2, dimensions] is where optima are looked for. None where too few points are left.
    """
    d = x.shape[1]
    need = parameters(batches, d) + 2
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
        found = _skewed_or_not(x[kept], b[kept], target[kept], batches, noise)
        noise = max(found.noise, _LEAST_NOISE)
        predicted = found.predict(x, b)
        target = np.where(lower, np.maximum(y, predicted), y)
        base = found.predict(found.optimum(box[0], box[1]), np.arange(batches))
        chosen = predicted - base[b] < within
        if bool((chosen == kept).all()) and not lower.any():
            break
        if chosen.sum() >= need:
            kept = chosen
    return found


def _skewed_or_not(x: Floats, b: Ints, y: Floats, batches: int, noise: float) -> Response:
    """Return the surface with cubic terms where the points show one, and without them elsewhere."""
    n, d = x.shape
    if n >= parameters(batches, d) + d + _SPARE:
        found = _least_squares(x, b, y, batches, noise, cubic=True)
        error = np.sqrt(np.diag(found.covariance)[-d:])
        if found.definite and (np.abs(found.third) > _SKEWED * error).any():
            return found
    return _least_squares(x, b, y, batches, noise, cubic=False)


def _least_squares(x: Floats, b: Ints, y: Floats, batches: int, noise: float, *, cubic: bool) -> Response:
    n, d = x.shape
    centre = x.mean(axis=0)
    design = _columns(x - centre, b, batches, cubic)
    # Slopes are drawn towards their mean over batch sizes: (I - J/k) / prior variance.
    pull = np.zeros((design.shape[1], design.shape[1]))
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
    curvature = np.zeros((d, d))
    upper, right = _pairs(d)
    first = batches * (1 + d)
    curvature[upper, right] = curvature[right, upper] = beta[first : first + len(upper)]
    return Response(
        centre=centre,
        level=beta[:batches],
        slope=beta[batches:first].reshape(batches, d),
        curvature=curvature,
        third=beta[-d:] if cubic else np.zeros(d),
        reach=np.array([x.min(axis=0), x.max(axis=0)]),
        covariance=np.asarray(max(sd, _LEAST_NOISE) ** 2 * inverse),
        noise=sd,
        points=n,
    )
