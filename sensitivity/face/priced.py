"""``StudyPrice``: what is still to be run of a study, and what it costs here."""

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
    """A study that has passed every check, priced on this machine."""

    _priced: PricedPlan

    @property
    def spec(self) -> StudySpec:
        """The study."""
        return self._priced.plan.spec

    @property
    def missing(self) -> int:
        """Runs that have no result yet; an estimate where a search is limited by device-hours."""
        return sum(line.missing for line in self._priced.price.lines)

    @property
    def planned(self) -> int:
        """All runs of the study."""
        return sum(line.planned for line in self._priced.price.lines)

    @property
    def device_seconds(self) -> float:
        """Device time of the missing runs, at most."""
        return self._priced.price.device_seconds

    @property
    def wall_seconds(self) -> float:
        """The same with all workers at a time, without Ray's start."""
        return self._priced.price.wall_seconds

    @cached_property
    def table(self) -> pd.DataFrame:
        """One row per optimizer and batch size.

        ``step_seconds`` is a run's share of a step of its pack, ``pack_gain`` what the pack saves, ``pack_bytes`` its
        memory.
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
