"""Augmentation of training images on their device, seeded per member of a pack.

For each image of its stream, a member draws one integer from its own generator, which selects one of 9 x 9 crops and
whether to flip. Hence the augmented images depend on the seed and the position in the stream, not on pack, micro-batch
or device.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from sensitivity.study.seeds import derive

PADDING = 4
_OFFSETS = 2 * PADDING + 1
_SKIPPED_AT_ONCE = 2**20


def crop_flip(images: Tensor, codes: Tensor) -> Tensor:
    """Crop images ``[..., C, H, W]`` to H x W after padding each side by 4 black pixels; flip some left to right.

    Args:
        images: of any dtype; black is 0, as for images stored as bytes.
        codes: ``[...]``, from 0 to 161: (vertical offset x 9 + horizontal offset) x 2 + whether flipped.
    """
    height, width = images.shape[-2:]
    flat, codes = images.flatten(0, -4), codes.flatten()
    flipped, offsets = codes % 2 == 1, codes // 2
    rows = (offsets // _OFFSETS)[:, None] + torch.arange(height, device=images.device)
    columns = torch.arange(width, device=images.device).expand(len(flat), -1)
    columns = (offsets % _OFFSETS)[:, None] + torch.where(flipped[:, None], width - 1 - columns, columns)
    padded = functional.pad(flat, (PADDING,) * 4)
    image = torch.arange(len(flat), device=images.device)
    # Advanced indices around a slice put their dimensions first: [images, height, width, channels].
    taken = padded[image[:, None, None], :, rows[:, :, None], columns[:, None, :]]
    return taken.permute(0, 3, 1, 2).reshape(images.shape)


def augmented(images: Tensor, codes: Tensor) -> Tensor:
    """Return images ``[trials, batch, C, H, W]`` cropped and flipped according to `codes` ``[1 or trials, batch]``.

    If `images` expand those of one member and `codes` have a single row, images are augmented once and expanded.
    """
    if len(codes) == 1 and images.stride(0) == 0:
        return crop_flip(images[0], codes[0]).expand(images.shape)
    return crop_flip(images, codes.expand(len(images), -1))


def _codes(count: int, generator: torch.Generator) -> Tensor:
    return torch.randint(2 * _OFFSETS**2, (count,), generator=generator)


class PackAugmentation:
    """Random crops and flips for a pack's members, each from its own seed; members with equal seeds share draws."""

    def __init__(self, seeds: Sequence[int], *, skipped: int = 0) -> None:
        """Continue after the first `skipped` images of each stream."""
        self._seeds = tuple(seeds)
        self._generators = {
            seed: torch.Generator().manual_seed(derive(seed, "augment")) for seed in dict.fromkeys(seeds)
        }
        for generator in self._generators.values():
            for start in range(0, skipped, _SKIPPED_AT_ONCE):
                _codes(min(_SKIPPED_AT_ONCE, skipped - start), generator)

    def draw(self, count: int) -> Tensor:
        """Return the codes of the next `count` images of each stream ``[trials, count]``; one row if equal."""
        codes = {seed: _codes(count, generator) for seed, generator in self._generators.items()}
        if len(codes) == 1:
            return next(iter(codes.values()))[None]
        return torch.stack([codes[seed] for seed in self._seeds])

    def select(self, index: Sequence[int]) -> None:
        """Keep only the members at `index`."""
        self._seeds = tuple(self._seeds[k] for k in index)
        self._generators = {seed: g for seed, g in self._generators.items() if seed in self._seeds}
