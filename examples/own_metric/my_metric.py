"""A loss and a metric of your own, for forecasts that should rather be too high than too low."""

import torch


def pinball(outputs, targets, quantile=0.8):
    """Return the loss of each example ``[batch]``, whose least expectation is at that quantile of the targets.

    No mean is taken: an example's loss must not depend on the others.
    """
    short = targets - outputs
    return torch.maximum(quantile * short, (quantile - 1) * short).mean(1)


def covered(outputs, targets):
    """Return the share of examples that the forecast is not below: one number of a whole split."""
    return (outputs >= targets).double().mean()


def miscoverage(outputs, targets):
    """Return how far that share is from the 80% that are asked for."""
    return (covered(outputs, targets) - 0.8).abs()
