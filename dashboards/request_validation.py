"""Validate requests for callbacks before Dash sees them, as Dash trusts what it is sent.

A request names a callback by its outputs, and gives a component, a property and a value for each of its inputs and
states; where the component's id holds the wildcard ALL, a list of them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from typing import Any

from dash import Dash
from flask import Flask, Response, request

_KINDS: Mapping[str, str] = {
    "url.pathname": "text",
    "url.search": "text",
    "version.data": "text",
    "theme.data": "text",
    "stripped.data": "text",
    "written.data": "text",
    "run-shown.data": "table",
    "study-text.value": "text",
    "source.value": "text",
    "compared-metric.value": "text",
    "compared.value": "list of text",
    "shown.data": "table",
    "drawn.data": "table",
    "noted.data": "table",
    "note.value": "text",
    "tags.value": "text",
    "option.value": "text",
    "filter.value": "text, number or list of text",
    "side.value": "list of numbers",
}
"""What a value has to be where it is there, by the name or type of its component; callbacks sift others themselves."""
_IS: Mapping[str, Callable[[Any], bool]] = {
    "text": lambda value: isinstance(value, str),
    "number": lambda value: isinstance(value, int),
    "table": lambda value: isinstance(value, dict),
    "list of text": lambda value: isinstance(value, list) and all(isinstance(one, str) for one in value),
    "list of numbers": lambda value: isinstance(value, list) and all(isinstance(one, int) for one in value),
    "text, number or list of text": lambda value: (
        isinstance(value, (str, int, float)) or (isinstance(value, list) and all(isinstance(one, str) for one in value))
    ),
    "list of tables": lambda value: isinstance(value, list) and all(isinstance(one, dict) for one in value),
}


def refuse_malformed(app: Dash) -> None:
    """Reject any request that no page of `app` would send, with status 400 and a line that says why."""
    server: Flask = app.server

    @server.before_request
    def check() -> Response | None:
        if request.method != "POST" or not request.is_json:  # Dash itself refuses what isn't JSON
            return None
        try:
            fault = fault_of(app.callback_map, request.get_json(silent=True))
        except RecursionError:
            fault = "it is nested too deeply"
        if fault is None:
            return None
        said = f"That is not what a page of this server asks: {fault}.\n"
        return Response(said, HTTPStatus.BAD_REQUEST, mimetype="text/plain")


def fault_of(callbacks: Mapping[str, Mapping[str, Any]], body: object) -> str | None:
    """Return what is wrong with a request for one of `callbacks`, as Dash keeps them; None if nothing is."""
    if not isinstance(body, dict):
        return "it is no JSON object"
    output = body.get("output")
    callback = callbacks.get(output) if isinstance(output, str) else None
    if callback is None or "callback" not in callback:  # a browser runs some itself
        return "no callback has its output"
    declared, inputs = callback["output"], callback["inputs"]
    parts = (
        ("outputs", body.get("outputs"), [one.to_dict() for one in declared])
        if isinstance(declared, list)
        else ("outputs", [body.get("outputs")], [declared.to_dict()]),
        ("inputs", body.get("inputs"), inputs),
        ("state", body.get("state", []), callback["state"]),
    )
    seen: dict[str, object] = {}
    for part, given, specs in parts:
        if not isinstance(given, list) or len(given) != len(specs):
            return f"its {part} are not the callback's {len(specs)}"
        for items, spec in zip(given, specs, strict=True):
            if (fault := _fault_in(items, spec)) is not None:
                return f"of its {part}, {spec['id']}.{spec['property']} {fault}"
            names = [item["id"] for item in items] if isinstance(items, list) else items["id"]
            if seen.setdefault(spec["id"], names) != names:
                return f"it names other components by {spec['id']} than before"
    changed = body.get("changedPropIds", [])
    if not isinstance(changed, list) or not all(_is_input(one, inputs) for one in changed):
        return "its changedPropIds are no inputs of the callback"
    return None


def _fault_in(items: object, spec: Mapping[str, str]) -> str | None:
    """Return what is wrong with what is given for an output, an input or a state."""
    wanted, prop = _id(spec["id"]), spec["property"]
    several = isinstance(wanted, dict) and ["ALL"] in wanted.values()
    if isinstance(items, list) is not several:
        return "is no list" if several else "is a list"
    for item in items if isinstance(items, list) else [items]:
        if not isinstance(item, dict) or not _is(item.get("id"), wanted) or _plain(item.get("property")) != prop:
            return "is another or none"
        name, value = item["id"], item.get("value")
        if prop == "id" and value != name:
            return "has another value"
        sort = name["type"] if isinstance(name, dict) else name
        kind = "number" if prop == "n_clicks" else _KINDS.get(f"{sort}.{prop}")
        if kind is not None and value is not None and not _IS[kind](value):
            return f"has a value that is no {kind}"
    return None


def _is(name: object, wanted: str | dict[str, Any]) -> bool:
    """Whether `name` is an id like `wanted`, whose wildcards stand for any text."""
    if not isinstance(wanted, dict) or not isinstance(name, dict):
        return name == wanted
    return name.keys() == wanted.keys() and all(
        isinstance(name[key], str) and (isinstance(part, list) or name[key] == part) for key, part in wanted.items()
    )


def _is_input(changed: object, inputs: Sequence[Mapping[str, str]]) -> bool:
    name, _, prop = changed.rpartition(".") if isinstance(changed, str) else ("", "", "")
    return any(spec["property"] == prop and _is(_id(name), _id(spec["id"])) for spec in inputs)


def _id(text: str) -> Any:
    """Return a component's id: text, or a table that is written as JSON."""
    try:
        return json.loads(text) if text.startswith("{") else text
    except ValueError:
        return text


def _plain(prop: object) -> object:
    """Return a property without the mark that tells outputs of several callbacks apart."""
    return prop.partition("@")[0] if isinstance(prop, str) else prop
