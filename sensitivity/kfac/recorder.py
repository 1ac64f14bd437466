"""Hooks on a model's layers that sum moments while the backward pass runs, so that no activation outlives it.

A backward pass is one batch: calls of a layer within it are shared weights, and further backward passes before a step
are micro-batches. A forward pass that no backward pass comes to leaves no trace, and on steps that need no statistics
there are no hooks. For the Monte-Carlo and type-2 Fisher the backward passes are those of `observe`. In the
"reduce" setting and for EKFAC, which look at the calls of a batch together, captures are kept until the step.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed import ProcessGroup
from torch.utils.hooks import RemovableHandle

from sensitivity.kfac.attention import View, run
from sensitivity.kfac.config import KFACConfig
from sensitivity.kfac.diagonal import Norm, average_squares
from sensitivity.kfac.distributed import pooled
from sensitivity.kfac.ekfac import average_moments, batch_moments
from sensitivity.kfac.factors import (
    Capture,
    accumulation_dtype,
    add_input_moment,
    add_output_moment,
    input_parts,
    row_count,
)
from sensitivity.kfac.hooks import (
    AttentionHook,
    Hook,
    Names,
    PassCounter,
    ProductHook,
    Sighting,
    first_of,
    parts_of,
    positions_first,
    refuse_changed,
    transformed,
    version_of,
)
from sensitivity.kfac.norm_sums import NormSums
from sensitivity.kfac.observations import Observations
from sensitivity.kfac.passes import PassLedger
from sensitivity.kfac.precision import full_precision
from sensitivity.kfac.state import KFACState
from sensitivity.kfac.statistics import Statistics, accumulate, average, newest_weights
from sensitivity.kfac.sums import Place, Seen, add_rows, enter, keep_averages, normalise, share_of_terms, weigh
from sensitivity.kfac.terms import LossTerms, batch_first, batched, examples_of, examples_seen, has_positions
from sensitivity.kfac.thin import Rows, keep_call, may_pay, rows_of
from sensitivity.kfac.tied import add_squares
from sensitivity.kfac.tied_sums import Maps


class Recorder:
    """Sums the raw moments of every covered layer between two steps, while told to `record`.

    Beside that it keeps the calls of layers whose batch is so small beside them that a step makes good use of them, on
    a host, of the training loss, and unless gradients are scaled or averaged over ranks; on every step once it was.

    urgent: inverses are wanted now, whatever their interval.
    model: whose forward passes are counted. modules: by layer name, all modules that hold the layer's weight.
    attentions: attention modules, with the names of their covered layers by projection. norms: normalisation layers
    whose diagonal Fisher is wanted, with their modules.
    scaler: multiplies the loss, and so the captured gradients.
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
        """The loss scale that gradients were divided by before the step, without a scaler that tells."""
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
            if plain and state.alone and place.layer.part[1] == 1 and may_pay(place.layer)
        )
        self.small: frozenset[str] = self._linear
        """Layers that had small batches when moments were last summed."""
        self.observations = Observations(ledger)
        self.clear()
        # A compiled model breaks its graph here, rather than compile this anew for every layer.
        apart: Callable[[Any], Any] = torch.compiler.disable
        see, see_norm = apart(self._see), apart(self._see_norm)
        self._passes = PassCounter(model)
        self._hooks: list[Hook | AttentionHook | PassCounter | ProductHook] = [self._passes]
        tables = {name: held[0] for name, held in modules.items() if self._places[name].layer.kind == "embedding"}
        if tables and not any(isinstance(module, nn.Linear) for name in tables for module in modules[name]):
            self._hooks.append(ProductHook(model, tables, see))
        self._hooks += [Hook(name, module, see) for name, held in modules.items() for module in held]
        self._hooks += [AttentionHook(names, module, see, apart(run)) for module, names in attentions.items()]
        self._hooks += [Hook(norm.name, module, partial(see_norm, norm)) for norm, module in norms.items()]
        self._handles: dict[int, list[RemovableHandle]] = {}
        self.active = self._keeps = False
        """Whether moments are summed."""

    def record(self, *, on: bool, small: bool) -> None:
        """Put the hooks on the model, or take them off; those of layers with `small` batches stay if so told."""
        self.active, self._keeps = on, small
        self._ledger.follow(on=on and self._config.fisher == "empirical")
        wanted = {
            i
            for i, hook in enumerate(self._hooks)
            if on or (small and isinstance(hook, Hook) and hook.name in self.small)
        }
        for i in self._handles.keys() - wanted:
            for handle in self._handles.pop(i):
                handle.remove()
        for i in wanted - self._handles.keys():
            self._handles[i] = self._hooks[i].attach()

    def clear(self) -> None:
        """Forget everything recorded since the last step."""
        self._seen: dict[str, Seen] = {}
        self._maps.seen.clear()
        self._kept: dict[int, dict[str, list[Capture]]] = {}
        self._norms.squares.clear()
        self._rows: dict[str, list[Capture]] = {}
        self.observations.clear()
        self.terms.clear()
        self.seconds, self.urgent, self.unscaled = 0.0, False, 1.0

    def forget(self, name: str) -> None:
        """Forget what one layer contributed, whose gradient was cleared."""
        self._seen.pop(name, None)
        self._maps.seen.pop(name, None)
        self._rows.pop(name, None)
        for captures in self._kept.values():
            captures.pop(name, None)

    def forget_cleared(self) -> None:
        """Forget what layers contributed that have no gradient now."""
        for name in [*self._used] if self._config.fisher == "empirical" else ():
            if self._ledger.cleared(name):
                self.forget(name)

    @property
    def idle(self) -> bool:
        """Whether nothing was recorded since the last step."""
        return not (self._used or self._rows)

    @property
    def missing(self) -> tuple[str, ...]:
        """Names of the layers that were not recorded."""
        return tuple(name for name in self._places if name not in self._used)

    @property
    def _used(self) -> Mapping[str, Seen]:
        return self._seen | self._maps.seen if self._maps.seen else self._seen

    def drop_skipped(self) -> None:
        """Forget observations of batches that were skipped."""
        if self.observations.are_stale():
            self.observations.drop()
            self._seen.clear()
            self._maps.seen.clear()
            self._kept.clear()
            self._norms.squares.clear()
            self.terms.clear()

    def observe(self, outputs: Tensor, losses: Iterator[Tensor]) -> None:
        """Record backward passes of pseudo-losses; the graph and every `.grad` stay as they were."""
        start, calls = time.perf_counter(), self.observations.take(outputs)
        batch = self.observations.begin(outputs)
        self.terms.assign(batch)
        columns: list[dict[str, list[Tensor]]] = [{} for _ in calls]
        edges = [edge for _, edge in calls]
        for call, _ in calls:
            refuse_changed(call.names, call.inputs, call.version)
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
        """Return what the gradients of layers with small batches are the products of, where they still are."""
        found = rows_of(self._layout, self._rows) if self._rows else {}
        self.small = frozenset(found) if self.active else self.small
        for name in tuple(found):
            layer = self._places[name].layer
            weight, bias = grads[layer.weight], None if layer.bias is None else grads[layer.bias]
            if weight is None or (bias is None) != (layer.bias is None) or not found[name].make(weight, bias):
                del found[name]
        return found

    def average(self, state: KFACState, mask: Tensor | None) -> Tensor | None:
        """Move the running averages towards the factors of all that was recorded (a `Source` of the engine).

        A layer that was not recorded keeps its averages; one that is recorded for the first time takes this batch's.
        """
        decay, layers = self._config.factor_decay, examples_seen(self._places, self._seen)
        examples = examples_of(layers)
        terms = self.terms.total(examples, layers)
        keep_averages(self._places, self._used, state)
        self._normalise(examples, terms)
        self._pool(terms)
        self._maps.join(self._places)
        moved = average(state, self._sums, decay, mask)
        enters = any(name in self._used for name in state.waiting) or (state.waiting and self._group is not None)
        if enters and (moved is None or bool(moved)):
            self.urgent |= enter(self._places, self._used, state, self._group)
        if self._norms.squares:
            weight = newest_weights(decay, state.averaged, state.momentum.dtype)
            average_squares(state.squares, self._norms.squares, weight, moved)
        return moved

    def rescale(self, state: KFACState, mask: Tensor | None) -> None:
        """Move EKFAC's second moments towards those of the captures that were kept (a `Source` of the engine)."""
        total: dict[str, Tensor] = {}
        layers = examples_seen(self._places, self._seen)
        terms = self.terms.total(examples_of(layers), layers)
        for captures in self._kept.values():
            for name, new in batch_moments(state, captures, self._config, loss_scale=self._scale(terms)).items():
                total[name] = new + total[name] if name in total else new
        count = state.momentum.new_full((), terms)
        pooled([count, *total.values()], self._group)
        average_moments(state, {name: x / count for name, x in total.items()}, self._config.factor_decay, mask)

    def _normalise(self, examples: Mapping[int, int], terms: float) -> None:
        """Turn raw sums into factors of this rank's batch."""
        scale = self._scale(terms)
        if self._whole_calls:
            for name in self._used:
                self._places[name].inputs.zero_()
                self._places[name].outputs.zero_()
        else:
            normalise(self._places, self._seen, terms, scale)
            self._maps.normalise(self._places, self._seen, terms, scale)
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
        """Average over ranks."""
        if self._group is None:
            return
        self._maps.share(self._places, self._group)
        inferred = self._config.fisher == "empirical" and self._config.reduction == "mean" and not self.terms.stated
        share = share_of_terms(terms, self._sums, self._group, inferred=inferred)
        weigh(self._places, self._seen, share, self._group)
        for squares in self._norms.squares.values():
            squares.mul_(share)
        self._maps.pool(share, self._group)
        pooled([*self._sums.banks.values(), *self._sums.diagonals.values(), *self._norms.squares.values()], self._group)

    def _scale(self, terms: float) -> float:
        """Give what turns recorded gradients into those of one loss term."""
        if self._config.fisher != "empirical":
            return 1.0
        multiplied = self.unscaled if self._scaler is None else float(self._scaler.get_scale())
        return (float(terms) if self._config.reduction == "mean" else 1.0) / multiplied

    def _see(self, names: Names, inputs: Tensor, output: Tensor, view: View | None = None) -> None:
        if transformed(output):
            return
        if inputs.numel() == 0:
            raise ValueError(
                f"Layer {first_of(names)!r} saw an empty batch. Drop such batches before the forward pass."
            )
        if inputs.device != self._device:
            raise RuntimeError(
                f"Layer {first_of(names)!r} is on {inputs.device}, and KFAC was built on {self._device}. Build it when "
                "the model is on its device, and load its state_dict()."
            )
        if view is not None and self._config.batch_dim == 1 and inputs.dim() > 1:
            inputs, view = inputs.transpose(0, 1), positions_first(view)
        version = version_of(inputs)
        if self._config.fisher != "empirical":
            self.observations.note(names, inputs, version, output, view)
            return
        # Activation checkpoints that recompute within a backward pass run one of their own for their part of it.
        outer = torch._C._current_graph_task_id()
        forward = self._passes.count if outer < 0 else None
        hook = partial(self._after_backward, Sighting(names, inputs, version, outer, forward, view))
        output.register_hook(hook)  # type: ignore[no-untyped-call]

    def _after_backward(self, seen: Sighting, grad: Tensor) -> None:
        names = seen.names
        if self.active and not self._ledger.counts_one_of(names):
            return
        start = time.perf_counter()
        batch = torch._C._current_graph_task_id() if seen.outer < 0 else seen.outer
        refuse_changed(names, seen.inputs, seen.version)
        self.terms.join(batch, seen.forward)
        for name, part in parts_of(names, grad.detach(), seen.view):
            call = Capture(seen.inputs, part)
            if self.active:
                if self._ledger.begins_anew(name):
                    self.forget(name)
                if self._ledger.compares(name):
                    self._ledger.explain(name, batched(self._places[name].layer, call))
            if self._keeps and name in (self._linear if self.active else self.small):
                keep_call(self._rows, self._places[name].layer, batched(self._places[name].layer, call))
            if self.active:
                with full_precision(grad.device):
                    self._add(name, call, batch, first=True)
        self.seconds += time.perf_counter() - start

    def _see_norm(self, norm: Norm, names: Names, inputs: Tensor, output: Tensor, _: View | None) -> None:
        if transformed(output):
            return
        version = version_of(inputs)
        if self._config.fisher != "empirical":
            self.observations.note(names, inputs, version, output, None, norm)
        else:
            self._norms.follow(norm, names, inputs, version, output)

    def _add(self, name: str, call: Capture, batch: int, *, first: bool) -> None:
        """Add the output gradients of one call; its input counts with the first of them only."""
        place, known = self._places[name], self._seen
        if place.layer.kind == "embedding" and call.inputs.is_floating_point():
            place, known = self._maps.place(place), self._maps.seen
        layer = place.layer
        plain = self._plain and self.terms.roots is None
        if plain and place.parts is not None and call.inputs.dim() == 2 and name not in self._seen:
            mean = self._config.reduction == "mean"
            self._seen[name] = add_rows(place, call, batch, per_example=self._per_example, mean=mean)
            return
        positions = has_positions(layer, call.inputs)
        call = batch_first(call) if positions and self._config.batch_dim == 1 else call
        call = self.terms.unweighted(name, batched(layer, call))
        sharing, new = "expand" if known is self._maps.seen else self._config.sharing, name not in known
        used = call.head(0, self._config.batch_fraction)
        rows, terms = row_count(layer, (used,), 0, sharing), call.inputs.shape[0] * self._per_example
        if new:
            scale = terms if self._config.reduction == "mean" and self._config.fisher == "empirical" else 1
            share = used.inputs.shape[0] / call.inputs.shape[0]
            known[name] = Seen((1 / (terms * share), scale**2 / rows))
        seen = known[name]
        seen.positions |= positions
        if first:
            seen.full[batch], seen.used[batch] = call.inputs.shape[0], used.inputs.shape[0]
            seen.rows += rows
        if self._whole_calls:
            self._kept.setdefault(batch, {}).setdefault(name, []).append(call)
            return
        held = 0.0 if new else 1.0
        # In a transposed convolution gradients have the patches, of which the input factor is made.
        if first or layer.adjoint is not None:
            add_input_moment(layer, (used,), 0, sharing, place.inputs, held, seen.scales[0])
        if known is self._maps.seen:
            add_squares([used], 0, place.outputs, held, seen.scales[1])
        elif first or layer.adjoint is None:
            add_output_moment(layer, (used,), 0, sharing, place.outputs, held, seen.scales[1])
