"""What optimizers and hyperparameters are called in sentences. Names are the study file's, and not escaped."""

from __future__ import annotations

import re
from collections.abc import Iterable

from sensitivity.study.arms import arm_class
from sensitivity.study.hyperparameters import hyperparameter


def optimizer_name(name: str) -> str:
    """Return an optimizer's name as it is read: where it is that of a kind, such as "kfac", the kind's label."""
    declared = arm_class(name)
    return declared.label if declared is not None and declared.label else name


def parameter_name(name: str) -> str:
    """Return a hyperparameter's name as it is read."""
    return hyperparameter(name).label


def at_batch_size(optimizer: str, batch_size: int) -> str:
    """Return which optimizer and batch size a sentence is of."""
    return f"{optimizer_name(optimizer)}, batch size {batch_size:,}"


def merged(texts: Iterable[str]) -> tuple[str, ...]:
    """Return `texts`, each once, in order; those that differ in the batch size alone become one that lists them."""
    sizes: dict[tuple[str, str], list[str]] = {}
    for text in texts:
        found = _AT_BATCH_SIZE.fullmatch(text)
        key = (found["optimizer"], found["rest"]) if found else (text, "")
        sizes.setdefault(key, []).append(found["size"] if found else "")
    said = []
    for (first, rest), own in sizes.items():
        own = list(dict.fromkeys(own))
        where = f"batch size {own[0]}" if len(own) == 1 else f"batch sizes {', '.join(own[:-1])} and {own[-1]}"
        said.append(f"{first}, {where}: {rest}" if rest else first)
    return tuple(said)


_AT_BATCH_SIZE = re.compile(r"(?P<optimizer>.*?), batch size (?P<size>[\d,]+): (?P<rest>.+)", re.DOTALL)
