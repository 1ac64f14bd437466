"""Second moments of the input patches of a convolution: [*lead, N, C, *spatial] to [groups, *lead, d, d].

d is the number of channels of a group times kernel positions, plus one (last) with a bias. In this file images are
[B, N, c, H, W], with B the groups and leading dimensions together, c the channels of a group, and H = 1 for one spatial
dimension; p and q are kernel positions.

With stride 1, the moment of positions p and q depends on q - p alone, except at the border. The moment over the *full*
grid of outputs (all that overlap the image at all) is therefore assembled from the (2k - 1)² autocorrelations of the
channels, half of them by symmetry. Each is one product of the image with a shifted view of itself; together they are
the gradient of a convolution's weight, for which a CPU has a faster kernel. Then the outputs that the convolution does
not have are subtracted. They lie in strips along the border, where only the kernel rows (or columns) that overlap the
image are nonzero. The result is exact, and no patches of the interior are formed. With a larger stride the patches are
formed (im2col), and each block of the symmetric product is computed once. Patches of three spatial dimensions are
formed in windows.py.
"""

from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor
from torch.nn import functional

from sensitivity.kfac.layers import Geometry, Layer
from sensitivity.kfac.windows import window_moment, windows

Pair = tuple[int, int]
_MIN_CHANNELS = 3
_POSITIONS_PER_SUM = 2**14


def patch_moment(inputs: Tensor, geometry: Geometry, groups: int, lead: int, *, bias: bool) -> Tensor:
    """Sum of p pᵀ over all patches p, [groups, *lead, d, d]; with a bias, each patch ends with a 1."""
    if len(geometry.kernel) == 3:
        return window_moment(inputs, geometry, groups, lead, bias=bias)
    images, plane = _plane(inputs, geometry, groups, lead)
    by_correlation = plane.stride == (1, 1) and prod(plane.kernel) > 1
    moment = _by_correlation(images, plane) if by_correlation else _by_patches(images, plane)
    if bias:
        sums = _window_sums(images.sum(1), plane).flatten(1)
        count = torch.full_like(sums[:, :1], images.shape[1] * prod(plane.outputs(images)))
        moment = functional.pad(moment, (0, 1, 0, 1))
        moment[:, -1, :] = moment[:, :, -1] = torch.cat([sums, count], 1)
    return moment.reshape(groups, *inputs.shape[:lead], *moment.shape[-2:])


def patch_means(inputs: Tensor, geometry: Geometry, groups: int, lead: int) -> Tensor:
    """Mean patch of each example over positions, [groups, *lead, N, d], without bias."""
    if len(geometry.kernel) == 3:
        return windows(inputs, geometry, groups, lead).mean(-1)
    images, plane = _plane(inputs, geometry, groups, lead)
    sums = _window_sums(images.flatten(0, 1), plane).flatten(1) / prod(plane.outputs(images))
    return sums.reshape(groups, *inputs.shape[: lead + 1], -1)


def patches(inputs: Tensor, geometry: Geometry, groups: int, lead: int) -> Tensor:
    """Patches of each example, [groups, *lead, N, d, positions], without bias."""
    if len(geometry.kernel) == 3:
        return windows(inputs, geometry, groups, lead)
    images, plane = _plane(inputs, geometry, groups, lead)
    columns = _unfolded(images.flatten(0, 1), plane)
    return columns.reshape(groups, *inputs.shape[: lead + 1], *columns.shape[1:])


def padded_inputs(inputs: Tensor, geometry: Geometry) -> Tensor:
    """Apply the padding of the convolution to inputs [N, C, *spatial]."""
    pads = [side for low_high in reversed(geometry.padding) for side in low_high]
    if not any(pads):
        return inputs
    return functional.pad(inputs, pads, mode="constant" if geometry.padding_mode == "zeros" else geometry.padding_mode)


