"""Validation of the tables of a study directory when they are read, so that analysis can rely on every value.

Each column of ``schema`` has one rule. A valid table has no null or NaN where a run always has a number, no number
outside its range, and no text that a page or a terminal cannot show.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from sensitivity.store.ids import is_unique
from sensitivity.store.schema import PARAM_PREFIX, PHASE_PREFIX, further_metrics
from sensitivity.study.hyperparameters import hyperparameter
from sensitivity.study.results import LARGEST, Status
from sensitivity.study.spec import StudySpec

MAX_TEXT = 1_000_000
"""Most bytes of a message or a traceback; ``writer`` truncates longer ones."""
_MAX_NAME = 1_000
_MAX_INTEGER = 10**15
_MAX_FLOAT = LARGEST
"""Losses are measured in single precision, up to 3.4e38, and training keeps other metrics below this limit; sums and
squares of numbers below it are finite."""
_FIRST_TIME, _LAST_TIME = 0, 7_258_118_400_000_000
"""1970 and 2200, in microseconds since the epoch; timestamps of pandas in nanoseconds end in 2262."""
_SHOWN = 60

_Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Fault:
    """An invalid value: its row, and the reason."""

    row: int
    """Row in the table, counted from 0."""
    reason: str


@dataclass(frozen=True)
class Number:
    """A float in a closed range; NaN and null both count as missing."""

    low: float = 0.0
    high: float = _MAX_FLOAT
    missing: bool = False
    infinite: bool = False

    @property
    def allowed(self) -> str:
        """The range in words."""
        also = [word for word, is_so in (("NaN", self.missing), ("infinity", self.infinite)) if is_so]
        return " or ".join([f"a number from {self.low:g} to {self.high:g}", *also])

    def bad(self, values: pa.Array) -> _Mask:
        """Return which values are not allowed."""
        numbers = values.to_numpy(zero_copy_only=False)  # nulls become NaN
        good = (numbers >= self.low) & (numbers <= self.high)
        if self.missing:
            good |= np.isnan(numbers)
        if self.infinite:
            good |= np.isinf(numbers)
        return ~np.asarray(good, dtype=bool)


@dataclass(frozen=True)
class Whole:
    """An integer in a closed range."""

    low: int = 0
    high: int = _MAX_INTEGER

    @property
    def allowed(self) -> str:
        """The range in words."""
        return f"a whole number from {self.low} to {self.high}"

    def bad(self, values: pa.Array) -> _Mask:
        """Return which values are not allowed."""
        numbers = pc.fill_null(values, self.low).to_numpy(zero_copy_only=False)
        return np.asarray((numbers < self.low) | (numbers > self.high), dtype=bool) | _nulls(values)


@dataclass(frozen=True)
class Text:
    """A string of limited length that matches a pattern."""

    pattern: str = ""
    words: str = "a text"
    most: int = _MAX_NAME
    missing: bool = False

    @property
    def allowed(self) -> str:
        """The rule in words."""
        return f"{self.words} of at most {self.most:,} bytes"

    def bad(self, values: pa.Array) -> _Mask:
        """Return which values are not allowed."""
        if pa.types.is_dictionary(values.type):
            known = self.bad(values.dictionary)
            return known[pc.fill_null(values.indices, 0).to_numpy()] | _nulls(values) if len(known) else _nulls(values)
        bad = pc.fill_null(pc.greater(pc.binary_length(values), self.most), fill_value=not self.missing)
        if self.pattern:
            bad = pc.or_(bad, pc.invert(pc.fill_null(pc.match_substring_regex(values, self.pattern), self.missing)))
        return _mask(bad)


@dataclass(frozen=True)
class OneOf:
    """One of a fixed set of strings."""

    values: tuple[str, ...]

    @property
    def allowed(self) -> str:
        """The values."""
        return "one of " + ", ".join(self.values)

    def bad(self, values: pa.Array) -> _Mask:
        """Return which values are not allowed."""
        return ~_mask(pc.is_in(values, pa.array(self.values, pa.string())))


@dataclass(frozen=True)
class Time:
    """A valid timestamp."""

    missing: bool = False
    allowed: str = "a time from 1970 to 2200"

    def bad(self, values: pa.Array) -> _Mask:
        """Return which values are not allowed."""
        since_epoch = pc.cast(values, pa.int64())
        numbers = pc.fill_null(since_epoch, 0 if self.missing else -1).to_numpy(zero_copy_only=False)
        return np.asarray((numbers < _FIRST_TIME) | (numbers >= _LAST_TIME), dtype=bool)


@dataclass(frozen=True)
class Flag:
    """True or false."""

    allowed: str = "true or false"

    def bad(self, values: pa.Array) -> _Mask:
        """Return which values are not allowed."""
        return _nulls(values)


Rule = Number | Whole | Text | OneOf | Time | Flag

_ID = Text(r"\A[0-9a-f]{16,64}\z", "an id of 16 or more hexadecimal digits", 64)
_NAME = Text(missing=True)
_LONG = Text(most=MAX_TEXT, missing=True)
_SHARE = Number(0.0, 1.0, missing=True)
_FRACTION = Number(0.0, 1.0 + 1e-6, missing=True)
_LOSS = Number(-_MAX_FLOAT, missing=True, infinite=True)
_LAST_LOSS = Number(-_MAX_FLOAT, missing=True)
_METRICS = {"train_accuracy": _FRACTION, "test_accuracy": _FRACTION}
_COST = {"train_seconds": Number(), "flops": Number()}

TRIAL_RULES: Mapping[str, Rule] = {
    "trial_id": _ID,
    "cell_id": _ID,
    "optimizer": Text(r"\A[A-Za-z0-9][A-Za-z0-9._-]*\z", "a name of letters, digits, . _ -", 64),
    "kind": Text(r"\A[\w.]+(:\w+)?\z", "a name", _MAX_NAME),
    "batch_size": Whole(1, 10**9),
    "seed": Whole(0, 2**31 - 1),
    "confirmation": Flag(),
}
RESULT_RULES: Mapping[str, Rule] = {
    "status": OneOf(tuple(status.value for status in Status if status != Status.PENDING)),
    "message": _LONG,
    "traceback": _LONG,
    "steps": Whole(),
    "epochs": Number(),
    "initial_train_loss": _LOSS,
    "train_loss": _LAST_LOSS,
    "test_loss": _LOSS,
    **_METRICS,
    **_COST,
    "eval_seconds": Number(),
    "clip_share": _SHARE,
    "pack_id": _NAME,
    "pack_size": Whole(1, 10**9),
    "host": _NAME,
    "device": _NAME,
    "started_at": Time(),
    "finished_at": Time(),
    "spec_hash": _NAME,
    "code_version": _NAME,
}
CURVE_RULES: Mapping[str, Rule] = {
    "trial_id": _ID,
    "step": Whole(),
    "epoch": Number(),
    "lr": Number(),
    "effective_lr": Number(missing=True),
    "train_loss": _LOSS,
    "test_loss": _LOSS,
    **_METRICS,
    **_COST,
}
_UNKNOWN = Number(missing=True)
UNKNOWN_ELSEWHERE: Mapping[str, Rule] = {
    **dict.fromkeys(("epochs", "epoch", "lr", "train_seconds", "eval_seconds", "flops"), _UNKNOWN),
    "started_at": Time(missing=True),
    "train_loss": _LOSS,
}
"""Rules for runs that were trained elsewhere, which replace those above."""
_PHASE = Number(missing=True)
_PARAM = Number(-_MAX_FLOAT, missing=True)


def plan_fault(table: pa.Table, spec: StudySpec) -> Fault | None:
    """Return the first fault in a plan of the study `spec`, or None."""
    fault = _first_fault(table, TRIAL_RULES)
    if fault is not None:
        return fault
    optimizers, kinds = table["optimizer"], table["kind"]
    unknown = ~_mask(pc.is_in(optimizers, pa.array(list(spec.optimizers), pa.string())))
    if unknown.any():
        row = int(unknown.argmax())
        known = ", ".join(list(spec.optimizers)[:20])
        return Fault(row, _message("optimizer", row, optimizers[row].as_py(), f"an optimizer of the study: {known}"))
    for name, arm in spec.optimizers.items():
        own = _mask(pc.equal(optimizers, name))
        bad = own & ~_mask(pc.equal(kinds, arm.kind))
        if bad.any():
            row = int(bad.argmax())
            return Fault(row, _message("kind", row, kinds[row].as_py(), f"{arm.kind}, the kind of optimizer {name}"))
        for param in _params(table.column_names):
            fault = _param_fault(table[PARAM_PREFIX + param], own, param, name, has_it=param in arm.axes())
            if fault is not None:
                return fault
    return _repeated(table)


def planned_ids_fault(table: pa.Table) -> Fault | None:
    """Return the first fault in the ids of a plan, or None."""
    return _first_fault(table, TRIAL_RULES) or _repeated(table)


def runs_fault(table: pa.Table, *, elsewhere: bool = False) -> Fault | None:
    """Return the first fault in a table of results, or None; `table` may lack columns.

    `elsewhere` is whether the runs were trained elsewhere, so that some values may be unknown.
    """
    further = dict.fromkeys(further_metrics(table.column_names), _LOSS)
    rules = {**TRIAL_RULES, **RESULT_RULES, **(UNKNOWN_ELSEWHERE if elsewhere else {}), **further}
    fault = _first_fault(table, rules)
    if fault is not None or elsewhere or not {"status", "train_loss"} <= set(table.column_names):
        return fault
    completed = _mask(pc.equal(table["status"], Status.COMPLETED.value))
    bad = completed & ~np.isfinite(table["train_loss"].to_numpy())
    if bad.any():
        row = int(bad.argmax())
        return Fault(row, _message("train_loss", row, math.nan, "the finite loss of a completed run"))
    return None


def curves_fault(table: pa.Table, *, elsewhere: bool = False) -> Fault | None:
    """Return the first fault in a table of evaluations, or None; arguments as for `runs_fault`."""
    return _first_fault(table, {**CURVE_RULES, **(UNKNOWN_ELSEWHERE if elsewhere else {})})


def repeated_evaluation(runs: npt.NDArray[np.int64], steps: npt.NDArray[np.int64]) -> int | None:
    """Return a row with the same run and step as another one, if any; `runs` contains numbers of runs."""
    if not len(runs):
        return None
    order = np.arange(len(runs))
    if (np.diff(runs) < 0).any() or ((np.diff(runs) == 0) & (np.diff(steps) < 0)).any():
        order = np.lexsort((steps, runs))
    same = (np.diff(runs[order]) == 0) & (np.diff(steps[order]) == 0)
    return int(order[1 + int(same.argmax())]) if same.any() else None


def _first_fault(table: pa.Table, rules: Mapping[str, Rule]) -> Fault | None:
    for name in table.column_names:
        rule = rules.get(name) or (_PARAM if name.startswith(PARAM_PREFIX) else None)
        rule = rule or (_PHASE if name.startswith(PHASE_PREFIX) else None)
        if rule is None:
            continue
        start = 0
        for chunk in table[name].chunks:
            bad = rule.bad(chunk)
            if bad.any():
                place = int(bad.argmax())
                return Fault(start + place, _message(name, start + place, _value(chunk, place), rule.allowed))
            start += len(chunk)
    return None


def _param_fault(column: pa.ChunkedArray, own: _Mask, param: str, optimizer: str, *, has_it: bool) -> Fault | None:
    values = column.to_numpy()
    if not has_it:
        bad = own & ~np.isnan(values)
        allowed = f"empty: optimizer {optimizer} has no {param}"
    else:
        declared = hyperparameter(param)
        bad, allowed = own & ~declared.allows(values), declared.allowed or "a number"
    if not bad.any():
        return None
    row = int(bad.argmax())
    return Fault(row, _message(PARAM_PREFIX + param, row, float(values[row]), allowed))


def _repeated(table: pa.Table) -> Fault | None:
    """Return a row that repeats the trial, or the cell and seed, of an earlier row."""
    for names in (["trial_id"], ["cell_id", "seed"]):
        if not set(names) <= set(table.column_names):
            continue
        if len(names) == 1 and is_unique(table[names[0]]):
            continue
        rows = table.select(names).to_pandas().duplicated().to_numpy()
        if rows.any():
            row = int(rows.argmax())
            return Fault(row, f"{' and '.join(names)}, row {row}: the same trial occurs twice")
    return None


def _message(column: str, row: int, value: object, allowed: str) -> str:
    shown = "nothing" if value is None else repr(value) if isinstance(value, str) else str(value)
    if len(shown) > _SHOWN:
        shown = f"{shown[:_SHOWN]}... ({len(shown):,} characters)"
    return f"column {column}, row {row}: {shown}; it must be {allowed}"


def _value(chunk: pa.Array, place: int) -> object:
    if not chunk[place].is_valid:
        return None
    if pa.types.is_timestamp(chunk.type):  # its year may be outside the range of Python's datetime
        return np.datetime64(pc.cast(chunk, pa.int64())[place].as_py(), "us")
    return chunk[place].as_py()


def _nulls(values: pa.Array) -> _Mask:
    return _mask(pc.is_null(values))


def _mask(values: pa.Array | pa.ChunkedArray) -> _Mask:
    found = values.to_numpy() if isinstance(values, pa.ChunkedArray) else values.to_numpy(zero_copy_only=False)
    return np.asarray(found, dtype=bool)


def _params(names: Sequence[str]) -> list[str]:
    return [name.removeprefix(PARAM_PREFIX) for name in names if name.startswith(PARAM_PREFIX)]
