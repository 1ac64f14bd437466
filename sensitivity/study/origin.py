"""``Origin``: everything a problem is loaded from, and the expected result."""

from __future__ import annotations

from dataclasses import dataclass

from sensitivity.study.identity import Identity
from sensitivity.study.problem import ProblemSpec
from sensitivity.study.snapshot import Snapshot


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Everything that is needed to load a problem on any machine; sent with each pack and stored with the study."""

    problem: ProblemSpec
    snapshot: Snapshot
    """The user's own modules."""
    identity: Identity
    """The expected digests of data and network."""

    @property
    def folder(self) -> str:
        """The study file's folder, for relative paths."""
        return self.snapshot.roots[0]
