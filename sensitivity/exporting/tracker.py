"""``Tracker``: interface of a destination. The file of a tool has ``open_tracker(address, study) -> Tracker``."""

from __future__ import annotations

from typing import Protocol

from sensitivity.exporting.artefacts import Artefacts
from sensitivity.exporting.runs import FinishedRun


class Tracker(Protocol):
    """Connection to an experiment tracker for the runs of one study.

    Any method may raise exceptions of the tool's library: the caller reports them as one warning, and tries again later
    with a new tracker. A run left incomplete by a killed process is removed or replaced, so that the target has each
    run once.
    """

    @property
    def where(self) -> str:
        """Description of where the runs can be viewed."""

    def known(self) -> set[str]:
        """Return the ids of the trials whose complete runs the target has."""

    def send(self, run: FinishedRun) -> None:
        """Send a run that the target lacks; once this returns, `known` includes it."""

    def send_study(self, artefacts: Artefacts) -> None:
        """Send the verdict, the report and the figures, replacing earlier ones; do nothing if they are unchanged."""

    def close(self) -> None:
        """Wait until everything has been sent, and close the connection."""
