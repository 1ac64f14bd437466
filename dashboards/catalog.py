"""The studies below the root, their versions and their tables; each part is read once per version.

A study is identified by the name of its folder. Names from requests are looked up in the listing, never joined to a
path, so no other place can be reached. A version changes whenever the study file or the results do.
"""

from __future__ import annotations

import hashlib
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
import pyarrow as pa

from sensitivity.analysis.evaluations import Evaluations, StoredTables
from sensitivity.analysis.memo import Memo
from sensitivity.analysis.study_results import StudyResults
from sensitivity.analysis.summary import StudySummary, compute_summary
from sensitivity.store.directory import Place
from sensitivity.store.ledger import LEDGER, read_ledger, settling_place
from sensitivity.store.lock import live_holder
from sensitivity.store.logs import log_parts
from sensitivity.store.manifest import MANIFEST, Manifest
from sensitivity.store.notes import note_parts, read_notes
from sensitivity.store.reader import read_runs, studies
from sensitivity.store.schema import RUNS
from sensitivity.study.annotations import NOTHING_NOTED, Annotation, Noted
from sensitivity.study.errors import StorageError, UserError
from sensitivity.study.ledger import Ledger
from sensitivity.study.spec import StudySpec

ROOT_STUDY = "@root"
"""Name of the root itself if it is a study directory."""
_LISTING_S = 1.5
"""Largest age in seconds of a listing, which all open pages share."""
_MAX_STUDIES = 8
_MAX_SUMMARIES = 512


@dataclass(frozen=True)
class Loaded:
    """A study in one version, and its results without filters."""

    name: str
    version: str
    directory: Place
    results: StudyResults
    """Caches everything that is computed; discarded with the version."""

    @property
    def manifest(self) -> Manifest:
        """Content of study.json."""
        return self.results.manifest

    @property
    def spec(self) -> StudySpec:
        """The study file."""
        return self.manifest.spec

    @property
    def runs(self) -> pd.DataFrame:
        """One row per planned run."""
        return self.results.tables.runs


@dataclass(frozen=True)
class Entry:
    """A study in the list of studies."""

    name: str
    spec: StudySpec
    summary: StudySummary
    times: pd.DataFrame
    """started_at and finished_at of each result."""
    ledger: Ledger | None
    """Ledger of the settlement; None if it has not begun."""


@dataclass(frozen=True)
class _Parts:
    """Parts of a study that have been read, which never change."""

    evaluations: Evaluations
    runs: dict[str, pa.Table] = field(default_factory=dict)
    notes: dict[str, Annotation | None] = field(default_factory=dict)


class Catalog:
    """All studies below `root`; thread-safe."""

    def __init__(self, root: Place) -> None:
        self.root = root
        self._loaded = Memo(_MAX_STUDIES)
        self._parts = Memo(_MAX_STUDIES)
        self._entries = Memo(_MAX_SUMMARIES)
        self._lock = threading.Lock()
        self._listed: tuple[float, dict[str, Place]] = (-1e9, {})
        self._versions: dict[str, tuple[float, str]] = {}

    def places(self) -> dict[str, Place]:
        """Return the study directories by name.

        Raises:
            StorageError: the root can't be read.
        """
        with self._lock:
            if time.monotonic() - self._listed[0] > _LISTING_S:
                found = studies(self.root)
                named = {
                    ROOT_STUDY if place.path == self.root.path else place.path.rpartition("/")[2]: place
                    for place in found
                }
                self._listed = (time.monotonic(), named)
            return self._listed[1]

    def place(self, name: str) -> Place:
        """Return the directory of a study.

        Raises:
            UserError: there is no study with this name, or it is a link to another place.
        """
        places = self.places()
        if name not in places:
            raise UserError(f"no study {name!r} below {self.root.uri}")
        if self.root.is_local and not Path(places[name].path).resolve().is_relative_to(Path(self.root.path).resolve()):
            raise StorageError(
                f"{places[name].uri}: a link that leads out of {self.root.uri} and is not followed\n"
                "  Open the folder that it leads to with a dashboard of its own, or move the study here"
            )
        return places[name]

    def version(self, name: str) -> str:
        """Return a token that changes whenever the study's content does.

        Raises:
            UserError: there is no such study, or it can't be read.
        """
        directory = self.place(name)
        with self._lock:
            read, version = self._versions.get(name, (-1e9, ""))
            if time.monotonic() - read > _LISTING_S:
                parts = (*directory.child(RUNS).files(".parquet"), *log_parts(directory), *note_parts(directory))
                ledger = settling_place(directory).modified_at(LEDGER)
                running = live_holder(directory) is not None
                content = f"{directory.modified_at(MANIFEST)} {ledger} {running}\n" + "\n".join(parts)
                version = hashlib.sha256(content.encode()).hexdigest()[:16]
                self._versions[name] = (time.monotonic(), version)
            return version

    def load(self, name: str) -> Loaded:
        """Return the current version of a study.

        Raises:
            UserError: there is no such study, or it can't be read.
        """
        version = self.version(name)

        def read() -> Loaded:
            self._loaded.drop(lambda key: isinstance(key, tuple) and key[0] == name and key[1] != version)
            directory = self.place(name)
            kept = self._parts.get(name, lambda: _Parts(Evaluations(directory)))
            running = live_holder(directory) is not None
            runs = read_runs(directory, kept.runs, kept.notes)
            tables = StoredTables(runs, kept.evaluations, read_ledger(directory), running)
            return Loaded(name, version, directory, StudyResults(tables))

        return self._loaded.get((name, version), read)

    def entry(self, name: str) -> Entry:
        """Return the entry of a study in the list of studies.

        Raises:
            UserError: there is no such study, or it can't be read.
        """

        def summarise() -> Entry:
            loaded = self.load(name)
            times = loaded.runs[["started_at", "finished_at"]].dropna()
            return Entry(name, loaded.spec, compute_summary(loaded.runs), times, loaded.results.tables.ledger)

        return self._entries.get((name, self.version(name)), summarise)

    def note_of(self, name: str, run: str) -> Noted:
        """Return the current note and tags of a run.

        Raises:
            UserError: there is no such study, or it can't be read.
        """
        return read_notes(self.place(name)).get(run, NOTHING_NOTED)

    def renew(self, name: str) -> None:
        """Read a study again on next use, because something was just written to it."""
        with self._lock:
            self._versions.pop(name, None)
