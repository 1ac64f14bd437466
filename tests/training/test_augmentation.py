"""Crops and flips compared with processing single images by hand; each member uses its own stream."""

import pytest
import torch

from sensitivity.study.seeds import derive
from sensitivity.training.augmentation import PackAugmentation, augmented, crop_flip


def apply(augmentation, batch):
    """The next images of each stream, augmented."""
    return augmented(batch, augmentation.draw(batch.shape[1]))


def images(*shape, seed=0):
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def by_hand(image, code):
    """One image, pixel by pixel."""
    height, width = image.shape[1:]
    top, left, flip = code // 18 - 4, code // 2 % 9 - 4, code % 2
    result = torch.zeros_like(image)
    for row in range(height):
        for column in range(width):
            from_row, from_column = row + top, (width - 1 - column if flip else column) + left
            if 0 <= from_row < height and 0 <= from_column < width:
                result[:, row, column] = image[:, from_row, from_column]
    return result


@pytest.mark.parametrize("size", [(3, 6, 6), (1, 5, 9), (2, 3, 2)])
def test_every_crop_and_flip(size):
    codes = torch.arange(162)
    batch = images(162, *size)
    expected = torch.stack([by_hand(image, code) for image, code in zip(batch, codes.tolist(), strict=True)])
    assert torch.equal(crop_flip(batch, codes), expected)
    packed = crop_flip(batch.view(2, 81, *size), codes.view(2, 81))
    assert torch.equal(packed, expected.view(2, 81, *size))


def test_floats_are_cropped_alike():
    batch, codes = images(20, 3, 8, 8), torch.arange(20) * 8
    assert torch.equal(crop_flip(batch.double(), codes), crop_flip(batch, codes).double())


def test_members_equal_the_same_alone_and_draw_from_their_seeds():
    seeds, batch = [3, 5, 3], images(3, 10, 3, 8, 8)
    packed = PackAugmentation(seeds)
    alone = [PackAugmentation([seed]) for seed in seeds]
    for _ in range(3):
        together = apply(packed, batch)
        for k in range(3):
            assert torch.equal(together[k], apply(alone[k], batch[k : k + 1])[0])
    packed.select([1])
    assert torch.equal(apply(packed, batch[:1]), apply(alone[1], batch[:1]))


def test_the_stream_does_not_depend_on_how_batches_are_cut():
    batch = images(1, 30, 3, 8, 8)
    whole = apply(PackAugmentation([2]), batch)
    parts = PackAugmentation([2])
    assert torch.equal(torch.cat([apply(parts, part) for part in batch.split((7, 1, 22), dim=1)], dim=1), whole)


def test_a_stream_goes_on_after_any_number_of_images(monkeypatch):
    monkeypatch.setattr("sensitivity.training.augmentation._SKIPPED_AT_ONCE", 7)
    batch = images(1, 30, 1, 4, 4)
    whole = apply(PackAugmentation([3]), batch)
    for skipped in (0, 6, 7, 20):
        assert torch.equal(apply(PackAugmentation([3], skipped=skipped), batch[:, skipped:]), whole[:, skipped:])


def test_shared_images_are_augmented_once():
    batch = images(1, 10, 3, 8, 8).expand(4, -1, -1, -1, -1)
    shared = apply(PackAugmentation([7] * 4), batch)
    assert shared.stride(0) == 0
    assert torch.equal(shared, apply(PackAugmentation([7] * 4), batch.contiguous()))


def test_all_crops_and_flips_are_equally_likely():
    # One white pixel in the middle shows the offset, and the left of two columns shows the flip.
    image = torch.zeros(1, 1, 11, 11, dtype=torch.uint8)
    image[..., 5, 5] = 255
    image[..., 5, 4] = 1
    result = apply(PackAugmentation([0]), image.expand(16_200, -1, -1, -1)[None])[0, :, 0]
    place = result.flatten(1).argmax(1)
    flipped = result.flatten(1).gather(1, (place - 1)[:, None])[:, 0] == 0
    kinds = torch.bincount(place * 2 + flipped, minlength=242)
    assert (kinds > 0).sum() == 162
    expected = 100.0
    chi_squared = ((kinds[kinds > 0] - expected).square() / expected).sum()
    assert chi_squared < 161 + 4 * (2 * 161) ** 0.5


def test_the_generator_is_the_seeds_own():
    generator = torch.Generator().manual_seed(derive(9, "augment"))
    batch = images(1, 50, 1, 4, 4)
    codes = torch.randint(162, (50,), generator=generator)
    assert torch.equal(apply(PackAugmentation([9]), batch)[0], crop_flip(batch[0], codes))
