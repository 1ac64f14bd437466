"""Hostile requests are refused, and a page may access nothing but its server."""

import json
import re

import pytest

from dashboards.app import create_app
from dashboards.security import COOKIE, MAX_BYTES, is_loopback, origin_of
from sensitivity.store.directory import place
from sensitivity.study.errors import UserError

LOCAL = "http://127.0.0.1"
OWN = {"Origin": LOCAL}
"""Header that a browser sends with requests of a page of the server."""


@pytest.fixture(scope="module")
def client(studies):
    return create_app(place(str(studies)), hosts=["lab.example", "https://proxy.example:8443"]).server.test_client()


@pytest.fixture(scope="module")
def guarded(studies):
    return create_app(place(str(studies)), token="secret").server


def ask(client, pathname, search="", place="page"):
    """Return what the router puts in a place of the page of an address."""
    names = ["page", "bar", "nav", "shown", "version"]
    keys = ["children", "children", "children", "data", "data"]
    outputs = [{"id": name, "property": key} for name, key in zip(names, keys, strict=True)]
    body = {
        "output": ".." + "...".join(f"{o['id']}.{o['property']}" for o in outputs) + "..",
        "outputs": outputs,
        "inputs": [
            {"id": "arrived", "property": "data", "value": {"path": pathname, "search": search, "arrival": 1}},
        ],
        "changedPropIds": ["arrived.data"],
        "state": [{"id": "shown", "property": "data", "value": None}],
    }
    answer = client.post("/_dash-update-component", json=body, base_url=LOCAL, headers=OWN)
    assert answer.status_code == 200, answer.text
    return json.dumps(answer.json["response"][place])


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1", 200), ("localhost:8050", 200), ("[::1]:8050", 200), ("LAB.example:80", 200),
        ("evil.example", 400), ("127.0.0.1.evil.example", 400), ("lab.example.evil.example", 400),
    ],
)  # fmt: skip
def test_only_known_hosts_are_answered(client, host, status):
    assert client.get("/", headers={"Host": host}).status_code == status


@pytest.mark.parametrize("body", ["", "[]", "{}", '{"output": "page.children"}', "[" * 5000])
def test_malformed_request_is_an_error_without_traceback(client, body):
    answer = client.post(
        "/_dash-update-component", data=body, base_url=LOCAL, headers=OWN, content_type="application/json"
    )
    assert answer.status_code >= 400
    assert "Traceback" not in answer.text
    assert "Studies" in ask(client, "/")


@pytest.mark.parametrize(
    ("path", "linked"), [("/study/bowl/nope", True), ("/study/nope", False), ("/study/broken/overview", False)]
)
def test_only_a_study_that_can_be_read_has_links_to_its_pages(client, path, linked):
    assert "Nothing to show here" in ask(client, path)
    assert ("Robustness" in ask(client, path, place="nav")) == linked


HERE = "127.0.0.1:8050"


@pytest.mark.parametrize(
    ("host", "headers", "refused"),
    [
        (HERE, {"Origin": "http://127.0.0.1:8050"}, False),
        (HERE, {"Origin": "https://evil.example"}, True),
        (HERE, {"Origin": "http://127.0.0.1:9999"}, True),  # another server on this machine
        (HERE, {"Origin": "http://127.0.0.1"}, True),
        (HERE, {"Origin": "https://127.0.0.1:8050"}, True),
        (HERE, {"Origin": "http://127.0.0.1:8050.evil.example"}, True),
        (HERE, {"Origin": "http://127.0.0.1:8050@evil.example"}, True),
        (HERE, {"Origin": "http://evil.example,http://127.0.0.1:8050"}, True),
        (HERE, {"Origin": "http://localhost:8050"}, True),  # may be another server, on ::1
        ("localhost:8050", {"Origin": "http://localhost:8050"}, False),
        ("localhost:8050", {"Origin": "http://127.0.0.1:8050"}, True),
        ("[::1]:8050", {"Origin": "http://[::1]:8050"}, False),
        ("[::1]:8050", {"Origin": "http://127.0.0.1:8050"}, True),
        ("localhost:9000", {"Origin": "http://localhost:9000"}, False),  # a forwarded port
        ("localhost", {"Origin": "http://localhost"}, False),
        (HERE, {"Origin": "null"}, True),
        (HERE, {"Origin": ""}, True),
        (HERE, {}, True),
        (HERE, {"Referer": "http://127.0.0.1:8050/study/bowl?metric=test_loss"}, False),
        (HERE, {"Referer": "http://127.0.0.1:9999/"}, True),
        (HERE, {"Referer": "http://127.0.0.1:9999/http://127.0.0.1:8050/"}, True),
        (HERE, {"Referer": "http://127.0.0.1:8050.evil.example/"}, True),
        (HERE, {"Referer": "about:blank"}, True),
        (HERE, {"Origin": "http://127.0.0.1:9999", "Referer": "http://127.0.0.1:8050/"}, True),
        (HERE, {"Origin": "http://127.0.0.1:9999", "X-Forwarded-Host": "127.0.0.1:9999"}, True),
        # For a plain name, the page loaded from it; for a proxy's address, its pages, whatever host it sends.
        ("lab.example:8050", {"Origin": "http://LAB.example:8050"}, False),
        ("lab.example:8050", {"Origin": "http://lab.example:9999"}, True),
        (HERE, {"Origin": "http://lab.example:9999"}, True),
        ("proxy.example", {"Origin": "https://proxy.example:8443"}, False),
        ("proxy.example:8443", {"Origin": "https://proxy.example:8443"}, False),
        (HERE, {"Origin": "https://proxy.example:8443"}, False),
        (HERE, {"Origin": "https://proxy.example"}, True),
        (HERE, {"Origin": "http://proxy.example:8443"}, True),
    ],
)
def test_only_pages_of_this_server_can_post(client, host, headers, refused):
    answer = client.post("/_dash-update-component", headers={"Host": host, **headers}, json={})
    assert (answer.status_code == 403) is refused


