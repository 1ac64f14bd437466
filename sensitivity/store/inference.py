"""Infer the design of runs that were made elsewhere: each optimizer's axes, and whether they form a grid."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from sensitivity.store.schema import PARAM_PREFIX
from sensitivity.study.arms import ObservedArm
from sensitivity.study.observed import OBSERVED

_MOST_LISTED = 64
"""Values of a hyperparameter that are listed; of more, their interval is given."""
_MOST_LISTED_OF_DRAWS = 8
_LOG = 10.0
"""Ratio of the largest value to the smallest from which an interval is logarithmic."""
_TAKEN = "_"
"""After the name of a hyperparameter that is a field of every optimizer."""


def hyperparameter_field(name: str) -> str:
    """Return the name of a hyperparameter in study files."""
    return f"{name}{_TAKEN}" if name in ObservedArm.model_fields else name


def params_of(own: pd.DataFrame) -> list[str]:
    """Return the columns of the hyperparameters that at least one of the runs `own` has."""
    return [str(name) for name in own if str(name).startswith(PARAM_PREFIX) and own[name].notna().any()]


def arm_of(own: pd.DataFrame, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of the optimizer with the runs `own`; fields in `given` take precedence."""
    params = params_of(own)
    design = str(given.get("design", "grid" if grid_of(own, params) is not None else OBSERVED))
    axes = {hyperparameter_field(name.removeprefix(PARAM_PREFIX)): _axis(own[name], design) for name in params}
    return {"kind": OBSERVED, **axes, **given, "design": design}


def grid_of(own: pd.DataFrame, params: Sequence[str]) -> dict[str, list[float]] | None:
    """Return the grid values that most of the runs fill, each with most of the seeds; None if they form no grid."""
    values = {name: _levels(own[name]) for name in params}
    product = math.prod(map(len, values.values()))
    cells = len(own[list(params)].drop_duplicates()) if params else 1
    crossed = len(own) > product * own["seed"].nunique() * own["batch_size"].nunique() / 2
    # Of one hyperparameter any values are a "grid": more than a few that no other run shares are draws.
    drawn = sum(len(each) > 1 for each in values.values()) == 1 and product > _MOST_LISTED
    return values if cells > product / 2 and crossed and not drawn else None


def _levels(values: pd.Series[float]) -> list[float]:
    return sorted(float(value) for value in values.dropna().unique())


def _axis(values: pd.Series[float], design: str) -> Any:
    found = _levels(values)
    listed = {"grid": len(found), OBSERVED: _MOST_LISTED}.get(design, _MOST_LISTED_OF_DRAWS)
    if len(found) <= listed:
        return found if len(found) > 1 else found[0]
    low, high = found[0], found[-1]
    return {"log" if low > 0 and high / low >= _LOG else "linear": [low, high]}
