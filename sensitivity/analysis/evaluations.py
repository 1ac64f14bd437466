"""The evaluations that answers need, out of many: chosen part by part, so that a study's curves are never held whole.

Analysis of curves looks at few of their rows: those of untrained networks, the first that meet a target, the best.
What it makes of these rows alone is what it makes of all. Parts never change, so each is read once for each choice,
and of those that a new version adds only.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import pandas as pd
import pyarrow as pa

from sensitivity.analysis.clipping import CLIPPED, EFFECTIVE_LR
from sensitivity.analysis.times import deciding_rows
from sensitivity.store.directory import Place
from sensitivity.store.ledger import read_ledger, refuse_settling_folder
from sensitivity.store.lock import live_holder
from sensitivity.store.manifest import Manifest
from sensitivity.store.reader import StudyRuns, read_evaluations, read_runs, read_settling_runs
from sensitivity.store.schema import CURVE_COLUMNS, further_metrics
from sensitivity.study.ledger import Ledger
from sensitivity.study.metrics import METRICS, MetricName

_ROWS = 1_000_000
"""Chosen from at a time: many small parts go together, and memory stays bounded."""
_TIMES = ("step", "epoch", "train_seconds", "flops")
_MOST_CHOICES = 64

Choice = Callable[[pd.DataFrame], pd.DataFrame]


class Evaluations:
    """Rows chosen from a study's curves; safe to share between threads, and kept over versions of the study.

    Every method takes the part in which each run's curve stands, by ``trial_id``, of the version that is looked at.
    """

    def __init__(self, directory: Place) -> None:
        self.directory = directory
        self._lock = threading.Lock()
        self._kept: dict[object, _Kept] = {}

    def at_start(self, parts: pd.Series[str], metric: MetricName) -> pd.DataFrame:
        """Return the evaluations of untrained networks: trial_id, step, and the metric.

        Raises:
            StorageError: a part is damaged, or can't be read.
        """
        return self._chosen(parts, ("start", metric), ("step", metric), _at_start)

    def meeting(self, parts: pd.Series[str], metric: MetricName, target: float) -> pd.DataFrame:
        """Return the evaluations that decide when each run meets a target: trial_id, the metric, and when they were.

        They are those of ``times.deciding_rows``, of which ``times`` makes what it makes of all.

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
        """Return the whole curves of some runs, with `metrics` beside the usual ones.

        Raises:
            StorageError: as `at_start`.
        """
        wanted, columns = parts[parts.index.isin(trial_ids)], [*CURVE_COLUMNS, *metrics]
        tables = [
            read_evaluations(self.directory, str(part), columns, list(group.index))
            for part, group in wanted.groupby(wanted)
        ]
        if not tables:
            return pd.DataFrame({name: [] for name in columns})
        found: pd.DataFrame = pa.concat_tables(tables).to_pandas()
        return found.assign(trial_id=found["trial_id"].astype("str"))

    def _chosen(self, parts: pd.Series[str], key: object, columns: tuple[str, ...], choose: Choice) -> pd.DataFrame:
        with self._lock:
            kept = self._kept.setdefault(key, _Kept())
            while len(self._kept) > _MOST_CHOICES:  # targets come from addresses, too
                self._kept.pop(next(iter(self._kept)))
        with kept.lock:
            new = [name for name in dict.fromkeys(parts) if name not in kept.parts]
            for names, table in self._batches(new, ["trial_id", *columns]):
                rows = choose(table)
                kept.frames.append(
                    rows.assign(trial_id=rows["trial_id"].astype("str"), part=rows["part"].astype("str"))
                )
                kept.parts.update(names)
            if len(kept.frames) > 1:
                kept.frames[:] = [pd.concat(kept.frames, ignore_index=True)]
            if not kept.frames:
                return pd.DataFrame({name: [] for name in ("trial_id", *columns)})
            found = kept.frames[0]
        counting = found["part"].to_numpy() == found["trial_id"].map(parts).to_numpy()
        left: pd.DataFrame = found[counting].drop(columns="part")
        return left

    def _batches(self, names: Sequence[str], columns: Sequence[str]) -> Iterator[tuple[list[str], pd.DataFrame]]:
        """Yield the evaluations of some parts, and which these are; column ``part`` says of each where it stands."""
        held: dict[str, pa.Table] = {}
        ids: set[str] = set()
        for name in names:
            table = read_evaluations(self.directory, name, columns)
            own = set(table["trial_id"].unique().to_pylist())
            # A run that was interrupted has a curve in a second part; choices are made of one curve a run.
            if held and (ids & own or sum(map(len, held.values())) + len(table) > _ROWS):
                yield _batch(held)
                held, ids = {}, set()
            held[name] = table
            ids |= own
        if held:
            yield _batch(held)


def _batch(held: Mapping[str, pa.Table]) -> tuple[list[str], pd.DataFrame]:
    codes = np.repeat(np.arange(len(held)), [len(table) for table in held.values()])
    part = pd.Categorical.from_codes(codes, pd.Index(list(held)))
    return list(held), pa.concat_tables(held.values()).to_pandas().assign(part=part)


@dataclass
class _Kept:
    """What a choice has left of the parts read so far."""

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
    """A study in its directory: its runs, and of its curves what is asked for (``study_results.Tables``).

    Raises:
        StorageError: by every method that reads curves, where a part of them is damaged or can't be read.
    """

    study: StudyRuns
    evaluations: Evaluations
    ledger: Ledger | None = None
    """How far the study has been settled; None where nobody has begun."""
    running: bool = False
    """Whether its results were being written when it was read."""

    @property
    def manifest(self) -> Manifest:
        """What study.json holds."""
        return self.study.manifest

    @property
    def runs(self) -> pd.DataFrame:
        """One row a planned run."""
        return self.study.runs

    @property
    def unplanned(self) -> int:
        """Runs that are kept but belong to no cell of the present plan."""
        return self.study.unplanned

    @property
    def settling_runs(self) -> pd.DataFrame | None:
        """One row a run of the settlement, read when it is asked for; None where it has none."""
        return read_settling_runs(self.evaluations.directory)

    def at_start(self, metric: MetricName) -> pd.DataFrame:
        """Return the evaluations of untrained networks: all of the curves that maps need."""
        return self.evaluations.at_start(self.study.parts, metric)

    def meeting(self, metric: MetricName, target: float) -> pd.DataFrame:
        """Return the evaluations that decide when runs meet a target: all that times to it need."""
        return self.evaluations.meeting(self.study.parts, metric, target)

    def best(self, metric: MetricName) -> pd.DataFrame:
        """Return the first and the best evaluation of each run: all that success rates need."""
        return self.evaluations.best(self.study.parts, metric)

    def rates(self) -> pd.DataFrame:
        """Return the mean effective learning rate of each run that has one; reads nothing where no run was clipped."""
        clipped = CLIPPED in self.runs and self.runs[CLIPPED].notna().any()
        return self.evaluations.rates(self.study.parts) if clipped else pd.DataFrame({"trial_id": []})

    def curves_of(self, trial_ids: Iterable[str]) -> pd.DataFrame:
        """Return the whole curves of some runs."""
        return self.evaluations.of(self.study.parts, list(trial_ids), further_metrics(self.manifest.spec.measured()))


def read_tables(directory: Place) -> StoredTables:
    """Read a study directory's runs, finished or not, and its curves when they are asked for.

    Raises:
        StorageError: as ``reader.read_study``, or the directory is the folder of a settlement.
    """
    refuse_settling_folder(directory)
    running = live_holder(directory) is not None
    return StoredTables(read_runs(directory), Evaluations(directory), read_ledger(directory), running)
