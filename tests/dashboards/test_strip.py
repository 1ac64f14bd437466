"""The strip above a study's pages, missing pages, and the download of the report."""

import datetime

import pytest

from dashboards.actions import actions, proposal_item
from dashboards.address import Address, parse, search_of
from dashboards.app import create_app
from dashboards.catalog import Catalog
from dashboards.pages import block_of, pages
from dashboards.pages.start import _copy
from dashboards.site import Site
from dashboards.strip import status_texts
from dashboards.study_form import value_at, value_of
from sensitivity.figures.verdict_words import answers
from sensitivity.store.directory import place
from sensitivity.store.lock import WriterLock, live_holder
from sensitivity.study.load import parse_study, parse_toml

LOCAL = "http://127.0.0.1"


@pytest.fixture(scope="module")
def client(studies):
    client = create_app(place(str(studies))).server.test_client()
    client.get("/", base_url=LOCAL)
    return client


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/", 200), ("/compare", 200), ("/study/half", 200), ("/study/half/runs", 200), ("/study/nope", 404),
        ("/study/nope/runs", 404), ("/study/half/nope", 404), ("/nope", 404), ("/start", 404), ("/a/b/c", 404),
    ],
)  # fmt: skip
def test_missing_pages_have_an_error_status(client, path, status):
    assert client.get(path, base_url=LOCAL).status_code == status


def test_report_download_and_message_for_an_unknown_study(client):
    answer = client.get("/report/half.html", base_url=LOCAL)
    assert answer.status_code == 200
    assert answer.headers["Content-Disposition"] == "attachment", "its scripts are not this server's"
    assert b"<title>half" in answer.data
    missing = client.get("/report/nope.html", base_url=LOCAL)
    assert (missing.status_code, missing.mimetype) == (404, "text/plain")


def test_running_study_is_shown_as_running(make, tmp_path):
    spec = make.make_spec(name="half")
    make.write_study(tmp_path / "half", spec, lambda trial: make.mixed(trial) if trial.seed else None)
    directory = place(str(tmp_path / "half"))
    now = datetime.datetime.now(tz=datetime.UTC)

    def seen():
        site = Site(catalog=Catalog(place(str(tmp_path))), prefix="/", may_run=False)
        entry, holder = site.catalog.entry("half"), live_holder(directory)
        scene, _ = site.scene(Address(page="overview", study="half"), None)
        shown = str(block_of(pages()["overview"], scene, "answers").content(scene))
        found = answers(scene.results)
        ways = [one.text for answer in found for one in answer.settle]
        said = " ".join([*(text for answer in found for text in answer.reasons), *ways])
        return status_texts(entry, holder, now, settling=False), said, shown

    idle, said, shown = seen()
    assert idle[:2] == ("Not running", "72 of 108 runs")
    assert "Run the study again" in said
    with WriterLock(directory):
        (state, counts, *_, left), said, shown = seen()
        assert (state, counts) == ("Running", "72 of 108 runs")
        assert "left" in left
        assert "Run the study again" not in said
        assert "The study is running" in said
        assert "Still running" in shown


def test_study_is_duplicated_with_its_file(make, tmp_path):
    spec = make.make_spec(name="half")
    make.write_study(tmp_path / "half", spec, lambda trial: None)
    site = Site(catalog=Catalog(place(str(tmp_path))), prefix="/", may_run=True)
    made = parse_study(parse_toml(_copy(site, "half"), source="x"), source="x")
    assert made == spec.model_copy(update={"name": "half-copy"})


def scene_of(root, name, *, may_run):
    site = Site(catalog=Catalog(place(str(root))), prefix="/", may_run=may_run)
    return site, site.scene(Address(page="overview", study=name), None)[0]


def test_study_with_missing_modules_has_no_run_button(make, tmp_path):
    spec = make.make_spec(name="half")
    problem = spec.required_problem.model_copy(update={"dataset": "a_module_of_nobody:data"})
    absent = spec.model_copy(update={"problem": problem})
    site, scene = scene_of_waiting(make, tmp_path, spec)
    assert site.can_run(spec)
    assert scene.may_run
    assert not site.can_run(absent)
    (tmp_path / "a_module_of_nobody.py").touch()
    assert site.can_run(absent)


def scene_of_waiting(make, root, spec):
    make.write_study(root / spec.name, spec, lambda trial: None)
    return scene_of(root, spec.name, may_run=True)


def links_of(component):
    """Return the address of each link below a component."""
    return [each.href for each in component._traverse() if getattr(each, "href", None)]


@pytest.mark.parametrize("name", ["bowl", "half"])
def test_remedies_have_buttons_or_links(studies, name):
    """A remedy with a known edit opens the study's own file with it, which is valid; missing runs have a button."""
    site, scene = scene_of(studies, name, may_run=True)
    spec, changed = scene.loaded.spec, []
    for answer in answers(scene.results):
        for at, way in enumerate(answer.settle):
            item = proposal_item(scene, way, f"answer-{at}")
            links = links_of(item)
            if way.code == "finish":
                (button,) = [e for e in item._traverse() if type(e).__name__ == "Button"]
                assert button.children == "Resume: 36 runs"
                assert button.id == {"type": "resume", "study": "half", "at": f"answer-{at}"}
            elif way.code == "settle":
                assert links == []
            else:
                (link,) = links
                asked = parse("/start", link.partition("?")[2])
                assert (asked.page, asked.others) == ("start", (name,))
                assert parse("/start", search_of(asked)) == asked
                file = parse_toml(_copy(site, name, asked.edits), source="x")
                again = parse_study(file, source="x")
                assert again.name == spec.name, "so it adds to the study"
                changed += [path for path, value in way.edits if value_at(file, path) == value_of(value)]
                assert (again == spec) is (not way.edits)
    if name == "bowl":
        assert ("evaluation", "growth") in changed
        assert ("optimizers", "sgd", "lr") in changed


def test_server_without_permission_offers_no_actions(studies):
    site, scene = scene_of(studies, "half", may_run=False)
    ways = [proposal_item(scene, way, "x") for answer in answers(scene.results) for way in answer.settle]
    assert [type(e).__name__ for way in ways for e in way._traverse() if not isinstance(e, str)] == []
    offered = list(actions(site, site.catalog.entry("half"), busy=False))
    assert [each.children for each in offered] == ["Report"]
    allowed, _ = scene_of(studies, "half", may_run=True)
    entry = allowed.catalog.entry("half")
    assert [each.children for each in actions(allowed, entry, busy=False)] == ["Resume: 36 runs", "Duplicate", "Report"]
    assert [each.children for each in actions(allowed, entry, busy=True)] == ["Duplicate", "Report"]
    assert "Settle it" not in str(block_of(pages()["overview"], scene, "answers").content(scene))
