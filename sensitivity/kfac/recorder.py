"""Hooks on a model's layers that sum moments while the backward pass runs, so that no activation outlives it.

A backward pass is one batch: calls of a layer within it are shared weights, and further backward passes before a step
are micro-batches. A forward pass in evaluation mode, or without gradients, leaves no trace. For the Monte-Carlo and
type-2 Fisher the backward passes are those of `observe`. In the "reduce" setting and for EKFAC, which look at the calls
of a batch together, captures are kept until the step.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.distributed import ProcessGroup

from sensitivity.kfac.config import KFACConfig
from sensitivity.kfac.diagonal import example_squares
from sensitivity.kfac.distributed import pooled
from sensitivity.kfac.ekfac import average_moments, batch_moments
from sensitivity.kfac.factors import Capture, accumulation_dtype, add_input_moment, add_output_moment, row_count
from sensitivity.kfac.layers import Layer
from sensitivity.kfac.state import KFACState
from sensitivity.kfac.statistics import Statistics, accumulate, average, newest_weight


@dataclass(eq=False)
class _Seen:
    """What one layer has contributed since the last step: rows of gradients, and examples, used and full, by batch.

    Its sums are scaled as if its first call were all there is, which usually saves a pass over them.
    """

    scales: tuple[float, float]
    rows: int = 0
    used: dict[int, int] = field(default_factory=dict)
    full: dict[int, int] = field(default_factory=dict)


class Recorder:
    """Sums the raw moments of every covered layer between two steps; records while `active`.

    modules: by layer name, all modules that hold the layer's weight. norms: by parameter prefix, normalisation layers
    whose diagonal Fisher is wanted. unscale: gives the factor that a loss scaler put on the captured gradients.
    """

    def __init__(
        self,
        modules: Mapping[str, Sequence[nn.Module]],
        norms: Mapping[str, nn.Module],
        state: KFACState,
        config: KFACConfig,
        *,
        group: ProcessGroup | None,
        unscale: Callable[[], float],
    ) -> None:
        self.active = True
        self.seconds = 0.0
        self._config, self._layout, self._group, self._unscale = config, state.layout, group, unscale
        like = state.momentum
        dtype = accumulation_dtype(like.dtype)
        self._sums = Statistics(self._layout.new_banks(like, dtype), self._layout.new_diagonals(like, dtype))
        self._places = {
            p.layer.name: (
                p.layer,
                self._sums.diagonals[p.layer.name] if p.inputs is None else p.inputs.of(self._sums.banks),
                p.outputs.of(self._sums.banks),
            )
            for p in self._layout.placements
        }
        self._parts = {
            name: _parts(inputs[0], bias=layer.bias is not None)
            for name, (layer, inputs, _) in self._places.items()
            if layer.kind == "linear"
        }
        self._whole_calls = config.sharing == "reduce" or config.ekfac
        self._plain = config.sharing == "expand" and not self._whole_calls and config.batch_fraction == 1.0
        self._plain = self._plain and config.fisher == "empirical"
        self._observed = 0
        self._calls: list[tuple[str, Tensor, GradientEdge]] = []
        self.clear()
        self._handles = [
            module.register_forward_hook(self._hook(name)) for name, members in modules.items() for module in members
        ]
        self._handles += [module.register_forward_hook(self._norm_hook(name)) for name, module in norms.items()]

    def remove(self) -> None:
        """Take the hooks off the model."""
        for handle in self._handles:
            handle.remove()

    def clear(self) -> None:
        """Forget everything recorded since the last step."""
        self._seen: dict[str, _Seen] = {}
        self._kept: dict[int, dict[str, list[Capture]]] = {}
        self._squares: dict[str, Tensor] = {}
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
            edges = [edge for _, _, edge in calls]
            grads = torch.autograd.grad(loss, edges, retain_graph=True, allow_unused=True)
            for (name, inputs, _), grad, kept in zip(calls, grads, columns, strict=True):
                if grad is not None and self._whole_calls:
                    kept.append(grad)
                elif grad is not None:
                    self._add(name, Capture(inputs, grad), self._observed, first=i == 0)
        for (name, inputs, _), kept in zip(calls, columns, strict=True):
            if kept:
                self._add(name, Capture(inputs, tuple(kept)), self._observed, first=True)
        self.seconds += time.perf_counter() - start

    def average(self, state: KFACState, mask: Tensor | None) -> Tensor | None:
        """Move the running averages towards the factors of all that was recorded (a `Source` of the engine).

        A layer that was not recorded keeps its averages.
        """
        decay = self._config.factor_decay
        self._complete(state)
        self._normalise()
        self._pool(state)
        moved = average(state, self._sums, decay, mask)
        for name, squares in self._squares.items():
            held = state.squares.setdefault(name, torch.zeros_like(squares))
            new = squares if moved is None else torch.where(moved, squares, held)
            held.lerp_(new, newest_weight(decay, max(1, int(state.averaged))))
        return moved

    def rescale(self, state: KFACState, mask: Tensor | None) -> None:
        """Move EKFAC's second moments towards those of the captures that were kept (a `Source` of the engine)."""
        total: dict[str, Tensor] = {}
        for captures in self._kept.values():
            for name, new in batch_moments(state, captures, self._config, loss_scale=self._scale()).items():
                total[name] = new + total[name] if name in total else new
        terms = torch.tensor(float(self._terms()))
        pooled([terms, *total.values()], self._group)
        average_moments(state, {name: x / terms for name, x in total.items()}, self._config.factor_decay, mask)

    def _complete(self, state: KFACState) -> None:
        """Give layers that were not recorded their averages."""
        for placement in self._layout.placements:
            name = placement.layer.name
            if name not in self._seen:
                _, inputs, outputs = self._places[name]
                held = state.diagonals[name] if placement.inputs is None else placement.inputs.of(state.factors)
                inputs.copy_(held)
                outputs.copy_(placement.outputs.of(state.factors))

    def _normalise(self) -> None:
        """Turn raw sums into factors of this rank's batch."""
        examples, terms, scale = self._examples(), self._terms(), self._scale()
        for i, (batch, captures) in enumerate(self._kept.items()):
            weight = examples[batch] / sum(examples.values())
            accumulate(
                self._layout,
                captures,
                self._config,
                self._sums,
                keep=float(i > 0),
                weight=weight,
                loss_scale=scale,
            )
        if not self._whole_calls:
            sums, factors = list[Tensor](), list[float]()
            for name, seen in self._seen.items():
                sums += self._places[name][1:]
                factors.append(sum(seen.full.values()) / (terms * sum(seen.used.values())) / seen.scales[0])
                factors.append(scale**2 / seen.rows / seen.scales[1])
            if any(abs(factor - 1.0) > 1e-12 for factor in factors):
                torch._foreach_mul_(sums, factors)
        for squares in self._squares.values():
            squares.mul_(scale**2 / terms)

    def _pool(self, state: KFACState) -> None:
        """Average over ranks, each weighted by its loss terms."""
        if self._group is None:
            return
        tensors = [*self._sums.banks.values(), *self._sums.diagonals.values(), *self._squares.values()]
        own = torch.tensor(float(self._terms()), device=state.momentum.device)
        total = own.clone()
        pooled([total], self._group)
        for tensor in tensors:
            tensor.mul_(own / total)
        pooled(tensors, self._group)

    def _examples(self) -> dict[int, int]:
        """Count the examples of each batch, as the layer that sees fewest does."""
        batches = {batch for seen in self._seen.values() for batch in seen.full}
        return {b: min(seen.full[b] for seen in self._seen.values() if b in seen.full) for b in batches}

    def _terms(self) -> int:
        return sum(self._examples().values()) * self._config.terms_per_example

    def _scale(self) -> float:
        """Give what turns recorded gradients into those of one loss term."""
        if self._config.fisher != "empirical":
            return 1.0
        return (float(self._terms()) if self._config.reduction == "mean" else 1.0) / self._unscale()

    def _hook(self, name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def after_forward(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            if not (self.active and module.training and output.requires_grad):
                return
            inputs = args[0].detach()
            if inputs.numel() == 0:
                raise ValueError(f"Layer {name!r} saw an empty batch. Drop such batches before the forward pass.")
            if self._config.fisher != "empirical":
                self._calls.append((name, inputs, get_gradient_edge(output)))
                return

            def after_backward(grad: Tensor) -> None:
                start = time.perf_counter()
                self._add(name, Capture(inputs, grad.detach()), torch._C._current_graph_task_id(), first=True)
                self.seconds += time.perf_counter() - start

            output.register_hook(after_backward)  # type: ignore[no-untyped-call]

        return after_forward

    def _norm_hook(self, name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def after_forward(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            if not (self.active and module.training and output.requires_grad):
                return
            inputs = args[0].detach()

            def after_backward(grad: Tensor) -> None:
                for own, squares in zip(("weight", "bias"), example_squares(module, inputs, grad), strict=True):
                    key = f"{name}.{own}" if name else own
                    self._squares[key] = squares + self._squares[key] if key in self._squares else squares

            output.register_hook(after_backward)  # type: ignore[no-untyped-call]

        return after_forward

    def _add(self, name: str, call: Capture, batch: int, *, first: bool) -> None:
        """Add the output gradients of one call; its input counts with the first of them only."""
        layer, input_sum, output_sum = self._places[name]
        if self._plain and layer.kind == "linear" and call.inputs.dim() == 2 and name not in self._seen:
            self._add_rows(name, call, batch)
            return
        call, sharing, new = _batched(layer, call), self._config.sharing, name not in self._seen
        used = call.head(0, self._config.batch_fraction)
        rows, terms = row_count(layer, (used,), 0, sharing), call.inputs.shape[0] * self._config.terms_per_example
        if new:
            scale = terms if self._config.reduction == "mean" and self._config.fisher == "empirical" else 1
            share = used.inputs.shape[0] / call.inputs.shape[0]
            self._seen[name] = _Seen((1 / (terms * share), scale**2 / rows))
        seen = self._seen[name]
        if first:
            seen.full[batch], seen.used[batch] = call.inputs.shape[0], used.inputs.shape[0]
            seen.rows += rows
        if self._whole_calls:
            self._kept.setdefault(batch, {}).setdefault(name, []).append(call)
            return
        held = 0.0 if new else 1.0
        if first:
            add_input_moment(layer, (used,), 0, sharing, input_sum, held, seen.scales[0])
        add_output_moment(layer, (used,), 0, sharing, output_sum, held, seen.scales[1])

    def _add_rows(self, name: str, call: Capture, batch: int) -> None:
        """Do what `_add` does, in fewer steps, for the first call of a linear layer on plain rows."""
        layer, _, output_sum = self._places[name]
        rows = call.inputs.shape[0]
        scale = rows * self._config.terms_per_example if self._config.reduction == "mean" else 1
        seen = _Seen((1 / (rows * self._config.terms_per_example), scale**2 / rows), rows, {batch: rows}, {batch: rows})
        self._seen[name] = seen
        inputs, grads = (x.to(output_sum.dtype) for x in (call.inputs, call.columns[0]))
        block, last_row, last_column, corner = self._parts[name]
        block.addmm_(inputs.mT, inputs, beta=0.0, alpha=seen.scales[0])
        if layer.bias is not None:
            torch.sum(inputs, 0, out=last_row).mul_(seen.scales[0])
            last_column.copy_(last_row)
            corner.fill_(rows * seen.scales[0])
        output_sum[0].addmm_(grads.mT, grads, beta=0.0, alpha=seen.scales[1])


def _parts(factor: Tensor, *, bias: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """View an input factor [d, d] without its bias, and the bias's row, column and corner."""
    side = len(factor) - bias
    return factor[:side, :side], factor[-1, :side], factor[:side, -1], factor[-1, -1]


def _batched(layer: Layer, call: Capture) -> Capture:
    """Give a call on a single example its batch dimension."""
    alone = call.inputs.dim() == {"linear": 1, "conv": len(layer.weight_shape) - 1, "embedding": 0}[layer.kind]
    return Capture(call.inputs.unsqueeze(0), tuple(g.unsqueeze(0) for g in call.columns)) if alone else call
