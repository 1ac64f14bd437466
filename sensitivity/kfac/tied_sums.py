"""Sums of the moments of tied embeddings while backward passes run; see tied.py."""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor
from torch.distributed import ProcessGroup

from sensitivity.kfac.distributed import pooled
from sensitivity.kfac.sums import Place, Seen, normalise, weigh
from sensitivity.kfac.tied import joined


class Maps:
    """Sums of the moments of embeddings' uses as maps between two steps, beside those of their uses as tables."""

    def __init__(self) -> None:
        self.places: dict[str, Place] = {}
        self.seen: dict[str, Seen] = {}

    def place(self, table: Place) -> Place:
        """Return where the sums of a layer's use as a map lie; `table` is its other place."""
        name = table.layer.name
        if name not in self.places:
            layer = replace(table.layer, kind="linear")
            self.places[name] = Place(layer, torch.zeros_like(table.outputs), torch.zeros_like(table.inputs), None)
        return self.places[name]

    def share(self, tables: Mapping[str, Place], group: ProcessGroup | None) -> None:
        """Make room on every rank for the uses that any rank has seen."""
        names = [name for name, table in tables.items() if table.layer.kind == "embedding"]
        if group is None or not names:
            return
        counts = torch.tensor([float(name in self.seen) for name in names], device=tables[names[0]].inputs.device)
        pooled([counts], group)
        for name, count in zip(names, counts.tolist(), strict=True):
            if count:
                self.place(tables[name])

    def normalise(self, tables: Mapping[str, Place], seen: Mapping[str, Seen], terms: float, scale: float) -> None:
        """Turn raw sums into factors of this rank's batch; a use that was not seen has none."""
        normalise(self.places, self.seen, terms, scale)
        for name, place in self.places.items():
            unseen = place if name not in self.seen else tables[name] if name not in seen else None
            if unseen is not None:
                unseen.inputs.zero_()
                unseen.outputs.zero_()

    def pool(self, share: Tensor, group: ProcessGroup) -> None:
        """Average over ranks."""
        weigh(self.places, self.seen, share, group)
        pooled([side for place in self.places.values() for side in (place.inputs, place.outputs)], group)

    def join(self, tables: Mapping[str, Place]) -> None:
        """Put the factors of both uses together, in the place of those as tables."""
        for name, place in self.places.items():
            table = tables[name]
            diagonal, factor = joined([(table.inputs, table.outputs), (place.outputs, place.inputs)])
            table.inputs.copy_(diagonal)
            table.outputs.copy_(factor)
