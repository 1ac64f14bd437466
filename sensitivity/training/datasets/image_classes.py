"""The classes of a folder of images, determined by the content of its subfolders rather than only by their names.

A split is a folder of class folders, and a class is a folder of images, whatever their names; ``train`` may be either.
"""

from __future__ import annotations

import logging
import os
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from sensitivity.study.errors import UserError

logger = logging.getLogger(__name__)

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
_SPLITS = ("train", "test")
_OTHER_NAMES = {
    "train": ("training", "trainset", "train_set"),
    "test": ("testing", "testset", "test_set", "val", "valid", "validation", "dev", "eval"),
}
"""Common alternative names of the two splits."""
_SHOWN = 5


def classes_in(root: Path) -> tuple[list[Path], list[str]]:
    """Return the folders of the training and test splits, empty if the study defines the split, and the class names.

    Raises:
        UserError: the folders have neither form, or class names are indistinguishable.
        OSError: a folder can't be read.
    """
    splits = _splits(root)
    first = splits[0] if splits else root
    names = _folders(first)
    if len(names) < 2:
        raise UserError(
            f"{first}: {len(names)} class folders; there must be at least two\n"
            "    Put the images of each class into a separate folder"
        )
    for split in splits or [root]:
        _refuse_look_alikes(split, _folders(split))
    if splits and (different := set(names) ^ set(_folders(splits[1]))):
        _refuse_look_alikes(root, {*names, *_folders(splits[1])})
        raise UserError(
            f"{root}: train/ and test/ must have the same class folders; only one has {some(sorted(different))}\n"
            "  Add the missing folders with images, or remove the others"
        )
    return splits, names


def _splits(root: Path) -> list[Path]:
    """Return train/ and test/ if they are splits; empty if the folders of `root` are classes."""
    folders = _folders(root)
    of_folders = [name for name in folders if _folders(root / name)]
    whole = all(name in of_folders for name in _SPLITS)
    if both := [name for name in (_SPLITS if whole else of_folders) if _has_images(root / name)]:
        raise UserError(
            f"{root}: {both[0]}/ contains images and folders; a split contains class folders, a class contains images\n"
            "  Move the images into the folders of their classes"
        )
    if whole:
        if others := [name for name in folders if name not in _SPLITS]:
            logger.warning("%s: only train/ and test/ are read, not %s", root, some(others))
        return [root / name for name in _SPLITS]
    if of_folders:
        raise UserError(f"{root}: {_not_two_splits(folders, of_folders)}")
    named = [name for name in folders if any(name.lower() in (split, *_OTHER_NAMES[split]) for split in _SPLITS)]
    if folders and named == folders:
        raise UserError(
            f"{root}: {some([f'{name}/' for name in folders])} contain images, but no class folders\n"
            "    Put the images of each class into a separate folder: train/CLASS/IMAGE and test/CLASS/IMAGE"
        )
    return []


def _not_two_splits(folders: Sequence[str], of_folders: Sequence[str]) -> str:
    """Return a message with the fix for folders of class folders other than train/ and test/."""
    present = [name for name in _SPLITS if name in of_folders]
    missing = [name for name in _SPLITS if name not in of_folders]
    for name in missing:
        if name in folders:
            return (
                f"{present[0] if present else of_folders[0]}/ contains class folders, but {name}/ does not\n"
                f"  Put its images into {name}/CLASS/IMAGE"
            )
    instead = {
        name: other
        for name in missing
        for other in of_folders
        if other.lower() in (name, *_OTHER_NAMES[name]) and other not in present
    }
    if len(instead) == len(missing):
        renamed = " and ".join(f"{other}/ to {name}/" for name, other in instead.items())
        there = " and ".join(f"{other}/ in place of {name}/" for name, other in instead.items())
        return f"there is {there}\n  Rename {renamed}, or link it by that name"
    if present:
        return (
            f"there is {present[0]}/ but no {missing[0]}/\n  Add {missing[0]}/CLASS/IMAGE, or put the class folders "
            "into the folder itself: test_fraction then splits them"
        )
    return (
        f"{some([f'{name}/' for name in of_folders])} contain folders, not images\n"
        "  Give train/CLASS/IMAGE and test/CLASS/IMAGE, or CLASS/IMAGE"
    )


def _folders(folder: Path) -> list[str]:
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if not entry.name.startswith(".") and entry.is_dir())


def _has_images(folder: Path) -> bool:
    with os.scandir(folder) as entries:
        return any(entry.name.lower().endswith(SUFFIXES) and not entry.is_dir() for entry in entries)


def _refuse_look_alikes(folder: Path, names: Iterable[str]) -> None:
    """Raise an error if names differ only in their Unicode normalisation form."""
    alike: dict[str, list[str]] = defaultdict(list)
    for name in sorted(names):
        alike[unicodedata.normalize("NFC", name)].append(name)
    for same in alike.values():
        if len(same) > 1:
            raise UserError(
                f"{folder}: class folders {' and '.join(map(ascii, same))} have one name in different Unicode forms "
                f"(both look like {same[0]!r})\n  Merge the folders, or convert the names: convmv -f utf8 -t utf8 "
                "--nfc -r --notest FOLDER"
            )


def some(names: Sequence[str]) -> str:
    """Return the first few names as a comma-separated list, with the number of others."""
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
