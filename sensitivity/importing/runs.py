"""Conversion of a table to runs and evaluations according to a mapping, with counts of defects."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from sensitivity.importing.guess import constant_within_runs, run_codes
from sensitivity.importing.mapping import ImportMapping, check_columns
from sensitivity.importing.statuses import Defects, add_statuses, texts
from sensitivity.importing.tables import Source
from sensitivity.store.schema import PARAM_PREFIX
from sensitivity.study.axes import round_significant
from sensitivity.study.errors import UserError
from sensitivity.study.metrics import METRICS
from sensitivity.study.section import CONFIRMATION_SEEDS

_LOSSES = ("train_loss", "test_loss")
_MAX_LOSS = 1e100
"""Larger losses are treated as infinite: tables of studies have none, and MLflow's databases store infinity so."""
_PLAIN_OPTIMIZER = r"[^A-Za-z0-9._-]+"


@dataclass(frozen=True, kw_only=True)
class Runs:
    """Imported runs and their evaluations."""

    runs: pd.DataFrame
    """One row per run: optimizer, batch_size, seed, confirmation, status, message, steps, epochs, train_seconds,
    eval_seconds, flops, started_at, finished_at, ``param.*``; the index numbers the runs."""
    evaluations: pd.DataFrame
    """One row per evaluation: run, step, epoch, train_seconds, flops and the metrics, ordered by run and step."""
    metrics: tuple[str, ...]
    unpaired: bool
    """Whether the seeds are unknown."""
    defects: Defects


def read_runs_of(source: Source, mapping: ImportMapping) -> Runs:
    """Read the runs of a source according to a mapping.

    Raises:
        UserError: columns are missing, or have invalid values.
    """
    table, columns, constants = source.table, mapping.columns, mapping.constants
    check_columns(mapping, table.column_names, source=source.description)
    defects = Defects()
    keys = list(columns.run) or [
        *columns.optimizer,
        *(name for name in (columns.batch_size, columns.seed) if name),
        *mapping.hyperparameters.values(),
    ]
    one_row_per_run = mapping.rows == "runs"
    code = np.arange(len(table)) if one_row_per_run else run_codes(table, keys)
    first = np.unique(code, return_index=True)[1]
    number = _Numbers(table, source.description)
    runs = pd.DataFrame(index=pd.RangeIndex(len(first)))
    of_run = _ConstantColumns(table, code, source.description)
    runs["optimizer"] = _optimizers(table, mapping, of_run, len(first))
    runs["batch_size"] = of_run.numbers(number(columns.batch_size, constants.batch_size), columns.batch_size)
    runs["seed"] = of_run.numbers(number(columns.seed, constants.seed), columns.seed)
    for name, column in mapping.hyperparameters.items():
        own = of_run.numbers(number(column), column)
        runs[PARAM_PREFIX + name] = [round_significant(value) if math.isfinite(value) else math.nan for value in own]
    runs["confirmation"] = (
        table[columns.confirmation].to_pandas().to_numpy()[first].astype(bool) if columns.confirmation else False
    )
    last = len(table) - 1 - np.unique(code[::-1], return_index=True)[1]
    runs["message"] = texts(table, columns.message, last)
    for name in ("started_at", "finished_at"):
        rows = first if name == "started_at" else last
        runs[name] = _times(table, getattr(columns, name), rows, source.description)
    _check_batch_sizes(runs, defects, number, mapping)
    evaluations = _evaluations(table, mapping, number, code, runs)
    diverged = _nan_losses(table, mapping, code, len(first))
    measured = _ordered(evaluations, mapping, defects)
    _totals(runs, measured, number, mapping, last, one_row_per_run=one_row_per_run)
    add_statuses(runs, measured, table, mapping, last, diverged, defects)
    return _cleaned(runs, measured, mapping, defects)


