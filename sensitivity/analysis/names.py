"""Names of optimizers and hyperparameters in sentences. They come from the study file and are not escaped."""

from __future__ import annotations

import re
from collections.abc import Iterable

from sensitivity.study.arms import arm_class
from sensitivity.study.hyperparameters import hyperparameter


def optimizer_name(name: str) -> str:
    """Return the display name of an optimizer: the label of its kind if it is named after one, such as "kfac"."""
    declared = arm_class(name)
    return declared.label if declared is not None and declared.label else name


def parameter_name(name: str) -> str:
    """Return the display name of a hyperparameter."""
    return hyperparameter(name).label


def at_batch_size(optimizer: str, batch_size: int) -> str:
    """Return the phrase that starts a sentence about an optimizer at a batch size."""
    return f"{optimizer_name(optimizer)}, batch size {batch_size:,}"


def merged(texts: Iterable[str]) -> tuple[str, ...]:
    """Return the distinct `texts`, in order; texts that differ only in the batch size are merged into one."""
    sizes: dict[tuple[str, str], list[str]] = {}
    for text in texts:
        found = _AT_BATCH_SIZE.fullmatch(text)
        key = (found["optimizer"], found["rest"]) if found else (text, "")
        sizes.setdefault(key, []).append(found["size"] if found else "")
    sentences = []
    for (first, rest), own in sizes.items():
        own = list(dict.fromkeys(own))
        where = f"batch size {own[0]}" if len(own) == 1 else f"batch sizes {', '.join(own[:-1])} and {own[-1]}"
        sentences.append(f"{first}, {where}: {rest}" if rest else first)
    return tuple(sentences)


_AT_BATCH_SIZE = re.compile(r"(?P<optimizer>.*?), batch size (?P<size>[\d,]+): (?P<rest>.+)", re.DOTALL)
