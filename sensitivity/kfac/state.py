"""What K-FAC remembers between steps, and how members are dropped from it.

The engine owns these tensors and updates them in place. Banks are [slots, *lead, d, d] (layout.py), everything else
starts with *lead, the leading dimensions of the parameters.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from torch import Tensor

from sensitivity.kfac.config import KFACConfig
from sensitivity.kfac.diagonal import Norm
from sensitivity.kfac.factors import accumulation_dtype
from sensitivity.kfac.layers import Layer
from sensitivity.kfac.layout import Layout, Slots, layout_of


@dataclass(eq=False)
class Workspace:
    """Flat vectors of a step with their views of the parameters, and the products of a step; never saved."""

    grads: Tensor
    updates: Tensor
    grad_views: list[Tensor]
    update_views: list[Tensor]
    velocity_views: list[Tensor]
    products: Any = None


@dataclass(eq=False, kw_only=True)
class KFACState:
    """Factors, their inverses or eigenbases, momentum, and counters.

    steps: steps taken; the index of the next one.
    waiting: names of the layers that have no averages yet.
    averaged: [*lead] factor updates that each member's averages hold.
    usable: [*lead] whether each member has inverses to use: False before the first inverse and after one that failed.
    factors: banks of running averages; diagonals: those of embeddings' inputs, [*lead, vocabulary] by layer name.
    inverses: banks of damped inverses ("factored") or of eigenvectors ("exact"), with their `eigenvalues` [slots,
    *lead, d].
    diagonal_inverses: what `inverses` are to `factors`, for `diagonals`.
    moments: EKFAC's second moments in the eigenbasis, [*lead, groups, output_dim, input_dim] by layer name;
    `moments_averaged` [] counts them.
    squares: running diagonal Fisher of the parameters of `norms`, [*lead, *shape] by parameter name.
    """

    layout: Layout
    norms: tuple[Norm, ...]
    steps: int
    waiting: tuple[str, ...]
    averaged: Tensor
    usable: Tensor
    momentum: Tensor
    factors: dict[int, Tensor]
    inverses: dict[int, Tensor]
    eigenvalues: dict[int, Tensor]
    diagonals: dict[str, Tensor]
    diagonal_inverses: dict[str, Tensor]
    moments: dict[str, Tensor]
    moments_averaged: int
    squares: dict[str, Tensor]
    _workspace: Workspace | None = field(default=None, repr=False)

    @property
    def alone(self) -> bool:
        """Whether this is one model on the host, where a failed step may simply end: asking costs no waiting."""
        return not self.layout.lead and self.momentum.device.type == "cpu"

    @property
    def workspace(self) -> Workspace:
        """The flat vectors of a step."""
        if self._workspace is None:
            grads, updates = torch.zeros_like(self.momentum), torch.zeros_like(self.momentum)
            views = self.layout.views
            self._workspace = Workspace(grads, updates, views(grads), views(updates), views(self.momentum))
        return self._workspace

    def factor(self, layer: str, side: str) -> Tensor:
        """Copy a layer's averaged factor, [*lead, groups, d, d]; an embedding's for its inputs is [*lead, vocabulary].

        `side` is "inputs" or "outputs". Raises KeyError for a layer that is not covered.
        """
        for placement in self.layout.placements:
            if placement.layer.name == layer:
                slots: Slots | None = placement.inputs if side == "inputs" else placement.outputs
                if slots is None:
                    return self.diagonals[layer].clone()
                return slots.of(self.factors).movedim(0, len(self.layout.lead)).clone()
        raise KeyError(
            f"No covered layer is named {layer!r}. Known: {', '.join(p.layer.name for p in self.layout.placements)}."
        )


def init_state(
    layers: Sequence[Layer], params: Mapping[str, Tensor], config: KFACConfig, norms: Sequence[Norm] = ()
) -> KFACState:
    """Make the state of a run that has taken no step.

    `params` holds all parameters of the model, each [*lead, *parameter shape]. Those that no layer covers are moved by
    plain gradients, or those of `norms` by their diagonal Fisher where `config.others` says so. Raises ValueError for a
    layer without its parameters, disagreeing leading dimensions, or no layer at all.
    """
    layout = layout_of(layers, params)
    like = next(iter(params.values()))
    dtype = accumulation_dtype(like.dtype)
    lead, device = layout.lead, like.device
    exact = config.damping_form == "exact"
    banks = layout.new_banks(like, dtype)
    diagonals = layout.new_diagonals(like, dtype)
    return KFACState(
        layout=layout,
        norms=tuple(norms) if config.others == "diagonal" else (),
        steps=0,
        waiting=tuple(placement.layer.name for placement in layout.placements),
        averaged=torch.zeros(lead, dtype=torch.int64, device=device),
        usable=torch.zeros(lead, dtype=torch.bool, device=device),
        momentum=torch.zeros((*lead, layout.size), dtype=dtype, device=device),
        factors=banks,
        inverses=layout.new_banks(like, dtype),
        eigenvalues={dim: bank.new_zeros(bank.shape[:-1]) for dim, bank in banks.items()} if exact else {},
        diagonals=diagonals,
        diagonal_inverses={name: torch.zeros_like(diagonal) for name, diagonal in diagonals.items()},
        moments={},
        moments_averaged=0,
        squares={},
    )


def select(state: KFACState, index: Tensor) -> KFACState:
    """Copy the members `index` (a LongTensor) of the first leading dimension, in that order, to a new state."""
    if not state.layout.lead:
        raise ValueError("This state has no leading dimension to select members from.")

    def own(tensor: Tensor) -> Tensor:
        return tensor.index_select(0, index)

    def bank(tensor: Tensor) -> Tensor:
        return tensor.index_select(1, index)

    return KFACState(
        layout=replace(state.layout, lead=(len(index), *state.layout.lead[1:])),
        norms=state.norms,
        steps=state.steps,
        waiting=state.waiting,
        averaged=own(state.averaged),
        usable=own(state.usable),
        momentum=own(state.momentum),
        factors={dim: bank(x) for dim, x in state.factors.items()},
        inverses={dim: bank(x) for dim, x in state.inverses.items()},
        eigenvalues={dim: bank(x) for dim, x in state.eigenvalues.items()},
        diagonals={name: own(x) for name, x in state.diagonals.items()},
        diagonal_inverses={name: own(x) for name, x in state.diagonal_inverses.items()},
        moments={name: own(x) for name, x in state.moments.items()},
        moments_averaged=state.moments_averaged,
        squares={name: own(x) for name, x in state.squares.items()},
    )


def carry(old: KFACState, new: KFACState) -> None:
    """Copy what a state holds of layers and parameters that are also in another one, of the same configuration."""
    places = {placement.layer.name: placement for placement in old.layout.placements}
    for target in new.layout.placements:
        name, source = target.layer.name, places.get(target.layer.name)
        if source is None or source.layer != target.layer:
            continue
        pairs = [(source.outputs, target.outputs)]
        if source.inputs is None or target.inputs is None:
            new.diagonals[name].copy_(old.diagonals[name])
            new.diagonal_inverses[name].copy_(old.diagonal_inverses[name])
        else:
            pairs.append((source.inputs, target.inputs))
        for before, after in pairs:
            after.of(new.factors).copy_(before.of(old.factors))
            after.of(new.inverses).copy_(before.of(old.inverses))
            if new.eigenvalues:
                after.of(new.eigenvalues).copy_(before.of(old.eigenvalues))
        if name in old.moments:
            new.moments[name] = old.moments[name]
    held = dict(zip(old.layout.names, old.layout.views(old.momentum), strict=True))
    for parameter, view in zip(new.layout.names, new.layout.views(new.momentum), strict=True):
        if parameter in held:
            view.copy_(held[parameter])
    new.squares.update(old.squares)
    new.waiting = tuple(name for name in new.waiting if name not in places or name in old.waiting)
    new.steps, new.moments_averaged = old.steps, old.moments_averaged
    new.averaged.copy_(old.averaged)
    new.usable.copy_(old.usable)


def saved(state: KFACState) -> dict[str, Any]:
    """Everything but the layout and the workspace, as plain containers of tensors and numbers."""
    return {name: getattr(state, name) for name in _SAVED}


def check_saved(state: KFACState, values: Mapping[str, Any]) -> None:
    """Raise ValueError if `values` were not saved from a state of an equal layout and form of damping."""
    for name in _SAVED:
        if name not in values:
            raise ValueError(f"No {name!r} in the saved state: another version wrote it. Start the run anew.")
        held, given = getattr(state, name), values[name]
        if isinstance(held, Mapping) and name not in _LATE and set(held) != set(given):
            raise ValueError(
                f"Saved {name} are of {sorted(given)}, not {sorted(held)}: the models or the forms of damping differ. "
                "Build the model and the KFACConfig that were saved."
            )
        for key, own, new in _tensors(held, given):
            if own.shape != new.shape:
                raise ValueError(
                    f"Saved {name}{key} has shape {tuple(new.shape)}, this optimizer's {tuple(own.shape)}: the models "
                    "differ. Build the model that was saved."
                )


def restore(state: KFACState, values: Mapping[str, Any]) -> None:
    """Copy what `saved` gave into a state of an equal layout, in place; ValueError as `check_saved`."""
    check_saved(state, values)
    for name in _SAVED:
        held, given = getattr(state, name), values[name]
        if name in _LATE:
            setattr(state, name, {key: new.to(state.momentum.device, copy=True) for key, new in given.items()})
        elif isinstance(held, (Tensor, Mapping)):
            for _, own, new in _tensors(held, given):
                own.copy_(new)
        else:
            setattr(state, name, given)
    state._workspace = None


_LATE = ("moments", "squares")  # tensors that a run makes on its way
_SAVED = tuple(f.name for f in fields(KFACState) if f.name not in ("layout", "norms", "_workspace"))


def _tensors(held: Any, given: Any) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Pair the tensors that are in both, each with its key."""
    if isinstance(held, Tensor):
        yield "", held, given
    elif isinstance(held, Mapping):
        for key in held:
            if key in given:
                yield f"[{key!r}]", held[key], given[key]
