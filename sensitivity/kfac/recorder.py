"""Hooks on a model's layers that sum moments while the backward pass runs, so that no activation outlives it.

A backward pass is one batch: calls of a layer within it are shared weights, and further backward passes before a step
are micro-batches. A forward pass in evaluation mode, or without gradients, leaves no trace. For the Monte-Carlo and
type-2 Fisher the backward passes are those of `observe`.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

from sensitivity.kfac.config import KFACConfig
from sensitivity.kfac.factors import Capture, accumulation_dtype, add_input_moment, add_output_moment, row_count
from sensitivity.kfac.layers import Layer
from sensitivity.kfac.layout import Layout
from sensitivity.kfac.state import KFACState
from sensitivity.kfac.statistics import Statistics, accumulate


@dataclass(eq=False)
class _Seen:
    """What one layer has contributed since the last step: rows of gradients, and examples, used and full, by batch."""

    rows: int = 0
    used: dict[int, int] = field(default_factory=dict)
    full: dict[int, int] = field(default_factory=dict)


class Recorder:
    """Sums the raw moments of every covered layer between two steps; records while `active`."""

    def __init__(
        self, modules: Mapping[str, Sequence[nn.Module]], layout: Layout, like: Tensor, config: KFACConfig
    ) -> None:
        self.active = True
        self.seconds = 0.0
        self._config, self._layout = config, layout
        dtype = accumulation_dtype(like.dtype)
        self._sums = Statistics(layout.new_banks(like, dtype), layout.new_diagonals(like, dtype))
        self._places = {
            p.layer.name: (
                p.layer,
                self._sums.diagonals[p.layer.name] if p.inputs is None else p.inputs.of(self._sums.banks),
                p.outputs.of(self._sums.banks),
            )
            for p in layout.placements
        }
        self._whole_calls = config.sharing == "reduce" or config.ekfac
        self._observed = 0
        self._calls: list[tuple[str, Tensor, GradientEdge]] = []
        self.clear()
        self._handles = [
            m.register_forward_hook(self._hook(name)) for name, members in modules.items() for m in members
        ]

    def remove(self) -> None:
        """Take the hooks off the model."""
        for handle in self._handles:
            handle.remove()

    def clear(self) -> None:
        """Forget everything recorded since the last step."""
        self._seen: dict[str, _Seen] = {}
        self._kept: dict[int, dict[str, list[Capture]]] = {}
        self._calls.clear()
        self.seconds = 0.0

    @property
    def missing(self) -> tuple[str, ...]:
        """Names of the layers that were not recorded."""
        return tuple(name for name in self._places if name not in self._seen)

    def observe(self, losses: Iterator[Tensor]) -> None:
        """Record backward passes of pseudo-losses; the graph and every `.grad` stay as they were."""
        start, calls = time.perf_counter(), list(self._calls)
        self._calls.clear()
        self._observed -= 1
        columns: list[list[Tensor]] = [[] for _ in calls]
        for i, loss in enumerate(losses):
            grads = torch.autograd.grad(loss, [edge for _, _, edge in calls], retain_graph=True, allow_unused=True)
            for (name, inputs, _), grad, kept in zip(calls, grads, columns, strict=True):
                if grad is not None and self._whole_calls:
                    kept.append(grad)
                elif grad is not None:
                    self._add(name, Capture(inputs, grad), self._observed, first=i == 0)
        for (name, inputs, _), kept in zip(calls, columns, strict=True):
            if kept:
                self._add(name, Capture(inputs, tuple(kept)), self._observed, first=True)
        self.seconds += time.perf_counter() - start

    def take(self, loss_scale: float | None, state: KFACState) -> Statistics:
        """Factors of all that was recorded; those of a layer that was not are the averages it has.

        `loss_scale` None stands for the number of loss terms. The tensors are the recorder's own and hold until the
        next backward pass.
        """
        batches = {batch for seen in self._seen.values() for batch in seen.full}
        examples = {b: min(seen.full[b] for seen in self._seen.values() if b in seen.full) for b in batches}
        terms = sum(examples.values()) * self._config.terms_per_example
        scale = float(terms) if loss_scale is None else loss_scale
        if self._whole_calls:
            for i, (batch, captures) in enumerate(self._kept.items()):
                weight = examples[batch] / sum(examples.values())
                accumulate(
                    self._layout, captures, self._config, self._sums, keep=float(i > 0), weight=weight, loss_scale=scale
                )
        else:
            for name, seen in self._seen.items():
                _, inputs, outputs = self._places[name]
                inputs.mul_(sum(seen.full.values()) / (terms * sum(seen.used.values())))
                outputs.mul_(scale**2 / seen.rows)
        for placement in self._layout.placements:
            if placement.layer.name in self.missing:
                _, inputs, outputs = self._places[placement.layer.name]
                outputs.copy_(placement.outputs.of(state.factors))
                inputs.copy_(
                    state.diagonals[placement.layer.name]
                    if placement.inputs is None
                    else placement.inputs.of(state.factors)
                )
        return self._sums

    def _hook(self, name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def after_forward(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            if not (self.active and module.training and output.requires_grad):
                return
            inputs = args[0].detach()
            if self._config.fisher != "empirical":
                self._calls.append((name, inputs, get_gradient_edge(output)))
                return

            def after_backward(grad: Tensor) -> None:
                start = time.perf_counter()
                self._add(name, Capture(inputs, grad.detach()), torch._C._current_graph_task_id(), first=True)
                self.seconds += time.perf_counter() - start

            output.register_hook(after_backward)  # type: ignore[no-untyped-call]

        return after_forward

    def _add(self, name: str, call: Capture, batch: int, *, first: bool) -> None:
        """Add the output gradients of one call; its input counts with the first of them only."""
        layer, input_sum, output_sum = self._places[name]
        call, sharing, new = _batched(layer, call), self._config.sharing, name not in self._seen
        used = call.head(0, self._config.batch_fraction)
        seen = self._seen.setdefault(name, _Seen())
        if first:
            seen.full[batch], seen.used[batch] = call.inputs.shape[0], used.inputs.shape[0]
            seen.rows += row_count(layer, [used], 0, sharing)
        if self._whole_calls:
            self._kept.setdefault(batch, {}).setdefault(name, []).append(call)
            return
        held = 0.0 if new else 1.0
        if first:
            add_input_moment(layer, (used,), 0, sharing, input_sum, held, 1.0)
        add_output_moment(layer, (used,), 0, sharing, output_sum, held, 1.0)


def _batched(layer: Layer, call: Capture) -> Capture:
    """Give a call on a single example its batch dimension."""
    alone = call.inputs.dim() == {"linear": 1, "conv": len(layer.weight_shape) - 1, "embedding": 0}[layer.kind]
    return Capture(call.inputs.unsqueeze(0), tuple(g.unsqueeze(0) for g in call.columns)) if alone else call
