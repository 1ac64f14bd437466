"""Pseudo-losses, functions of a model's outputs alone, whose backward pass yields the output gradients of the Fisher.

Outputs are logits [*lead, N, ..., classes] for cross entropy, with one loss term per row before the classes, and logits
or predictions [*lead, N, ...] for binary cross entropy and squared errors, with one loss term per example. Each
pseudo-loss is a sum over all terms, so its captures have loss_scale 1. The sum over pseudo-losses of gradient outer
products is exactly Jᵀ H J summed over terms for "type2", and an unbiased estimate of it for "monte_carlo". H is the
Hessian of the loss with respect to the outputs; for these losses it equals their Fisher, and it does not depend on
label smoothing. (Martens 2020, arXiv 1412.1193; Kunstner et al. 2019 on why the empirical Fisher differs.)
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from sensitivity.kfac.config import KFACConfig


def pseudo_losses(
    outputs: Tensor,
    config: KFACConfig,
    generators: Sequence[torch.Generator],
    *,
    lead: int = 0,
    weights: Tensor | None = None,
) -> Iterator[Tensor]:
    """Yield scalars to differentiate with respect to layer outputs: one for "monte_carlo", one per output for "type2".

    Args:
        outputs: outputs of the model; see the module docstring.
        config: configuration whose `fisher` and `loss` select the pseudo-losses.
        generators: one generator per member of the flattened leading dimensions (one without any). Each member draws
            from its own, so its samples do not depend on the pack.
        lead: number of leading dimensions.
        weights: weights of the loss terms, such as a mask: one per row before the classes (cross entropy) or example.

    Raises:
        ValueError: the Fisher is the empirical one, which uses the gradients of the training loss.
    """
    if config.fisher == "empirical":
        raise ValueError('The "empirical" Fisher needs no pseudo-loss: capture the backward pass of the training loss.')
    rows = outputs if config.loss == "cross_entropy" else outputs.flatten(lead + 1)
    for coefficients in _coefficients(rows.detach(), config, generators, lead):
        if weights is not None:
            coefficients = coefficients * weights.to(coefficients.dtype).sqrt().unsqueeze(-1)
        yield (rows * coefficients).sum()


def _coefficients(
    rows: Tensor, config: KFACConfig, generators: Sequence[torch.Generator], lead: int
) -> Iterator[Tensor]:
    """Gradients [*lead, N, ..., C] of pseudo-losses, as columns of a root of the Hessian or its samples."""
    classes = rows.shape[-1]
    rows = rows.to(torch.float64 if rows.dtype == torch.float64 else torch.float32)
    if config.loss == "cross_entropy":
        probabilities = rows.softmax(-1)
        if config.fisher == "monte_carlo":
            labels = _sample_labels(
                probabilities.unsqueeze(0) if lead == 0 else probabilities.flatten(0, lead - 1), generators
            )
            yield probabilities - torch.nn.functional.one_hot(labels.reshape(rows.shape[:-1]), classes)
        else:
            for c in range(classes):
                root = probabilities[..., c : c + 1].sqrt()
                column = -root * probabilities
                column[..., c] += root[..., 0]
                yield column
        return
    if config.loss == "binary_cross_entropy":
        probabilities = rows.sigmoid()
        spread = classes**-0.5
        if config.fisher == "monte_carlo":
            members = probabilities.unsqueeze(0) if lead == 0 else probabilities.flatten(0, lead - 1)
            draws = [
                torch.rand(member.shape, generator=generator, dtype=rows.dtype, device=generator.device)
                for member, generator in zip(members, generators, strict=True)
            ]
            labels = torch.stack(draws).reshape(rows.shape).to(rows.device, non_blocking=True) < probabilities
            yield spread * (probabilities - labels.to(rows.dtype))
        else:
            for c in range(classes):
                column = torch.zeros_like(rows)
                column[..., c] = spread * (probabilities[..., c] * (1 - probabilities[..., c])).sqrt()
                yield column
        return
    spread = 1.0 if config.loss == "squared_error" else (2.0 / classes) ** 0.5
    if config.fisher == "monte_carlo":
        members = rows.unsqueeze(0) if lead == 0 else rows.flatten(0, lead - 1)
        noise = [
            torch.randn(member.shape, generator=generator, dtype=rows.dtype, device=generator.device)
            for member, generator in zip(members, generators, strict=True)
        ]
        yield spread * torch.stack(noise).reshape(rows.shape).to(rows.device, non_blocking=True)
    else:
        for c in range(classes):
            column = torch.zeros_like(rows)
            column[..., c] = spread
            yield column


def _sample_labels(probabilities: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
    """Draw labels [members, terms] by inverting the cumulative distribution, which does not raise for NaNs."""
    cumulative = probabilities.flatten(1, -2).cumsum(-1)
    uniform = [
        torch.rand((cumulative.shape[1], 1), generator=generator, dtype=cumulative.dtype, device=generator.device)
        for generator in generators
    ]
    draws = torch.stack(uniform).to(cumulative.device, non_blocking=True) * cumulative[..., -1:]
    return (draws > cumulative).sum(-1).clamp_max(probabilities.shape[-1] - 1)
