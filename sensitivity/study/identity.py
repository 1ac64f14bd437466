"""Digests of the data and of the network's initialisation, to detect later changes.

The study file and the user's source do not determine which data a function returned or which weights a network
started from. Therefore digests of both are computed when a study is planned, stored in study.json, and compared in
every process before the first step.

Two digests match if the bytes of the arrays are equal or if floating-point values differ by rounding only: a different
processor, thread count or library version may change the last bit when data are standardised. To tolerate this, a
digest contains the projection ``p = sum_ij r_i c_j x_ij / s_j + sqrt(n) sum_j c_j log(s_j)`` with fixed weights drawn
from ±[0.5, 1.5], which changes with any value and with the order of examples, and the norm of x / s, relative to which
differences are measured. The scale s_j is the root mean square of column j over the n examples; without it, a column
of large numbers, such as times in seconds, would mask changes in the others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

ROUNDING = 1e-6
"""Tolerance relative to the norm; smaller differences count as rounding."""
NETWORK_SEED = 0
"""Seed of the initialisation that is compared; constant, so that seeds can be added to a study."""


@dataclass(frozen=True, kw_only=True)
class Digest:
    """The digest of one or several arrays."""

    form: str
    """Types and shapes, and a hash of the values that are not floating-point, which must match exactly."""
    sha256: str
    """Hash of all bytes."""
    projection: float
    """See the module's docstring; 0 without floating-point values."""
    norm: float
    """Euclidean norm of the floating-point values, each divided by the scale of its column."""

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
        """Describe the parts that differ from those in `now`, with their types and shapes."""
        lines = []
        for field in fields(self):
            before, after = getattr(self, field.name), getattr(now, field.name)
            if not before.is_same(after):
                forms = f"{before.form} when planned, {after.form} now"
                what = forms if before.form != after.form else f"other values, {after.form} as before"
                lines.append(f"{_name(field.name)}: {what}")
        return lines

    def content(self) -> dict[str, Any]:
        """Return the identity as JSON-like data."""
        return asdict(self)

    @classmethod
    def of_content(cls, content: Mapping[str, Any]) -> Identity:
        """Restore an identity from the result of `content`.

        Raises:
            KeyError, TypeError, ValueError: `content` is something else.
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
