"""Counts the runs of study directories by status, without a Python object for each run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import pyarrow as pa
import pyarrow.compute as pc

from sensitivity.store.directory import Place
from sensitivity.store.effective import (
    FINAL,
    STATUS_COLUMNS,
    effective,
    from_parts,
    is_unique,
    results_by_status,
    rows_of,
)
from sensitivity.store.ledger import read_ledger, settling_place
from sensitivity.store.manifest import MANIFEST, Manifest, read_manifest
from sensitivity.store.parts import read_run_tables
from sensitivity.store.reader import planned_ids
from sensitivity.study.ledger import Ledger
from sensitivity.study.results import Status


@dataclass(frozen=True)
class StudyStatuses:
    """The statuses of a study's runs, counted without an object for each run."""

    manifest: Manifest
    by_status: Mapping[str, int]
    """Number of planned runs with each status, the most frequent first; only statuses that occur."""
    causes: Mapping[str, int]
    """Messages of failed and interrupted runs with their numbers, the most frequent first."""
    unfinished: frozenset[str]
    """Ids of the planned trials without a final result."""

    @property
    def planned(self) -> int:
        """Number of runs in the plan."""
        return sum(self.by_status.values())


@dataclass(frozen=True)
class StudyCounts:
    """Progress of a study, without its results."""

    manifest: Manifest
    planned: int
    """Number of runs in the plan."""
    by_status: Mapping[str, int]
    """Number of planned runs with each status."""
    ledger: Ledger | None
    """State of the settlement; None if none has started."""
    settling: Mapping[str, int]
    """Number of runs of the settlement with each status; empty if there are none."""


def read_statuses(directory: Place) -> StudyStatuses:
    """Count a study's runs by status and by message, reading and validating only the columns needed for that.

    Raises:
        StorageError: as `read_study`.
    """
    manifest, results, planned = _planned_results(directory, "message")
    final = results["trial_id"].filter(pc.is_in(results["status"], pa.array(FINAL)))
    unsound = pa.array([Status.FAILED.value, Status.INTERRUPTED.value])
    by_status = Counter(_counts(results["status"]) | {Status.PENDING.value: len(planned) - len(results)})
    causes = Counter(_counts(results["message"].filter(pc.is_in(results["status"], unsound))))
    return StudyStatuses(
        manifest=manifest,
        by_status={status: n for status, n in by_status.most_common() if n},
        causes=dict(causes.most_common()),
        unfinished=frozenset(planned.filter(pc.invert(pc.is_in(planned, final))).to_pylist()),
    )


def read_counts(directory: Place) -> StudyCounts:
    """Count a study's runs, and those of its settlement, by status.

    Raises:
        StorageError: as `read_study`.
    """
    manifest, results, planned = _planned_results(directory)
    by_status = _counts(results["status"]) | {Status.PENDING.value: len(planned) - len(results)}
    folder = settling_place(directory)
    settling = read_counts(folder).by_status if folder.exists(MANIFEST) else {}
    return StudyCounts(manifest, len(planned), by_status, read_ledger(directory), settling)


def finished_trials(directory: Place) -> frozenset[str]:
    """Return the ids of the trials with final results, which `run` does not train again.

    Raises:
        StorageError: a part is damaged.
    """
    results = effective(rows_of(from_parts(directory, None, partial(results_by_status, directory))))
    return frozenset(results.loc[results["status"].isin(FINAL), "trial_id"])


def _planned_results(directory: Place, *further: str) -> tuple[Manifest, pa.Table, pa.ChunkedArray]:
    """Return the manifest, the effective results of planned trials, and the ids of all planned trials.

    Results have the columns trial_id, status and `further` ones; no others are read and validated.
    """
    manifest, columns = read_manifest(directory), [*STATUS_COLUMNS, *further]
    whole = rows_of(from_parts(directory, manifest, lambda names: read_run_tables(directory, names, columns)))
    if not is_unique(whole["trial_id"]):
        whole = pa.Table.from_pandas(effective(whole)[columns], preserve_index=False)
    planned = planned_ids(directory, manifest, whole.to_pandas).cast(whole["trial_id"].type)
    results = whole.select(["trial_id", "status", *further])
    return manifest, results.filter(pc.is_in(results["trial_id"], planned)), planned


def _counts(values: pa.ChunkedArray) -> dict[str, int]:
    return {str(each["values"]): int(each["counts"]) for each in pc.value_counts(values.drop_null()).to_pylist()}