@dataclass(frozen=True)
class _Numbers:
    """Columns of a table as numbers."""

    table: pa.Table
    source: str

    def __call__(
        self, column: str | None, otherwise: float | None = None, *, rows: NDArray[np.int_] | None = None
    ) -> NDArray[np.float64]:
        """Return a column, or `otherwise` without a column, for some or all rows."""
        count = len(self.table) if rows is None else len(rows)
        if column is None:
            return np.full(count, math.nan if otherwise is None else otherwise)
        values = self.table[column]
        try:
            numbers: NDArray[np.float64] = pc.cast(values, pa.float64()).to_numpy()
        except pa.ArrowException:
            raise UserError(
                f"{self.source}: column {column!r} has type {values.type}, not numbers\n"
                "  Name another column in the mapping"
            ) from None
        return numbers if rows is None else numbers[rows]


@dataclass(frozen=True)
class _ConstantColumns:
    """The values of columns that are constant within a run; some of its rows may be empty."""

    table: pa.Table
    code: NDArray[np.int_]
    source: str

    def rows(self, column: str) -> NDArray[np.int_]:
        """Return a row of each run that has a value, -1 if there is none.

        Raises:
            UserError: rows of one run have different values.
        """
        first, other = constant_within_runs(self.table, column, self.code)
        if other is not None:
            one, two = (self.table[column][int(row)].as_py() for row in (first[self.code[other]], other))
            raise UserError(
                f"{self.source}: rows of one run have {one!r} and {two!r} in column {column!r}\n  In columns.run of "
                "the mapping, name the columns that identify a run; by default, rows with equal settings and seed "
                "belong to one run"
            )
        return first

    def numbers(self, values: NDArray[np.float64], column: str | None) -> NDArray[np.float64]:
        """Return one number per run, from one per row; NaN without a value."""
        if column is None:
            return values[np.unique(self.code, return_index=True)[1]]
        rows = self.rows(column)
        return np.where(rows >= 0, values[rows], math.nan)


def _optimizers(table: pa.Table, mapping: ImportMapping, of_run: _ConstantColumns, count: int) -> pd.Series[str]:
    """Return the optimizer of each run, limited to the characters allowed in a name."""
    if not mapping.columns.optimizer:
        if mapping.constants.optimizer is None:
            raise UserError(
                'the optimizer is unknown\n  Add it in [constants] of the mapping, for example optimizer = "adamw"'
            )
        return pd.Series([mapping.constants.optimizer] * count)
    parts = [
        table[name].to_pandas().astype("str").iloc[of_run.rows(name)].reset_index(drop=True)
        for name in mapping.columns.optimizer
    ]
    joined = parts[0].str.cat(parts[1:], sep="-") if len(parts) > 1 else parts[0]
    plain = joined.str.replace(_PLAIN_OPTIMIZER, "_", regex=True).str.strip("._-").str.slice(0, 64)
    found: pd.Series[str] = plain.where(plain != "", "unknown")
    return found


def _times(table: pa.Table, column: str | None, rows: NDArray[np.int_], source: str) -> pd.Series[pd.Timestamp]:
    if column is None:
        return pd.Series(pd.NaT, index=range(len(rows)), dtype="datetime64[us, UTC]")
    values = table[column].to_pandas().iloc[rows].reset_index(drop=True)
    try:
        # Numbers are seconds since the epoch, as every tracker writes them.
        found = pd.to_datetime(values, utc=True, unit="s" if values.dtype.kind in "if" else None)
        times: pd.Series[pd.Timestamp] = found.astype("datetime64[us, UTC]")
    except (ValueError, TypeError, OverflowError):
        raise UserError(f"{source}: column {column!r} does not contain times\n  Remove it from the mapping") from None
    return times


def _check_batch_sizes(runs: pd.DataFrame, defects: Defects, number: _Numbers, mapping: ImportMapping) -> None:
    """Check batch sizes and convert them to integers."""
    sizes = runs["batch_size"]
    bad = ~(np.isfinite(sizes) & (sizes >= 1) & (sizes == sizes.round()))
    if bad.all():
        raise UserError(
            f"{number.source}: no run has an integer batch size\n  Name its column in the mapping, or add it in "
            "[constants], for example batch_size = 128"
        )
    runs["left_out"] = bad
    defects.add("Runs without a batch size", int(bad.sum()), "They are left out.")


