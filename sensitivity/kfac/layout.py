"""Memory layout: one flat vector for all parameters, and one bank of square matrices for each size of factor.

Flat vectors are [*lead, parameters]. Layers with blocks of the same shape form a cohort and are adjacent, so that
without leading dimensions a cohort is one batched product. The part of each layer is its joint matrix [groups,
output_dim, input_dim], with the bias as last column (for an embedding its weight, [vocabulary, width]). Banks are
[slots, *lead, d, d]; a layer has `groups` slots in the bank of its input factor and as many in that of its output
factor. The input factor of an embedding is diagonal and is stored outside the banks.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from sensitivity.kfac.layers import Layer


@dataclass(frozen=True, kw_only=True)
class Slots:
    """Range `start` to `stop` of matrices in the bank of size `dim`."""

    dim: int
    start: int
    stop: int

    def of(self, banks: Mapping[int, Tensor]) -> Tensor:
        """View [slots, ...] of these slots."""
        return banks[self.dim][self.start : self.stop]


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Position of a layer in the flat vector, and its slots; `inputs` is None for a diagonal input factor."""

    layer: Layer
    offset: int
    inputs: Slots | None
    outputs: Slots

    @property
    def size(self) -> int:
        """Length of the layer's part of the flat vector."""
        return self.layer.groups * self.layer.output_dim * self.layer.input_dim

    def block(self, flat: Tensor) -> Tensor:
        """View of the layer's joint matrix in a flat vector.

        Its shape is [*lead, groups, output_dim, input_dim], or [*lead, vocabulary, width] for an embedding.
        """
        part = flat[..., self.offset : self.offset + self.size]
        if self.layer.kind == "embedding":
            return torch.unflatten(part, -1, self.layer.weight_shape)
        return torch.unflatten(part, -1, (self.layer.groups, self.layer.output_dim, self.layer.input_dim))

    def parameter_views(self, flat: Tensor) -> list[Tensor]:
        """Return views of the layer's parameters in a flat vector, each [*lead, *parameter shape].

        Parts of one weight are adjacent: the first of them returns the view of the whole weight, the others none.
        """
        if self.layer.part[0] > 0:
            return []
        block, shape = self.block(flat), self.layer.parameter_shape
        if self.layer.kind == "embedding":
            return [block]
        lead, rows, width = flat.shape[:-1], shape[0], self.layer.input_dim
        outer, start = block.stride()[: len(lead)], block.storage_offset()
        inner = tuple(math.prod(shape[axis + 1 :]) for axis in range(1, len(shape)))
        views = [block.as_strided((*lead, *shape), (*outer, width, *inner), start)]
        if self.layer.bias is not None:
            views.append(block.as_strided((*lead, rows), (*outer, width), start + width - 1))
        return views


@dataclass(frozen=True, kw_only=True)
class Cohort:
    """Layers with blocks of the same shape, adjacent in the flat vector and in the banks."""

    placements: tuple[Placement, ...]

    @property
    def inputs(self) -> Slots | None:
        """The slots of all input factors."""
        return _joined([placement.inputs for placement in self.placements])

    @property
    def outputs(self) -> Slots:
        """The slots of all output factors."""
        joined = _joined([placement.outputs for placement in self.placements])
        assert joined is not None
        return joined

    def block(self, flat: Tensor) -> Tensor:
        """View of all joint matrices in a flat vector without leading dimensions: [slots, output_dim, input_dim]."""
        first, layer = self.placements[0], self.placements[0].layer
        part = flat[first.offset : first.offset + sum(placement.size for placement in self.placements)]
        return torch.unflatten(part, 0, (-1, layer.output_dim, layer.input_dim))


