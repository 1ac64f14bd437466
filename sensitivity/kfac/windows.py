"""Patches of convolutions with three spatial dimensions, as windows of the padded images."""

import math

import torch
from torch import Tensor
from torch.nn import functional

from sensitivity.kfac.layers import Geometry


def windows(inputs: Tensor, geometry: Geometry, groups: int, lead: int) -> Tensor:
    """Patches of inputs [*lead, N, C, *spatial]: [groups, *lead, N, d, positions], without bias."""
    mode = "constant" if geometry.padding_mode == "zeros" else geometry.padding_mode
    pads = [side for pair in reversed(geometry.padding) for side in pair]
    flat = inputs.flatten(0, lead)
    found = functional.pad(flat, pads, mode=mode) if any(pads) else flat
    axes = range(2, 2 + len(geometry.kernel))
    for axis, kernel, stride, dilation in zip(axes, geometry.kernel, geometry.stride, geometry.dilation, strict=True):
        found = found.unfold(axis, dilation * (kernel - 1) + 1, stride)[..., ::dilation]
    # [M, C, *positions, *kernel] to [M, C, *kernel, *positions]
    count = len(geometry.kernel)
    order = (0, 1, *range(2 + count, 2 + 2 * count), *range(2, 2 + count))
    columns = found.permute(order).reshape(*inputs.shape[: lead + 1], groups, -1, math.prod(found.shape[2 : 2 + count]))
    return columns.movedim(lead + 1, 0)


def window_moment(inputs: Tensor, geometry: Geometry, groups: int, lead: int, *, bias: bool) -> Tensor:
    """Sum of p pᵀ over all patches p, [groups, *lead, d, d]; with a bias, each patch ends with a 1."""
    rows = windows(inputs, geometry, groups, lead).movedim(-2, -3).flatten(-2)
    if bias:
        rows = torch.cat([rows, rows.new_ones(*rows.shape[:-2], 1, rows.shape[-1])], -2)
    return rows @ rows.mT
