"""Which backward passes belong to the gradient of the next step, and whether the statistics explain that gradient.

A backward pass counts for a layer if it accumulates into the layer's weight; `torch.autograd.grad`, passes through
other parameters, and passes whose gradient has been cleared do not count. For one layer at a time, the gradient times a
fixed vector v is compared with Σ g (aᵀ v) over the captured calls; they differ if the loss uses the weight outside of
its layer. A factor of 2^-k between the last backward pass and the step is taken for a loss scale that was removed.
"""

import functools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node, get_gradient_edge
from torch.nn import functional
from torch.utils.hooks import RemovableHandle

from sensitivity.kfac.convolution import padded_inputs
from sensitivity.kfac.factors import Capture, accumulation_dtype, grads_of, inputs_of
from sensitivity.kfac.layers import Layer
from sensitivity.kfac.precision import full_precision

_TOLERANCES = {torch.float64: 1e-6, torch.float32: 1e-2}
_LOW_PRECISION = 0.1
"""Relative differences attributed to rounding, by the type of the output gradients."""

_STEPS_BETWEEN_COMPARISONS = 10
"""Number of steps with statistics between two comparisons of a layer."""

_SMALLEST_CLIP_FACTOR = 2.0**-10
"""A smaller factor between backward pass and step may be a removed loss scale; it is reported as ambiguous."""


@dataclass(eq=False, slots=True)
class _Track:
    """The weight of one layer, and the history of its gradient since the last step.

    node: autograd node that accumulates the gradient. task: id of the current or latest backward pass. accumulated:
    number of passes that accumulated. version: version counter of the gradient after the latest one. before: gradient
    times the probe before the pass. entries: some entries of the gradient after it. explained: the change of the
    gradient times the probe, computed from captured calls. magnitude: scale of the rounding error of `explained`.
    """

    weight: nn.Parameter
    layer: Layer | None
    node: Node | None = None
    task: int = -1
    accumulated: int = 0
    version: int = -1
    before: Tensor | None = None
    entries: Tensor | None = None
    explained: Tensor | None = None
    magnitude: Tensor | None = None
    dtype: torch.dtype = torch.float64


@dataclass(frozen=True)
class _Difference:
    """Comparison of one pass for one layer: gradient times the probe (`found`), and the same from captured calls.

    index: number of the pass since the last step. floor: bound on the rounding error. decay: weight times the probe.
    """

    name: str
    index: int
    found: Tensor
    explained: Tensor
    floor: Tensor
    decay: Tensor
    dtype: torch.dtype


