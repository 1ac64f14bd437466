"""Guesses a mapping from the names and values of columns; what they leave open becomes a question to the user."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from sensitivity.importing.columns import (
    ERRORS,
    HYPERPARAMETER_NAMES,
    ROLES,
    STATUSES,
    is_setting,
    measured,
    metric_name,
    plain_name,
)
from sensitivity.importing.tables import Source
from sensitivity.study.metrics import METRICS
from sensitivity.study.toml_text import toml_text

_MAX_SHOWN = 12


@dataclass
class Guess:
    """A guessed mapping of a source, with the questions that it leaves open."""

    content: dict[str, Any] = field(default_factory=dict)
    """Content of the mapping, without the answers to the questions."""
    questions: list[str] = field(default_factory=list)
    """Questions that the user must answer in the mapping before the import."""
    remarks: list[str] = field(default_factory=list)
    """Descriptions of what was left out."""

    def text(self, source: str, command: str) -> str:
        """Return the guess as the TOML file that a user corrects."""
        lines = [f"How {source} is read. Correct it, and import with it:", f"  {command}"]
        lines += [f"ASKED: {question}" for question in self.questions]
        lines += self.remarks
        return "\n".join([*(f"# {line}" for line in lines), toml_text(self.content)])


def guess(source: Source) -> Guess:
    """Return a guessed mapping of a source."""
    table, found = source.table, Guess(questions=list(source.asks))
    numbers = [name for name in table.column_names if _is_number(table.schema.field(name).type)]
    roles = _roles(table.column_names)
    if roles.get("message") in numbers:  # a numeric column named "error" is an error rate, not a message
        del roles["message"]
    hyperparameters = {
        own: name
        for name in sorted(table.column_names, key=is_setting)  # settings take precedence over (scheduled) curves
        if (own := HYPERPARAMETER_NAMES.get(plain_name(name))) and name in numbers and name not in roles.values()
    }
    settings = [
        *(roles[role] for role in ("optimizer", "batch_size", "seed") if role in roles),
        *hyperparameters.values(),
    ]
    if "run" in roles:
        by_run = run_codes(table, [roles["run"]])
        if mixed := next((name for name in settings if constant_within_runs(table, name, by_run)[1] is not None), None):
            found.remarks.append(f"{roles.pop('run')} doesn't identify runs: rows with equal values differ in {mixed}")
    keys = [roles["run"]] if "run" in roles else []
    keys = keys or settings
    codes = run_codes(table, keys)
    several = len(np.unique(codes)) < len(table)
    evaluations = source.rows == "evaluations" or (several and ("step" in roles or "epoch" in roles))
    rest = [name for name in table.column_names if name not in {*roles.values(), *hyperparameters.values()}]
    for name in list(rest):
        if is_setting(name) and name in numbers:
            hyperparameters[plain_name(name)] = name
            rest.remove(name)
    metrics = _metrics(found, table, [name for name in rest if name in numbers and not is_setting(name)])
    rest = [name for name in rest if name not in {metric["column"] for metric in metrics.values()}]
    if evaluations and "run" not in roles:
        rest = _told_apart(found, table, rest, keys, roles.get("step") or roles.get("epoch"))
    found.content = {
        "rows": "evaluations" if evaluations else "runs",
        "columns": roles,
        "hyperparameters": hyperparameters,
        "metrics": metrics,
    }
    _rest(found, table, rest, numbers, codes, hyperparameters, evaluations=evaluations)
    _required_values(found, roles, evaluations=evaluations)
    _statuses(found, table, roles)
    return found


def run_codes(table: pa.Table, keys: list[str]) -> np.ndarray:
    """Return the number of the run that each row belongs to; rows with equal `keys` belong to one run."""
    if not keys:
        return np.zeros(len(table), dtype=np.int64)
    frame = pd.DataFrame({str(place): table[name].to_pandas() for place, name in enumerate(keys)})
    return frame.groupby(list(frame), dropna=False, sort=False).ngroup().to_numpy()


def constant_within_runs(table: pa.Table, name: str, code: np.ndarray) -> tuple[np.ndarray, int | None]:
    """Return the first row of each run with a value in a column (-1 if none), and a row whose value differs from it."""
    values = pd.factorize(table[name].to_pandas())[0]
    there = np.flatnonzero(values >= 0)
    runs, places = np.unique(code[there], return_index=True)
    first = np.full(int(code.max(initial=-1)) + 1, -1)
    first[runs] = there[places]
    other = there[values[there] != values[first[code[there]]]]
    return first, int(other[0]) if len(other) else None


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))


def _roles(names: list[str]) -> dict[str, str]:
    """Return the column of each role, the one with the most specific name."""
    plain: dict[str, str] = {}
    for name in names:
        plain.setdefault(plain_name(name), name)
    found = {role: next((plain[alias] for alias in aliases if alias in plain), None) for role, aliases in ROLES.items()}
    return {role: name for role, name in found.items() if name is not None}


def _metrics(found: Guess, table: pa.Table, names: list[str]) -> dict[str, dict[str, str]]:
    """Return the metrics identified by names and values; add questions about other columns that look like metrics."""
    metrics: dict[str, dict[str, str]] = {}
    asked = len(found.questions)
    for name in sorted(names, key=lambda each: plain_name(each) not in METRICS):  # exact names first
        split, kind = measured(name)
        if kind is None:
            if set(plain_name(name).split("_")) & set(ERRORS):
                found.questions.append(
                    f"is {name!r} an error rate? Then add, in [metrics], test_accuracy = "
                    f'{{ column = "{name}", unit = "error" }} (or "error_percent"), train_accuracy likewise'
                )
            continue
        if split is None:
            found.questions.append(
                f"does {name!r} belong to the training or the test split? Add it in [metrics] as train_{kind} or "
                f"test_{kind}"
            )
            continue
        ours = metric_name(split, kind)
        if ours in metrics:
            found.remarks.append(f"{name} is left out: {metrics[ours]['column']} is used as {ours}")
        elif kind == "accuracy" and (pc.max(table[name]).as_py() or 0.0) > 1:
            found.questions.append(
                f"{name!r} has values above 1: is it a percentage? Then add, in [metrics], "
                f'{ours} = {{ column = "{name}", unit = "percent" }}'
            )
        else:
            metrics[ours] = {"column": name, "unit": "as_is" if kind == "loss" else "fraction"}
    if not metrics and len(found.questions) == asked:
        shown = ", ".join(names[:_MAX_SHOWN]) or "no column of numbers is left"
        found.questions.append(
            f"which column is the metric ({shown})? Add it in [metrics]: a quantity to minimise as "
            'test_loss = { column = "NAME", unit = "as_is" }, a fraction to maximise as '
            'test_accuracy = { column = "NAME", unit = "fraction" }'
        )
    return metrics


def _told_apart(found: Guess, table: pa.Table, rest: list[str], keys: list[str], time: str | None) -> list[str]:
    """Ask about the columns in `rest` that differ between rows of one run and step; return the others.

    Such rows may be of several runs, which a column of unknown meaning tells apart.
    """
    if time is None:
        return rest
    moments = run_codes(table, [*keys, time])
    different = [name for name in rest if constant_within_runs(table, name, moments)[1] is not None]
    if different:
        shown = ", ".join(map(repr, different[:_MAX_SHOWN])) + " ..." * (len(different) > _MAX_SHOWN)
        found.questions.append(
            f"rows with the same {', '.join([*keys, time])} differ in {shown}: which of these are hyperparameters? Add "
            f'them in [hyperparameters], such as {plain_name(different[0])} = "{different[0]}", and one that tells '
            'runs apart in [columns], as run = "NAME"; otherwise add nothing, and the last of such rows counts'
        )
    return [name for name in rest if name not in different]


def _rest(
    found: Guess,
    table: pa.Table,
    names: list[str],
    numbers: list[str],
    codes: np.ndarray,
    hyperparameters: dict[str, str],
    *,
    evaluations: bool,
) -> None:
    """Use columns that are constant within each run as hyperparameters; report or ask about those that vary."""
    runs, left = len(np.unique(codes)), []
    named = found.content["columns"].get("optimizer")
    optimizers = run_codes(table, [named] if named else [])
    for name in names:
        values = pd.factorize(table[name].to_pandas())[0].astype(np.int64)
        kinds = int(values.max(initial=0)) + 1
        if kinds < 2 or (measured(name)[1] is not None):
            continue
        constant = len(np.unique(codes * (kinds + 1) + values)) == runs
        if name in numbers and evaluations and constant and plain_name(name) not in hyperparameters:
            hyperparameters[plain_name(name)] = name
        elif name in numbers and not evaluations and kinds < max(2, runs / 2):
            found.questions.append(
                f"is {name!r}, which has {kinds} values, a hyperparameter? Then add it in [hyperparameters]; otherwise "
                "omit it"
            )
        elif (
            name in numbers
            or not constant
            or kinds > _MAX_SHOWN
            or constant_within_runs(table, name, optimizers)[1] is None
        ):
            left.append(name)  # it has no information beyond the optimizer
        else:
            found.questions.append(
                f"does {name!r} ({_some(table[name])}) change results? Then add "
                f'it to columns.optimizer = ["...", "{name}"], whose values form the name; otherwise omit it'
            )
    if left:
        found.remarks.append(f"left out: {', '.join(left[:_MAX_SHOWN])}{' ...' * (len(left) > _MAX_SHOWN)}")


def _some(values: pa.ChunkedArray) -> str:
    return ", ".join(map(str, pc.unique(values).to_pylist()[:4]))


def _required_values(found: Guess, roles: dict[str, str], *, evaluations: bool) -> None:
    """Ask for required values that no column contains."""
    if "optimizer" not in roles:
        found.questions.append('which optimizer was used? Add, in [constants], for example optimizer = "adamw"')
    if "batch_size" not in roles:
        found.questions.append(
            "at which batch size were the runs trained? Add, in [constants], for example batch_size = 128"
        )
    if "step" not in roles and "epoch" in roles:
        found.questions.append(
            "how many examples does the training set have, to convert epochs to steps? Add, in [constants], for "
            "example train_size = 50000"
        )
    elif "step" not in roles and not evaluations:
        found.questions.append("for how many steps did each run train? Add, in [constants], for example steps = 1000")


def _statuses(found: Guess, table: pa.Table, roles: dict[str, str]) -> None:
    if "status" not in roles:
        return
    words = [str(word) for word in pc.unique(table[roles["status"]]).to_pylist() if word is not None]
    known = {word: STATUSES.get(word.lower().rpartition(".")[2]) for word in words}
    found.content["statuses"] = {word: status.value for word, status in known.items() if status is not None}
    for word in [word for word, status in known.items() if status is None][:_MAX_SHOWN]:
        found.questions.append(
            f'what does the status {word!r} mean? Add, in [statuses], "{word}" = "completed", "failed", "diverged", '
            '"stopped" or "interrupted"'
        )
