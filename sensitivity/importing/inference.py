"""Inference of the study that runs form: a grid if the settings form one, otherwise a design of unknown origin."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from sensitivity.analysis.designs import levels
from sensitivity.importing.mapping import ImportMapping
from sensitivity.importing.runs import Runs
from sensitivity.store.inference import arm_of, grid_of, params_of
from sensitivity.store.schema import PARAM_PREFIX
from sensitivity.study.arms import SEARCHES
from sensitivity.study.errors import UserError
from sensitivity.study.load import parse_study
from sensitivity.study.observed import OBSERVED
from sensitivity.study.results import Status
from sensitivity.study.section import MOST_ITEMS
from sensitivity.study.spec import StudySpec


@dataclass(frozen=True, kw_only=True)
class Inferred:
    """An inferred study, and the runs of its design that are missing from the source."""

    spec: StudySpec
    missing: pd.DataFrame
    """Missing runs of incomplete grids: optimizer, batch_size, seed and ``param.*``."""
    designs: dict[str, str]
    """Description of each optimizer's design."""


def infer(runs: Runs, mapping: ImportMapping, *, name: str, source: str) -> Inferred:
    """Return the study that `runs` form.

    Raises:
        StudyFileError: they form no valid study, or the mapping's [study] table has mistakes.
        UserError: the mapping declares an optimizer that no run has.
    """
    table = runs.runs
    declared: Mapping[str, Any] = mapping.study.get("optimizers", {})
    if unknown := sorted(set(declared) - set(table["optimizer"])):
        raise UserError(
            f"study.optimizers.{unknown[0]}: no run has this optimizer\n  Optimizers of the runs: "
            f"{', '.join(map(str, table['optimizer'].unique()))}"
        )
    arms, missing, designs = {}, [], {}
    params = [column for column in table if str(column).startswith(PARAM_PREFIX)]
    for optimizer, own in table[~table["confirmation"].astype(bool)].groupby("optimizer", sort=False):
        of_optimizer = str(optimizer)
        has = params_of(own)
        arm = arms[of_optimizer] = arm_of(own, declared.get(of_optimizer, {}))
        designs[of_optimizer] = _description(arm["design"], own, has, stated=of_optimizer in declared)
        grid = grid_of(own, has)
        if arm["design"] == "grid" and grid is not None:
            missing.append(_missing_cells(own, has, grid).assign(optimizer=of_optimizer))
    lacking = [each for each in missing if len(each)]
    defects = [*runs.defects.found]
    if lacking:
        count = sum(map(len, lacking))
        defects.append(
            f"Runs that would complete the grids and are missing from the source: {count:,}. They are pending."
        )
    defects += _seed_defects(table, unpaired=runs.unpaired)
    defects += [
        f"{text} Success rates, importance, best-of-k curves and prices of tuning are refused for it."
        for text in (f"{each}: {words}." for each, words in designs.items() if not words.startswith("a grid"))
        if "not known" in text
    ]
    seeds = sorted(table.loc[~table["confirmation"].astype(bool), "seed"].unique())
    raw: dict[str, Any] = {
        "name": name,
        "batch_sizes": [int(size) for size in sorted(table["batch_size"].unique())],
        "seeds": [int(seed) for seed in seeds],
        **{field: value for field, value in mapping.study.items() if field != "optimizers"},
        "optimizers": {**{each: arms[each] for each in declared if each in arms}, **arms},
        "observed": {
            "source": source,
            "metrics": list(runs.metrics),
            "unpaired": runs.unpaired,
            "cautions": defects,
        },
    }
    if len(seeds) > MOST_ITEMS:
        raw["seeds"] = list(range(MOST_ITEMS))  # the tables contain the seeds of the runs
    columns = ["optimizer", "batch_size", "seed", *params]
    return Inferred(
        spec=parse_study(raw, source="the study that the runs form"),
        missing=pd.concat(lacking, ignore_index=True) if lacking else pd.DataFrame(columns=columns),
        designs=designs,
    )


def _description(design: str, own: pd.DataFrame, params: Sequence[str], *, stated: bool) -> str:
    counts = [
        f"{len(levels(own[column]))} of {column.removeprefix(PARAM_PREFIX)}"
        for column in params
        if len(levels(own[column])) > 1
    ]
    if design == "grid":
        return "a grid" + (f" ({', '.join(counts)})" if counts else " of one setting")
    if design == OBSERVED:
        settings = len(own[list(params)].drop_duplicates()) if params else 1
        return f"{settings:,} settings, and how they were chosen is not known"
    adaptive = ", an adaptive design" if design in SEARCHES else ""
    return f"{design} draws {'according to the mapping' if stated else 'by default'}{adaptive}"


def _missing_cells(own: pd.DataFrame, params: Sequence[str], grid: Mapping[str, Sequence[float]]) -> pd.DataFrame:
    """Return the cells of a grid without a run, at each batch size and seed of `own`."""
    keys = ["batch_size", "seed", *params]
    whole = pd.DataFrame(
        list(
            itertools.product(
                sorted(own["batch_size"].unique()), sorted(own["seed"].unique()), *(grid[column] for column in params)
            )
        ),
        columns=keys,
    )
    there = pd.MultiIndex.from_frame(own[keys].astype(whole.dtypes.to_dict()))
    return whole[~pd.MultiIndex.from_frame(whole).isin(there)]


def _seed_defects(table: pd.DataFrame, *, unpaired: bool) -> list[str]:
    """Describe seeds that not all optimizers have at a batch size: their runs can't be paired."""
    if unpaired or table["optimizer"].nunique() < 2:
        return []
    own = table[~table["confirmation"].astype(bool)][["batch_size", "seed", "optimizer"]].drop_duplicates()
    per_size = own.groupby("batch_size")["optimizer"].transform("nunique")
    shared = own.groupby(["batch_size", "seed"])["optimizer"].transform("nunique")
    alone = int(
        np.count_nonzero(own.loc[shared < per_size, ["batch_size", "seed"]].drop_duplicates().notna().all(axis=1))
    )
    if not alone:
        return []
    of = len(own[["batch_size", "seed"]].drop_duplicates())
    return [
        f"Seeds that only some optimizers ran, counted at each batch size: {alone:,} of {of:,}. They form no pairs, and"
        " the tests, which compare pairs, leave them out."
    ]


def pending_rows(missing: pd.DataFrame) -> pd.DataFrame:
    """Return the missing runs as rows of a plan."""
    return missing.assign(confirmation=False, status=Status.PENDING.value)
