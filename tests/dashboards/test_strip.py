"""The strip above a study's pages, pages that there aren't, and the report that is taken away."""

import datetime

import pytest

from dashboards.address import Address
from dashboards.app import create_app
from dashboards.catalog import Catalog
from dashboards.pages import block_of, pages
from dashboards.pages.start import _copy
from dashboards.site import Site
from dashboards.strip import standing
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
def test_a_page_that_there_is_not_has_the_status_that_says_so(client, path, status):
    assert client.get(path, base_url=LOCAL).status_code == status


def test_the_report_is_taken_away_and_one_of_no_study_is_a_line(client):
    answer = client.get("/report/half.html", base_url=LOCAL)
    assert answer.status_code == 200
    assert answer.headers["Content-Disposition"] == "attachment", "its scripts are not this server's"
    assert b"<title>half" in answer.data
    missing = client.get("/report/nope.html", base_url=LOCAL)
    assert (missing.status_code, missing.mimetype) == (404, "text/plain")


def test_a_study_that_runs_says_so_and_is_not_asked_to_be_run(make, tmp_path):
    spec = make.make_spec(name="half")
    make.write_study(tmp_path / "half", spec, lambda trial: make.mixed(trial) if trial.seed else None)
    directory = place(str(tmp_path / "half"))
    now = datetime.datetime.now(tz=datetime.UTC)

    def seen():
        site = Site(catalog=Catalog(place(str(tmp_path))), prefix="/", may_run=False)
        entry, holder = site.catalog.entry("half"), live_holder(directory)
        scene, _ = site.scene(Address(page="overview", study="half"), None)
        shown = str(block_of(pages()["overview"], scene, "answers").content(scene))
        said = " ".join(text for answer in answers(scene.results) for text in (*answer.reasons, *answer.settle))
        return standing(entry, holder, now, settling=False), said, shown

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


def test_a_study_is_begun_from_another_with_its_file(make, tmp_path):
    spec = make.make_spec(name="half")
    make.write_study(tmp_path / "half", spec, lambda trial: None)
    site = Site(catalog=Catalog(place(str(tmp_path))), prefix="/", may_run=True)
    made = parse_study(parse_toml(_copy(site, "half"), source="x"), source="x")
    assert made == spec.model_copy(update={"name": "half-copy"})
