"""Text as token sequences: the default ``text``, or a file or folder ``text:PATH``, tokenised once.

The text is split first, by whole documents drawn with `split_seed` (the books of the default text, the files of a
folder); the test split of a single file is its end. Each split is a stream of token ids that all workers of a node map
into memory. Examples are consecutive windows of `sequence_length` tokens, and targets are the same windows shifted by
one token, so that every position has a target and there is no padding.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sensitivity.study.errors import UserError
from sensitivity.study.paths import expanded, path_faults
from sensitivity.study.problem import ProblemSpec
from sensitivity.training.datasets.data_folder import data_folder, writing
from sensitivity.training.datasets.dataset import Dataset
from sensitivity.training.datasets.kept import kept
from sensitivity.training.datasets.kjv import DIGEST, books
from sensitivity.training.datasets.tokenizers import Tokenizer, byte_pairs, characters, utf8_bytes

_FILES = ("train.npy", "test.npy", "tokenizer.txt")
_FORM = 1
"""Incremented whenever the same text would be tokenised or split differently."""


@dataclass(frozen=True)
class _Documents:
    """The documents of a text."""

    read: Callable[[], tuple[str, ...]]
    fingerprint: str
    """Hash of all documents."""


def text(spec: ProblemSpec, *, beside: Path | None) -> Dataset:
    """Return a text as windows of tokens, where `beside` is the folder of the study file.

    Raises:
        UserError: the text is unavailable, empty, or shorter than a sequence.
    """
    documents = _Documents(books, DIGEST[:16]) if spec.path is None else _documents(_find(spec.path, beside))
    assert spec.tokenizer is not None
    assert spec.sequence_length is not None
    how = spec.tokenizer + (f"-{spec.vocabulary}" if spec.vocabulary else "")
    key = f"text-{documents.fingerprint}-{how}-{spec.test_fraction}-{spec.split_seed}-{_FORM}"
    folder, about = kept(key, _FILES, lambda scratch: _tokenise(documents, spec, scratch))
    train_inputs, train_targets = _windows(folder / "train.npy", spec, "training")
    test_inputs, test_targets = _windows(folder / "test.npy", spec, "test")
    return Dataset(
        train_inputs=train_inputs,
        train_targets=train_targets,
        test_inputs=test_inputs,
        test_targets=test_targets,
        token_bytes=torch.tensor(about["token_bytes"]),
        fingerprint="" if spec.dataset == "text" else documents.fingerprint,
    )


def _find(named: str, beside: Path | None) -> Path:
    path = expanded(named, what="problem.dataset")
    places = [path] if path.is_absolute() else [*([] if beside is None else [beside / path]), data_folder() / path]
    for place in places:
        with path_faults(place, "Give the path of a readable file or folder"):
            if place.exists():
                return place.resolve()
    raise UserError(
        f"problem.dataset: there is no file or folder {named!r}; tried\n"
        + "\n".join(f"    {place}" for place in places)
        + "\n  Put a text file there, or a folder of text files"
    )


def _documents(root: Path) -> _Documents:
    """Return the documents at a path, hashed but not decoded yet."""
    with path_faults(root, "Make it readable"):
        files = [root]
        if root.is_dir():
            files = sorted(p for p in root.rglob("*") if p.is_file() and not _is_hidden(p.relative_to(root)))
        files = [file for file in files if file.stat().st_size]
        whole = hashlib.sha256()
        for file in files:
            with file.open("rb") as content:
                digest = hashlib.file_digest(content, "sha256").hexdigest()
            name = file.relative_to(root).as_posix() if root.is_dir() else ""
            whole.update(f"{name}\0{digest}\0".encode("utf-8", "surrogateescape"))
    if not files:
        what = "contains no text" if root.is_dir() else "is empty"
        raise UserError(f"problem.dataset: {root} {what}\n  Give a text file in UTF-8, or a folder of such files")
    return _Documents(lambda: tuple(map(_decoded, files)), whole.hexdigest()[:16])


def _decoded(file: Path) -> str:
    with path_faults(file, "Save it as UTF-8, or remove it from the folder"):
        return file.read_text(encoding="utf-8")


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _tokenise(documents: _Documents, spec: ProblemSpec, folder: Path) -> dict[str, Any]:
    """Write both streams and the tokenizer to a folder; return the number of bytes of each token."""
    train, test = _split(documents.read(), spec)
    tokenizer = _tokenizer(train, test, spec)
    with writing():
        np.save(folder / "train.npy", tokenizer.encode(train))
        np.save(folder / "test.npy", tokenizer.encode(test))
        (folder / "tokenizer.txt").write_text(tokenizer.written, encoding="utf-8")
    return {"token_bytes": list(tokenizer.token_bytes)}


def _tokenizer(train: str, test: str, spec: ProblemSpec) -> Tokenizer:
    if spec.tokenizer == "bytes":
        return utf8_bytes()
    if spec.tokenizer == "characters":
        return characters(train + test)  # includes characters that occur in the test text only
    assert spec.vocabulary is not None
    return byte_pairs(train, spec.vocabulary)


def _split(texts: tuple[str, ...], spec: ProblemSpec) -> tuple[str, str]:
    """Return the training and the test text, each with its documents in the original order."""
    total = sum(map(len, texts))
    most = spec.test_fraction * total
    if len(texts) == 1:
        cut = total - round(most)
        return texts[0][:cut], texts[0][cut:]
    order = np.random.default_rng(spec.split_seed).permutation(len(texts))
    tested, taken = set[int](), 0
    for place in map(int, order):  # documents that still fit, to approximate the fraction closely
        if taken + len(texts[place]) <= most:
            tested.add(place)
            taken += len(texts[place])
    if not tested:
        tested.add(min(range(len(texts)), key=lambda place: len(texts[place])))
    return (
        "".join(part for place, part in enumerate(texts) if place not in tested),
        "".join(part for place, part in enumerate(texts) if place in tested),
    )


def _windows(path: Path, spec: ProblemSpec, split: str) -> tuple[Tensor, Tensor]:
    """Return views of a stream: windows ``[examples, time]``, and the same shifted by one token."""
    # Copy on write, because torch does not support read-only arrays; nothing is ever written.
    stream: npt.NDArray[Any] = np.load(path, mmap_mode="c")
    length = spec.sequence_length
    assert length is not None
    count = (len(stream) - 1) // length
    if count < 1:
        raise UserError(
            f"problem.sequence_length: {length} tokens plus the next one are more than the {split} text of "
            f"{spec.dataset} has ({len(stream):,})\n  Use shorter sequences or more text, or change test_fraction"
        )
    ids = torch.from_numpy(stream)
    return ids[: count * length].view(count, length), ids[1 : count * length + 1].view(count, length)
