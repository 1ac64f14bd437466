"""``import_study``: converts runs that were trained elsewhere to a study directory, with a given or guessed mapping."""

from __future__ import annotations

import datetime
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from sensitivity.importing.guess import Guess, guess
from sensitivity.importing.inference import Inferred, infer, pending_rows
from sensitivity.importing.mapping import ImportMapping, mapping_of, mapping_text
from sensitivity.importing.runs import Runs, read_runs_of
from sensitivity.importing.sources import find_source
from sensitivity.store.directory import Place
from sensitivity.store.inference import hyperparameter_field
from sensitivity.store.last_values import by_split
from sensitivity.store.manifest import spec_hash
from sensitivity.store.observed import write_observed
from sensitivity.store.schema import PARAM_PREFIX
from sensitivity.study.errors import UserError
from sensitivity.study.observed import OBSERVED, observed_ids
from sensitivity.study.redaction import redacted
from sensitivity.study.results import Status

MAPPING = "import.toml"
"""File in a study directory with the mapping of the import."""


class OpenQuestionsError(UserError):
    """The mapping can't be guessed completely; `guess` is the mapping to complete."""

    def __init__(self, source: str, found: Guess) -> None:
        self.guess = found
        self.source = source
        count = len(found.questions)
        listed = "\n".join(f"  - {question}" for question in found.questions)
        super().__init__(
            f"{source}: {count} question{'s' * (count != 1)} to answer before it can be imported\n{listed}"
        )


@dataclass(frozen=True, kw_only=True)
class Imported:
    """The outcome of an import."""

    directory: Place
    source: str
    mapping: ImportMapping
    guessed: Guess | None
    """The guessed mapping; None if a mapping was passed."""
    runs: Runs
    inferred: Inferred


def import_study(source: str, directory: Place, mapping: ImportMapping | Mapping[str, Any] | None = None) -> Imported:
    """Import runs from `source` into the study directory `directory`, whose last part is the name of the study.

    Args:
        source: a file, a folder, or the address of a store of another tool (``sources``).
        directory: study directory.
        mapping: how to read the source; guessed if None.

    Raises:
        OpenQuestionsError: no mapping is passed, and the guess leaves questions open.
        UserError: the source can't be read, or does not match the mapping.
    """
    found = find_source(source)
    guessed = None
    if mapping is None:
        guessed = guess(found)
        if guessed.questions:
            raise OpenQuestionsError(found.description, guessed)
        mapping = guessed.content
    if not isinstance(mapping, ImportMapping):
        mapping = mapping_of(mapping, source="mapping")
    runs = read_runs_of(found, mapping)
    runs.defects.found[:0] = found.notes
    inferred = infer(runs, mapping, name=directory.path.rpartition("/")[2], source=redacted(found.description))
    _write(directory, runs, inferred)
    directory.write(MAPPING, mapping_text(mapping, (f"How {redacted(found.description)} was read.",)).encode())
    return Imported(
        directory=directory,
        source=found.description,
        mapping=mapping,
        guessed=guessed,
        runs=runs,
        inferred=inferred,
    )


def _write(directory: Place, runs: Runs, inferred: Inferred) -> None:
    table = _renamed(runs.runs)
    params = [str(name) for name in table if str(name).startswith(PARAM_PREFIX)]
    table = _identified(table, params)
    missing = _identified(_renamed(pending_rows(inferred.missing)), params)
    plan = pd.concat([table, missing], ignore_index=True) if len(missing) else table
    spec = inferred.spec
    results = table[table["status"] != Status.PENDING.value].assign(
        traceback="",
        spec_hash=spec_hash(spec),
        pack_size=1,
        finished_at=lambda rows: rows["finished_at"].fillna(pd.Timestamp(datetime.datetime.now(tz=datetime.UTC))),
    )
    evaluations = runs.evaluations[runs.evaluations["run"].isin(results.index)]
    write_observed(directory, spec, plan, _with_last_values(results, evaluations), evaluations)


def _renamed(table: pd.DataFrame) -> pd.DataFrame:
    names = [str(name).removeprefix(PARAM_PREFIX) for name in table if str(name).startswith(PARAM_PREFIX)]
    return table.rename(columns={PARAM_PREFIX + name: PARAM_PREFIX + hyperparameter_field(name) for name in names})


def _identified(table: pd.DataFrame, params: list[str]) -> pd.DataFrame:
    """Return runs with their ids and the kind of their optimizer."""
    columns = [table[name].to_numpy() for name in params if name in table]
    names = [name.removeprefix(PARAM_PREFIX) for name in params if name in table]
    ids = [
        observed_ids(
            optimizer, {n: v for n, v in zip(names, row, strict=True) if not math.isnan(v)}, int(size), int(seed)
        )
        for optimizer, size, seed, *row in zip(
            table["optimizer"], table["batch_size"], table["seed"], *columns, strict=True
        )
    ]
    return table.assign(trial_id=[run for run, _ in ids], cell_id=[cell for _, cell in ids], kind=OBSERVED)


def _with_last_values(runs: pd.DataFrame, evaluations: pd.DataFrame) -> pd.DataFrame:
    """Return runs with their final metrics, and the loss before the first step.

    Metrics of a split are those at the last evaluation with a finite loss of the split; for runs without one, at the
    last evaluation with a finite value. The loss decides because accuracies are finite even if the outputs of the
    network are not.
    """
    found = {}
    run = evaluations["run"].to_numpy()
    for names in by_split(list(map(str, evaluations.columns))).values():
        own = {name: evaluations[name].to_numpy() for name in names if name in evaluations}
        counts, decided = np.zeros(len(run), dtype=bool), np.zeros(len(run), dtype=bool)
        for values in own.values():  # the loss comes first; runs without finite losses use the next metric
            finite = np.isfinite(values) & ~decided
            counts |= finite
            decided |= np.isin(run, run[finite])
        last = pd.Series(np.flatnonzero(counts)).groupby(run[counts]).last()
        for name in names:
            column = pd.Series(math.nan, index=runs.index)
            if name in own:
                column.loc[last.index] = own[name][last.to_numpy()]
            found[name] = column.where(np.isfinite(column))
    start = evaluations[evaluations["step"] == 0].set_index("run")
    if "train_loss" in start:
        found["initial_train_loss"] = start["train_loss"].reindex(runs.index)
    return runs.assign(**found)
