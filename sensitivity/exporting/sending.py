"""Sends the runs of a study that a target lacks; sending again sends only new runs."""

from __future__ import annotations

import importlib
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from sensitivity.exporting.artefacts import write_artefacts
from sensitivity.exporting.runs import final_runs, finished_runs
from sensitivity.exporting.tracker import Tracker
from sensitivity.store.directory import Place
from sensitivity.store.ledger import settling_place
from sensitivity.store.manifest import MANIFEST, read_manifest
from sensitivity.store.reader import read_runs
from sensitivity.study.trackers import Target


@dataclass
class Sender:
    """Sends the finished runs of a study directory, including those of its settlement, to one target."""

    directory: Place
    target: Target
    on_sent: Callable[[], None] = lambda: None
    """Called after each run, and after the artefacts."""
    sent: int = 0
    """Number of runs sent by this sender."""
    _there: set[str] = field(default_factory=set)
    _parts: dict[str, dict[str, pa.Table]] = field(default_factory=dict)
    _tracker: Tracker | None = None

    @property
    def where(self) -> str:
        """Where the runs can be viewed; empty before anything was sent."""
        return "" if self._tracker is None else self._tracker.where

    @property
    def there(self) -> int:
        """Number of runs of the study that the target has."""
        return len(self._there)

    def send_runs(self, *, stopped: Callable[[], bool] = lambda: False) -> None:
        """Send every finished run that the target lacks, until `stopped` returns True.

        Raises:
            Exception: any exception of the tool's library; after `reset`, the next call opens a new connection.
            StorageError: the study can't be read.
        """
        for place in (self.directory, settling_place(self.directory)):
            if not place.exists(MANIFEST):
                continue
            study = read_runs(place, self._parts.setdefault(place.uri, {}))
            final = final_runs(study.runs)
            if final["trial_id"].isin(self._there).all():
                continue
            tracker = self._open(study.manifest.spec.name)
            wanted = final[~final["trial_id"].isin(self._there)]
            more = {} if place is self.directory else {"settling": True}
            for run in finished_runs(place, study, wanted, more):
                if stopped():
                    return
                tracker.send(run)
                self._there.add(run.trial_id)
                self.sent += 1
                self.on_sent()

    def send_study(self) -> None:
        """Send the verdict, the report and the figures.

        Raises:
            Exception: as for `send_runs`.
        """
        tracker = self._open(read_manifest(self.directory).spec.name)
        with tempfile.TemporaryDirectory(prefix="sensitivity-export-") as folder:
            tracker.send_study(write_artefacts(self.directory, Path(folder)))
        self.on_sent()

    def reset(self) -> None:
        """Close the connection, and discard the known contents of the target."""
        tracker, self._tracker, self._there = self._tracker, None, set()
        if tracker is not None:
            tracker.close()

    def close(self) -> None:
        """Wait until everything has been sent."""
        if self._tracker is not None:
            self._tracker.close()

    def _open(self, study: str) -> Tracker:
        if self._tracker is None:
            module = importlib.import_module(f"sensitivity.exporting.destinations.{self.target.kind.module}")
            self._tracker = module.open_tracker(self.target.address, study)
            self._there = self._tracker.known()
        return self._tracker
