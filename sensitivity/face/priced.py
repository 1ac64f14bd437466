"""``StudyPrice``: the runs that a study is missing, and their cost on this machine."""

from __future__ import annotations

import html
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

    from sensitivity.execution.pricing import PricedPlan
    from sensitivity.study.spec import StudySpec


@dataclass(frozen=True)
class StudyPrice:
    """A study that has passed every check, with its price on this machine; the result of `sensitivity.plan`."""

    _priced: PricedPlan

    @property
    def spec(self) -> StudySpec:
        """The validated study."""
        return self._priced.plan.spec

    @property
    def missing(self) -> int:
        """Number of runs without a result; an estimate if a search is limited by device-hours."""
        return sum(line.missing for line in self._priced.price.lines)

    @property
    def planned(self) -> int:
        """Number of runs in the study, with or without a result."""
        return sum(line.planned for line in self._priced.price.lines)

    @property
    def device_seconds(self) -> float:
        """Upper bound of the device time of the missing runs."""
        return self._priced.price.device_seconds

    @property
    def wall_seconds(self) -> float:
        """Elapsed time of the missing runs with all workers in parallel, without the start of Ray."""
        return self._priced.price.wall_seconds

    @cached_property
    def table(self) -> pd.DataFrame:
        """One row per optimizer and batch size.

        ``missing`` and ``planned`` count runs; ``steps`` and ``flops_per_run`` are those of one run. Runs are trained
        in packs of ``pack_size``, which need ``pack_bytes`` of memory: ``step_seconds`` is one run's share of a step of
        its pack, and ``pack_gain`` the factor by which packing reduces the time per run. ``device_seconds`` is the time
        of all missing runs.
        """
        import pandas as pd

        return pd.DataFrame(
            {
                "optimizer": line.optimizer,
                "batch_size": line.batch_size,
                "missing": line.missing,
                "planned": line.planned,
                "steps": line.cost.steps,
                "flops_per_run": line.cost.flops,
                "step_seconds": line.cost.step_seconds,
                "device_seconds": line.device_seconds,
                "pack_size": line.pack_size,
                "pack_gain": line.cost.gain,
                "pack_bytes": line.pack_bytes,
            }
            for line in self._priced.price.lines
        )

    def __repr__(self) -> str:
        return f"{self.spec.name}\n{self.table.to_string(index=False)}\n{self._priced.sentences()}"

    def _repr_html_(self) -> str:
        table = self.table.to_html(index=False, border=0)
        return f"<b>{html.escape(self.spec.name)}</b>{table}<p>{html.escape(self._priced.sentences())}</p>"
