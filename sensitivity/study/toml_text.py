"""Serialisation of a study to TOML, without comments."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

_BARE = re.compile(r"[A-Za-z0-9_-]+")


def toml_text(content: Mapping[str, Any]) -> str:
    """Return JSON-like `content` as TOML, with tables for the first two levels and inline tables for the rest."""
    lines = [f"{_key(name)} = {_value(value)}" for name, value in content.items() if _plain(value)]
    for name, value in content.items():
        if isinstance(value, Mapping):
            lines += _table(_key(name), value)
    return "\n".join(lines) + "\n"


def _table(name: str, content: Mapping[str, Any]) -> list[str]:
    below = [key for key, value in content.items() if name == "optimizers" and isinstance(value, Mapping)]
    own = [f"{_key(k)} = {_value(v)}" for k, v in content.items() if k not in below and v is not None]
    lines = ["", f"[{name}]", *own] if own or not below else []
    for key in below:
        lines += _table(f"{name}.{_key(key)}", content[key])
    return lines


def _plain(value: Any) -> bool:
    return value is not None and not isinstance(value, Mapping)


def _key(name: str) -> str:
    return name if _BARE.fullmatch(name) else json.dumps(name)


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        # JSON's escapes are valid in TOML, which in addition requires the delete character to be escaped.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{_key(k)} = {_value(v)}" for k, v in value.items() if v is not None) + " }"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_value, value)) + "]"
    return repr(value)
