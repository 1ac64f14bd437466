"""Floating-point operations of K-FAC, without the forward and backward pass; a multiply-add counts as two."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sensitivity.kfac.config import KFACConfig, mean_rate
from sensitivity.kfac.convolution import moment_flops
from sensitivity.kfac.layers import Layer
from sensitivity.kfac.low_rank import full_flops, low_rank_flops, uses_calls


@dataclass(frozen=True, kw_only=True)
class StepFlops:
    """FLOPs of an average step of one trial, by phase."""

    factors: float
    inverses: float
    precondition: float

    @property
    def total(self) -> float:
        """Sum over all phases."""
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
    """Count the FLOPs of K-FAC in an average step.

    For a group with factors of sides a and g, and R rows (examples times positions, or examples in the "reduce"
    setting), the phases cost:

    - factors: 2 R a² for the inputs (0 for an embedding, whose inputs are counted; `moment_flops` for a convolution)
      and 2 R g² for the output gradients, once per pseudo-loss;
    - inverses: a³ + g³ by Cholesky, 9 (a³ + g³) by eigendecomposition;
    - preconditioning: 2 a g (a + g), and twice that in an eigenbasis; 2 R (a f + g² + a g), with R the rows of the
      whole batch and f = a without the bias, for layers whose `calls` `step` uses (`uses_calls`).

    The backward passes of pseudo-losses are not included.

    Args:
        layers: covered layers.
        config: configuration of the optimizer.
        examples: number of examples in the batch.
        positions: positions per example by layer name (height times width of a convolution's output, length of a
            sequence); 1 where absent.
        steps: number of steps over which update intervals are averaged.
        calls: whether `step` receives the calls of the batch.
    """
    positions_by_layer = positions or {}
    factor_cost = inverse_cost = solve_cost = 0.0
    used = examples * config.batch_fraction
    exact = config.damping_form == "exact"
    for layer in layers:
        a, g = layer.input_dim, layer.output_dim
        places = positions_by_layer.get(layer.name, 1)
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
                solve_cost += low_rank_flops(layer, examples * places)
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