def test_no_route_accepts_requests_from_other_pages(client):
    """Also for routes added later, by Dash or here, with any method."""
    rules = list(client.application.url_map.iter_rules())
    assert not any(rule.websocket for rule in rules), "browsers connect these across origins"
    asked = {(rule.rule, method) for rule in rules for method in rule.methods} | {("/", "DELETE"), ("/", "ODD")}
    for rule, method in asked:
        path = re.sub("<[^>]*>", "x", rule)
        answer = client.open(path, method=method, base_url=LOCAL, headers={"Origin": f"{LOCAL}:9999"})
        assert (answer.status_code == 403) is (method not in ("GET", "HEAD")), (rule, method)
        assert not [name for name, _ in answer.headers if name.lower().startswith("access-control-")]


@pytest.mark.parametrize(
    ("named", "origin"),
    [
        ("lab.example", "https://lab.example"), ("Lab:8443", "https://lab:8443"), ("http://lab", "http://lab"),
        ("https://lab:443/", "https://lab"), ("http://lab:443", "http://lab:443"), ("fe80::1", "https://[fe80::1]"),
        ("[::1]:80", "https://[::1]:80"),
    ],
)  # fmt: skip
def test_proxy_address_gives_an_origin(named, origin):
    assert origin_of(named) == origin


@pytest.mark.parametrize(
    "named", ["", "*", "ftp://lab", "https://", "https://lab/path", "https://me@lab", "lab:port", "b\u00fccher", "a b"]
)
def test_invalid_addresses_are_refused(named):
    with pytest.raises(UserError, match=r"--host-name .*https://lab\.example"):
        origin_of(named)


def test_cookie_does_not_prove_the_origin(guarded):
    """Browsers send it to every port of a machine, from any page."""
    client = guarded.test_client()
    client.set_cookie(COOKIE, "secret", domain="127.0.0.1")

    def post(**headers):
        return client.post("/_dash-update-component", base_url=LOCAL, headers=headers, json={}).status_code

    assert post() == 403
    assert post(Origin=f"{LOCAL}:9999") == 403
    assert post(Authorization="Bearer wrong") == 403
    assert post(Origin=LOCAL) not in (401, 403)
    assert post(Authorization="Bearer secret") not in (401, 403)
    assert post(Authorization="Bearer secret", Origin=f"{LOCAL}:9999") == 403


def test_forms_of_other_sites_change_nothing(client):
    """A form may be posted from any site, but can't post JSON, and nothing else is read."""
    body = json.dumps({"output": "x", "inputs": [], "changedPropIds": []})
    for kind in ("text/plain", "application/x-www-form-urlencoded"):
        answer = client.post("/_dash-update-component", base_url=LOCAL, headers=OWN, data=body, content_type=kind)
        assert answer.status_code == 415


def test_crafted_request_stops_nothing_unless_allowed(studies, monkeypatch):
    stopped = []
    monkeypatch.setattr("dashboards.jobs.stop", stopped.append)
    button = {"type": "stop", "study": "half"}
    key = f"{json.dumps(button, separators=(',', ':'), sort_keys=True)}.n_clicks"
    for allowed in (False, True):
        app = create_app(place(str(studies)), allow_run=allowed)
        (output,) = (name for name, entry in app.callback_map.items() if "stop" in str(entry["inputs"]))
        body = {
            "output": output,
            "outputs": [
                dict(zip(("id", "property"), x.rsplit(".", 1), strict=True)) for x in output[2:-2].split("...")
            ],
            "inputs": [[{"id": button, "property": "n_clicks", "value": 1}]],
            "changedPropIds": [key],
            "state": [],
        }
        answer = app.server.test_client().post("/_dash-update-component", base_url=LOCAL, headers=OWN, json=body)
        assert answer.status_code == (200 if allowed else 204), answer.text
        assert len(stopped) == allowed


