"""Hooks on the layers of a model that sum moments during the backward pass, so that no activation outlives it.

A backward pass is one batch: several calls of a layer in it share the weight, and further backward passes before a step
are micro-batches. A forward pass without a backward pass contributes nothing, and on steps that need no statistics
there are no hooks. For the Monte-Carlo and type-2 Fisher, the backward passes are those of `observe`. The "reduce"
setting and EKFAC need the calls of a batch together, so their captures are kept until the step.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.distributed import ProcessGroup

from sensitivity.kfac.attention import View
from sensitivity.kfac.config import KFACConfig
from sensitivity.kfac.diagonal import Norm, average_squares
from sensitivity.kfac.distributed import sum_over_ranks
from sensitivity.kfac.ekfac import average_moments, batch_moments
from sensitivity.kfac.factors import (
    Capture,
    accumulation_dtype,
    add_input_moment,
    add_output_moment,
    input_parts,
    row_count,
)
from sensitivity.kfac.hook_set import HookSet
from sensitivity.kfac.hooks import (
    LayerCall,
    Names,
    first_name,
    is_functorch_output,
    parts_of,
    positions_first,
    require_unchanged,
    version_of,
)
from sensitivity.kfac.low_rank import Rows, can_be_faster, keep_call, rows_of
from sensitivity.kfac.norm_sums import NormSums
from sensitivity.kfac.observations import Observations
from sensitivity.kfac.passes import PassLedger
from sensitivity.kfac.precision import full_precision
from sensitivity.kfac.state import KFACState
from sensitivity.kfac.statistics import Statistics, accumulate, average, newest_weights
from sensitivity.kfac.sums import (
    Contribution,
    Place,
    add_rows,
    keep_averages,
    normalise,
    share_of_terms,
    start_averages,
    weight_by_rank,
)
from sensitivity.kfac.terms import LossTerms, batch_first, batched, example_counts, examples_of, has_positions
from sensitivity.kfac.tied import add_squares
from sensitivity.kfac.tied_sums import Maps


class Recorder:
    """Sums the raw moments of every covered layer between two steps, while `record` is on.

    On a CPU it also keeps the calls of layers with small batches, from which a step preconditions faster
    (low_rank.py): for the factored form with the empirical Fisher, unless gradients are scaled or averaged over ranks.

    Attributes:
        seconds: host time of the hooks since the last step.
        urgent: whether inverses must be recomputed, whatever their interval.
        active: whether moments are summed.
        small: names of the layers that had small batches when moments were last summed.

    Args:
        model: the model, whose forward passes are counted.
        modules: all modules that have the weight of a layer, by layer name.
        attentions: attention modules, with the names of their covered layers by projection.
        norms: normalisation layers with a diagonal Fisher, and their modules.
        state: state of the optimizer.
        config: configuration of the optimizer.
        group: process group of data-parallel training.
        scaler: gradient scaler, which multiplies the loss and so the captured gradients.
        ledger: ledger of the backward passes.
    """

    def __init__(
        self,
        model: nn.Module,
        modules: Mapping[str, Sequence[nn.Module]],
        attentions: Mapping[nn.MultiheadAttention, Mapping[str, str]],
        norms: Mapping[Norm, nn.Module],
        state: KFACState,
        config: KFACConfig,
        *,
        group: ProcessGroup | None,
        scaler: torch.amp.GradScaler | None,
        ledger: PassLedger,
    ) -> None:
        self.seconds, self.urgent = 0.0, False
        self._config, self._layout, self._group, self._scaler = config, state.layout, group, scaler
        self._ledger, self._per_example = ledger, config.terms_per_example or 1
        self.terms = LossTerms(config, ledger)
        self._norms, self._maps = NormSums(config, ledger, self.terms), Maps()
        self.unscaled = 1.0
        """Loss scale that gradients were divided by before the step, if there is no scaler to ask."""
        like = state.momentum
        dtype = accumulation_dtype(like.dtype)
        self._sums = Statistics(self._layout.new_banks(like, dtype), self._layout.new_diagonals(like, dtype))
        self._places = dict[str, Place]()
        for p in self._layout.placements:
            inputs = self._sums.diagonals[p.layer.name] if p.inputs is None else p.inputs.of(self._sums.banks)
            parts = input_parts(inputs[0], bias=p.layer.bias is not None) if p.layer.kind == "linear" else None
            self._places[p.layer.name] = Place(p.layer, inputs, p.outputs.of(self._sums.banks), parts)
        self._whole_calls = config.sharing == "reduce" or config.ekfac
        self._plain = not self._whole_calls and config.batch_fraction == 1.0 and config.fisher == "empirical"
        self._device = like.device
        plain = config.fisher == "empirical" and config.damping_form == "factored" and group is None and scaler is None
        self._linear = frozenset(
            name
            for name, place in self._places.items()
            if plain and state.alone and place.layer.part[1] == 1 and can_be_faster(place.layer)
        )
        self.small: frozenset[str] = self._linear
        self.observations = Observations(ledger)
        self.clear()
        embeddings = [name for name, place in self._places.items() if place.layer.kind == "embedding"]
        self._hooks = HookSet(model, modules, embeddings, attentions, norms, self._on_call, self._on_norm_call)
        self._passes = self._hooks.passes
        self.active = self._keeps_calls = False

    def record(self, *, on: bool, small: bool) -> None:
        """Register the hooks on the model, or remove them; with `small`, layers with small batches keep theirs."""
        if on and (self.active, self._keeps_calls) == (on, small):
            return
        self.active, self._keeps_calls = on, small
        self._ledger.set_hooks(on=on and self._config.fisher == "empirical")
        self._hooks.attach(None if on else self.small if small else ())

    def clear(self) -> None:
        """Discard everything recorded since the last step."""
        self._contributions: dict[str, Contribution] = {}
        self._maps.contributions.clear()
        self._kept: dict[int, dict[str, list[Capture]]] = {}
        self._norms.squares.clear()
        self._rows: dict[str, list[Capture]] = {}
        self.observations.clear()
        self.terms.clear()
        self.seconds, self.urgent, self.unscaled = 0.0, False, 1.0

    def discard(self, name: str) -> None:
        """Discard the contribution of one layer, whose gradient was cleared."""
        self._contributions.pop(name, None)
        self._maps.contributions.pop(name, None)
        self._rows.pop(name, None)
        for captures in self._kept.values():
            captures.pop(name, None)

    def discard_cleared(self) -> None:
        """Discard the contributions of layers whose gradient was cleared."""
        for name in [*self._used] if self._config.fisher == "empirical" else ():
            if self._ledger.cleared(name):
                self.discard(name)

    @property
    def idle(self) -> bool:
        """Whether nothing was recorded since the last step."""
        return not (self._used or self._rows)

    @property
    def missing(self) -> tuple[str, ...]:
        """Names of the layers that were not recorded since the last step."""
        return tuple(name for name in self._places if name not in self._used)

    @property
    def _used(self) -> Mapping[str, Contribution]:
        return self._contributions | self._maps.contributions if self._maps.contributions else self._contributions

    def drop_skipped(self) -> None:
        """Discard observations of batches that were skipped."""
        if self.observations.are_stale():
            self.observations.drop()
            self._contributions.clear()
            self._maps.contributions.clear()
            self._kept.clear()
            self._norms.squares.clear()
            self.terms.clear()

    def observe(self, outputs: Tensor, losses: Iterator[Tensor]) -> None:
        """Record the backward passes of pseudo-losses; the graph and every `.grad` are left unchanged."""
        start, calls = time.perf_counter(), self.observations.take(outputs)
        batch = self.observations.begin(outputs)
        self.terms.assign(batch)
        columns: list[dict[str, list[Tensor]]] = [{} for _ in calls]
        edges = [edge for _, edge in calls]
        for call, _ in calls:
            require_unchanged(call.names, call.inputs, call.version)
        for i, loss in enumerate(losses if edges else ()):
            grads = torch.autograd.grad(loss, edges, retain_graph=True, allow_unused=True)
            for (call, _), grad, kept in zip(calls, grads, columns, strict=True):
                if grad is not None and call.norm is not None:
                    self._norms.add(call.norm, Capture(call.inputs, grad))
                    continue
                for name, part in () if grad is None else call.parts(grad):
                    if self._whole_calls:
                        kept.setdefault(name, []).append(part)
                    else:
                        self._add(name, Capture(call.inputs, part), batch, first=i == 0)
        for (call, _), kept in zip(calls, columns, strict=True):
            for name, parts in kept.items():
                self._add(name, Capture(call.inputs, tuple(parts)), batch, first=True)
        self.seconds += time.perf_counter() - start

    def rows(self, grads: Mapping[str, Tensor | None]) -> dict[str, Rows]:
        """Low-rank factors of the gradients of layers with small batches, where they still equal the gradients."""
        found = rows_of(self._layout, self._rows) if self._rows else {}
        self.small = frozenset(found) if self.active else self.small
        for name in tuple(found):
            layer = self._places[name].layer
            weight, bias = grads[layer.weight], None if layer.bias is None else grads[layer.bias]
            if weight is None or (bias is None) != (layer.bias is None) or not found[name].matches(weight, bias):
                del found[name]
        return found

    def average(self, state: KFACState, mask: Tensor | None) -> Tensor | None:
        """Update the running averages with the factors of the recorded batches; see `Source` in engine.py.

        A layer that was not recorded keeps its averages; those of a layer recorded for the first time are this batch's.
        """
        decay, layers = self._config.factor_decay, example_counts(self._places, self._contributions)
        examples = examples_of(layers)
        terms = self.terms.total(examples, layers)
        keep_averages(self._places, self._used, state)
        self._normalise(examples, terms)
        self._pool(terms)
        self._maps.join(self._places)
        moved = average(state, self._sums, decay, mask)
        starts = any(name in self._used for name in state.waiting) or (state.waiting and self._group is not None)
        if starts and (moved is None or bool(moved)):
            self.urgent |= start_averages(self._places, self._used, state, self._group)
        if self._norms.squares:
            weight = newest_weights(decay, state.averaged, state.momentum.dtype)
            average_squares(state.squares, self._norms.squares, weight, moved)
        return moved

    def rescale(self, state: KFACState, mask: Tensor | None) -> None:
        """Update EKFAC's second moments with those of the kept captures; see `Source` in engine.py."""
        total: dict[str, Tensor] = {}
        layers = example_counts(self._places, self._contributions)
        terms = self.terms.total(examples_of(layers), layers)
        for captures in self._kept.values():
            for name, new in batch_moments(state, captures, self._config, loss_scale=self._scale(terms)).items():
                total[name] = new + total[name] if name in total else new
        count = state.momentum.new_full((), terms)
        sum_over_ranks([count, *total.values()], self._group)
        average_moments(state, {name: x / count for name, x in total.items()}, self._config.factor_decay, mask)

    def _normalise(self, examples: Mapping[int, int], terms: float) -> None:
        """Convert raw sums to the factors of this rank's batch."""
        scale = self._scale(terms)
        if self._whole_calls:
            for name in self._used:
                self._places[name].inputs.zero_()
                self._places[name].outputs.zero_()
        else:
            normalise(self._places, self._contributions, terms, scale)
            if self._maps.places:
                self._maps.normalise(self._places, self._contributions, terms, scale)
        for batch, captures in self._kept.items():
            weight = examples.get(batch, 0) / sum(examples.values())
            accumulate(
                self._layout,
                captures,
                self._config,
                self._sums,
                keep=1.0,
                weight=weight,
                loss_scale=scale,
                terms=terms * weight,
            )
        for squares in self._norms.squares.values():
            squares.mul_(scale**2 / terms)

    def _pool(self, terms: float) -> None:
        """Average the factors over ranks."""
        if self._group is None:
            return
        self._maps.share(self._places, self._group)
        inferred = self._config.fisher == "empirical" and self._config.reduction == "mean" and not self.terms.stated
        share = share_of_terms(terms, self._sums, self._group, inferred=inferred)
        weight_by_rank(self._places, self._contributions, share, self._group)
        for squares in self._norms.squares.values():
            squares.mul_(share)
        self._maps.pool(share, self._group)
        sum_over_ranks(
            [*self._sums.banks.values(), *self._sums.diagonals.values(), *self._norms.squares.values()], self._group
        )

    def _scale(self, terms: float) -> float:
        """Factor that converts recorded gradients to those of one loss term."""
        if self._config.fisher != "empirical":
            return 1.0
        multiplied = self.unscaled if self._scaler is None else float(self._scaler.get_scale())
        return (float(terms) if self._config.reduction == "mean" else 1.0) / multiplied

    def _on_call(self, names: Names, inputs: Tensor, output: Tensor, view: View | None = None) -> None:
        if is_functorch_output(output):
            return
        if inputs.numel() == 0:
            raise ValueError(
                f"Layer {first_name(names)!r} received an empty batch. Drop such batches before the forward pass."
            )
        if inputs.device != self._device:
            raise RuntimeError(
                f"Layer {first_name(names)!r} is on {inputs.device}, and KFAC was built on {self._device}. Build KFAC "
                "when the model is on its device, and load its state_dict()."
            )
        if view is not None and self._config.batch_dim == 1 and inputs.dim() > 1:
            inputs, view = inputs.transpose(0, 1), positions_first(view)
        version = version_of(inputs)
        if self._config.fisher != "empirical":
            self.observations.record(names, inputs, version, output, view)
            return
        # An activation checkpoint recomputes within a backward pass, and runs a nested backward pass for its part.
        outer = torch._C._current_graph_task_id()
        forward = self._passes.count if outer < 0 else None
        hook = partial(self._after_backward, LayerCall(names, inputs, version, outer, forward, view))
        output.register_hook(hook)  # type: ignore[no-untyped-call]

    def _after_backward(self, layer_call: LayerCall, grad: Tensor) -> None:
        names = layer_call.names
        if self.active and not self._ledger.any_counts_of(names):
            return
        start = time.perf_counter()
        batch = torch._C._current_graph_task_id() if layer_call.outer < 0 else layer_call.outer
        require_unchanged(names, layer_call.inputs, layer_call.version)
        self.terms.add_forward_pass(batch, layer_call.forward)
        for name, part in parts_of(names, grad.detach() if grad.requires_grad else grad, layer_call.view):
            call = Capture(layer_call.inputs, part)
            if self.active:
                if self._ledger.begins_after_clearing(name):
                    self.discard(name)
                if self._ledger.compares(name):
                    self._ledger.add_call(name, batched(self._places[name].layer, call))
            if self._keeps_calls and name in (self._linear if self.active else self.small):
                keep_call(self._rows, self._places[name].layer, batched(self._places[name].layer, call))
            if self.active:
                with full_precision(grad.device):
                    self._add(name, call, batch, first=True)
        self.seconds += time.perf_counter() - start

    def _on_norm_call(self, norm: Norm, names: Names, inputs: Tensor, output: Tensor, _: View | None) -> None:
        if is_functorch_output(output):
            return
        version = version_of(inputs)
        if self._config.fisher != "empirical":
            self.observations.record(names, inputs, version, output, None, norm)
        else:
            self._norms.add_after_backward(norm, names, inputs, version, output)

    def _add(self, name: str, call: Capture, batch: int, *, first: bool) -> None:
        """Add the output gradients of one call; its inputs are added with the first gradients only."""
        place, contributions = self._places[name], self._contributions
        if place.layer.kind == "embedding" and call.inputs.is_floating_point():
            place, contributions = self._maps.place(place), self._maps.contributions
        layer = place.layer
        plain = self._plain and self.terms.roots is None
        if plain and place.parts is not None and call.inputs.dim() == 2 and name not in self._contributions:
            mean = self._config.reduction == "mean"
            self._contributions[name] = add_rows(place, call, batch, per_example=self._per_example, mean=mean)
            return
        positions = has_positions(layer, call.inputs)
        call = batch_first(call) if positions and self._config.batch_dim == 1 else call
        call = self.terms.unweighted(name, batched(layer, call))
        is_map, new = contributions is self._maps.contributions, name not in contributions
        sharing = "expand" if is_map else self._config.sharing
        used = call.head(0, self._config.batch_fraction)
        rows, terms = row_count(layer, (used,), 0, sharing), call.inputs.shape[0] * self._per_example
        if new:
            scale = terms if self._config.reduction == "mean" and self._config.fisher == "empirical" else 1
            share = used.inputs.shape[0] / call.inputs.shape[0]
            contributions[name] = Contribution((1 / (terms * share), scale**2 / rows))
        own = contributions[name]
        own.positions |= positions
        if first:
            own.full[batch], own.used[batch] = call.inputs.shape[0], used.inputs.shape[0]
            own.rows += rows
        if self._whole_calls:
            self._kept.setdefault(batch, {}).setdefault(name, []).append(call)
            return
        keep = 0.0 if new else 1.0
        # The input factor of a transposed convolution is computed from patches of its output gradients.
        if first or layer.adjoint is not None:
            add_input_moment(layer, (used,), 0, sharing, place.inputs, keep, own.scales[0])
        if is_map:
            add_squares([used], 0, place.outputs, keep, own.scales[1])
        elif first or layer.adjoint is None:
            add_output_moment(layer, (used,), 0, sharing, place.outputs, keep, own.scales[1])
