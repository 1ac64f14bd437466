"""State of K-FAC between steps: construction, selection of members, saving and restoring.

The engine owns these tensors and updates them in place. Banks are [slots, *lead, d, d] (layout.py); all other tensors
start with *lead, the leading dimensions of the parameters.
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
    """Flat vectors of a step with views by parameter, and the products of a step; never saved."""

    grads: Tensor
    updates: Tensor
    grad_views: list[Tensor]
    update_views: list[Tensor]
    velocity_views: list[Tensor]
    products: Any = None


@dataclass(eq=False, kw_only=True)
class KFACState:
    """Factors, their inverses or eigenbases, momentum, and counters.

    Attributes:
        layout: positions of parameters and factors.
        norms: normalisation layers with a diagonal Fisher.
        steps: number of steps taken, which is the index of the next one.
        waiting: names of the layers that have no averages yet.
        averaged: number of factor updates in each member's averages, [*lead].
        usable: whether each member has inverses, [*lead]: False before the first inverse and after a failed one.
        momentum: flat vector [*lead, parameters].
        factors: banks of running averages, by size.
        inverses: banks of damped inverses ("factored") or of eigenvectors ("exact").
        eigenvalues: eigenvalues of the "exact" form, [slots, *lead, d] by size.
        diagonals: running averages of embeddings' input factors, [*lead, vocabulary] by layer name.
        diagonal_inverses: damped inverses ("factored") or copies ("exact") of `diagonals`.
        moments: EKFAC's second moments in the eigenbasis, [*lead, groups, output_dim, input_dim] by layer name.
        moments_averaged: number of updates of `moments` since the last inverse.
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
        """Whether this is a single model on a CPU, where reading a tensor costs no synchronization."""
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
        """Copy of a layer's averaged factor, [*lead, groups, d, d]; [*lead, vocabulary] for the inputs of an embedding.

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
    """Create the initial state of a run.

    Args:
        layers: covered layers, from `layers_of`.
        params: all parameters of the model by name, each [*lead, *parameter shape]. Those that no layer covers follow
            plain gradients.
        config: structure of the optimizer.
        norms: normalisation layers, from `norms_of`, whose parameters follow their diagonal Fisher if `config.others`
            is "diagonal".

    Raises:
        ValueError: there is no layer, a layer's parameters are missing, or leading dimensions differ.
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
    """Copy members of the first leading dimension to a new state, in the order of the LongTensor `index`."""
    if not state.layout.lead:
        raise ValueError(
            "This state has no leading dimension to select members from. Build it from parameters [trials, ...]."
        )

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


def copy_shared(old: KFACState, new: KFACState) -> None:
    """Copy the state of the layers and parameters that both states have; their configurations are equal."""
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
    """State without layout, norms and workspace, as plain containers of tensors and numbers."""
    return {name: getattr(state, name) for name in _SAVED}


def check_saved(state: KFACState, values: Mapping[str, Any]) -> None:
    """Raise ValueError unless `values` were saved from a state with equal layout and form of damping."""
    for name in _SAVED:
        if name not in values:
            raise ValueError(f"The saved state has no {name!r}: another version wrote it. Start the run again.")
        held, stored = getattr(state, name), values[name]
        if isinstance(held, Mapping) and name not in _CREATED_LATER and set(held) != set(stored):
            raise ValueError(
                f"Saved {name} are of {sorted(stored)}, not {sorted(held)}: the models or the forms of damping differ. "
                "Build the same model and KFACConfig as for the saved state."
            )
        for key, own, new in _tensors(held, stored):
            if own.shape != new.shape:
                raise ValueError(
                    f"Saved {name}{key} has shape {tuple(new.shape)}, this optimizer's {tuple(own.shape)}: the models "
                    "differ. Build the same model as for the saved state."
                )


def restore(state: KFACState, values: Mapping[str, Any]) -> None:
    """Copy the result of `saved` into a state with an equal layout, in place; raises ValueError as `check_saved`."""
    check_saved(state, values)
    for name in _SAVED:
        held, stored = getattr(state, name), values[name]
        if name in _CREATED_LATER:
            setattr(state, name, {key: new.to(state.momentum.device, copy=True) for key, new in stored.items()})
        elif isinstance(held, (Tensor, Mapping)):
            for _, own, new in _tensors(held, stored):
                own.copy_(new)
        else:
            setattr(state, name, stored)
    state._workspace = None


_CREATED_LATER = ("moments", "squares")  # tensors that are created during a run
_SAVED = tuple(f.name for f in fields(KFACState) if f.name not in ("layout", "norms", "_workspace"))


def _tensors(held: Any, stored: Any) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Pairs of tensors that are in both, with their keys."""
    if isinstance(held, Tensor):
        yield "", held, stored
    elif isinstance(held, Mapping):
        for key in held:
            if key in stored:
                yield f"[{key!r}]", held[key], stored[key]
