"""Tokenizers: characters, bytes, or a byte-level BPE trained on the text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sensitivity.study.errors import UserError

Ids = npt.NDArray[Any]
_BYTES = 256
_WIDE = np.iinfo(np.uint8).max + 1
"""Largest vocabulary whose ids fit in bytes."""


@dataclass(frozen=True)
class Tokenizer:
    """Maps text to ids from 0 to below the vocabulary size."""

    encode: Callable[[str], Ids]
    token_bytes: tuple[int, ...]
    """Number of UTF-8 bytes of each token; its length is the vocabulary size."""
    written: str = ""
    """Serialised form stored with the ids: the characters, or the merges as JSON."""


def characters(text: str) -> Tokenizer:
    """Return the tokenizer whose tokens are the characters of `text`, by their code points."""
    alphabet = np.unique(_code_points(text))
    known = "".join(map(chr, alphabet))

    def encode(part: str) -> Ids:
        return np.searchsorted(alphabet, _code_points(part)).astype(narrowest(len(alphabet)))

    return Tokenizer(encode, tuple(len(each.encode()) for each in known), known)


def utf8_bytes() -> Tokenizer:
    """Return the tokenizer whose tokens are the 256 bytes."""
    return Tokenizer(lambda part: np.frombuffer(part.encode(), np.uint8), (1,) * _BYTES)


def byte_pairs(text: str, vocabulary: int) -> Tokenizer:
    """Return a byte-level BPE (Sennrich et al. 2016; Radford et al. 2019) of `vocabulary` tokens, trained on `text`.

    Raises:
        UserError: the package tokenizers is not installed, or the text is too short for this vocabulary.
    """
    try:
        import tokenizers
    except ImportError:
        raise UserError(
            'problem.tokenizer: "bpe" needs the package tokenizers\n'
            "  Install it: python -m pip install 'sensitivity[text]'"
        ) from None
    pieces = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    model = tokenizers.Tokenizer(tokenizers.models.BPE())
    model.pre_tokenizer = pieces
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocabulary, initial_alphabet=sorted(pieces.alphabet()), show_progress=False
    )
    model.train_from_iterator(text.splitlines(keepends=True), trainer)
    if (size := model.get_vocab_size()) < vocabulary:
        raise UserError(
            f"problem.vocabulary: the training text yields at most {size:,} tokens; use a smaller one, or more text"
        )

    def encode(part: str) -> Ids:
        lines: Sequence[Any] = model.encode_batch(part.splitlines(keepends=True))
        ids = [each.ids for each in lines]
        return np.concatenate([np.asarray(each, narrowest(size)) for each in ids]) if ids else np.empty(0, np.uint8)

    lengths = [0] * size
    for token, number in model.get_vocab().items():  # tokens are written with one letter per byte
        lengths[number] = len(token)
    return Tokenizer(encode, tuple(lengths), model.to_str())


def narrowest(vocabulary: int) -> type[np.uint8] | type[np.int32]:
    """Return the narrowest dtype that can represent the ids of a vocabulary and that torch can index with."""
    return np.uint8 if vocabulary <= _WIDE else np.int32


def _code_points(text: str) -> Ids:
    return np.frombuffer(text.encode("utf-32-le"), "<u4")
