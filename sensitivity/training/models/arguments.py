"""What shipped models are given beside shapes, and what it may be."""

from __future__ import annotations

from torch import nn

from sensitivity.study.errors import UserError


def check_counts(model: str, **counts: int) -> None:
    """Refuse what is no number of layers or channels.

    Raises:
        UserError: names the first.
    """
    for name, count in counts.items():
        if not isinstance(count, int) or isinstance(count, bool) or count < 1:
            raise UserError(f"problem.model_arguments.{name}: {model} takes a whole number >= 1; got {count}")


def dropouts(model: str, share: float) -> list[nn.Module]:
    """Return a layer of dropout; none where nothing is dropped.

    Raises:
        UserError: `share` is not from 0 to below 1.
    """
    if isinstance(share, (bool, str)) or not 0 <= share < 1:
        raise UserError(f"problem.model_arguments.dropout: {model} takes a number >= 0 and < 1; got {share}")
    return [nn.Dropout(share)] if share else []
