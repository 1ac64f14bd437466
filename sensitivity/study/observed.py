"""Studies whose runs were trained elsewhere: the ``[observed]`` table of a study file, and run ids.

Such a study has no problem, budget, schedule or evaluation: only the measurements are known, not what was trained. Its
runs were imported, recorded by the user's own training loop, or handed out to it (``sensitivity.trials``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from pydantic import field_validator
from pydantic_core import PydanticCustomError

from sensitivity.study.errors import UserError
from sensitivity.study.hashing import content_hash
from sensitivity.study.metrics import METRICS, USUAL, Metric, MetricName, is_metric
from sensitivity.study.section import AsList, Section

OBSERVED = "observed"
"""Kind of an optimizer that is trained elsewhere, and design of configurations that follow no declared one."""
TRAINED_HERE = ("problem", "budget", "schedule", "evaluation", "search", "execution", "log")
"""Tables of a study file that define how runs are trained by this package."""


class ObservedSpec(Section):
    """Facts about runs that were trained elsewhere."""

    metrics: Annotated[tuple[MetricName, ...], AsList] = tuple(metric.name for metric in USUAL)
    """Names of the measured metrics."""
    source: str = ""
    """Where the runs come from, in words; empty if the user's training loop reports them."""
    planned: bool = False
    """Whether the study file was fixed before the first run, so that its claims are confirmatory."""
    recorded: bool = False
    """Whether optimizers, batch sizes and seeds are taken from the recorded runs."""
    unpaired: bool = False
    """Whether runs with the same seed are unrelated, for example because seeds are unknown."""
    cautions: Annotated[tuple[str, ...], AsList] = ()
    """Problems found while importing the runs, one sentence each."""

    @field_validator("metrics")
    @classmethod
    def _some_metric(cls, value: tuple[MetricName, ...]) -> tuple[MetricName, ...]:
        if not value:
            raise PydanticCustomError("empty", "the list is empty: give at least one of {all}", {"all": list(METRICS)})
        for name in value:
            if not is_metric(name):
                raise PydanticCustomError(
                    "unknown_name",
                    "unknown {value}. Allowed: {allowed}",
                    {"value": repr(name), "allowed": ", ".join(METRICS), "known": list(METRICS), "name": name},
                )
        return value

    def measured(self) -> tuple[Metric, ...]:
        """Return the metrics that runs may have, with their declarations."""
        return tuple(METRICS[name] for name in self.metrics)

    def where(self) -> str:
        """Describe where the runs were trained."""
        return f"elsewhere ({self.source})" if self.source else "elsewhere"


def trained_elsewhere(name: str) -> UserError:
    """Return the error for an action that requires a study trained by this package."""
    return UserError(
        f"{name}: its runs are trained elsewhere, so none can be trained here\n"
        "  `sensitivity.trials` hands out what it plans (docs/importing.md); its results can be read: verdict, report, "
        "figure, export, dashboard"
    )


def observed_ids(optimizer: str, hyperparameters: Mapping[str, float], batch_size: int, seed: int) -> tuple[str, str]:
    """Return the ids of a run trained elsewhere and of its cell: hashes of everything that distinguishes them."""
    cell = {
        OBSERVED: True,
        "arm": optimizer,
        "hyperparameters": dict(hyperparameters),
        "batch_size": batch_size,
    }
    return content_hash({**cell, "seed": seed}), content_hash(cell)
