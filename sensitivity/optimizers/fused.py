"""Member-by-member updates with torch's fused kernels.

A fused kernel passes over memory once, element-wise operations on the whole pack up to a dozen times.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import Tensor


def by_member(lr: Tensor) -> bool:
    """Whether updating member by member is faster, which holds on the host (benchmarks/optimizers.py)."""
    return lr.device.type == "cpu"


def members_of(*groups: Mapping[str, Tensor]) -> Iterator[tuple[list[Tensor], ...]]:
    """Yield each member's tensors of each group ``[trials, ...]``, in the order of the first group's names."""
    names = list(groups[0])
    apart = (zip(*(group[name].detach().unbind() for name in names), strict=True) for group in groups)
    for member in zip(*apart, strict=True):
        yield tuple(map(list, member))
