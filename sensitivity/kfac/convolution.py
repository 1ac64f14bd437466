"""Second moments of the patches that a convolution sees: [*lead, N, C, *spatial] to [groups, *lead, d, d].

d counts channels of a group times kernel positions, and the bias last.
"""

from torch import Tensor
from torch.nn import functional

from sensitivity.kfac.layers import Geometry, Layer


def patch_moment(inputs: Tensor, geometry: Geometry, groups: int, lead: int, *, bias: bool) -> Tensor:
    """Sum p pᵀ over all patches p, which end with a 1 if there is a bias."""
    patches = _patches(inputs, geometry, groups, lead)
    rows = patches.mT.flatten(-3, -2)
    if bias:
        rows = functional.pad(rows, (0, 1), value=1.0)
    return rows.mT @ rows


def patch_means(inputs: Tensor, geometry: Geometry, groups: int, lead: int) -> Tensor:
    """Average each example's patches over positions: [groups, *lead, N, d], without bias."""
    return _patches(inputs, geometry, groups, lead).mean(-1)


def moment_flops(layer: Layer, rows: float) -> float:
    """FLOPs of `patch_moment` over this many patches."""
    return layer.groups * 2 * rows * layer.input_dim**2


def padded(inputs: Tensor, geometry: Geometry) -> Tensor:
    """Pad the spatial dimensions [..., *spatial] as the convolution does."""
    pads = [side for pair in reversed(geometry.padding) for side in pair]
    if not any(pads):
        return inputs
    if geometry.padding_mode == "zeros":
        return functional.pad(inputs, pads)
    images = inputs.flatten(0, -len(geometry.kernel) - 2)
    return functional.pad(images, pads, mode=geometry.padding_mode).unflatten(
        0, inputs.shape[: -len(geometry.kernel) - 1]
    )


def _patches(inputs: Tensor, geometry: Geometry, groups: int, lead: int) -> Tensor:
    """Explicit im2col: [groups, *lead, N, d, positions]."""
    images = padded(inputs, geometry)
    if len(geometry.kernel) == 1:
        images = images.unsqueeze(-2)
    kernel, stride, dilation = (_two(x) for x in (geometry.kernel, geometry.stride, geometry.dilation))
    columns = functional.unfold(images.flatten(0, lead), kernel, dilation=dilation, stride=stride)
    columns = columns.unflatten(1, (groups, -1)).unflatten(0, inputs.shape[: lead + 1])
    return columns.movedim(lead + 1, 0)


def _two(values: tuple[int, ...]) -> tuple[int, ...]:
    return values if len(values) == 2 else (1, *values)
