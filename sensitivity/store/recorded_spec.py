"""Inference of the study that recorded runs form; it is not declared, and changes when runs are added."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pyarrow as pa

from sensitivity.store.directory import Place
from sensitivity.store.inference import arm_of
from sensitivity.store.logs import log_parts
from sensitivity.store.parts import read_run_tables
from sensitivity.store.schema import RUNS
from sensitivity.study.errors import StorageError
from sensitivity.study.metrics import METRICS, USUAL
from sensitivity.study.section import MOST_ITEMS


def infer_recorded_study(directory: Place, declared: dict[str, Any]) -> dict[str, Any]:
    """Return a study's fields: the declared ones, and those inferred from the runs in `directory`.

    Raises:
        StorageError: no run has been recorded yet, or a part is damaged.
    """
    parts = (*log_parts(directory), *directory.child(RUNS).files(".parquet"))
    tables = [table for table in read_run_tables(directory, parts).values() if len(table)]
    if not tables:
        raise StorageError(
            f"{directory.uri}: no run has been recorded here yet\n  Record one with `sensitivity.record`"
        )
    runs: pd.DataFrame = pa.concat_tables(tables, promote_options="default").to_pandas()
    runs = runs.sort_values("started_at", kind="stable").drop_duplicates("trial_id", keep="last")
    optimizers = {str(name): arm_of(own, {}) for name, own in runs.groupby("optimizer", sort=False)}
    measured = [name for name in METRICS if name in runs and runs[name].notna().any()]
    return {
        **declared,
        "batch_sizes": [int(size) for size in sorted(runs["batch_size"].unique())],
        "seeds": [int(seed) for seed in sorted(runs["seed"].unique())][:MOST_ITEMS],
        "optimizers": optimizers,
        "observed": {"recorded": True, "metrics": list(map(str, measured or USUAL))},
    }
