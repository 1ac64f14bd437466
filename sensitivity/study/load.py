"""Read a TOML file as a ``StudySpec``, or report all its mistakes at once."""

from __future__ import annotations

import contextlib
import importlib.resources
import itertools
import json
import re
import tomllib
import typing
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from sensitivity.study.arms import TABLES, arm_class
from sensitivity.study.errors import StudyFileError, UserError, shortened
from sensitivity.study.hyperparameters import of_table
from sensitivity.study.metrics import METRICS
from sensitivity.study.nearest import nearest
from sensitivity.study.paths import expanded, path_faults, reason
from sensitivity.study.section import MOST_CHARACTERS, MOST_ITEMS
from sensitivity.study.spec import StudySpec

_AXIS_KEYS = ("log", "linear", "points")
_PLAIN = {
    "tuple_type": "give a list",
    "dict_type": "give a table",
    "model_type": "give a table",
    "model_attributes_type": "give a table",
    "string_type": "give a string in quotes",
    "int_type": "give a whole number",
    "float_type": "give a number",
    "bool_type": "give true or false",
    "finite_number": "give a finite number",
    "int_parsing_size": "give a smaller number",
    "greater_than": "must be > {gt}",
    "greater_than_equal": "must be >= {ge}",
    "less_than": "must be < {lt}",
    "less_than_equal": "must be <= {le}",
    "too_long": "give {max_length} values",
}
"""Replacements of pydantic's messages in TOML's terms, by error type."""
_MOST_BYTES = 1_000_000
"""Maximum size of a study file, far above the largest within the limits of ``section``."""
_MOST_DEPTH = 20
_LONG_KEY = re.compile(r"""(?:(?:[\w-]{1,100}|"[^"\n]{0,100}"|'[^'\n]{0,100}')[ \t]?\.[ \t]?){20}""")
"""A dotted key with so many parts that parsing, which takes quadratic time in their number, would be slow. Lists of
numbers do not match."""
_HOLDS_MORE = (str, list, tuple, dict)
_MOST_MISTAKES = 40
"""Maximum number of reported mistakes, because each may need a search for the nearest name."""
_MOST_NAME = 100
"""Maximum characters of a name that is shown or compared with known names."""
_MEANT = {"gpu": "cuda", "mse": "squared_error", "mean_squared_error": "squared_error", "nll": "cross_entropy"}
"""Synonyms from other tools for which the nearest spelling would suggest a wrong name, or none: "gpu" is not "cpu"."""


_QUOTES = "put strings in quotes and lists in brackets"
_SLIPS = (
    (r"[=\[,]\s*[-+]?\d+,\d+\s*(?:e[-+]?\d+)?\s*(?:#.*)?$", "use a decimal point: 0.1, not 0,1"),
    (r"[=\[,]\s*[-+]?(?:\.\d|\d+\.(?!\d))", "decimals need digits on both sides of the point: 0.1, 1.0"),
    (r"[=\[,]\s*(?:True|False)\b", "write true or false in lower case"),
    (r"[=\[,]\s*(?:None|null|nil)\b", "TOML has no null value; leave the line out"),
    (r"[\u2018-\u201f]", 'use straight quotes: "digits"'),
    (r"^[\w.-]+\s*:", "write name = value"),
    (r"^[\w.-]+\s*$", "write name = value, or [name] for a table"),
    (r"^//|^;", "comments begin with #"),
)
"""Common syntax mistakes: a pattern that matches the line, and the fix."""


def shipped() -> dict[str, Path]:
    """Return the shipped study files, by name."""
    folder = Path(str(importlib.resources.files("search_spaces")))
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def find_study(study: str) -> Path:
    """Return the file that `study` names, either by path or by the name of a shipped study.

    Raises:
        UserError: there is no such file or shipped study.
    """
    path = expanded(study, what="study file") if study.startswith("~") else Path(study)
    try:
        if path.is_file():
            return path
        hint = "; this is a folder, give a file in it" if path.is_dir() else ""
        if path.is_symlink():
            hint = "; this is a broken link"
    except (OSError, ValueError) as error:  # a name too long for the file system, a folder that can't be searched
        hint = f" ({reason(error)})"
    known = shipped()
    if study.removesuffix(".toml") in known:
        return known[study.removesuffix(".toml")]
    raise UserError(
        f"no study file {shortened(study, 300)!r}{hint or _nearest(study, known)}\n"
        f"  Give a path to a .toml file, or one of: {', '.join(known)}"
    )


