"""A user's folder of images, ``imagefolder:PATH``, decoded once.

PATH contains ``train/CLASS/IMAGE`` and ``test/CLASS/IMAGE``, or ``CLASS/IMAGE``, of which the study holds out
`test_fraction` (see ``image_classes``). A relative PATH is relative to the study file or else to the data folder.

Images are decoded to 8 bits per channel: one channel if all are grayscale, otherwise three, where grayscale images get
equal channels. Palettes are applied, transparency is dropped, and EXIF orientation is applied. All images must have the
same size unless the study sets `image_size`, to which the shorter side is scaled before cropping the centre.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageOps

from sensitivity.study.errors import UserError
from sensitivity.study.paths import expanded, path_faults
from sensitivity.study.problem import IMAGE_FOLDER, ProblemSpec
from sensitivity.study.whole_files import write_whole
from sensitivity.training.datasets.data_folder import data_folder, reserve, writing
from sensitivity.training.datasets.dataset import Dataset
from sensitivity.training.datasets.image_arrays import image_arrays
from sensitivity.training.datasets.image_classes import SUFFIXES, classes_in, some

logger = logging.getLogger(__name__)

_GRAY = ("1", "L", "LA")
_DEEP = ("I", "I;16", "I;16B", "I;16L", "F")
_ORIENTATION = 0x0112
_SIDEWAYS = (5, 6, 7, 8)
"""EXIF orientations that swap height and width."""
_FORM = 1
"""Incremented whenever the same files would be decoded to different arrays."""
_SHOWN = 5
"""Maximum number of damaged images named in a message."""


@dataclass(frozen=True)
class _Listing:
    """The images of a folder, by split and class."""

    root: Path
    paths: tuple[Path, ...]
    """Training images first; shuffled within splits, so that a leading subset contains all classes."""
    classes: tuple[int, ...]
    """Class of each image, as the index of its name among the sorted names."""
    train_size: int | None
    """Number of training images; None if the study defines the split."""


def image_folder(spec: ProblemSpec, *, beside: Path | None) -> Dataset:
    """Return the images of ``imagefolder:PATH``, where `beside` is the folder of the study file.

    Raises:
        UserError: the folder or its images are invalid.
    """
    listing = _listing(_find(spec.dataset.removeprefix(IMAGE_FOLDER).strip(), beside))
    content = _content(listing)
    size = spec.image_size or "own"
    arrays = image_arrays(f"imagefolder-{content}-{size}-{_FORM}", lambda scratch: _decode(listing, spec, scratch))
    return arrays.dataset(spec, fingerprint=content)


def _find(named: str, beside: Path | None) -> Path:
    path = expanded(named, what="problem.dataset")
    places = [path] if path.is_absolute() else [*([] if beside is None else [beside / path]), data_folder() / path]
    for place in places:
        with path_faults(place, "Give the path of a readable folder"):
            if place.is_dir():
                return place.resolve()
    raise UserError(
        f"problem.dataset: there is no folder {named!r}; tried\n"
        + "\n".join(f"    {place}" for place in places)
        + "\n  Put train/CLASS/IMAGE and test/CLASS/IMAGE there, or CLASS/IMAGE"
    )


def _listing(root: Path) -> _Listing:
    with path_faults(root, "Make it and its subfolders readable, or use another folder"):
        splits, names = classes_in(root)
        files = {split / name: _images(split / name) for split in splits or [root] for name in names}
    images: list[tuple[Path, int]] = []
    sizes = []
    for split in splits or [root]:
        of_split = []
        for number, name in enumerate(names):
            found = files[split / name]
            if not splits and len(found) < 2:
                raise UserError(f"{split / name}: one image can't be split into training and test; add more")
            of_split += [(path, number) for path in found]
        order = torch.randperm(len(of_split), generator=torch.Generator().manual_seed(0))
        images += [of_split[k] for k in order.tolist()]
        sizes.append(len(images))
    paths, classes = zip(*images, strict=True)
    return _Listing(root, paths, classes, sizes[0] if splits else None)


def _images(folder: Path) -> list[Path]:
    found = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    if others := [path.name for path in found if path.is_dir() or path.suffix.lower() not in SUFFIXES]:
        raise UserError(f"{folder}: no images: {some(others)}. Remove them; images end in {', '.join(SUFFIXES)}")
    if not found:
        raise UserError(f"{folder}: contains no images; add some, or remove the folder (in train/ and test/)")
    return found


def _content(listing: _Listing) -> str:
    """Return the hash of all names and bytes; reads the files only if a name, size or modification time changed."""
    try:
        stamps = hashlib.sha256(os.fsencode(listing.root))
        for path in listing.paths:
            stat = path.stat()
            stamps.update(_encoded(path, listing.root) + f"\0{stat.st_size}\0{stat.st_mtime_ns}\0".encode())
        known = data_folder() / "seen" / stamps.hexdigest()[:32]
        if known.is_file():
            return known.read_text()
        digest = hashlib.sha256()
        for path in _shown(listing.paths, "reading"):
            content = hashlib.sha256(path.read_bytes()).hexdigest()
            digest.update(_encoded(path, listing.root) + f"\0{content}\0".encode())
    except OSError as error:
        raise UserError(f"{error.filename}: can't be read ({error.strerror}); allow reading, or remove it") from None
    found = digest.hexdigest()[:16]
    with writing():
        write_whole(known, found.encode())  # atomically, because other processes may read or write it
    return found


def _encoded(path: Path, root: Path) -> bytes:
    """Return a name relative to `root` as UTF-8, or its raw bytes if it is not text."""
    return path.relative_to(root).as_posix().encode("utf-8", "surrogateescape")


def _decode(listing: _Listing, spec: ProblemSpec, scratch: Path) -> tuple[npt.NDArray[np.int64], int | None]:
    height, width, channels = _common_shape(listing, spec.image_size)
    shape = (len(listing.paths), channels, height, width)
    with writing():
        images = np.lib.format.open_memmap(scratch / "images.npy", mode="w+", dtype=np.uint8, shape=shape)
        reserve(scratch / "images.npy")
    bad = []
    for k, path in enumerate(_shown(listing.paths, "decoding")):
        try:
            with Image.open(path) as image:
                images[k] = _pixels(image, channels, spec.image_size)
        except Exception as error:  # Pillow's readers raise various types for damaged files
            bad.append((path, error))
    _refuse(listing, bad)
    images.flush()
    return np.asarray(listing.classes, np.int64), listing.train_size


def _common_shape(listing: _Listing, image_size: int | None) -> tuple[int, int, int]:
    """Return the common height, width and channels of all images, read from their headers."""
    sizes: dict[tuple[int, int], Path] = {}
    gray: list[Path] = []
    bad, deep = [], []
    for path in listing.paths:
        try:
            with Image.open(path) as image:
                turned = image.getexif().get(_ORIENTATION) in _SIDEWAYS
                sizes.setdefault(image.size[::-1] if turned else image.size, path)
                if image.mode in _DEEP:
                    deep.append(path)
                elif image.mode in _GRAY:
                    gray.append(path)
        except Exception as error:
            bad.append((path, error))
    _refuse(listing, bad)
    if deep:
        raise UserError(
            f"{listing.root}: more than 8 bits a channel: {some([str(p.relative_to(listing.root)) for p in deep])}\n"
            "  Convert them to 8 bits in a way that suits their content"
        )
    if image_size is None and len(sizes) > 1:
        examples = [f"{w}×{h} ({path.relative_to(listing.root)})" for (w, h), path in sizes.items()]
        raise UserError(
            f"{listing.root}: images of different sizes: {some(examples)}\n"
            "  Set problem.image_size, to which the shorter side is scaled before cropping the centre"
        )
    if gray and len(gray) < len(listing.paths):
        logger.warning(
            "%s: %d of %d images are grayscale, the others in colour; all are read as colour images",
            listing.root, len(gray), len(listing.paths),
        )  # fmt: skip
    width, height = next(iter(sizes)) if image_size is None else (image_size, image_size)
    return height, width, 1 if len(gray) == len(listing.paths) else 3


def _pixels(image: Image.Image, channels: int, image_size: int | None) -> npt.NDArray[np.uint8]:
    plain = ImageOps.exif_transpose(image).convert("L" if channels == 1 else "RGB")
    if image_size is not None:
        plain = ImageOps.fit(plain, (image_size, image_size), Image.Resampling.BICUBIC)
    pixels = np.asarray(plain, np.uint8)
    return pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)


def _refuse(listing: _Listing, bad: Sequence[tuple[Path, Exception]]) -> None:
    if bad:
        lines = [f"    {path.relative_to(listing.root)}: {error}" for path, error in bad[:_SHOWN]]
        raise UserError(
            f"{listing.root}: {len(bad)} of {len(listing.paths)} images can't be read:\n"
            + "\n".join(lines)
            + "\n  Replace or remove them"
        )


def _shown(paths: Sequence[Path], doing: str) -> Iterator[Path]:
    """Iterate over `paths`, with a progress bar on a terminal."""
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    return iter(track(paths, f"{doing} images", console=console, transient=True, disable=not console.is_terminal))
