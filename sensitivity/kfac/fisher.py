"""Pseudo-losses whose backward pass gives the output gradients of the true Fisher, from a model's outputs alone.

Outputs are [*lead, N, ..., classes] logits for cross entropy, every row before the classes a loss term, and [*lead, N,
...] logits for binary cross entropy, or predictions for squared errors, every example a loss term. Each pseudo-loss
sums over all terms, so its captures have loss_scale 1. The sum over pseudo-losses of gradient outer products is, for
"type2", exactly Jᵀ H J summed over terms (H the loss's Hessian, which is the Fisher of these losses, and does not
depend on how labels are smoothed), and for "monte_carlo" an unbiased estimate of it
(Martens 2020, arXiv 1412.1193; Kunstner et al. 2019 on why the empirical Fisher differs).
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
    """Yield the scalars to differentiate by the layers' outputs: one for "monte_carlo", one an output for "type2".

    `generators` has one generator for each member of the flattened leading dimensions (one without any); each member's
    samples come from its own, as they would alone. `weights`, such as a mask, are one for each row before the
    classes (cross entropy) or for each example. Raises ValueError for the empirical Fisher, whose gradients are the
    training loss's own.
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
    """Gradients by rows [*lead, N, ..., C]: columns of a square root of the Hessian, or samples of that covariance."""
    classes = rows.shape[-1]
    rows = rows.to(torch.float64 if rows.dtype == torch.float64 else torch.float32)
    if config.loss == "cross_entropy":
        probabilities = rows.softmax(-1)
        if config.fisher == "monte_carlo":
            labels = _sampled(
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


def _sampled(probabilities: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
    """Draw labels [members, terms] by inverting the cumulative distribution, which raises nothing for a NaN."""
    cumulative = probabilities.flatten(1, -2).cumsum(-1)
    uniform = [
        torch.rand((cumulative.shape[1], 1), generator=generator, dtype=cumulative.dtype, device=generator.device)
        for generator in generators
    ]
    draws = torch.stack(uniform).to(cumulative.device, non_blocking=True) * cumulative[..., -1:]
    return (draws > cumulative).sum(-1).clamp_max(probabilities.shape[-1] - 1)
