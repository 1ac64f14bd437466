"""Moments of tied embeddings, summed during backward passes; see tied.py."""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor
from torch.distributed import ProcessGroup

from sensitivity.kfac.distributed import sum_over_ranks
from sensitivity.kfac.sums import Contribution, Place, normalise, weight_by_rank
from sensitivity.kfac.tied import kronecker_sum


class Maps:
    """Sums, between two steps, of the moments of embeddings used as maps; those of their use as tables are separate."""

    def __init__(self) -> None:
        self.places: dict[str, Place] = {}
        self.contributions: dict[str, Contribution] = {}

    def place(self, table: Place) -> Place:
        """Buffers of a layer's use as a map; `table` has those of its use as a table."""
        name = table.layer.name
        if name not in self.places:
            layer = replace(table.layer, kind="linear")
            self.places[name] = Place(layer, torch.zeros_like(table.outputs), torch.zeros_like(table.inputs), None)
        return self.places[name]

    def share(self, tables: Mapping[str, Place], group: ProcessGroup | None) -> None:
        """Allocate buffers on every rank for the uses of any rank."""
        names = [name for name, table in tables.items() if table.layer.kind == "embedding"]
        if group is None or not names:
            return
        counts = torch.tensor(
            [float(name in self.contributions) for name in names], device=tables[names[0]].inputs.device
        )
        sum_over_ranks([counts], group)
        for name, count in zip(names, counts.tolist(), strict=True):
            if count:
                self.place(tables[name])

    def normalise(
        self, tables: Mapping[str, Place], contributions: Mapping[str, Contribution], terms: float, scale: float
    ) -> None:
        """Convert raw sums to the factors of this rank's batch; the factors of an absent use are 0."""
        normalise(self.places, self.contributions, terms, scale)
        for name, place in self.places.items():
            absent = place if name not in self.contributions else tables[name] if name not in contributions else None
            if absent is not None:
                absent.inputs.zero_()
                absent.outputs.zero_()

    def pool(self, share: Tensor, group: ProcessGroup) -> None:
        """Average the factors over ranks."""
        weight_by_rank(self.places, self.contributions, share, group)
        sum_over_ranks([side for place in self.places.values() for side in (place.inputs, place.outputs)], group)

    def join(self, tables: Mapping[str, Place]) -> None:
        """Replace the factors of tables by those of both uses together."""
        for name, place in self.places.items():
            table = tables[name]
            diagonal, factor = kronecker_sum([(table.inputs, table.outputs), (place.outputs, place.inputs)])
            table.inputs.copy_(diagonal)
            table.outputs.copy_(factor)
