"""``Tracker``: what a destination does. Its file has ``open_tracker(address, study) -> Tracker``."""

from __future__ import annotations

from typing import Protocol

from sensitivity.exporting.artefacts import Artefacts
from sensitivity.exporting.runs import FinishedRun


class Tracker(Protocol):
    """A tool that tracks runs, ready for those of one study.

    Any method may raise whatever the tool's library raises: the caller turns it into one warning, and tries again later
    with a new tracker. A run that a killed process has left half-way is removed or replaced, so that each run is there
    once.
    """

    @property
    def where(self) -> str:
        """What to look at, in words."""

    def known(self) -> set[str]:
        """Return the ids of the trials whose runs are there, whole."""

    def send(self, run: FinishedRun) -> None:
        """Send a run that isn't there; once this returns, `known` has it."""

    def send_study(self, artefacts: Artefacts) -> None:
        """Send the verdict, the report and the figures, in place of earlier ones; nothing if they are there already."""

    def close(self) -> None:
        """Wait until all has arrived, and let go."""
