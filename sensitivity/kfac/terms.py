"""The number of loss terms of the batches between two steps: stated, or inferred where it is certain."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sensitivity.kfac.config import KFACConfig
from sensitivity.kfac.factors import Capture
from sensitivity.kfac.layers import Layer
from sensitivity.kfac.passes import PassLedger


@dataclass(frozen=True)
class ExamplesSeen:
    """The first dimension of a layer's inputs in each batch, and whether they had positions beside examples."""

    name: str
    positions: bool
    counts: Mapping[int, int]


class LossTerms:
    """Counts the loss terms of the batches between two steps.

    A batch is a backward pass, by its id, or an observation for the sampled Fisher.
    """

    def __init__(self, config: KFACConfig, ledger: PassLedger) -> None:
        self._config, self._ledger = config, ledger
        self.clear()

    def clear(self) -> None:
        """Forget what was stated."""
        self._stated: dict[int, float] = {}
        self._coming: float | None = None
        self._states = False

    @property
    def stated(self) -> bool:
        """Whether the number was stated since the last step."""
        return self._states

    def state(self, outputs: Tensor, terms: float) -> None:
        """Count these terms for the backward pass that goes through `outputs`, or for the next observation."""
        self._states = True
        if self._config.fisher != "empirical":
            self._coming = terms
            return

        def after_backward(_: Tensor) -> None:
            if self._ledger.any_counts():
                task = torch._C._current_graph_task_id()
                self._stated[task] = self._stated.get(task, 0.0) + terms

        outputs.register_hook(after_backward)  # type: ignore[no-untyped-call]

    def assign(self, observation: int) -> None:
        """Give what was stated to an observation that begins."""
        if self._coming is not None:
            self._stated[observation], self._coming = self._coming, None

    def total(self, examples: Mapping[int, int], layers: Sequence[ExamplesSeen]) -> float:
        """Count the terms of all batches; RuntimeError where only some are stated, or the number is ambiguous."""
        if self._states:
            if any(batch not in self._stated for batch in examples):
                raise RuntimeError(
                    "observe() stated the loss terms of some backward passes only. Call it between every forward pass "
                    "and its loss.backward(), with the tensor that the loss is computed from."
                )
            return sum(self._stated[batch] for batch in examples)
        if self._config.terms_per_example is None:
            _refuse_ambiguous(layers)
        return float(max(1, sum(examples.values())) * (self._config.terms_per_example or 1))


def _refuse_ambiguous(layers: Sequence[ExamplesSeen]) -> None:
    """Raise RuntimeError where layers with positions do not agree with one that has rows for examples alone."""
    flat = [layer.counts for layer in layers if not layer.positions]
    for layer in layers:
        if not layer.positions:
            continue
        for batch, count in layer.counts.items():
            others = [each[batch] for each in flat if batch in each]
            if not others or count != min(others):
                raise RuntimeError(
                    f"The number of loss terms is ambiguous: layer {layer.name!r} saw inputs with positions, such as "
                    "[batch, time, features], and nothing tells whether the loss averages over examples or over "
                    "positions, or which dimension is the batch. State it: KFACConfig(terms_per_example=...), 1 where "
                    "the loss has one term for each example and the number of positions where it averages over all of "
                    "them; or optimizer.observe(outputs, terms=...) or (outputs, weights=mask) before every "
                    "loss.backward(); and batch_dim=1 for [time, batch, features]."
                )


def batched(layer: Layer, call: Capture) -> Capture:
    """Give a call on a single example its batch dimension."""
    alone = call.inputs.dim() == {"linear": 1, "conv": len(layer.weight_shape) - 1, "embedding": 0}[layer.kind]
    return Capture(call.inputs.unsqueeze(0), tuple(g.unsqueeze(0) for g in call.columns)) if alone else call


def has_positions(layer: Layer, inputs: Tensor) -> bool:
    """Whether the inputs have positions beside examples."""
    return layer.kind != "conv" and inputs.dim() > (2 if layer.kind == "linear" else 1)


def batch_first(call: Capture) -> Capture:
    """Bring [positions, examples, ...] to [examples, positions, ...]."""
    return Capture(call.inputs.transpose(0, 1), tuple(g.transpose(0, 1) for g in call.columns))
