"""Packs whose members are updated one after the other with torch's own fused kernels.

A kernel passes over memory once, where element-wise operations on the whole pack pass up to a dozen times.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import Tensor


def by_member(lr: Tensor) -> bool:
    """Whether that is faster: on the host (benchmarks/optimizers.py)."""
    return lr.device.type == "cpu"


def members_of(*groups: Mapping[str, Tensor]) -> Iterator[tuple[list[Tensor], ...]]:
    """Yield, for every member, its tensors of each group ``[trials, ...]``, in the order of the first group's names."""
    names = list(groups[0])
    apart = (zip(*(group[name].detach().unbind() for name in names), strict=True) for group in groups)
    for member in zip(*apart, strict=True):
        yield tuple(map(list, member))
