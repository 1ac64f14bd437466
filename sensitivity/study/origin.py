"""``Origin``: all that a problem is loaded from, and what must come of it."""

from __future__ import annotations

from dataclasses import dataclass

from sensitivity.study.identity import Identity
from sensitivity.study.problem import ProblemSpec
from sensitivity.study.snapshot import Snapshot


@dataclass(frozen=True, kw_only=True)
class Origin:
    """What a problem is loaded from, wherever that is; it travels with the packs and is kept with the study."""

    problem: ProblemSpec
    snapshot: Snapshot
    """The user's own modules."""
    identity: Identity
    """What must come of them."""

    @property
    def folder(self) -> str:
        """Where the study file lies, for paths relative to it."""
        return self.snapshot.roots[0]
