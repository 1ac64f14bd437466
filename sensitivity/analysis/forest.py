"""Functional ANOVA of a forest's regression (Hutter, Hoos & Leyton-Brown 2014), over a box.

A tree is constant on boxes, so its mean with some coordinates held is a sum over leaves of value times the volume of
the leaf in the others; a forest's is the mean of its trees'. It is evaluated at midpoints of each axis. The variance
in all is that at quasi-random points. Coordinates are those in which the prior is uniform.

The trees are extremely randomised (Geurts, Ernst & Wehenkel 2006), grown to single draws, and what is split is the
variance of the forest, not the mean over its trees. Of 64 draws of (u - v)^2 the shares are then .14, .15 and .71,
where 1/7, 1/7 and 5/7 are true; those of the trees of a random forest are .28, .29 and .42: bootstrapped trees smooth
pairs away, and each tree's own wiggles count as pairs. With a cliff in the plane both understate the pair.
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
"""The forests are the same on every call: importance is a property of the data."""
_MIDDLES = (np.arange(32) + 0.5) / 32
"""Of pieces of an axis, at which means are evaluated."""
_POINTS = 12
"""Power of two of quasi-random points for the variance in all."""


def forest_variances(x: Floats, scores: Floats) -> dict[tuple[int, ...], Floats]:
    """Return the variance of mains and pairs, and under () in all, explained at `x` [configurations, dimensions].

    `scores` is [replicates, configurations], a forest each; the results are [replicates]. The box is the extent of `x`.
    """
    from scipy.stats import qmc  # a second of processor time, which no other answer needs
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
    """Return the variance of mains and of what pairs add to them."""
    keys = [(k,) for k in range(dimensions)] + list(itertools.combinations(range(dimensions), 2))
    means: dict[tuple[int, ...], Floats] = {key: np.zeros((len(_MIDDLES),) * len(key)) for key in keys}
    for tree in forest.estimators_:  # one at a time, which stays in the processor's cache
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
    """Return the boxes [leaves, dimensions, 2] of a tree's leaves within the unit box, and their values [leaves]."""
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
