"""Selection of the evaluations that an analysis needs, part by part, so that all curves are never in memory at once.

An analysis of curves uses few of their rows: those of untrained networks, the first that meet a target, the best. Its
result on these rows is the same as on all. Parts are immutable, so each is read once per selection, and a new version
of the study only reads the parts that it adds. Parts may be merged into others at any time (store/merging.py); an
analysis that has their names then reads the others.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from sensitivity.analysis.clipping import CLIPPED, EFFECTIVE_LR
from sensitivity.analysis.times import deciding_rows
from sensitivity.store.directory import Place
from sensitivity.store.effective import part_by_trial
from sensitivity.store.ledger import read_ledger, refuse_settling_folder
from sensitivity.store.lock import live_holder
from sensitivity.store.manifest import Manifest
from sensitivity.store.parts import MergedError
from sensitivity.store.reader import StudyRuns, read_evaluations, read_runs, read_settling_runs
from sensitivity.store.schema import CURVE_COLUMNS, further_metrics
from sensitivity.study.ledger import Ledger
from sensitivity.study.metrics import METRICS, MetricName

_ROWS = 1_000_000
"""Rows that are processed at a time: many small parts are combined, and memory stays bounded."""
_TIMES = ("step", "epoch", "train_seconds", "flops")
_MOST_CHOICES = 64

T = TypeVar("T")

Choice = Callable[[pd.DataFrame], pd.DataFrame]


class Evaluations:
    """Cache of rows selected from a study's curves; thread-safe, and valid across versions of the study.

    The argument `parts` of every method maps the ``trial_id`` of each run to the part that contains its curve, in the
    version of the study that is analysed.
    """

    def __init__(self, directory: Place) -> None:
        self.directory = directory
        self._lock = threading.Lock()
        self._kept: dict[object, _Kept] = {}
        self._merged: set[str] = set()
        """Names of parts that were merged into others."""
        self._current = pd.Series(dtype="str")
        """Part of each run after that, by ``trial_id``."""

    def at_start(self, parts: pd.Series[str], metric: MetricName) -> pd.DataFrame:
        """Return the evaluations of untrained networks: trial_id, step, and the metric.

        Raises:
            StorageError: a part is damaged, or can't be read.
        """
        return self._chosen(parts, ("start", metric), ("step", metric), _at_start)

    def meeting(self, parts: pd.Series[str], metric: MetricName, target: float) -> pd.DataFrame:
        """Return the evaluations that determine when each run meets a target: trial_id, the metric, and their times.

        They are those of ``times.deciding_rows``; ``times`` computes the same from them as from all evaluations.

        Raises:
            StorageError: as `at_start`.
        """
        choose = partial(_meeting, metric=metric, target=target)
        return self._chosen(parts, ("meeting", metric, target), (metric, *_TIMES), choose)

    def best(self, parts: pd.Series[str], metric: MetricName) -> pd.DataFrame:
        """Return the first and the best evaluation of each run: trial_id, step, and the metric.

        Raises:
            StorageError: as `at_start`.
        """
        return self._chosen(parts, ("best", metric), ("step", metric), partial(_best, metric=metric))

    def rates(self, parts: pd.Series[str]) -> pd.DataFrame:
        """Return the mean effective learning rate of each run that has one: trial_id and the rate.

        Raises:
            StorageError: as `at_start`.
        """
        return self._chosen(parts, "rates", (EFFECTIVE_LR,), _mean_rates)

    def of(self, parts: pd.Series[str], trial_ids: Sequence[str], metrics: Sequence[str] = ()) -> pd.DataFrame:
        """Return the whole curves of some runs, with `metrics` in addition to the standard ones.

        Raises:
            StorageError: as `at_start`.
        """
        columns = [*CURVE_COLUMNS, *metrics]

        def read(wanted: pd.Series[str]) -> list[pa.Table]:
            return [
                read_evaluations(self.directory, str(part), columns, list(group.index))
                for part, group in wanted.groupby(wanted)
            ]

        tables = self._read(parts[parts.index.isin(trial_ids)], read)
        if not tables:
            return pd.DataFrame({name: [] for name in columns})
        found: pd.DataFrame = pa.concat_tables(tables).to_pandas()
        return found.assign(trial_id=found["trial_id"].astype("str"))

    def _read(self, parts: pd.Series[str], read: Callable[[pd.Series[str]], T]) -> T:
        """Return what `read` makes of the parts of runs, with current names instead of those of merged parts."""
        try:
            return read(self._renamed(parts))
        except MergedError:
            current = part_by_trial(self.directory)
            with self._lock:
                self._current = current
                self._merged |= set(parts.unique()) - set(current.unique())
            return read(self._renamed(parts))

    def _renamed(self, parts: pd.Series[str]) -> pd.Series[str]:
        with self._lock:
            if not self._merged:
                return parts
            gone = parts.isin(self._merged)
            return parts.mask(gone, self._current.reindex(parts.index)).dropna() if gone.any() else parts

    def _chosen(self, parts: pd.Series[str], key: object, columns: tuple[str, ...], choose: Choice) -> pd.DataFrame:
        return self._read(parts, lambda current: self._selected(current, key, columns, choose))

    def _selected(self, parts: pd.Series[str], key: object, columns: tuple[str, ...], choose: Choice) -> pd.DataFrame:
        with self._lock:
            kept = self._kept.setdefault(key, _Kept())
            while len(self._kept) > _MOST_CHOICES:  # any target may be requested through a URL
                self._kept.pop(next(iter(self._kept)))
        with kept.lock:
            if len(kept.parts) > 2 * len(parts.unique()):  # most of them have been merged
                kept.parts.clear()
                kept.frames.clear()
            new = [name for name in parts.unique() if name not in kept.parts]
            for names, table in self._batches(new, ["trial_id", *columns]):
                rows = choose(table)
                kept.frames.append(rows.assign(**{name: _text(rows[name]) for name in ("trial_id", "part")}))
                kept.parts.update(names)
            if len(kept.frames) > 1:
                kept.frames[:] = [pd.concat(kept.frames, ignore_index=True)]
            if not kept.frames:
                return pd.DataFrame({name: [] for name in ("trial_id", *columns)})
            found = kept.frames[0]
        ids, names = pa.array(parts.index, pa.string()), pa.array(parts, pa.string())
        effective = names.take(pc.index_in(pa.array(found["trial_id"], pa.string()), value_set=ids))
        counting = pc.equal(effective, pa.array(found["part"], pa.string())).fill_null(False)
        left: pd.DataFrame = found[counting.to_numpy(zero_copy_only=False)].drop(columns="part")
        return left

    def _batches(self, names: Sequence[str], columns: Sequence[str]) -> Iterator[tuple[list[str], pd.DataFrame]]:
        """Yield names of parts with their evaluations; column ``part`` is the part of each evaluation."""
        batch: dict[str, pa.Table] = {}
        rows = 0
        for name in names:
            table = read_evaluations(self.directory, name, columns)
            if batch and rows + len(table) > _ROWS:
                yield from _with_one_curve_a_run(batch)
                batch, rows = {}, 0
            batch[name] = table
            rows += len(table)
        yield from _with_one_curve_a_run(batch)


def _with_one_curve_a_run(batch: dict[str, pa.Table]) -> Iterator[tuple[list[str], pd.DataFrame]]:
    """Yield parts together, or in groups: a run that was interrupted has a curve in a second part."""
    ids = [table["trial_id"].unique().cast(pa.string()) for table in batch.values()]
    if batch and pc.count_distinct(pa.chunked_array(ids)).as_py() == sum(map(len, ids)):
        yield _combined(batch)
        return
    group: dict[str, pa.Table] = {}
    known: set[str] = set()
    for (name, table), own in zip(batch.items(), map(set, map(pa.Array.to_pylist, ids)), strict=True):
        if known & own:
            yield _combined(group)
            group, known = {}, set()
        group[name] = table
        known |= own
    if group:
        yield _combined(group)


def _combined(batch: Mapping[str, pa.Table]) -> tuple[list[str], pd.DataFrame]:
    codes = np.repeat(np.arange(len(batch)), [len(table) for table in batch.values()])
    part = pd.Categorical.from_codes(codes, pd.Index(list(batch), dtype="str"))
    whole = pa.concat_tables(batch.values())
    ids = whole["trial_id"].combine_chunks()
    known = pd.Index(pd.array(ids.dictionary, dtype="str"))  # pandas itself makes a Python object of each text
    trial = pd.Categorical.from_codes(ids.indices.to_numpy(), known)
    return list(batch), whole.drop_columns(["trial_id"]).to_pandas().assign(trial_id=trial, part=part)


def _text(column: pd.Series) -> pd.Series[str]:
    """Return a categorical column as text."""
    known = pa.array(column.cat.categories, pa.string()).take(pa.array(column.cat.codes))
    return pd.Series(pd.array(known, dtype="str"), column.index)


@dataclass
class _Kept:
    """Rows that a selection kept from the parts read so far."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    parts: set[str] = field(default_factory=set)
    frames: list[pd.DataFrame] = field(default_factory=list)


