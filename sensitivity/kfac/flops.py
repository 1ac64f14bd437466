"""Floating-point operations of K-FAC beside the forward and backward pass; a multiplication and an addition are two."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sensitivity.kfac.config import KFACConfig, mean_rate
from sensitivity.kfac.convolution import moment_flops
from sensitivity.kfac.layers import Layer
from sensitivity.kfac.thin import full_flops, thin_flops, uses_calls


@dataclass(frozen=True, kw_only=True)
class StepFlops:
    """FLOPs of one average step of one trial, by phase."""

    factors: float
    inverses: float
    precondition: float

    @property
    def total(self) -> float:
        """All phases."""
        return self.factors + self.inverses + self.precondition


def step_flops(
    layers: Sequence[Layer],
    config: KFACConfig,
    *,
    examples: int,
    positions: Mapping[str, int] | None = None,
    steps: int = 10_000,
    calls: bool = False,
) -> StepFlops:
    """Count the FLOPs of an average step over a batch of `examples`, update intervals averaged over `steps` steps.

    `positions` holds, by layer name, the positions of an example (height times width of a convolution's output, the
    length of a sequence); 1 where absent. For a group with factors of sides a and g, and R rows:

    - factors: 2 R a² (an embedding's are counted: 0; a convolution's by `moment_flops`) and 2 R g², the latter once for
      each pseudo-loss; rows are examples alone in the "reduce" setting;
    - inverses: a³ + g³ by Cholesky; 9 (a³ + g³) by eigendecomposition;
    - preconditioning: 2 a g (a + g), and twice that in and out of an eigenbasis; 2 R (a f + g² + a g), R of the whole
      batch and f = a without the bias, where `calls` are given to `step` and it uses them (`uses_calls`).

    The backward passes of pseudo-losses are not counted: they are the caller's.
    """
    known = positions or {}
    factor_cost = inverse_cost = solve_cost = 0.0
    used = examples * config.batch_fraction
    exact = config.damping_form == "exact"
    for layer in layers:
        a, g = layer.input_dim, layer.output_dim
        places = known.get(layer.name, 1)
        reduced = config.sharing == "reduce"
        rows = used * (1 if reduced else places)
        if layer.kind == "embedding":
            inverse_cost += _eigen_or_cholesky(g, exact=exact)
            solve_cost += 2 * a * g * g * (2 if exact else 1)
        else:
            conv = layer.geometry is not None and not reduced
            factor_cost += moment_flops(layer, rows) if conv else layer.groups * 2 * rows * a**2
            both = _eigen_or_cholesky(a, exact=exact) + _eigen_or_cholesky(g, exact=exact)
            inverse_cost += layer.groups * both
            if calls and not exact and uses_calls(layer, examples * places):
                solve_cost += thin_flops(layer, examples * places)
            else:
                solve_cost += full_flops(layer) * (2 if exact else 1)
        factor_cost += layer.groups * 2 * rows * g**2
    return StepFlops(
        factors=factor_cost * mean_rate(config.factor_interval, steps),
        inverses=inverse_cost * mean_rate(config.inverse_interval, steps),
        precondition=solve_cost,
    )


def _eigen_or_cholesky(side: int, *, exact: bool) -> float:
    return (9.0 if exact else 1.0) * side**3
