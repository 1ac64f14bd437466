"""The raw sums of a layer's moments between two steps: where they lie, and what has entered them."""

from dataclasses import dataclass, field

from torch import Tensor

from sensitivity.kfac.factors import Capture
from sensitivity.kfac.layers import Layer


@dataclass(frozen=True, eq=False)
class Place:
    """Where a layer's sums lie."""

    layer: Layer
    inputs: Tensor
    outputs: Tensor
    parts: tuple[Tensor, Tensor, Tensor, Tensor] | None
    """Block, bias row, bias column and corner of `inputs`; None of a layer that isn't linear."""


@dataclass(eq=False, slots=True)
class Seen:
    """What one layer has contributed since the last step: rows of gradients, and examples, used and full, by batch.

    Its sums are scaled as if its first call were all there is, which usually saves a pass over them.
    """

    scales: tuple[float, float]
    rows: int = 0
    positions: bool = False
    used: dict[int, int] = field(default_factory=dict)
    full: dict[int, int] = field(default_factory=dict)


def input_parts(factor: Tensor, *, bias: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """View an input factor [d, d] without its bias, and the bias's row, column and corner."""
    side = len(factor) - bias
    return factor[:side, :side], factor[-1, :side], factor[:side, -1], factor[-1, -1]


def add_rows(place: Place, call: Capture, batch: int, *, per_example: float, mean: bool) -> Seen:
    """Sum the moments of a linear layer's first call, on plain rows [batch, features]; return what it contributed.

    `per_example` is the number of loss terms of an example, `mean` whether the loss is their mean.
    """
    assert place.parts is not None
    rows, dtype = call.inputs.shape[0], place.outputs.dtype
    scale = rows * per_example if mean else 1
    seen = Seen((1 / (rows * per_example), scale**2 / rows), rows, False, {batch: rows}, {batch: rows})
    inputs, grads = call.inputs.to(dtype), call.columns[0].to(dtype)
    block, last_row, last_column, corner = place.parts
    columns = inputs.mT
    block.addmm_(columns, inputs, beta=0.0, alpha=seen.scales[0])
    if place.layer.bias is not None:
        last_row.addmv_(columns, inputs.new_ones(rows), beta=0.0, alpha=seen.scales[0])
        last_column.copy_(last_row)
        corner.fill_(rows * seen.scales[0])
    place.outputs[0].addmm_(grads.mT, grads, beta=0.0, alpha=seen.scales[1])
    return seen
