"""The user's metrics, by import path."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sensitivity.study.problem import ProblemSpec
from sensitivity.study.user_functions import import_function


def own_metrics(spec: ProblemSpec) -> dict[str, Callable[..., Any]]:
    """Return the functions named in ``problem.metrics``, by metric.

    Raises:
        UserError: a function is not found, or importing its module fails.
    """
    return {
        name: import_function(declared.function, f"problem.metrics.{name}")
        for name, declared in spec.metrics.items()
        if not declared.shipped
    }
