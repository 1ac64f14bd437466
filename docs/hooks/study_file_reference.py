"""The study-file reference, generated from the models that validate study files and the template that explains them.

Names, types, ranges and defaults come from the pydantic models, so the page can't say anything else than the code does.
What fields mean is quoted from ``search_spaces/template.toml``, which a test holds to show every field.
"""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
import types
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import annotated_types
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from search_spaces import __path__ as _template_folder
from sensitivity.study.arms import ARMS, OWN, TABLES, Arm, kinds
from sensitivity.study.axes import Axis
from sensitivity.study.hyperparameters import HYPERPARAMETERS, hyperparameter
from sensitivity.study.section import Section
from sensitivity.study.spec import StudySpec

_BOUNDS = {annotated_types.Gt: ">", annotated_types.Ge: "≥", annotated_types.Lt: "<", annotated_types.Le: "≤"}
_INTRODUCTION = """
# Study file reference

A study is a [TOML](https://toml.io) file. This page is generated from the models that validate it: every field, its
type, what is allowed and its default. Below each table of fields, the shipped template shows them in use and explains
them. `sensitivity plan FILE` reports every mistake in a file at once, each with its field, its value and what is
allowed.
"""


def study_file_reference() -> str:
    """Return the page, as Markdown."""
    template = _template()
    parts = [_INTRODUCTION.strip(), "## Top level", _fields(StudySpec), _quoted(template[""])]
    for name, model in tables().items():
        parts += [
            f"## `[{name}]`",
            _summary(model),
            _fields(model),
            *([_quoted(template[name])] if name in template else []),
        ]
        if name == "evaluation":
            parts += ["## `[targets]`", _quoted(template["targets"])]
    parts += ["## `[optimizers.NAME]`", _summary(Arm), _fields(Arm)]
    for name, model in TABLES.items():
        own = ", ".join(f"`{field}`" for field in model.own)
        parts += [f"### `{name}` of an optimizer", f"Fields that an optimizer may have for itself: {own}."]
    for kind in kinds():
        parts += [f"### {_title(kind)}", *_arm(kind), *(_quoted(text) for text in _of_kind(template, kind))]
    return "\n\n".join(part for part in parts if part) + "\n"


def tables() -> dict[str, type[Section]]:
    """Return the model of each table of a study file, by name; those of optimizers aside."""
    return {name: model for name, info in StudySpec.model_fields.items() for model in _sections(info.annotation)}


def _sections(annotation: Any) -> Iterator[type[Section]]:
    """Yield the table that an annotation is, or may be; none for a dictionary or list of tables."""
    if get_origin(annotation) in (Union, types.UnionType, Annotated):
        for argument in get_args(annotation):
            yield from _sections(argument)
    elif isinstance(annotation, type) and issubclass(annotation, Section):
        yield annotation


def _title(kind: str) -> str:
    label = ARMS[kind].label
    return 'Your own: `kind = "module:Optimizer"`' if kind == OWN else f'{label or kind}: `kind = "{kind}"`'


def _arm(kind: str) -> Iterator[str]:
    arm = ARMS[kind]
    yield _summary(arm)
    if arm.reference:
        yield f"Reference: {arm.reference}."
    yield _fields(arm, without=frozenset(Arm.model_fields))


def _summary(model: type[BaseModel]) -> str:
    return inspect.cleandoc(model.__doc__ or "").replace("``", "`")


def _fields(model: type[BaseModel], without: frozenset[str] = frozenset()) -> str:
    """Return the fields of a model as a table; "" if there are none."""
    meanings = _attribute_docstrings(model)
    rows = [
        f"| `{name}` | {_type(info, name)} | {_default(info)} | {meanings.get(name) or _label(name)} |"
        for name, info in model.model_fields.items()
        if name not in without
    ]
    return "\n".join(["| Field | Type | Default | |", "| --- | --- | --- | --- |", *rows]) if rows else ""


def _label(name: str) -> str:
    declared = HYPERPARAMETERS.get(name)
    return "" if declared is None else f"{declared.label[0].upper()}{declared.label[1:]}."


