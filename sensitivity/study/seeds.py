"""Derivation of every random stream of a run from its seed and the purpose of the stream.

Runs with the same seed therefore share initialisation and data order across optimizers, batch sizes and
hyperparameters, so comparisons are paired.
"""

from __future__ import annotations

import hashlib
from typing import Literal

Purpose = Literal["init", "order", "fisher", "layer", "dropout", "augment"]


def derive(seed: int, purpose: Purpose) -> int:
    """Return the 32-bit seed of a stream: the first four bytes, big-endian, of SHA-256 of ``"purpose/seed"``.

    It has 32 bits because torch's CPU generator ignores the rest. Different purposes give independent streams.
    """
    return int.from_bytes(hashlib.sha256(f"{purpose}/{seed}".encode()).digest()[:4], "big")
