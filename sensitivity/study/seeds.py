"""Every random stream of a run is derived from its seed and the stream's purpose alone.

So runs that share a seed share their initialisation and their data order across optimizers, batch
sizes and hyperparameters, and comparisons are paired.
"""

from __future__ import annotations

import hashlib
from typing import Literal

Purpose = Literal["init", "order", "fisher", "layer", "dropout", "augment"]


def derive(seed: int, purpose: Purpose) -> int:
    """Return the 32-bit seed of a stream: the first four bytes, big-endian, of SHA-256 of ``"purpose/seed"``.

    32 bits, because torch's CPU generator ignores the rest. Distinct purposes give unrelated streams.
    """
    return int.from_bytes(hashlib.sha256(f"{purpose}/{seed}".encode()).digest()[:4], "big")