def load_study(path: Path) -> StudySpec:
    """Read and validate a study file.

    Raises:
        StudyFileError: the file is not valid TOML, or not a valid ``StudySpec``; every mistake is listed.
        UserError: the file can't be read.
    """
    return parse_study(parse_toml(read_study(path), source=str(path)), source=str(path))


def read_study(path: Path) -> str:
    """Return the text of a study file.

    Raises:
        StudyFileError: it is not UTF-8 text.
        UserError: the file can't be read.
    """
    with path_faults(path, "Give a readable .toml file"), path.open("rb") as file:
        content = file.read(_MOST_BYTES + 1)
    if len(content) > _MOST_BYTES:
        raise StudyFileError(
            str(path), [f"larger than {_MOST_BYTES:,} bytes; use intervals instead of long lists of values"]
        )
    try:
        return content.decode("utf-8-sig")  # Windows editors put a byte-order mark first
    except UnicodeDecodeError as error:
        kind = "UTF-16 text" if content.startswith((b"\xff\xfe", b"\xfe\xff")) else "not UTF-8 text"
        line = content.count(b"\n", 0, error.start) + 1
        raise StudyFileError(str(path), [f"{kind} (byte {error.start}, line {line}); save the file as UTF-8"]) from None


def parse_toml(text: str, *, source: str) -> dict[str, Any]:
    """Parse TOML text; `source` names it in messages.

    Raises:
        StudyFileError: the text is invalid; the message contains the line and the likely fix.
    """
    if _LONG_KEY.search(text):
        raise StudyFileError(source, [f"a key of more than {_MOST_DEPTH} parts; give each table its own header"])
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise StudyFileError(source, ["not valid TOML: brackets are nested too deeply"]) from None
    except ValueError as error:  # not TOMLDecodeError alone: an integer of 5,000 digits raises a plain ValueError
        raise StudyFileError(source, [_no_toml(str(error).splitlines()[0], text)]) from None


def parse_study(raw: dict[str, Any], *, source: str) -> StudySpec:
    """Validate the content of a study file; `source` names it in messages.

    Raises:
        StudyFileError: lists every mistake found.
    """
    try:
        return StudySpec(**raw)
    except StudyFileError as error:
        raise error.of(source) from None


@contextlib.contextmanager
def reported_mistakes(raw: Mapping[str, Any], *, source: str) -> Iterator[None]:
    """Check the size of a study's content, and turn validation errors of the block into readable sentences.

    Raises:
        StudyFileError: lists every mistake found.
    """
    if oversized := list(itertools.islice(_oversized(raw), _MOST_MISTAKES)):
        raise StudyFileError(source, oversized)
    try:
        yield
    except ValidationError as error:
        found = error.errors(include_url=False)
        shown = [_sentence(dict(item), raw) for item in found[:_MOST_MISTAKES]]
        raise StudyFileError(source, shown, more=len(found) - len(shown)) from None


def _oversized(raw: Mapping[str, Any]) -> Iterator[str]:
    """Yield messages about oversized parts of a study, before validation, which would take long on them."""
    waiting: list[tuple[tuple[Any, ...], Any]] = [((), dict(raw))]
    while waiting:
        location, value = waiting.pop()
        field = _path(part if isinstance(part, int) else str(part)[:_MOST_NAME] for part in location) or "study"
        if len(location) > _MOST_DEPTH:
            yield f"{field}: more than {_MOST_DEPTH} nested tables and lists"
        elif isinstance(value, (list, tuple, dict)) and len(value) > MOST_ITEMS:
            advice = "remove some" if isinstance(value, dict) else "use an interval, or fewer values"
            yield f"{field}: {len(value):,} values; at most {MOST_ITEMS:,}: {advice}"
        elif isinstance(value, str) and len(value) > MOST_CHARACTERS:
            yield f"{field}: a string of {len(value):,} characters; at most {MOST_CHARACTERS:,}"
        elif isinstance(value, dict):
            longest = max((len(str(key)) for key in value), default=0)
            if longest > MOST_CHARACTERS:
                yield f"{field}: a name of {longest:,} characters; at most {MOST_CHARACTERS:,}"
            waiting += [((*location, key), item) for key, item in value.items() if isinstance(item, _HOLDS_MORE)]
        elif isinstance(value, (list, tuple)):
            waiting += [((*location, k), item) for k, item in enumerate(value) if isinstance(item, _HOLDS_MORE)]


