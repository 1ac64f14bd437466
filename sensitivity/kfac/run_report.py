"""What `KFAC.report` returns."""

from collections.abc import Mapping
from dataclasses import dataclass

from sensitivity.kfac.engine import StepReport


@dataclass(frozen=True, kw_only=True)
class RunReport:
    """Coverage of a model and counts of the steps so far.

    Attributes:
        layers: parameter names of each covered layer, by layer name.
        others: update rule ("sgd" or "diagonal") of every other parameter, by parameter name.
        uncovered: modules with parameters that K-FAC does not cover, except normalisation layers.
        steps: number of calls of `step`, failed ones included.
        failed_steps: number of steps that changed nothing because gradients or factors were not usable.
        clip_share: fraction of the steps whose KL clip was below 1.
        last: report of the latest step, None before the first.
    """

    layers: Mapping[str, tuple[str, ...]]
    others: Mapping[str, str]
    uncovered: tuple[str, ...]
    steps: int
    failed_steps: int
    clip_share: float
    last: StepReport | None