@dataclass(eq=False)
class PassLedger:
    """Tracks the gradients of weights between two steps.

    weights: weights by layer name, each with the layer to compare, or None if its gradient is only tracked.
    """

    weights: Mapping[str, tuple[nn.Parameter, Layer | None]]
    _differences: list[_Difference] = field(default_factory=list)
    _compared: frozenset[str] = frozenset()
    _turn: int = 0

    def __post_init__(self) -> None:
        self._tracks = {name: _Track(weight, layer) for name, (weight, layer) in self.weights.items()}
        self._comparable = [name for name, track in self._tracks.items() if track.layer is not None]
        self._handles: list[RemovableHandle] = []
        self.scaled = False
        """Whether a removed loss scale was recognised in the last step, so that the next step checks for one again."""
        self.paused = False
        """Whether backward passes do not count."""
        self.uncounted = False
        """Whether a pass accumulated while paused, so that the statistics do not explain all of the gradient."""
        self._compared = frozenset(self._comparable)
        self._watched = self._comparable[:1]

    def set_hooks(self, *, on: bool) -> None:
        """Register hooks on the weights, or remove them."""
        if on and not self._handles:
            for name, track in self._tracks.items():
                hook = functools.partial(self._after, name)
                handle = track.weight.register_post_accumulate_grad_hook(hook)  # type: ignore[no-untyped-call]
                self._handles.append(handle)
        elif not on and self._handles:
            while self._handles:
                self._handles.pop().remove()
            for track in self._tracks.values():
                track.node = None

    def clear(self, *, stepped: bool) -> None:
        """Discard all passes; after a step, select the next layer to compare."""
        for name in self._tracks if self._handles else ():
            track = self._tracks[name]
            track.accumulated, track.version, track.task = 0, -1, -1
            track.before = track.entries = track.explained = track.magnitude = None
        self._differences.clear()
        self.uncounted = False
        if stepped and self._comparable:
            self._turn += 1
            turn = self._turn // _STEPS_BETWEEN_COMPARISONS % len(self._comparable)
            layer, due = self._comparable[turn : turn + 1], self._turn % _STEPS_BETWEEN_COMPARISONS == 0
            self._compared = frozenset(layer if due else ())
            self._watched = layer if due or self.scaled else []

    def counts(self, name: str) -> bool:
        """Whether the current backward pass accumulates into the layer's weight."""
        track = self._tracks[name]
        if self.paused or not track.weight.requires_grad:
            return False
        if track.node is not None and _executes(track.node):
            return True
        # The node is recreated when a model is moved or its parameters were frozen in between.
        node = get_gradient_edge(track.weight).node
        known, track.node = track.node, node
        return node is not known and _executes(node)

    def any_counts_of(self, names: Sequence[str | None]) -> bool:
        """Whether the current backward pass accumulates into the weight of one of these layers."""
        if len(names) == 1 and names[0] is not None:
            return self.counts(names[0])
        return any(self.counts(name) for name in names if name is not None)

    def any_counts(self) -> bool:
        """Whether the current backward pass accumulates into any weight."""
        return any(self.counts(name) for name in self._tracks)

    def begins_after_clearing(self, name: str) -> bool:
        """Whether this is the first call of a layer in a pass and the gradient of earlier passes was cleared."""
        track, task = self._tracks[name], torch._C._current_graph_task_id()
        if track.task == task:
            return False
        cleared = track.task >= 0 and self.cleared(name)  # before the first pass there is nothing to discard
        track.task = task
        if cleared:
            track.accumulated, track.entries = 0, None
        if name in self._compared:
            grad = track.weight.grad
            track.before = None if grad is None else _probed(track, grad)[0]
            track.explained = track.magnitude = None
        return cleared

    def cleared(self, name: str) -> bool:
        """Whether the gradient was set to None, or to zero after a pass accumulated into it."""
        track = self._tracks[name]
        grad = track.weight.grad
        if grad is None:
            return True
        return bool(track.accumulated and grad._version != track.version and not grad.any())

    def all_cleared(self) -> bool:
        """Whether every gradient is None or zero."""
        grads = (gradient_of(track.weight) for track in self._tracks.values())
        return not any(grad is not None and bool(grad.any()) for grad in grads)

    def compares(self, name: str) -> bool:
        """Whether the gradient of the layer is compared with its calls before the next step."""
        return name in self._compared

    def add_call(self, name: str, call: Capture) -> None:
        """Add a call to the explained gradient of a layer that is compared."""
        track = self._tracks[name]
        if track.layer is None or track.weight._backward_hooks:
            return
        grads = call.columns[0]
        with torch.no_grad(), full_precision(grads.device):
            dtype = accumulation_dtype(grads.dtype)
            both = Capture(call.inputs, grads.to(dtype))
            inputs, rows = (each(track.layer, [both])[0][0] for each in (inputs_of, grads_of))
            explained, magnitude = _product(track.layer, inputs, rows.to(dtype))
        track.dtype = grads.dtype if track.explained is None or _tolerance(grads.dtype) > 1e-2 else track.dtype
        track.explained = explained if track.explained is None else track.explained + explained
        track.magnitude = magnitude if track.magnitude is None else track.magnitude + magnitude

    def differences(self) -> Iterator[tuple[str, int]]:
        """Yield layers whose gradient is not explained by their calls, with the number of the pass since the last step.

        A difference proportional to the weight, as from an L2 penalty in the loss, is accepted.
        """
        for each in () if self.uncounted else self._differences:
            rest = each.found - each.explained
            bound = _tolerance(each.dtype) * torch.linalg.vector_norm(each.found) + each.floor
            if bool(torch.linalg.vector_norm(rest) > bound):
                along = (rest @ each.decay) / (each.decay @ each.decay) * each.decay
                if not bool(torch.linalg.vector_norm(rest - along) <= bound):
                    yield each.name, each.index

    def rescaled(self) -> float | None:
        """Loss scale that gradients were divided by since the last backward pass, 1 for none.

        None if gradients were multiplied by a factor too small to be explained by clipping alone.
        """
        for name in () if self.uncounted else self._watched:
            track = self._tracks[name]
            grad = track.weight.grad
            if track.entries is None or grad is None:
                continue
            now, before = _entries(grad), track.entries
            if torch.equal(now, before):
                return 1.0
            norm = float(torch.linalg.vector_norm(before))
            ratio = float(torch.linalg.vector_norm(now)) / norm if norm > 0 else 1.0
            if not 0 < ratio < math.inf:
                continue
            same = float(torch.linalg.vector_norm(now - ratio * before)) <= 1e-3 * ratio * norm
            exponent = round(math.log2(ratio))
            if same and exponent < 0 and abs(ratio / 2.0**exponent - 1) < 1e-5:
                return 2.0**-exponent
            if ratio < _SMALLEST_CLIP_FACTOR:
                return None
        return 1.0

    def _after(self, name: str, weight: Tensor) -> None:
        track, grad = self._tracks[name], weight.grad
        assert grad is not None
        if self.paused:
            self.uncounted = True
        track.accumulated += 1
        track.version = grad._version
        if name in self._watched:
            track.entries = _entries(grad).clone()
        if name in self._compared and not grad.is_sparse:
            if track.explained is not None and track.magnitude is not None:
                found, decay = _probed(track, grad, weight.detach())
                found = found if track.before is None else found - track.before
                floor = 16 * torch.finfo(track.dtype).eps * track.magnitude
                self._differences.append(
                    _Difference(name, track.accumulated, found, track.explained, floor, decay, track.dtype)
                )
            track.explained = track.magnitude = None