def _evaluations(
    table: pa.Table, mapping: ImportMapping, number: _Numbers, code: NDArray[np.int_], runs: pd.DataFrame
) -> pd.DataFrame:
    """Return a row per evaluation, in the order of the table."""
    columns, constants = mapping.columns, mapping.constants
    batch = runs["batch_size"].to_numpy(dtype=float)[code]
    epoch = number(columns.epoch)
    if columns.step is not None:
        step = number(columns.step) * constants.steps_per_unit
    elif columns.epoch is not None:
        if constants.train_size is None:
            raise UserError(
                "epochs can't be converted to steps\n  Add train_size, the number of examples per epoch, in "
                "[constants] of the mapping"
            )
        step = np.ceil(np.round(epoch * constants.train_size / batch, 9))
    elif constants.steps is not None:
        step = np.full(len(table), float(constants.steps))
    else:
        raise UserError(
            "the number of training steps is unknown\n  Name the column of step or epoch in [columns] of the mapping, "
            "or add steps in [constants]"
        )
    if columns.epoch is None and constants.train_size is not None:
        epoch = step * batch / constants.train_size
    found = {"run": code, "step": step, "epoch": epoch}
    for name in ("train_seconds", "flops"):
        found[name] = number(getattr(columns, name))
    for ours, metric in mapping.metrics.items():
        own = number(metric.column)
        if ours in _LOSSES:
            own = np.where(np.abs(own) > _MAX_LOSS, np.inf, own)
        scale = 100.0 if metric.unit.endswith("percent") else 1.0
        found[ours] = (scale - own if metric.unit.startswith("error") else own) / scale
        high = np.nanmax(found[ours], initial=0.0)
        if METRICS[ours].percent and (high > 1 + 1e-6 or np.nanmin(found[ours], initial=0.0) < -1e-6):
            raise UserError(
                f"{number.source}: column {metric.column!r} is not an accuracy in the unit {metric.unit!r}: it "
                f"contains {np.nanmax(own):g}\n  Correct its unit in [metrics] of the mapping: fraction, percent, "
                "error or error_percent"
            )
    return pd.DataFrame(found)


def _nan_losses(table: pa.Table, mapping: ImportMapping, code: NDArray[np.int_], count: int) -> NDArray[np.bool_]:
    """Return which runs recorded a NaN or infinite loss; empty values were not measured."""
    found = np.zeros(count, dtype=bool)
    for ours in _LOSSES:
        if ours in mapping.metrics:
            values = table[mapping.metrics[ours].column]
            if pa.types.is_floating(values.type):
                beyond = pc.or_(pc.invert(pc.is_finite(values)), pc.greater(pc.abs(values), _MAX_LOSS))
                lost = pc.fill_null(beyond, fill_value=False).to_numpy()
                found[code[lost]] = True
    return found


def _ordered(evaluations: pd.DataFrame, mapping: ImportMapping, defects: Defects) -> pd.DataFrame:
    """Return the evaluations with a measured metric, ordered by run and step; the last value at each step is used."""
    names = list(mapping.metrics)
    own: pd.DataFrame = evaluations[np.isfinite(evaluations["step"]) & evaluations[names].notna().any(axis=1)]
    own = own.assign(step=own["step"].round().astype("int64"))
    run, step = own["run"].to_numpy(), own["step"].to_numpy()
    if ((np.diff(run) < 0) | ((np.diff(run) == 0) & (np.diff(step) < 0))).any():
        own = own.sort_values(["run", "step"], kind="stable")
        run, step = own["run"].to_numpy(), own["step"].to_numpy()
    again = np.append((np.diff(run) == 0) & (np.diff(step) == 0), [False] * bool(len(own)))
    if again.any():  # trackers log one metric per row, so rows of a step complement each other
        defects.add("Further evaluations at the same step of a run", int(again.sum()), "The last value is used.")
        own = own.groupby(["run", "step"], sort=False, as_index=False).last()
    if (own["step"] < 0).any():
        raise UserError("steps are negative\n  Name the column of steps in the mapping")
    return own