def _at_start(rows: pd.DataFrame) -> pd.DataFrame:
    return rows[rows["step"] == 0]


def _meeting(rows: pd.DataFrame, *, metric: MetricName, target: float) -> pd.DataFrame:
    return deciding_rows(rows, metric, target)


def _mean_rates(rows: pd.DataFrame) -> pd.DataFrame:
    known = rows[rows[EFFECTIVE_LR].notna()]
    return known.groupby(["trial_id", "part"], sort=False, observed=True)[EFFECTIVE_LR].mean().reset_index()


def _best(rows: pd.DataFrame, *, metric: MetricName) -> pd.DataFrame:
    sign = 1.0 if METRICS[metric].lower_is_better else -1.0
    values = sign * rows.loc[np.isfinite(rows[metric]), metric]
    best = values.groupby(rows["trial_id"], sort=False, observed=True).idxmin()
    return rows[(rows["step"] == 0) | rows.index.isin(best)]


@dataclass(frozen=True)
class StoredTables:
    """A study directory: its runs, and the rows of its curves that are requested (``tables.Tables``).

    Raises:
        StorageError: by every method that reads curves, if a part of them is damaged or can't be read.
    """

    study: StudyRuns
    evaluations: Evaluations
    ledger: Ledger | None = None
    """Progress of the settlement; None if there is no settlement."""
    running: bool = False
    """Whether another process was writing results when the study was read."""

    @property
    def manifest(self) -> Manifest:
        """Content of study.json."""
        return self.study.manifest

    @property
    def runs(self) -> pd.DataFrame:
        """Table of runs, one row per planned run."""
        return self.study.runs

    @property
    def unplanned(self) -> int:
        """Number of stored runs that belong to no cell of the present plan."""
        return self.study.unplanned

    @property
    def settling_runs(self) -> pd.DataFrame | None:
        """One row a run of the settlement, read when it is asked for; None where it has none."""
        return read_settling_runs(self.evaluations.directory)

    def at_start(self, metric: MetricName) -> pd.DataFrame:
        """Return the evaluations of untrained networks, the rows of the curves that maps need."""
        return self.evaluations.at_start(self.study.parts, metric)

    def meeting(self, metric: MetricName, target: float) -> pd.DataFrame:
        """Return the evaluations that determine when runs meet a target, the rows that ``times`` needs."""
        return self.evaluations.meeting(self.study.parts, metric, target)

    def best(self, metric: MetricName) -> pd.DataFrame:
        """Return the first and the best evaluation of each run, the rows that success rates need."""
        return self.evaluations.best(self.study.parts, metric)

    def rates(self) -> pd.DataFrame:
        """Return the mean effective learning rate of each run that has one; reads no curves if no run has a clip."""
        clipped = CLIPPED in self.runs and self.runs[CLIPPED].notna().any()
        return self.evaluations.rates(self.study.parts) if clipped else pd.DataFrame({"trial_id": []})

    def curves_of(self, trial_ids: Iterable[str]) -> pd.DataFrame:
        """Return the whole curves of some runs."""
        return self.evaluations.of(self.study.parts, list(trial_ids), further_metrics(self.manifest.spec.measured()))


def read_tables(directory: Place) -> StoredTables:
    """Read the runs of a study directory, finished or not; its curves are read on request.

    Raises:
        StorageError: the directory can't be read (see ``reader.read_study``), or is the folder of a settlement.
    """
    refuse_settling_folder(directory)
    running = live_holder(directory) is not None
    return StoredTables(read_runs(directory), Evaluations(directory), read_ledger(directory), running)