def moment_flops(layer: Layer, rows: float) -> float:
    """FLOPs of `patch_moment` for `rows` patches, without those of the border strips.

    With stride 1, 2 c² per position and autocorrelation, of which there are (k_y - 1)(2 k_x - 1) + k_x (the gradient of
    a convolution computes k_x - 1 more). Otherwise 2 d² (k_y + 1) / (2 k_y) per patch, by symmetry; with three spatial
    dimensions 2 d².
    """
    assert layer.geometry is not None
    sides = layer.geometry.kernel
    kernel = (1, *sides) if len(sides) == 1 else sides
    channels = layer.weight_shape[1]
    if len(kernel) == 3:
        return layer.groups * 2 * rows * (channels * prod(kernel)) ** 2
    if prod(layer.geometry.stride) == 1 and prod(kernel) > 1:
        lags = (kernel[0] - 1) * (2 * kernel[1] - 1) + kernel[1]
        return layer.groups * 2 * rows * channels**2 * lags
    share = (kernel[0] + 1) / (2 * kernel[0])
    return layer.groups * 2 * rows * (channels * prod(kernel)) ** 2 * share


@dataclass(frozen=True)
class _Plane:
    """Geometry of a convolution in two dimensions; padding other than with zeros is already part of the images."""

    kernel: Pair
    stride: Pair
    dilation: Pair
    padding: tuple[Pair, Pair]

    @property
    def span(self) -> Pair:
        """Distance between the first and the last kernel position."""
        return self.dilation[0] * (self.kernel[0] - 1), self.dilation[1] * (self.kernel[1] - 1)

    def outputs(self, images: Tensor) -> Pair:
        """Height and width of the convolution's output."""
        height, width = (
            (size + low + high - span - 1) // stride + 1
            for size, (low, high), span, stride in zip(
                images.shape[-2:], self.padding, self.span, self.stride, strict=True
            )
        )
        return height, width


def _plane(inputs: Tensor, geometry: Geometry, groups: int, lead: int) -> tuple[Tensor, _Plane]:
    """Reshape inputs [*lead, N, C, *spatial] to images [B, N, c, H, W]; padding other than with zeros is applied."""
    zeros = geometry.padding_mode == "zeros"
    if not zeros:
        pads = [side for pair in reversed(geometry.padding) for side in pair]
        padded = functional.pad(inputs.flatten(0, lead), pads, mode=geometry.padding_mode)
        inputs = padded.reshape(*inputs.shape[: lead + 2], *padded.shape[2:])
    if len(geometry.kernel) == 1:
        inputs = inputs.unsqueeze(-2)
    images = torch.unflatten(inputs, lead + 1, (groups, -1)).movedim(lead + 1, 0).flatten(0, lead)
    fill: tuple[Pair, ...] = ((0, 0), (0, 0))
    padding = (*fill[len(geometry.kernel) :], *(geometry.padding if zeros else fill[: len(geometry.kernel)]))
    return images, _Plane(
        kernel=_pair(geometry.kernel),
        stride=_pair(geometry.stride),
        dilation=_pair(geometry.dilation),
        padding=(padding[0], padding[1]),
    )


def _by_correlation(images: Tensor, plane: _Plane) -> Tensor:
    """Moment of the patches of a convolution with stride 1, [B, d, d]."""
    (ky, kx), channels = plane.kernel, images.shape[2]
    table = _autocorrelations(images, plane)
    rows, columns = torch.arange(ky, device=table.device), torch.arange(kx, device=table.device)
    dy = (rows[None, :] - rows[:, None] + ky - 1)[:, None, :, None]
    dx = (columns[None, :] - columns[:, None] + kx - 1)[None, :, None, :]
    full = table[dy, dx].permute(4, 5, 0, 1, 6, 2, 3).contiguous()  # [B, c, py, px, c, qy, qx]
    _subtract_rows(full, images, plane)
    _subtract_columns(full, images, plane)
    side = channels * ky * kx
    return full.view(-1, side, side)


def _autocorrelations(images: Tensor, plane: _Plane) -> Tensor:
    """Σ u[c, z] u[c', z + dilation * lag] over examples and z, for all lags: [2 ky - 1, 2 kx - 1, B, c, c'].

    Lines are padded with zeros, and the first lines of all images precede their second lines, so that a lag in the
    plane is a lag in the flat vector and does not wrap around.
    """
    if _has_fast_gradients(images):
        return torch.stack([_correlated_by_gradient(each, plane) for each in images], 2)
    (ky, kx), (height, width) = plane.kernel, images.shape[-2:]
    batch, examples, channels = images.shape[:3]
    line = width + plane.span[1]
    spaced = images.new_zeros(batch, channels, height, examples, line)
    spaced[..., :width] = images.permute(0, 2, 3, 1, 4)
    flat = spaced.flatten(2)
    table = images.new_empty(2 * ky - 1, 2 * kx - 1, batch, channels, channels)
    for y in range(ky):
        for x in range(-(kx - 1) if y else 0, kx):
            lag = y * plane.dilation[0] * examples * line + x * plane.dilation[1]
            moment = flat[..., : max(0, flat.shape[-1] - lag)] @ flat[..., lag:].mT
            table[ky - 1 + y, kx - 1 + x] = moment
            table[ky - 1 - y, kx - 1 - x] = moment.mT
    return table