def _no_toml(why: str, text: str) -> str:
    """Return the message for invalid TOML, with the line and the likely fix."""
    place = re.search(r"at line (\d+), ", why)
    line = text.split("\n")[int(place[1]) - 1].strip() if place else ""
    said = f"not valid TOML: {shortened(why, 200)}"
    if not line:
        return said
    if "\0" in line:
        return f"{said}: the line contains null bytes; save the file as UTF-8 text"
    if "overwrite" in why:
        fix = "a name may appear only once in a table"
    else:
        fix = next((fix for pattern, fix in _SLIPS if re.search(pattern, line)), _QUOTES)
    return f"{said}: {shortened(line, 100)}  ({fix})"


def _sentence(item: dict[str, Any], raw: Mapping[str, Any]) -> str:
    location = tuple(item["loc"])
    field = _path(location) or "study"
    kind, context = item["type"], item.get("ctx", {})
    if kind == "extra_forbidden":
        names = _fields_at(location[:-1], raw)
        hint = _nearest(str(location[-1]), names)
        return f"{field}: unknown field{hint}. Allowed here: {', '.join(names)}"
    if kind == "missing":
        return f"{field}: missing" + ("" if isinstance(location[-1], int) else "; it has no default")
    if kind == "unknown_kind":
        hint = _nearest(context["name"], context["known"])
        return f"{field}: unknown optimizer {context['name']!r}{hint}. Allowed: {context['allowed']}"
    if kind == "literal_error":
        allowed = [word.strip("'") for word in str(context["expected"]).replace(" or ", ", ").split(", ")]
        if location and location[-1] == "[key]":
            field, value = _path(location[:-1]), str(location[-2])
        else:
            value = str(item["input"])
        return f"{field}: unknown {value!r}{_nearest(value, allowed)}. Allowed: {', '.join(allowed)}"
    if kind == "unknown_name":
        return f"{field}: {item['msg']}{_nearest(context['name'], context['known'])}"
    message = _PLAIN[kind].format(**context) if kind in _PLAIN else item["msg"]
    return f"{field}: {message}{_got(item['input'], message)}"


def _got(value: Any, message: str) -> str:
    if value is None or isinstance(value, dict):
        return ""
    shown = repr(value)
    if len(shown) > 60:
        return ""
    said = re.search(rf"(?<![\w.]){re.escape(shown)}(?![\w.])", message) is not None
    said = said or (isinstance(value, float) and message.endswith(f"got {value:g}"))
    return "" if said else f" (got {shown})"


def _path(location: Iterable[Any]) -> str:
    text = ""
    for part in location:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            bare = (part == "[key]" and text) or re.fullmatch(r"[\w-]+", part)  # otherwise quoted, as in TOML
            key = part if bare else json.dumps(part, ensure_ascii=False)
            text += f".{key}" if text else key
    return text


def _fields_at(location: tuple[Any, ...], raw: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the names allowed in the table at `location`."""
    if len(location) >= 2 and location[0] == "optimizers":
        arm = raw["optimizers"][location[1]]
        found = arm_class(arm["kind"])
        if len(location) == 3 and location[2] in TABLES:
            return tuple(TABLES[location[2]].own)
        return _AXIS_KEYS if len(location) > 2 or found is None else tuple(found.model_fields)
    if of_table(tuple(map(str, location))) is not None:
        return _AXIS_KEYS
    model: type[BaseModel] = StudySpec
    parts = iter(location)
    for part in parts:
        annotation = model.model_fields[str(part)].annotation
        if typing.get_origin(annotation) is dict:
            if next(parts, None) is None:
                return tuple(METRICS)
            annotation = typing.get_args(annotation)[1]  # a table of tables, such as problem.metrics
        tables = [each for each in (annotation, *typing.get_args(annotation)) if isinstance(each, type)]
        model = next(table for table in tables if issubclass(table, BaseModel))
    return tuple(model.model_fields)


def _nearest(name: str, known: Iterable[str]) -> str:
    known = list(known)
    if len(name) > _MOST_NAME:
        return ""
    meant = _MEANT.get(name.lower())
    close = meant if meant in known else nearest(name, known, cutoff=0.5)
    return f" (did you mean {close!r}?)" if close else ""