@dataclass(frozen=True, eq=False)
class Index:
    """Positions of factors, as LongTensors; slots are numbered through the banks in order, then the diagonal factors.

    owners, inputs, outputs: for each layer and group, the index of the layer, and the slots of its input and output
    factors. entries, slots: for each diagonal entry of the banks, its index in their common buffer (see
    `common_buffer`), and its slot. sides: side of the matrix in each slot of a bank.
    """

    owners: Tensor
    inputs: Tensor
    outputs: Tensor
    entries: Tensor
    slots: Tensor
    sides: Tensor


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Positions of all parameters of a model and of all factors; equal models have equal layouts."""

    lead: tuple[int, ...]
    cohorts: tuple[Cohort, ...]
    others: tuple[tuple[str, tuple[int, ...], int], ...]
    covered: int
    size: int
    slots: Mapping[int, int]
    names: tuple[str, ...] = field(init=False)
    _indices: dict[torch.device, "Index"] = field(init=False, repr=False, compare=False, default_factory=dict)

    def __post_init__(self) -> None:
        layers = [placement.layer for placement in self.placements]
        covered = [name for layer in layers if layer.part[0] == 0 for name in layer.parameters]
        object.__setattr__(self, "names", (*covered, *(name for name, _, _ in self.others)))

    @cached_property
    def placements(self) -> tuple[Placement, ...]:
        """All covered layers, in their order in the flat vector."""
        return tuple(placement for cohort in self.cohorts for placement in cohort.placements)

    def index(self, device: torch.device) -> "Index":
        """Index of the factors, with tensors on this device."""
        if device not in self._indices:
            owners, inputs, outputs = torch.tensor(self._slot_indices(), device=device).unbind(1)
            sides = torch.tensor([dim for dim, count in self.slots.items() for _ in range(count)])
            starts = (sides**2).cumsum(0) - sides**2
            slots = torch.arange(len(sides)).repeat_interleave(sides)
            steps = torch.cat([torch.arange(side) * (side + 1) for side in sides.tolist()])
            entries = (starts[slots] + steps).to(device)
            self._indices[device] = Index(owners, inputs, outputs, entries, slots.to(device), sides.to(device))
        return self._indices[device]

    def _slot_indices(self) -> list[tuple[int, int, int]]:
        """For each layer and group, the index of the layer, and the slots of its input and output factors."""
        before, total = dict[int, int](), 0
        for dim, count in self.slots.items():
            before[dim] = total
            total += count
        found = []
        for i, placement in enumerate(self.placements):
            a, g = placement.inputs, placement.outputs
            for group in range(placement.layer.groups):
                place = total if a is None else before[a.dim] + a.start + group
                found.append((i, place, before[g.dim] + g.start + group))
            total += a is None
        return found

    def views(self, flat: Tensor) -> list[Tensor]:
        """Return views of all parameters in a flat vector, in the order of `names`, each [*lead, *parameter shape]."""
        found = [view for placement in self.placements for view in placement.parameter_views(flat)]
        for _, shape, offset in self.others:
            part = flat[..., offset : offset + math.prod(shape)]
            found.append(torch.unflatten(part, -1, shape) if shape else part.squeeze(-1))
        return found

    def new_banks(self, like: Tensor, dtype: torch.dtype) -> dict[int, Tensor]:
        """Banks of zeros, [slots, *lead, d, d] by d; without leading dimensions in one buffer (`common_buffer`)."""
        shapes = {dim: (count, *self.lead, dim, dim) for dim, count in self.slots.items()}
        if self.lead:
            return {dim: torch.zeros(shape, dtype=dtype, device=like.device) for dim, shape in shapes.items()}
        size = sum(math.prod(shape) for shape in shapes.values())
        return self.banks_in(torch.zeros(size, dtype=dtype, device=like.device))

    def banks_in(self, buffer: Tensor) -> dict[int, Tensor]:
        """Return views of one buffer as banks without leading dimensions."""
        parts = torch.split(buffer, [count * dim**2 for dim, count in self.slots.items()])
        return {dim: part.view(-1, dim, dim) for dim, part in zip(self.slots, parts, strict=True)}

    def new_diagonals(self, like: Tensor, dtype: torch.dtype) -> dict[str, Tensor]:
        """Diagonal input factors of zeros, [*lead, vocabulary] by the name of the embedding."""
        diagonal = [placement.layer for placement in self.placements if placement.inputs is None]
        return {x.name: torch.zeros((*self.lead, x.input_dim), dtype=dtype, device=like.device) for x in diagonal}


def common_buffer(banks: Mapping[int, Tensor]) -> Tensor | None:
    """Buffer that all banks are views of, if there is one."""
    buffer = next(iter(banks.values()))._base
    shared = buffer is not None and all(bank._base is buffer for bank in banks.values())
    return buffer if shared else None


def layout_of(layers: Sequence[Layer], params: Mapping[str, Tensor]) -> Layout:
    """Layout of the parameters [*lead, *parameter shape], of which `layers` cover some.

    Raises ValueError if there is no layer, or a layer's parameters are missing or have inconsistent leading dimensions.
    """
    lead = _lead(layers, params)
    families: dict[tuple[object, ...], list[Layer]] = {}
    for layer in layers:
        key = (layer.kind == "embedding", layer.output_dim, layer.input_dim, layer.groups)
        families.setdefault(key, []).append(layer)
    offset, slots = 0, dict[int, int]()

    def take(dim: int, count: int) -> Slots:
        start = slots.get(dim, 0)
        slots[dim] = start + count
        return Slots(dim=dim, start=start, stop=start + count)

    cohorts = []
    for family in families.values():
        inputs = [None if x.kind == "embedding" else take(x.input_dim, x.groups) for x in family]
        outputs = [take(x.output_dim, x.groups) for x in family]
        placements = []
        for layer, a, g in zip(family, inputs, outputs, strict=True):
            placements.append(Placement(layer=layer, offset=offset, inputs=a, outputs=g))
            offset += placements[-1].size
        cohorts.append(Cohort(placements=tuple(placements)))
    covered, others = offset, []
    taken = {name for layer in layers for name in layer.parameters}
    for name, param in params.items():
        if name not in taken:
            shape = tuple(param.shape[len(lead) :])
            others.append((name, shape, offset))
            offset += math.prod(shape)
    return Layout(lead=lead, cohorts=tuple(cohorts), others=tuple(others), covered=covered, size=offset, slots=slots)


def _lead(layers: Sequence[Layer], params: Mapping[str, Tensor]) -> tuple[int, ...]:
    if not layers:
        raise ValueError(
            "No layer that K-FAC covers (Linear, Conv, ConvTranspose, Embedding, MultiheadAttention) is trained. Use "
            "torch.optim.SGD for this model."
        )
    leads = set()
    for layer in layers:
        missing = [name for name in layer.parameters if name not in params]
        if missing:
            raise ValueError(
                f"Layer {layer.name!r}: no parameter named {missing[0]!r} among {', '.join(params)}. Pass all of the "
                "model's parameters."
            )
        shape, own = tuple(params[layer.weight].shape), layer.parameter_shape
        if shape[len(shape) - len(own) :] != own:
            raise ValueError(
                f"Parameter {layer.weight!r} has shape {shape}, which does not end with {own}. Pass parameters of the "
                "model that the layers were taken from."
            )
        leads.add(shape[: len(shape) - len(own)])
    if len(leads) > 1:
        raise ValueError(
            f"Layers disagree about the leading dimensions of their parameters: {sorted(leads)}. Give all parameters "
            "the same leading dimensions."
        )
    return tuple(leads.pop())


def _joined(slots: Sequence[Slots | None]) -> Slots | None:
    present = [slot for slot in slots if slot is not None]
    if not present:
        return None
    return Slots(dim=present[0].dim, start=present[0].start, stop=present[-1].stop)