def _has_fast_gradients(images: Tensor) -> bool:
    """Whether oneDNN computes the weight gradient of a convolution, in half the time of the products (measured)."""
    return (
        images.device.type == "cpu"
        and images.dtype == torch.float32
        and images.shape[2] >= _MIN_CHANNELS
        and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    )


def _correlated_by_gradient(images: Tensor, plane: _Plane) -> Tensor:
    """`_autocorrelations` of images [N, c, H, W]: [2 ky - 1, 2 kx - 1, c, c'].

    The lags are the kernel positions of a convolution over the images. If the images also serve as the output gradient,
    the gradient of its weight is the sum of products. It is computed for a few examples at a time, because the kernel
    sums positions sequentially in float32, whose rounding errors accumulate.
    """
    (ky, kx), channels = plane.kernel, images.shape[1]
    weight, half = images.new_empty(channels, channels, ky, 2 * kx - 1), images.new_zeros(())
    at_once = max(1, _POSITIONS_PER_SUM // prod(images.shape[-2:]))
    for some in torch.split(images, at_once):
        below = functional.pad(some, (0, 0, 0, plane.span[0]))
        padding, dilation, mask = [0, plane.span[1]], list(plane.dilation), [False, True, False]
        half = half + torch.ops.aten.convolution_backward(
            some, below, weight, None, [1, 1], padding, dilation, False, [0, 0], 1, mask
        )[1].permute(2, 3, 0, 1)
    return torch.cat([half[1:].flip(0, 1).mT, half])


def _subtract_rows(full: Tensor, images: Tensor, plane: _Plane) -> None:
    """Subtract the outputs above and below those of the convolution, over the whole width of the full grid."""
    (ky, kx), height = plane.kernel, images.shape[-2]
    for y in _outputs_outside(plane.outputs(images)[0], plane.padding[0], plane.span[0]):
        start = y - plane.padding[0][0]
        first, last, line = _positions_inside(start, plane.dilation[0], ky, height)
        if first < last:
            strip = images[..., line, :].flatten(2, 3)
            rows = _strip_patches(strip, kx, plane.dilation[1], (plane.span[1], plane.span[1]))
            moment = torch.unflatten(rows @ rows.mT, 2, (-1, last - first, kx))
            full[:, :, first:last, :, :, first:last] -= torch.unflatten(moment, 1, (-1, last - first, kx))


def _subtract_columns(full: Tensor, images: Tensor, plane: _Plane) -> None:
    """Subtract the outputs to the left and right, in the rows of the convolution's outputs."""
    (ky, kx), width = plane.kernel, images.shape[-1]
    for x in _outputs_outside(plane.outputs(images)[1], plane.padding[1], plane.span[1]):
        start = x - plane.padding[1][0]
        first, last, line = _positions_inside(start, plane.dilation[1], kx, width)
        if first < last:
            strip = images[..., line].movedim(-1, -2).flatten(2, 3)
            rows = _strip_patches(strip, ky, plane.dilation[0], plane.padding[0])
            moment = torch.unflatten(rows @ rows.mT, 2, (-1, last - first, ky))
            moment = torch.unflatten(moment, 1, (-1, last - first, ky))
            full[:, :, :, first:last, :, :, first:last] -= moment.transpose(2, 3).transpose(5, 6)


def _strip_patches(strips: Tensor, kernel: int, dilation: int, padding: Pair) -> Tensor:
    """Patches of a one-dimensional kernel along strips [B, N, d, length]: [B, d * kernel, N * positions]."""
    padded = functional.pad(strips, padding).transpose(1, 2)
    count = padded.shape[-1] - dilation * (kernel - 1)
    shifted = [padded[..., p * dilation : p * dilation + count] for p in range(kernel)]
    return torch.stack(shifted, 2).flatten(1, 2).flatten(2)


def _outputs_outside(outputs: int, padding: Pair, span: int) -> list[int]:
    """List the indices of outputs of the full grid that are below 0, or at least `outputs`."""
    before, after = max(0, span - padding[0]), max(0, span - padding[1])
    return [*range(-before, 0), *range(outputs, outputs + after)]


def _positions_inside(start: int, dilation: int, kernel: int, size: int) -> tuple[int, int, slice]:
    """Return the range [first, last) of kernel positions p whose pixels start + dilation * p exist, and their slice."""
    inside = [p for p in range(kernel) if 0 <= start + dilation * p < size]
    if not inside:
        return 0, 0, slice(0)
    first, last = inside[0], inside[-1] + 1
    return first, last, slice(start + dilation * first, start + dilation * (last - 1) + 1, dilation)


def _by_patches(images: Tensor, plane: _Plane) -> Tensor:
    """Moment of explicit patches, [B, d, d]; blocks of kernel rows p < q are computed once and transposed."""
    columns = _unfolded(images.flatten(0, 1), plane)
    ky, kx = plane.kernel
    if ky == 1:
        return _moment(columns, len(images))
    channels = images.shape[2]
    rows = torch.unflatten(torch.unflatten(columns, 1, (channels, ky, kx)), 0, (len(images), -1))
    rows = rows.permute(0, 3, 2, 4, 1, 5).flatten(4).flatten(2, 3)  # [B, ky, c kx, N positions]
    full = rows.new_empty(len(images), channels, ky, kx, channels, ky, kx)
    for p in range(ky):
        block = torch.unflatten(rows[:, p] @ rows[:, p:].flatten(1, 2).mT, 2, (ky - p, channels, kx))
        block = torch.unflatten(block, 1, (channels, kx))  # [B, c, px, qy, c, qx]
        full[:, :, p, :, :, p:] = block.transpose(3, 4)
        full[:, :, p:, :, :, p] = block.permute(0, 4, 3, 5, 1, 2)
    side = channels * ky * kx
    return full.view(-1, side, side)


def _unfolded(images: Tensor, plane: _Plane) -> Tensor:
    """Im2col of images [M, c, H, W]: [M, c * kernel, positions]."""
    (top, bottom), (left, right) = plane.padding
    if top != bottom or left != right:
        images, top, left = functional.pad(images, (left, right, top, bottom)), 0, 0
    if plane.kernel == plane.stride == (1, 1) and top == left == 0:
        return images.flatten(2)
    return functional.unfold(images, plane.kernel, plane.dilation, (top, left), plane.stride)


def _moment(columns: Tensor, batch: int) -> Tensor:
    """Σ r rᵀ over images and positions of columns [batch * N, d, positions]: [batch, d, d]."""
    rows = torch.unflatten(columns, 0, (batch, -1)).transpose(1, 2).flatten(2)
    return rows @ rows.mT


def _window_sums(images: Tensor, plane: _Plane) -> Tensor:
    """Sum over outputs of the pixels under each kernel position: images [M, c, H, W] to [M, c, ky, kx]."""
    (ky, kx), (high, wide) = plane.kernel, plane.outputs(images)
    sums = images.new_zeros(*images.shape[:2], ky, kx)
    for py in range(ky):
        lines = images[..., _pixels_under(py * plane.dilation[0], plane.padding[0][0], plane.stride[0], high), :].sum(
            -2
        )
        for px in range(kx):
            places = _pixels_under(px * plane.dilation[1], plane.padding[1][0], plane.stride[1], wide)
            sums[..., py, px] = lines[..., places].sum(-1)
    return sums


def _pixels_under(offset: int, padding: int, stride: int, outputs: int) -> slice:
    """Slice of the pixels under one kernel offset, over outputs 0 to `outputs`."""
    start, last = offset - padding, offset - padding + stride * (outputs - 1)
    if last < 0:
        return slice(0)
    return slice(start if start >= 0 else start % stride, last + 1, stride)


def _pair(values: tuple[int, ...]) -> Pair:
    return (values[0], values[1]) if len(values) == 2 else (1, values[0])