def _type(info: FieldInfo, name: str) -> str:
    """Return what a field may be, in words."""
    words = _words(info.annotation, name)
    bounds = _bounds(info.metadata)
    return f"{words}, {bounds}" if bounds else words


def _words(annotation: Any, name: str) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        bounds = _bounds(arguments[1:])
        nested = [bound for meta in arguments[1:] if isinstance(meta, FieldInfo) for bound in [_bounds(meta.metadata)]]
        return ", ".join(part for part in (_words(arguments[0], name), bounds, *nested) if part)
    if origin in (Union, types.UnionType):
        known = [argument for argument in arguments if argument is not type(None)]
        if Axis in known:
            known = [Axis]
        return " or ".join(dict.fromkeys(_words(each, name) for each in known))
    if origin is Literal:
        return ", ".join(f'`"{value}"`' for value in arguments)
    if origin is tuple:
        if arguments[-1] is not Ellipsis:
            return "two names"
        return f"list of {re.sub('number', 'numbers', _words(arguments[0], name), count=1)}"
    if origin is dict:
        return f"table: {_words(arguments[0], name)} = {_words(arguments[1], name)}"
    if annotation is Axis:
        return f"number, list or interval; {hyperparameter(name).allowed}".removesuffix("; ")
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "table"
    plain = {int: "whole number", float: "number", str: "text", bool: "true or false"}
    return plain.get(annotation, str(annotation))


def _bounds(metadata: Any) -> str:
    found = []
    for meta in metadata:
        for kind, sign in _BOUNDS.items():
            if isinstance(meta, kind):
                limit = getattr(meta, kind.__name__.lower())
                found.append(f"{sign} {'2^31' if limit == 2**31 else f'{limit:,.6g}'.replace('e+0', 'e')}")
    return " and ".join(found)


def _default(info: FieldInfo) -> str:
    if info.is_required():
        return "required"
    value = info.get_default(call_default_factory=True)
    if isinstance(value, Axis):
        value = value.as_written()
    if value is None or value == () or value == {} or isinstance(value, BaseModel) or value == "":
        return "none" if not isinstance(value, BaseModel) else "see below"
    text = str(value).lower() if isinstance(value, bool) else repr(value).replace("'", '"')
    return f"`{text}`"


@cache
def _attribute_docstrings(model: type[BaseModel]) -> dict[str, str]:
    """Return the text below each field in the source of a model and of its bases."""
    found: dict[str, str] = {}
    for cls in reversed(model.__mro__):
        if not issubclass(cls, BaseModel) or cls is BaseModel:
            continue
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
        assert isinstance(tree, ast.ClassDef)
        for field, text in zip(tree.body, tree.body[1:], strict=False):
            if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
                name = ast.unparse(field.target)
                found[name] = " ".join(str(text.value.value).replace("``", "`").replace("|", "\\|").split())
    return found


def _template() -> dict[str, str]:
    """Return the text of each table of the template, by name; the text above the first table is that of ""."""
    text = (Path(next(iter(_template_folder))) / "template.toml").read_text()
    tables: dict[str, list[str]] = {"": []}
    pending: list[str] = []
    current = ""
    for line in text.splitlines()[5:]:  # the head of the file says what the page says
        if header := re.fullmatch(r"\[([\w.]+)\]", line):
            current = header[1]
            tables[current] = [*pending, line]
            pending = []
        elif line.startswith("#"):
            pending.append(line)
        else:
            tables[current] += [*pending, line]
            pending = []
    tables[current] += pending
    return {name: "\n".join(lines).strip() for name, lines in tables.items()}


def _of_kind(template: Mapping[str, str], kind: str) -> Iterator[str]:
    """Yield the template's tables of a kind of optimizer."""
    for name, text in template.items():
        if name.startswith("optimizers.") and f'\nkind = "{kind}"' in text:
            yield text


def _quoted(toml: str) -> str:
    return f"```toml\n{toml}\n```"
