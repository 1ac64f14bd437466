"""Sums of squared gradients of the parameters of normalisation layers, accumulated during backward passes."""

from torch import Tensor

from sensitivity.kfac.config import KFACConfig
from sensitivity.kfac.diagonal import Norm, example_squares
from sensitivity.kfac.factors import Capture
from sensitivity.kfac.hooks import Names, require_unchanged
from sensitivity.kfac.passes import PassLedger
from sensitivity.kfac.precision import full_precision
from sensitivity.kfac.terms import LossTerms, batch_first


class NormSums:
    """Accumulates `squares`, by parameter name, between two steps."""

    def __init__(self, config: KFACConfig, ledger: PassLedger, terms: LossTerms) -> None:
        self._config, self._ledger, self._terms = config, ledger, terms
        self.squares: dict[str, Tensor] = {}

    def add_after_backward(self, norm: Norm, names: Names, inputs: Tensor, version: int, output: Tensor) -> None:
        """Add the squares of a call when a backward pass reaches it."""

        def after_backward(grad: Tensor) -> None:
            if not self._ledger.counts(norm.name):
                return
            require_unchanged(names, inputs, version)
            if self._ledger.begins_after_clearing(norm.name):
                for parameter in norm.parameters:
                    self.squares.pop(parameter, None)
            with full_precision(grad.device):
                self.add(norm, Capture(inputs, grad.detach()))

        output.register_hook(after_backward)  # type: ignore[no-untyped-call]

    def add(self, norm: Norm, call: Capture) -> None:
        """Add the squares of a call."""
        spread = norm.kind in ("layer", "rms") and call.inputs.dim() > 1 + len(norm.shape)
        call = batch_first(call) if spread and self._config.batch_dim == 1 else call
        for name, squares in example_squares(norm, [self._terms.unweighted(norm.name, call)], 0).items():
            self.squares[name] = squares + self.squares[name] if name in self.squares else squares
