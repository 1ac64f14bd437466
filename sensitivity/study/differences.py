"""Field-by-field differences between study files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sensitivity.study.spec import StudySpec
from sensitivity.study.toml_text import toml_text


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A field whose value is not the same in all of several study files."""

    field: str
    """Its path, such as ``optimizers.sgd.lr``."""
    values: tuple[str, ...]
    """One value per study as written in a study file; empty if the study lacks the field."""


def spec_differences(specs: Sequence[StudySpec]) -> tuple[Difference, ...]:
    """Return the fields in which studies differ, except name and description, in the order of a study file."""
    flat = [_flat(spec.model_dump(mode="json", exclude={"name", "description"})) for spec in specs]
    fields = dict.fromkeys(name for each in flat for name in each)
    found = (Difference(field=name, values=tuple(each.get(name, "") for each in flat)) for name in fields)
    return tuple(one for one in found if len(set(one.values)) > 1)


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping) and not _is_axis(value):
            flat |= _flat(value, f"{prefix}{name}.")
        elif value is not None:
            flat[prefix + name] = _text(value)
    return flat


def _is_axis(value: Mapping[str, Any]) -> bool:
    """Whether a table is an interval of a hyperparameter, which counts as one value."""
    return bool(value.keys() & {"log", "linear"})


def _ends(value: Any) -> str:
    """Format one value, or the two bounds of an interval."""
    return " to ".join(map(_text, value)) if isinstance(value, list) else _text(value)


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_ends(each)}" for name, each in value.items() if each is not None)
    if isinstance(value, list) and len(value) == 1:
        return _text(value[0])
    if isinstance(value, list):
        return ", ".join(map(_text, value))
    return toml_text({"x": value}).strip().removeprefix("x = ").strip('"')
