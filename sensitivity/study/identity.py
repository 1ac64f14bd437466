"""Digests of the data and of the network's initialisation, to detect later changes.

A recipe (the study file, the user's source) does not say what data a function returned, or which weights a network
began with. So digests of both are taken when a study is planned, kept in study.json, and compared in every process
before its first step.

Two digests are of the same arrays if their bytes are equal, or if all that differs is the rounding of floating-point
numbers: another processor, number of threads or version of a library may standardise data with another last bit. For
that the digest holds a projection ``p = sum_ij r_i c_j x_ij / s_j + sqrt(n) sum_j c_j log(s_j)`` with fixed weights
drawn from ±[0.5, 1.5], which any change of a value or of the order of examples moves, and the norm of x / s to measure
its difference by. The scale s_j is the root mean square of column j over the n examples: without it, a column of large
numbers, such as times in seconds, would hide changes of all others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

ROUNDING = 1e-6
"""Of the norm: differences below it are rounding."""
NETWORK_SEED = 0
"""The network is compared as this seed initialises it: always the same one, so that seeds may be added to a study."""


@dataclass(frozen=True, kw_only=True)
class Digest:
    """The digest of one or several arrays."""

    form: str
    """Types and shapes, and a hash of what is not floating-point: never rounded."""
    sha256: str
    """Of all bytes."""
    projection: float
    """See the module; 0 without floating-point numbers."""
    norm: float
    """Euclidean, of the floating-point numbers, each divided by the scale of its column."""

    def is_same(self, other: Digest) -> bool:
        """Whether both are digests of the same arrays, apart from rounding."""
        if self.sha256 == other.sha256 or self.form != other.form:
            return self.sha256 == other.sha256
        most = ROUNDING * self.norm
        return abs(self.projection - other.projection) <= most and abs(self.norm - other.norm) <= most


@dataclass(frozen=True, kw_only=True)
class Identity:
    """Digests of a study's training and test data and of its network."""

    train_inputs: Digest
    train_targets: Digest
    test_inputs: Digest
    test_targets: Digest
    network: Digest
    """Parameters and buffers at `NETWORK_SEED`."""

    def differences(self, now: Identity) -> list[str]:
        """Describe which parts differ `now`, with their types and shapes."""
        lines = []
        for field in fields(self):
            before, after = getattr(self, field.name), getattr(now, field.name)
            if not before.is_same(after):
                forms = f"{before.form} there, {after.form} now"
                what = forms if before.form != after.form else f"other values, {after.form} as before"
                lines.append(f"{_name(field.name)}: {what}")
        return lines

    def content(self) -> dict[str, Any]:
        """Return it as JSON-like data."""
        return asdict(self)

    @classmethod
    def of_content(cls, content: Mapping[str, Any]) -> Identity:
        """Restore an identity from the result of `content`.

        Raises:
            KeyError, TypeError, ValueError: it is something else.
        """
        return cls(
            **{
                field.name: Digest(
                    form=str(content[field.name]["form"]),
                    sha256=str(content[field.name]["sha256"]),
                    projection=float(content[field.name]["projection"]),
                    norm=float(content[field.name]["norm"]),
                )
                for field in fields(cls)
            }
        )


def _name(field: str) -> str:
    if field == "network":
        return f"network, initial parameters at seed {NETWORK_SEED}"
    return f"data, {field.replace('_', ' ')}"
