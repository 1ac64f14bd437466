"""Requests made by hand: what no page asks is answered with 400 and a line, and never is a fault of the server."""

import copy
import json
import logging

import pytest

from dashboards import jobs
from dashboards.app import create_app
from sensitivity.store.directory import place
from sensitivity.study.errors import UserError

LOCAL = "http://127.0.0.1"
ODD = [None, True, 3, "b:x", "", [], {}, [[1]], ["x"], {"key": 1}, [{"a": 1}], float("inf"), [float("inf"), 2]]


@pytest.fixture(scope="module")
def app(studies):
    app = create_app(place(str(studies)), allow_run=True)
    app.server.test_client().get("/", base_url=LOCAL)
    return app


@pytest.fixture
def post(app, caplog, monkeypatch):
    """Post a body; nothing is started or stopped, and a traceback in the log fails."""

    def refuse(*arguments):
        raise UserError("not in a test")

    for name in ("keep", "plan", "stop"):
        monkeypatch.setattr(jobs, name, refuse)

    def send(body, kind="application/json"):
        data = body if isinstance(body, (str, bytes)) else json.dumps(body)
        answer = app.server.test_client().post(
            "/_dash-update-component", base_url=LOCAL, headers={"Origin": LOCAL}, data=data, content_type=kind
        )
        assert [record.message for record in caplog.records if record.levelno >= logging.ERROR] == []
        return answer

    return send


def question(app, output, *, names=None, pathname="/study/half/robustness"):
    """Return what a page asks of the callback of an output: its components, by the names that stand for wildcards."""
    values = {"pathname": pathname, "search": "", "n_clicks": None, "data": None}

    def item(spec, prop):
        name = json.loads(spec["id"]) if spec["id"].startswith("{") else spec["id"]
        every = isinstance(name, dict) and ["ALL"] in name.values()
        if isinstance(name, dict):
            name = {key: (names or {}).get(key, "x") if isinstance(part, list) else part for key, part in name.items()}
        found = {"id": name, "property": prop, "value": name if prop == "id" else values.get(prop)}
        return [found] if every else found

    callback = app.callback_map[output]
    specs = callback["output"] if isinstance(callback["output"], list) else [callback["output"]]
    outputs = [item(spec.to_dict(), spec.component_property) for spec in specs]
    inputs = [item(spec, spec["property"]) for spec in callback["inputs"]]
    first = inputs[0][0] if isinstance(inputs[0], list) else inputs[0]
    name = json.dumps(first["id"], separators=(",", ":")) if isinstance(first["id"], dict) else first["id"]
    return {
        "output": output,
        "outputs": outputs if isinstance(callback["output"], list) else outputs[0],
        "inputs": inputs,
        "changedPropIds": [f"{name}.{first['property']}"],
        "state": [item(spec, spec["property"]) for spec in callback["state"]],
    }


def asked_of(app, part):
    """Return the name by which the callback is asked for whose outputs begin with `part`."""
    return next(name for name in app.callback_map if name.startswith(part))


ROUTER, STOP, FIGURE = "..page.children", "..stopped.children", '..{"name":["MATCH"],"type":"figure"}'
MALFORMED = {
    # what is done to a right request for a callback: a path into it and what stands there, or nothing
    "too few outputs": (ROUTER, ["outputs", 4]),
    "no outputs": (ROUTER, ["outputs"]),
    "one output for many": (ROUTER, ["outputs"], {"id": "page", "property": "children"}),
    "empty outputs": (STOP, ["outputs"], []),
    "another output": (ROUTER, ["outputs", 0, "id"], "root"),
    "another property": (ROUTER, ["outputs", 0, "property"], "style"),
    "an unknown callback": (ROUTER, ["output"], "..page.children.."),
    "a callback of the browser": (ROUTER, ["output"], "marked.data"),
    "a number for an output": (ROUTER, ["output"], 1),
    "no output": (ROUTER, ["output"]),
    "no inputs": (ROUTER, ["inputs"]),
    "too few inputs": (ROUTER, ["inputs", 0]),
    "text for inputs": (ROUTER, ["inputs"], "ab"),
    "an input without an id": (ROUTER, ["inputs", 0, "id"]),
    "a list for an input": (ROUTER, ["inputs", 0], []),
    "a number for an address": (ROUTER, ["inputs", 0, "value"], 3),
    "a number for a path": (ROUTER, ["inputs", 0, "value"], {"path": 3, "search": ""}),
    "no states": (ROUTER, ["state"]),
    "text for a table": (ROUTER, ["state", 0, "value"], "x"),
    "a table for a list": (STOP, ["inputs", 0], {"id": "x", "property": "n_clicks"}),
    "an id that lacks a part": (STOP, ["inputs", 0, 0, "id", "study"]),
    "an id that holds a list": (STOP, ["inputs", 0, 0, "id", "study"], ["half"]),
    "text for clicks": (STOP, ["inputs", 0, 0, "value"], "1"),
    "an id that isn't its component's": (FIGURE, ["state", 4, "value", "name"], 3),
    "no list of changes": (ROUTER, ["changedPropIds"], 1),
    "a change of something else": (ROUTER, ["changedPropIds"], ["page.children"]),
    "a change without a name": (STOP, ["changedPropIds"], ["{.n_clicks"]),
}


@pytest.mark.parametrize(("output", "path", "given"), [(*case, None)[:3] for case in MALFORMED.values()], ids=MALFORMED)
def test_what_no_page_asks_is_answered_in_a_line(app, post, output, path, given):
    body = question(app, asked_of(app, output))
    assert post(body).status_code in (200, 204), "as it is right"
    *way, last = path
    table = body
    for step in way:
        table = table[step]
    if given is None:
        del table[last]
    else:
        table[last] = given
    answer = post(body)
    assert answer.status_code == 400
    assert answer.text.startswith("That is not what a page of this server asks: ")
    assert answer.text.count("\n") == 1
    assert answer.mimetype == "text/plain"


def test_lists_of_the_same_components_agree(app, post):
    body = question(app, asked_of(app, "..fields.children"))
    assert post(body).status_code == 200
    body["state"][0] *= 2
    assert post(body).status_code == 400


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"\xff", b"[]", b"null", b'"text"', b"3", b"{}", b"[" * 50_000, b'{"output": [], "inputs": []}'],
    ids=lambda body: body[:12].decode(errors="replace"),
)
def test_a_body_that_is_no_request_is_answered_in_a_line(post, body):
    answer = post(body)
    assert (answer.status_code, answer.text.count("\n")) == (400, 1)
    assert post(body, kind="text/plain").status_code == 415


@pytest.mark.parametrize("path", ["/", "/start", "/compare", "/study/half/robustness", "/study/half/runs", "/\x00"])
def test_no_value_is_a_fault_of_the_server(app, post, path):
    ours = [name for name, callback in app.callback_map.items() if "callback" in callback]
    assert len(ours) > 10
    for name in ours:
        stands = {"optimizer": "kfac", "parameter": "lr", "path": '["name"]', "study": "half", "name": "target"}
        right = question(app, name, names=stands, pathname=path)
        for part in ("inputs", "state"):
            for place_, _ in enumerate(right[part]):
                for odd in ODD:
                    body = copy.deepcopy(right)
                    item = body[part][place_]
                    (item[0] if isinstance(item, list) else item)["value"] = odd
                    assert post(body).status_code in (200, 204, 400)
