"""Networks and options that K-FAC supports in packs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sensitivity.optimizers.contract import Networks

if TYPE_CHECKING:
    from torch import nn

    from sensitivity.kfac import Layer


def unusable(settings: Mapping[str, Any], networks: Networks) -> str | None:
    """Return a message if no layer is covered, or if an option needs whole batches or other layers."""
    from sensitivity import kfac

    if networks.ignores_terms and (what := _not_masked(settings, networks)):
        return (
            f"{what} if some targets are masked: K-FAC excludes rows without a loss only for linear layers and "
            "embeddings with default options. Change this, use sequences without padding, or remove this "
            "optimizer"
        )
    diagonal = settings.get("others") == "diagonal"
    for option, used in (("EKFAC", settings.get("ekfac")), ('others = "diagonal"', diagonal)):
        if used and networks.in_parts:
            return f"{option} needs whole batches; remove it, or execution.micro_batch and problem.ghost_batch"
    if diagonal and not kfac.norms_of(networks.network):
        return 'others = "diagonal" is for normalisation layers, but the model has no trainable ones; remove it'
    if layers_of(networks.network):
        fisher = settings.get("fisher", "empirical")
        if networks.loss is None and fisher != "empirical":
            return (
                f'fisher = "{fisher}" needs a loss with a known likelihood: "cross_entropy" without class '
                'weights, "squared_error" or "binary_cross_entropy"; remove fisher, which is "empirical" by default'
            )
        return None
    fix = "Use another model, or remove this optimizer"
    if networks.curvature is not None:
        fix = 'Use kind = "newton", K-FAC with the exact curvature'
    return (
        "K-FAC covers no layer of the model; it covers Linear, Conv, ConvTranspose, Embedding and "
        "MultiheadAttention layers that are trained. "
        f"{fix}"
    )


def layers_of(network: nn.Module) -> tuple[Layer, ...]:
    """Return the layers that K-FAC covers."""
    from sensitivity import kfac

    return kfac.layers_of(network)


def _not_masked(settings: Mapping[str, Any], networks: Networks) -> str | None:
    """Return an option or layer that K-FAC does not support with masked positions; None if there is none."""
    for option, used in (
        ('sharing = "reduce"', settings.get("sharing") == "reduce"),
        ("batch_fraction", settings.get("batch_fraction", 1.0) < 1),
        ("EKFAC", settings.get("ekfac")),
        ('others = "diagonal"', settings.get("others") == "diagonal"),
    ):
        if used:
            return f"{option} is not defined"
    others = [layer.name for layer in layers_of(networks.network) if layer.kind == "conv"]
    return f"the convolution {others[0]} is not covered" if others else None
