"""Functional ANOVA of a random forest's regression (Hutter, Hoos & Leyton-Brown 2014), exact over a box.

A tree is constant on boxes, so its mean with some coordinates held is a sum over leaves of value times the volume of
the leaf in the others, and the variance of that is exact too. Coordinates are those in which the prior is uniform.
Every tree is split once; its shares are averaged over trees and seeds are forests of their own.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import numpy as np
from sklearn.ensemble import RandomForestRegressor
from sklearn.tree import DecisionTreeRegressor

from sensitivity.analysis.estimates import Floats

TREES = 32
_STATE = 0
"""The forests are the same on every call: importance is a property of the data."""


def forest_variances(x: Floats, scores: Floats) -> dict[tuple[int, ...], Floats]:
    """Return the variance of mains and pairs, and under () in all, explained at `x` [configurations, dimensions].

    `scores` is [seeds, configurations]; the results are [seeds]. The box is the extent of `x`.
    """
    low, high = x.min(axis=0), x.max(axis=0)
    unit = (x - low) / np.where(high > low, high - low, 1.0)
    found: dict[tuple[int, ...], list[float]] = {}
    for row in scores:
        forest = RandomForestRegressor(n_estimators=TREES, min_samples_leaf=2, random_state=_STATE).fit(unit, row)
        trees = [_tree_variances(*_leaves(tree, x.shape[1])) for tree in forest.estimators_]
        for key in trees[0]:
            found.setdefault(key, []).append(float(np.mean([tree[key] for tree in trees])))
    return {key: np.array(values) for key, values in found.items()}


def _leaves(tree: DecisionTreeRegressor, dimensions: int) -> tuple[Floats, Floats]:
    """Return the boxes [leaves, dimensions, 2] of a tree's leaves within the unit box, and their values [leaves]."""
    nodes = tree.tree_
    boxes = np.empty((nodes.node_count, dimensions, 2))
    boxes[0] = (0.0, 1.0)
    for node in range(nodes.node_count):  # a child comes after its parent
        left, right = nodes.children_left[node], nodes.children_right[node]
        if left >= 0:
            boxes[left] = boxes[right] = boxes[node]
            split = nodes.feature[node], nodes.threshold[node]
            boxes[left, split[0], 1] = boxes[right, split[0], 0] = split[1]
    leaf = nodes.children_left < 0
    return boxes[leaf], nodes.value[leaf, 0, 0]


def _tree_variances(boxes: Floats, values: Floats) -> Mapping[tuple[int, ...], float]:
    widths = boxes[..., 1] - boxes[..., 0]
    volume = widths.prod(axis=1)
    centred = values - values @ volume
    dimensions = range(boxes.shape[1])
    found: dict[tuple[int, ...], float] = {(): float(volume @ centred**2)}
    marks = [_intervals(boxes[:, k]) for k in dimensions]
    for k in dimensions:
        inside, lengths = marks[k]
        mean = (centred * volume / np.maximum(widths[:, k], 1e-300)) @ inside
        found[(k,)] = float(mean**2 @ lengths)
    for a, b in itertools.combinations(dimensions, 2):
        (in_a, length_a), (in_b, length_b) = marks[a], marks[b]
        weight = centred * volume / np.maximum(widths[:, a] * widths[:, b], 1e-300)
        mean = (in_a * weight[:, None]).T @ in_b
        found[(a, b)] = float(length_a @ mean**2 @ length_b) - found[(a,)] - found[(b,)]
    return found


def _intervals(sides: Floats) -> tuple[Floats, Floats]:
    """Return which pieces of the axis each leaf covers [leaves, pieces], and their lengths [pieces]."""
    edges = np.unique(sides)
    middles = (edges[1:] + edges[:-1]) / 2
    inside = (sides[:, :1] < middles) & (middles < sides[:, 1:])
    return inside.astype(float), np.diff(edges)