def _totals(
    runs: pd.DataFrame,
    measured: pd.DataFrame,
    number: _Numbers,
    mapping: ImportMapping,
    last: NDArray[np.int_],
    *,
    one_row_per_run: bool,
) -> None:
    """Add each run's training length: the step of its last evaluation."""
    ends = measured.groupby("run")[["step", "epoch", "train_seconds", "flops"]].max()
    for ours, name in (("steps", "step"), ("epochs", "epoch"), ("train_seconds",) * 2, ("flops",) * 2):
        runs[ours] = ends[name].reindex(runs.index)
    if one_row_per_run and mapping.columns.step:  # also for runs without measured metrics
        runs["steps"] = runs["steps"].fillna(pd.Series(number(mapping.columns.step, rows=last)))
    runs["eval_seconds"] = number(mapping.columns.eval_seconds, rows=last)
    for name in ("train_seconds", "flops"):
        if runs[name].isna().any() and runs.loc[ends.index, name].isna().any():
            runs[name] = math.nan  # known for only some runs, so that sums would be too small
            measured[name] = math.nan


def _cleaned(runs: pd.DataFrame, measured: pd.DataFrame, mapping: ImportMapping, defects: Defects) -> Runs:
    """Drop runs without a required value, and number unknown seeds."""
    for name in mapping.hyperparameters:
        column = PARAM_PREFIX + name
        has = runs[column].notna()
        lacking = ~has & has.groupby(runs["optimizer"]).transform("any")
        count = int((lacking & ~runs["left_out"]).sum())
        defects.add(f"Runs without the {name} that other runs of their optimizer have", count, "They are left out.")
        runs["left_out"] |= lacking
    unpaired = mapping.columns.seed is None and mapping.constants.seed is None
    cell = ["optimizer", "batch_size", *(PARAM_PREFIX + name for name in mapping.hyperparameters)]
    if unpaired:
        runs["seed"] = runs.groupby(cell, dropna=False).cumcount()
        defects.add("Runs without a seed", len(runs), "Runs of one setting are numbered, and no runs are paired.")
    seeds = runs["seed"]
    lacking = seeds.isna() & ~runs["left_out"]
    defects.add("Runs without a seed, although others have one", int(lacking.sum()), "They are left out.")
    runs["left_out"] |= lacking
    kept = runs[~runs["left_out"]].drop(columns="left_out")
    _require_runs(kept)
    plain = kept["seed"].eq(kept["seed"].round()) & kept["seed"].between(0, 2**31 - 1)
    plain &= kept["confirmation"] | (kept["seed"] < CONFIRMATION_SEEDS)
    if not plain.all():
        order = {value: place for place, value in enumerate(sorted(kept["seed"].unique()))}
        kept = kept.assign(seed=kept["seed"].map(order))
        defects.add(
            "Runs whose seed is not an integer from 0 to 10^9",
            int((~plain).sum()),
            "All seeds are renumbered in ascending order.",
        )
    kept = kept.astype({"seed": "int64", "batch_size": "int64"})
    order_of_end = kept.sort_values("finished_at", kind="stable", na_position="first")
    twice = order_of_end.duplicated([*cell, "seed"], keep="last").reindex(kept.index)
    defects.add(
        "Duplicate runs, with equal optimizer, setting, batch size and seed", int(twice.sum()), "The last one is used."
    )
    kept = kept[~twice]
    own = measured[measured["run"].isin(kept.index)] if len(kept) < len(runs) else measured
    return Runs(runs=kept, evaluations=own, metrics=tuple(mapping.metrics), unpaired=unpaired, defects=defects)


def _require_runs(kept: pd.DataFrame) -> None:
    if not len(kept):
        raise UserError("no run is left: all lack a batch size, a hyperparameter or a seed\n  Correct the mapping")
