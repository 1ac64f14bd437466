"""The form of a study file, with a text field for each of its numbers, and the conversion in both directions."""

from __future__ import annotations

import contextlib
import copy
import json
import tomllib
from collections.abc import Mapping, Sequence
from typing import Any

import dash_mantine_components as dmc
from pydantic import ValidationError

from sensitivity.study.arms import arm_class
from sensitivity.study.hyperparameters import (
    HYPERPARAMETERS,
    MODEL_ARGUMENT,
    MODEL_ARGUMENTS,
    Hyperparameter,
    hyperparameter,
    rank,
)
from sensitivity.study.metrics import USUAL, most_informative_first, named
from sensitivity.study.problem import ProblemSpec
from sensitivity.study.toml_text import toml_text

_FIELDS = (
    ("name", "Name of the study"),
    ("description", "Description"),
    ("batch_sizes", "Batch sizes"),
    ("seeds", "Seeds: a number or a list"),
    ("problem.dataset", "Data set"),
    ("problem.model", "Model"),
    ("budget.epochs", "Budget: epochs"),
    ("budget.steps", "Budget: steps"),
)


def form_of(raw: Mapping[str, Any], mistakes: Sequence[str]) -> tuple[list[dmc.TextInput], list[str]]:
    """Return the form of a study file with each mistake next to its field, and the mistakes that have no field."""
    arms = raw.get("optimizers")
    paths = [(tuple(path.split(".")), label) for path, label in _FIELDS]
    paths += _target_fields(raw)
    paths += [(number.path, number.label[0].upper() + number.label[1:]) for number in _table_numbers(raw)]
    for name, arm in arms.items() if isinstance(arms, dict) else ():
        paths += [(("optimizers", name, field), f"{name}: {field.replace('_', ' ')}") for field in _arm_fields(arm)]
        given = [number for number in _table_numbers(arm) if value_at(arm, number.path) is not None]
        paths += [(("optimizers", name, *number.path), f"{name}: {number.label}") for number in given]
    left = list(mistakes)
    form = []
    for path, label in paths:
        own = [text for text in left if _is_about(text, path)]
        left = [text for text in left if text not in own]
        form.append(
            dmc.TextInput(
                id={"type": "field", "path": json.dumps(path)},
                label=label,
                value=shown_text(value_at(raw, path)),
                error=" ".join(text.partition(": ")[2] for text in own) or None,
                debounce=True,
                size="xs",
            )
        )
    return form, left


def _target_fields(raw: Mapping[str, Any]) -> list[tuple[tuple[str, ...], str]]:
    """Return a targets field for each metric by which runs can be judged, and for each metric that has targets.

    Runs are judged by the training loss and by what is measured on the validation split, or on the test split if
    there is no validation split.
    """
    try:
        measured = ProblemSpec.model_validate(raw.get("problem", {})).measured()
    except ValidationError:  # shown next to the field that causes it
        measured = USUAL
    judged = "validation" if any(metric.on == "validation" for metric in measured) else "test"
    telling = most_informative_first(
        metric for metric in measured if metric.on == judged or (metric.is_loss and metric.of_training)
    )
    labels = {metric.name: metric.label for metric in telling}
    given = raw.get("targets")
    for name in given if isinstance(given, Mapping) else ():
        known = named(name, measured)
        labels.setdefault(name, name if known is None else known.label)
    return [(("targets", name), f"Targets of {label}") for name, label in labels.items()]


def _table_numbers(raw: Any) -> list[Hyperparameter]:
    """Return the declared numbers in the tables of a study or an optimizer, and the model arguments that it sets."""
    arguments = value_at(raw, MODEL_ARGUMENTS)
    names = [f"{MODEL_ARGUMENT}{name}" for name in arguments] if isinstance(arguments, Mapping) else []
    return [number for number in map(hyperparameter, (*HYPERPARAMETERS, *names)) if number.table]


def _arm_fields(arm: Any) -> tuple[str, ...]:
    """Return the fields of an optimizer's form: its declared numbers, and its design."""
    given = arm if isinstance(arm, dict) else {}
    declared = arm_class(given.get("kind"))
    numbers = ["lr"] if declared is None else sorted(declared.number_fields(), key=rank)
    extra = declared is not None and declared.model_config.get("extra") == "allow"
    own = [field for field in given if extra and declared is not None and field not in declared.model_fields]
    return (*numbers, *own, "design", "samples")


def with_form(raw: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a study file with the values of its form, given by the paths of the fields."""
    filled = copy.deepcopy(dict(raw))
    form = {field.id["path"] for field in form_of(raw, ())[0]}
    for path, value in values.items():
        if path in form:
            set_value(filled, json.loads(path), value_of(str(value or "")))
    return filled


def _is_about(mistake: str, path: tuple[str, ...]) -> bool:
    field = mistake.partition(": ")[0].partition("[")[0]
    return field == ".".join(path)


def value_at(raw: Mapping[str, Any], path: Sequence[str]) -> Any:
    """Return the value at `path`, or None if there is none."""
    value: Any = raw
    for part in path:
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def set_value(raw: dict[str, Any], path: Sequence[str], value: Any) -> None:
    """Set the value at `path`, or remove it if `value` is None."""
    table = raw
    for part in path[:-1]:
        if value is None and part not in table:
            return
        below = table.setdefault(part, {})
        if not isinstance(below, dict):
            return
        table = below
    if value is None:
        table.pop(path[-1], None)
    else:
        table[path[-1]] = value


def shown_text(value: Any) -> str:
    """Return a value as text for its field; `value_of` reads it back."""
    if value is None or isinstance(value, str):
        return value or ""
    return toml_text({"x": [value]}).strip().removeprefix("x = [").removesuffix("]")


def value_of(text: str) -> Any:
    """Return the value of a field: parsed as TOML if possible, otherwise as text; None if it is empty."""
    if not text.strip():
        return None
    for written in (text.strip(), f"[{text.strip()}]" if "," in text else ""):  # the brackets of a list are optional
        with contextlib.suppress(ValueError, RecursionError):
            return tomllib.loads(f"x = {written}")["x"]
    return text.strip()
