"""Validation of the arguments of shipped models."""

from __future__ import annotations

from torch import nn

from sensitivity.study.errors import UserError


def check_counts(model: str, **counts: int) -> None:
    """Check numbers of layers or channels.

    Raises:
        UserError: names the first invalid one.
    """
    for name, count in counts.items():
        if not isinstance(count, int) or isinstance(count, bool) or count < 1:
            raise UserError(f"problem.model_arguments.{name}: {model} takes a whole number >= 1; got {count}")


def dropouts(model: str, share: float) -> list[nn.Module]:
    """Return a list with a dropout layer; empty if the rate is 0.

    Raises:
        UserError: `share` is not >= 0 and < 1.
    """
    if isinstance(share, (bool, str)) or not 0 <= share < 1:
        raise UserError(f"problem.model_arguments.dropout: {model} takes a number >= 0 and < 1; got {share}")
    return [nn.Dropout(share)] if share else []