def test_oversized_requests_are_refused(client):
    assert client.get("/?" + "x" * 20_000, base_url=LOCAL).status_code == 414
    body = b"x" * (MAX_BYTES + 1)
    big = client.post(
        "/_dash-update-component", base_url=LOCAL, headers=OWN, data=body, content_type="application/json"
    )
    assert big.status_code == 413


def test_content_policy_allows_this_server_only(client):
    answer = client.get("/", base_url=LOCAL)
    policy = dict(part.split(" ", 1) for part in answer.headers["Content-Security-Policy"].split("; "))
    assert policy["default-src"] == "'self'"
    assert policy["connect-src"] == "'self'"
    assert "unsafe" not in policy["script-src"]
    assert policy["frame-ancestors"] == "'none'"
    assert answer.headers["X-Frame-Options"] == "DENY"
    assert "http://" not in answer.text
    assert "https://" not in answer.text
    assert '<html lang="en">' in answer.text


@pytest.mark.parametrize(
    "path",
    [
        "/_dash-component-suites/dash/../../../app.py",
        "/assets/../app.py",
        "/assets/%2e%2e/app.py",
        "/..%2f..%2fetc/passwd",
        "/study.json",
    ],
)
def test_no_file_is_served_but_assets(client, studies, path):
    answer = client.get(path, base_url=LOCAL)
    assert answer.status_code == 404 or b"react-entry-point" in answer.data
    assert b"create_app" not in answer.data


@pytest.mark.parametrize("study", ["..", "%2e%2e", "..%2fsecret", "secret", "/etc", "bowl%2f..%2fbowl"])
def test_no_study_outside_the_root_is_reachable(client, studies, make, study):
    outside = studies.parent / "secret"
    if not outside.exists():
        make.write_study(outside, make.make_spec(name="secret"), lambda trial: None)
    shown = ask(client, f"/study/{study}/robustness")
    assert "Nothing to show here" in shown


def test_link_out_of_the_root_is_not_followed(make, tmp_path):
    root, outside = tmp_path / "root", tmp_path / "private"
    make.write_study(outside / "plans", make.make_spec(name="plans"), make.mixed)
    make.write_study(root / "own", make.make_spec(name="own"), make.mixed)
    (root / "linked").symlink_to(outside / "plans")
    (root / "again").symlink_to(root / "own")
    client = create_app(place(str(root))).server.test_client()
    shown = ask(client, "/study/linked/overview")
    assert "leads out of" in shown
    assert "plans" not in shown.replace(str(outside), "")
    assert "Verdict" not in shown
    assert "Nothing to show" not in ask(client, "/study/again/overview"), "a link within the root is followed"


def test_token_is_required_and_remembered(guarded):
    client = guarded.test_client()
    assert client.get("/", base_url=LOCAL).status_code == 401
    assert client.get("/?token=wrong", base_url=LOCAL).status_code == 401
    assert client.post("/_dash-update-component", base_url=LOCAL, json={}).status_code == 401
    first = client.get("/study/bowl/robustness?metric=test_loss&token=secret", base_url=LOCAL)
    assert first.status_code == 302
    assert first.headers["Location"] == "/study/bowl/robustness?metric=test_loss", "the token leaves the address"
    cookie = first.headers["Set-Cookie"]
    assert cookie.startswith(f"{COOKIE}=secret")
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    assert client.get("/", base_url=LOCAL).status_code == 200
    stale = guarded.test_client()
    stale.set_cookie(COOKIE, "of-an-earlier-start", domain="127.0.0.1")
    assert stale.get("/", base_url=LOCAL, headers={"Authorization": "Bearer secret"}).status_code == 200
    assert stale.get("/?token=secret", base_url=LOCAL).status_code == 302
    bearer = guarded.test_client().get("/", base_url=LOCAL, headers={"Authorization": "Bearer secret"})
    assert bearer.status_code == 200


@pytest.mark.parametrize(
    ("stripped", "asked"), [(False, "/lab/dash/_dash-layout"), (True, "/_dash-layout")], ids=["kept", "stripped"]
)
def test_prefix_is_served_as_the_proxy_requests_it(studies, stripped, asked):
    app = create_app(place(str(studies)), prefix="/lab/dash/", prefix_stripped=stripped)
    client = app.server.test_client()
    assert client.get(asked, base_url=LOCAL).status_code == 200
    page = client.get(asked.removesuffix("_dash-layout"), base_url=LOCAL).text
    assert "/lab/dash/_dash-component-suites/" in page


@pytest.mark.parametrize(
    ("host", "expected"), [("127.0.0.1", True), ("localhost", True), ("::1", True), ("0.0.0.0", False), ("lab", False)]
)
def test_loopback_is_recognized(host, expected):
    assert is_loopback(host) is expected
