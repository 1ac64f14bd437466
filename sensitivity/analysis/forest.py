"""Functional ANOVA of a regression forest over a box (Hutter, Hoos & Leyton-Brown 2014).

A tree is constant on boxes, so its mean with some coordinates fixed is a sum over leaves of the value times the volume
of the leaf in the other coordinates; the forest's is the mean over its trees. It is evaluated at midpoints of
intervals of each axis. The total variance is that at quasi-random points. The coordinates are those in which the prior
is uniform.

The trees are extremely randomised (Geurts, Ernst & Wehenkel 2006) and grown to single draws, and the variance of the
forest is decomposed, not the mean variance of its trees. For 64 draws of (u - v)^2, whose true shares are 1/7, 1/7 and
5/7, this yields .14, .15 and .71, whereas the trees of a random forest yield .28, .29 and .42: bootstrapped trees
smooth interactions away, and the variations of single trees count as interactions. With a cliff in the plane, both
underestimate the interaction.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np

from sensitivity.analysis.estimates import Floats

if TYPE_CHECKING:
    from sklearn.ensemble import ExtraTreesRegressor
    from sklearn.tree import ExtraTreeRegressor

TREES = 32
_STATE = 0
"""Seed of the forests, which is fixed so that importance is a function of the data."""
_MIDDLES = (np.arange(32) + 0.5) / 32
"""Midpoints of the intervals of an axis, at which marginal means are evaluated."""
_POINTS = 12
"""Base-2 logarithm of the number of quasi-random points for the total variance."""


def forest_variances(x: Floats, scores: Floats) -> dict[tuple[int, ...], Floats]:
    """Return the variance explained by each main effect and each pair, and under the key () in total.

    `x` is [configurations, dimensions]; `scores` is [replicates, configurations], with one forest per replicate; the
    values of the result are [replicates]. The box is the range of `x`.
    """
    from scipy.stats import qmc  # this import takes a second, and no other analysis needs it
    from sklearn.ensemble import ExtraTreesRegressor

    low, high = x.min(axis=0), x.max(axis=0)
    unit = (x - low) / np.where(high > low, high - low, 1.0)
    points = qmc.Sobol(x.shape[1], rng=np.random.default_rng(_STATE)).random_base2(_POINTS)
    found: dict[tuple[int, ...], list[float]] = {}
    for row in scores:
        forest = ExtraTreesRegressor(n_estimators=TREES, random_state=_STATE).fit(unit, row)
        found.setdefault((), []).append(float(forest.predict(points).var()))
        for key, variance in _marginal_variances(forest, x.shape[1]).items():
            found.setdefault(key, []).append(variance)
    return {key: np.array(values) for key, values in found.items()}


def _marginal_variances(forest: ExtraTreesRegressor, dimensions: int) -> dict[tuple[int, ...], float]:
    """Return the variance of each main effect, and of the interaction of each pair."""
    keys = [(k,) for k in range(dimensions)] + list(itertools.combinations(range(dimensions), 2))
    means: dict[tuple[int, ...], Floats] = {key: np.zeros((len(_MIDDLES),) * len(key)) for key in keys}
    for tree in forest.estimators_:  # one at a time, so that its arrays fit the cache
        boxes, values = _leaves(tree, dimensions)
        widths = boxes[..., 1] - boxes[..., 0]
        share = values * widths.prod(axis=1) / TREES
        inside = [
            ((boxes[:, k, :1] <= _MIDDLES) & (boxes[:, k, 1:] > _MIDDLES)) / np.maximum(widths[:, [k]], 1e-300)
            for k in range(dimensions)
        ]
        for first, *second in keys:
            weighted = inside[first].T * share
            means[first, *second] += weighted @ inside[second[0]] if second else weighted.sum(axis=1)
    found = {key: float(mean.var()) for key, mean in means.items()}
    return {key: v - sum(found[(k,)] for k in key) if len(key) == 2 else v for key, v in found.items()}


def _leaves(tree: ExtraTreeRegressor, dimensions: int) -> tuple[Floats, Floats]:
    """Return the boxes [leaves, dimensions, 2] of a tree's leaves in the unit box, and their values [leaves]."""
    nodes = tree.tree_
    boxes = np.empty((nodes.node_count, dimensions, 2))
    boxes[0] = (0.0, 1.0)
    splits = zip(nodes.children_left, nodes.children_right, nodes.feature, nodes.threshold, strict=True)
    for node, (left, right, feature, threshold) in enumerate(splits):  # a child comes after its parent
        if left >= 0:
            boxes[left] = boxes[right] = boxes[node]
            boxes[left, feature, 1] = boxes[right, feature, 0] = threshold
    leaf = nodes.children_left < 0
    return boxes[leaf], nodes.value[leaf, 0, 0]
