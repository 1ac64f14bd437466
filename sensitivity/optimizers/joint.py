"""All parameters of a pack in one contiguous tensor, for element-wise updates.

The cost of updating a small pack is dominated by operation calls, up to a dozen per parameter; an element-wise rule can
update all parameters with one set of calls.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

WHOLE = ""
"""Name of the joint tensor of all parameters."""
_ALIGNED = 16
"""Alignment of parameters in entries, so that products read whole cache lines."""


_MOST = 2**19
"""Number of entries above which copying gradients costs more than fewer operations save (measured)."""


def are_joined(params: Mapping[str, Tensor], trials: int) -> bool:
    """Whether a joint layout is faster, which holds for small packs on the host."""
    entries = trials * sum(math.prod(p.shape[1:]) for p in params.values())
    on_host = all(p.device.type == "cpu" for p in params.values())
    return on_host and entries <= _MOST and len({p.dtype for p in params.values()}) == 1


def laid_out(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copy tensors ``[trials, *shape]`` of equal dtype to one tensor ``[trials, entries]``, and return its parts.

    For autograd, the parts are independent tensors, so that a model may modify them in its forward pass.
    """
    like = next(iter(tensors.values()))
    sizes = {name: math.prod(tensor.shape[1:]) for name, tensor in tensors.items()}
    width = sum(-(-size // _ALIGNED) * _ALIGNED for size in sizes.values())
    whole, offset, views = like.new_zeros(len(like), width), 0, dict[str, Tensor]()
    for name, tensor in tensors.items():
        views[name] = whole[:, offset : offset + sizes[name]].view(tensor.shape).data
        views[name].copy_(tensor)
        offset += -(-sizes[name] // _ALIGNED) * _ALIGNED
    return views


class Joint:
    """The layout of parameters in a joint tensor ``[trials, entries]`` created by `laid_out`."""

    def __init__(self, params: Mapping[str, Tensor]) -> None:
        first = next(iter(params.values())).detach()
        # Not its stride, which is arbitrary for a single member.
        width = first.untyped_storage().nbytes() // first.element_size() // len(first)
        shape, strides = (len(first), width), (width, 1)
        self.whole = first.new_empty(0).set_(first.untyped_storage(), 0, shape, strides)
        self._places = {name: (p.storage_offset(), p.shape[1:]) for name, p in params.items()}
        self._grads = torch.zeros_like(self.whole)
        self._views = self.views(self._grads)

    def views(self, whole: Tensor) -> dict[str, Tensor]:
        """View a tensor ``[trials, entries]`` as parameters by name."""
        return {
            name: whole[:, offset : offset + math.prod(shape)].view(len(whole), *shape)
            for name, (offset, shape) in self._places.items()
        }

    def gradient(self, grads: Mapping[str, Tensor]) -> Tensor:
        """Copy gradients to one tensor ``[trials, entries]``, with 0 for missing ones; valid until the next call."""
        if len(grads) < len(self._views):
            self._grads.zero_()
        torch._foreach_copy_([self._views[name] for name in grads], list(grads.values()))
        return self._grads

    def holds(self, params: Mapping[str, Tensor]) -> bool:
        """Whether these parameters are parts of the joint tensor."""
        return next(iter(params.values())).untyped_storage().data_ptr() == self.whole.untyped_storage().data_ptr()

    def by_name(self, state: Any) -> Any:
        """View the state of the joint tensor as a state of parameters by name."""
        if isinstance(state, dict):
            if state.keys() == {WHOLE}:
                return self.views(state[WHOLE])
            return {key: self.by_name(value) for key, value in state.items()}
        return state


def joint_of(params: Mapping[str, Tensor]) -> Joint | None:
    """Return the layout if all parameters are parts of one joint tensor, otherwise None."""
    first, *others = params.values()
    memory, trials = first.untyped_storage(), len(first)
    width = memory.nbytes() // first.element_size() // max(trials, 1)

    def inside(p: Tensor) -> bool:
        # The stride of a dimension of size one is arbitrary.
        rows = len(p) == trials and (trials == 1 or p.stride(0) == width)
        return rows and p.untyped_storage().data_ptr() == memory.data_ptr()

    return Joint(params) if others and memory.data_ptr() and all(map(inside, params.values())) else None
