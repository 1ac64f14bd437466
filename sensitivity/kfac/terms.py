"""Number of loss terms of the batches between two steps: stated by the user, or inferred where it is certain."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sensitivity.kfac.config import KFACConfig
from sensitivity.kfac.factors import Capture
from sensitivity.kfac.layers import Layer, layer_of_call, layers_over_examples
from sensitivity.kfac.passes import PassLedger
from sensitivity.kfac.sums import Contribution, Place


@dataclass(frozen=True)
class ExampleCounts:
    """First input dimension of a layer by batch (`counts`), and whether its inputs also have positions."""

    name: str
    positions: bool
    counts: Mapping[int, int]


def example_counts(places: Mapping[str, Place], contributions: Mapping[str, Contribution]) -> list[ExampleCounts]:
    """Return the example counts of the layers whose first input dimension counts examples."""
    layers = layers_over_examples(places[name].layer for name in contributions)
    return [
        ExampleCounts(layer.name, contributions[layer.name].positions, contributions[layer.name].full)
        for layer in layers
    ]


def examples_of(layers: Sequence[ExampleCounts]) -> dict[int, int]:
    """Count the examples of each batch: the smallest count among the layers (see `layers_over_examples`)."""
    found: dict[int, int] = {}
    for layer in layers:
        for batch, count in layer.counts.items():
            found[batch] = min(found.get(batch, count), count)
    return found


class LossTerms:
    """Counts the loss terms of the batches between two steps.

    A batch is identified by its backward pass, or by its observation for the sampled Fisher.
    """

    def __init__(self, config: KFACConfig, ledger: PassLedger) -> None:
        self._config, self._ledger = config, ledger
        self.clear()

    def clear(self) -> None:
        """Discard what was stated since the last step."""
        self._stated: dict[int, float] = {}
        self._next_terms: float | None = None
        self._any_stated = False
        self._roots: Tensor | None = None
        self._latest: object = None
        self._crossed = False
        self._forward_passes: dict[int, set[int]] = {}

    def add_forward_pass(self, batch: int, forward: int | None) -> None:
        """Record that a backward pass went through this forward pass of the model (None: unknown)."""
        if forward is not None:
            self._forward_passes.setdefault(batch, set()).add(forward)

    @property
    def roots(self) -> Tensor | None:
        """Square roots of the example weights of the latest batch, if the empirical Fisher needs them."""
        return self._roots

    @property
    def stated(self) -> bool:
        """Whether the number was stated since the last step."""
        return self._any_stated

    def state(self, outputs: Tensor, terms: float, weights: Tensor | None = None) -> None:
        """Set the number of terms of the backward pass through `outputs`, or of the next observation.

        With the empirical Fisher, raises ValueError for weights that differ within an example.
        """
        self._any_stated = True
        if self._config.fisher != "empirical":
            self._next_terms = terms
            return
        self._roots = None if weights is None else roots_of(weights, self._config.batch_dim)
        own = self._latest = object()

        def after_backward(_: Tensor) -> None:
            if self._ledger.any_counts():
                task = torch._C._current_graph_task_id()
                self._crossed |= self._roots is not None and self._latest is not own
                self._stated[task] = self._stated.get(task, 0.0) + terms

        outputs.register_hook(after_backward)  # type: ignore[no-untyped-call]

    def unweighted(self, name: str, call: Capture) -> Capture:
        """Divide gradients by the square roots of their examples' weights.

        Gradients of the weighted loss are proportional to the weight; their outer products in the Fisher must be too.
        """
        if self._roots is None:
            return call
        rows, examples = call.inputs.shape[0], len(self._roots)
        if rows < examples:  # an embedding of positions, looked up once for all examples
            return call
        if rows % examples:
            raise RuntimeError(
                f"Layer {name!r} received {rows} rows for {examples} weighted examples. Pass it inputs whose first "
                "dimension is that of the examples, or set KFACConfig(fisher='type2')."
            )
        each = self._roots.repeat_interleave(rows // examples).to(call.inputs.device)
        scale = torch.where(each > 0, 1 / each, 0.0)
        return Capture(call.inputs, tuple(g * scale.view(-1, *(1,) * (g.dim() - 1)).to(g) for g in call.columns))

    def assign(self, observation: int) -> None:
        """Assign the stated number of terms to an observation that begins."""
        if self._next_terms is not None:
            self._stated[observation], self._next_terms = self._next_terms, None

    def total(self, examples: Mapping[int, int], layers: Sequence[ExampleCounts]) -> float:
        """Count the terms of all batches; raise RuntimeError if only some are stated, or the number is ambiguous."""
        if self._crossed:
            raise RuntimeError(
                "observe() was called with weights for a batch, and again before its loss.backward(). With "
                'fisher="empirical" call it between every forward pass and its backward pass.'
            )
        several = any(len(forwards) > 1 for forwards in self._forward_passes.values())
        if several and (self._config.sharing == "reduce" or self._config.ekfac):
            raise RuntimeError(
                "One backward pass went through several forward passes of the model, and with sharing='reduce' or "
                "EKFAC their examples cannot be distinguished. Call backward() on the loss of each, or pass the model "
                "one batch."
            )
        if self._any_stated:
            if any(batch not in self._stated for batch in examples):
                raise RuntimeError(
                    "observe() stated the loss terms of some backward passes only. Call it between every forward pass "
                    "and its loss.backward(), with the tensor that the loss is computed from."
                )
            return sum(self._stated[batch] for batch in examples)
        if several:
            raise RuntimeError(
                "The number of loss terms is ambiguous: one backward pass went through several forward passes of the "
                "model, which may have used different examples or the same ones again. State the number before "
                "loss.backward(), with optimizer.observe(outputs, terms=...) for the outputs of each forward pass, or "
                "of the first alone, so that the sum is the number that the loss is averaged over; or call backward() "
                "on the loss of each."
            )
        if self._config.terms_per_example is None:
            _refuse_ambiguous(layers)
        return float(max(1, sum(examples.values())) * (self._config.terms_per_example or 1))


def roots_of(weights: Tensor, batch_dim: int) -> Tensor | None:
    """Square roots of the weights of examples; None if all weights are 0 or 1.

    `weights` may also have positions, whose weights must be 0 or that of their example; otherwise raises ValueError.
    """
    weights = weights.detach().double()
    if bool(((weights == 0) | (weights == 1)).all()):
        return None
    rows = weights.movedim(batch_dim, 0).flatten(1) if weights.dim() > 1 else weights.unsqueeze(1)
    largest = rows.amax(1)
    if not bool(((rows == 0) | (rows == largest.unsqueeze(1))).all()):
        raise ValueError(
            'With fisher="empirical", weights of the terms of one example must be equal, or 0: the gradients of its '
            'layers are sums over its terms. Set KFACConfig(fisher="type2") or fisher="monte_carlo".'
        )
    return largest.sqrt()


def _refuse_ambiguous(layers: Sequence[ExampleCounts]) -> None:
    """Raise RuntimeError unless each layer with positions agrees with a layer whose rows are examples."""
    flat = [layer.counts for layer in layers if not layer.positions]
    for layer in layers:
        if not layer.positions:
            continue
        for batch, count in layer.counts.items():
            others = [each[batch] for each in flat if batch in each]
            if not others or count != min(others):
                raise RuntimeError(
                    f"The number of loss terms is ambiguous: layer {layer.name!r} saw inputs with positions, such as "
                    "[batch, time, features], and K-FAC cannot infer whether the loss averages over examples or over "
                    "positions, or which dimension is the batch. State it: KFACConfig(terms_per_example=...), 1 if the "
                    "loss has one term per example and the number of positions if it averages over all of them; or "
                    "optimizer.observe(outputs, terms=...) or (outputs, weights=mask) before every loss.backward(); "
                    "and batch_dim=1 for [time, batch, features]."
                )


def batched(layer: Layer, call: Capture) -> Capture:
    """Call with a batch dimension, which is added to a call on a single example."""
    kind = layer_of_call(layer, call.inputs).kind
    alone = call.inputs.dim() == {"linear": 1, "conv": len(layer.weight_shape) - 1, "embedding": 0}[kind]
    return Capture(call.inputs.unsqueeze(0), tuple(g.unsqueeze(0) for g in call.columns)) if alone else call


def has_positions(layer: Layer, inputs: Tensor) -> bool:
    """Whether the inputs have positions in addition to examples."""
    kind = layer_of_call(layer, inputs).kind
    return kind != "conv" and inputs.dim() > (2 if kind == "linear" else 1)


def batch_first(call: Capture) -> Capture:
    """Transpose a call from [positions, examples, ...] to [examples, positions, ...]."""
    return Capture(call.inputs.transpose(0, 1), tuple(g.transpose(0, 1) for g in call.columns))
