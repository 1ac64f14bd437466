"""Inference of the design of runs that were trained elsewhere: the axes of each optimizer, and whether it is a grid."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from sensitivity.store.schema import PARAM_PREFIX
from sensitivity.study.arms import ObservedArm
from sensitivity.study.observed import OBSERVED

_MAX_LISTED = 64
"""Most values of a hyperparameter that are listed; more are described by their interval."""
_MAX_LISTED_OF_DRAWS = 8
_LOG_RATIO = 10.0
"""Smallest ratio of the largest to the smallest value of a logarithmic interval."""
_FIELD_SUFFIX = "_"
"""Suffix of a hyperparameter whose name is a field of every optimizer."""


def hyperparameter_field(name: str) -> str:
    """Return the name of a hyperparameter in study files."""
    return f"{name}{_FIELD_SUFFIX}" if name in ObservedArm.model_fields else name


def params_of(own: pd.DataFrame) -> list[str]:
    """Return the columns of hyperparameters that have a value in at least one of the runs `own`."""
    return [str(name) for name in own if str(name).startswith(PARAM_PREFIX) and own[name].notna().any()]


def arm_of(own: pd.DataFrame, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of the optimizer with the runs `own`; those in `fields` take precedence."""
    params = params_of(own)
    design = str(fields.get("design", "grid" if grid_of(own, params) is not None else OBSERVED))
    axes = {hyperparameter_field(name.removeprefix(PARAM_PREFIX)): _axis(own[name], design) for name in params}
    return {"kind": OBSERVED, **axes, **fields, "design": design}


def grid_of(own: pd.DataFrame, params: Sequence[str]) -> dict[str, list[float]] | None:
    """Return the grid of which the runs cover most cells, with most seeds in each; None if they form no grid."""
    values = {name: _levels(own[name]) for name in params}
    product = math.prod(map(len, values.values()))
    cells = len(own[list(params)].drop_duplicates()) if params else 1
    crossed = len(own) > product * own["seed"].nunique() * own["batch_size"].nunique() / 2
    # Any values of a single hyperparameter form a "grid"; a large number of them indicates random draws.
    drawn = sum(len(each) > 1 for each in values.values()) == 1 and product > _MAX_LISTED
    return values if cells > product / 2 and crossed and not drawn else None


def _levels(values: pd.Series[float]) -> list[float]:
    return sorted(float(value) for value in values.dropna().unique())


def _axis(values: pd.Series[float], design: str) -> Any:
    found = _levels(values)
    listed = {"grid": len(found), OBSERVED: _MAX_LISTED}.get(design, _MAX_LISTED_OF_DRAWS)
    if len(found) <= listed:
        return found if len(found) > 1 else found[0]
    low, high = found[0], found[-1]
    return {"log" if low > 0 and high / low >= _LOG_RATIO else "linear": [low, high]}