def gradient_of(parameter: Tensor) -> Tensor | None:
    """Return the gradient that a step uses: None for a frozen parameter, which may still have an earlier one."""
    return parameter.grad if parameter.requires_grad else None


def _probed(track: _Track, *matrices: Tensor) -> list[Tensor]:
    """Multiply the layer's part of its weight, or of the weight's gradient, by the probe."""
    assert track.layer is not None
    part, parts = track.layer.part
    products = []
    with torch.no_grad(), full_precision(matrices[0].device):
        for matrix in matrices:
            values = matrix.to(accumulation_dtype(matrix.dtype))
            values = values.mT if track.layer.kind == "embedding" else values.flatten(1)
            values = values.chunk(parts)[part] if parts > 1 else values
            products.append(values @ _probe(values.shape[1], values.dtype, values.device))
    return products


def _product(layer: Layer, inputs: Tensor, grads: Tensor) -> tuple[Tensor, Tensor]:
    """Sum of g (aᵀ v) over the rows of a call, and the scale of its rounding error."""
    if layer.kind == "embedding" and inputs.is_floating_point():
        probe = _probe(layer.input_dim, grads.dtype, grads.device)
        through, rows = (grads @ probe).flatten(), inputs.reshape(-1, inputs.shape[-1]).to(grads.dtype)
    elif layer.kind == "embedding":
        probe = _probe(layer.input_dim, grads.dtype, grads.device)
        through, rows = probe[inputs].flatten(), grads.flatten(0, -2)
    elif layer.kind == "linear":
        through = (inputs.to(grads.dtype) @ _probe(inputs.shape[-1], grads.dtype, grads.device)).flatten()
        rows = grads.reshape(-1, grads.shape[-1])
    else:
        assert layer.geometry is not None
        probe = _probe(math.prod(layer.weight_shape[1:]), grads.dtype, grads.device)
        convolve = (functional.conv1d, functional.conv2d, functional.conv3d)[len(layer.weight_shape) - 3]
        maps = convolve(
            padded_inputs(inputs.to(grads.dtype), layer.geometry),
            probe.view(1, *layer.weight_shape[1:]).expand(layer.groups, *layer.weight_shape[1:]),
            stride=layer.geometry.stride,
            dilation=layer.geometry.dilation,
            groups=layer.groups,
        ).flatten(2)
        parts = torch.unflatten(grads.flatten(2), 1, (layer.groups, layer.output_dim))
        found = torch.einsum("ngop,ngp->go", parts, maps).flatten()
        return found, torch.linalg.vector_norm(grads) * torch.linalg.vector_norm(maps)
    return rows.mT @ through, torch.linalg.vector_norm(rows) * torch.linalg.vector_norm(through)


def _entries(grad: Tensor) -> Tensor:
    """View of about 64 entries, spread over a gradient."""
    flat = grad.detach().reshape(-1)
    return flat[:: max(1, len(flat) // 64)]


def _executes(node: Node) -> bool:
    try:
        return bool(torch._C._will_engine_execute_node(node))
    except RuntimeError:  # torch.autograd.grad by the weight itself
        return False


def _tolerance(dtype: torch.dtype) -> float:
    return _TOLERANCES.get(dtype, _LOW_PRECISION)


@functools.lru_cache(maxsize=64)
def _probe(size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return a fixed random vector, independent of all gradients."""
    return torch.randn(size, generator=torch.Generator().manual_seed(size), dtype=torch.float64).to(device, dtype)


def unexplained_message(found: Iterable[tuple[str, int]]) -> str | None:
    """Error message that names the layers whose calls do not explain their gradients, with the fixes; None for none."""
    listed = list(found)
    if not listed:
        return None
    name, index = listed[0]
    names = ", ".join(repr(each) for each in dict.fromkeys(each for each, _ in listed))
    return (
        f"The gradient of layer {names} is not the sum over its calls of output gradient times input: backward pass "
        f"{index} since the last step (layer {name!r}) reaches the weight in another way, so K-FAC's statistics would "
        "not be those of the gradient. For a gradient penalty, or another term to exclude from the statistics, call "
        "loss.backward() and then penalty.backward() within `with optimizer.uncounted():`. For a weight that a "
        f"function such as torch.einsum uses too, pass KFAC(..., exclude=[{name!r}])."
    )
