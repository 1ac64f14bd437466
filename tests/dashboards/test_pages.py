"""Pages from the catalogue: each exhibit has one place, and options are chosen by the address and by controls."""

import json
from dataclasses import replace

import pytest

from dashboards.address import Address
from dashboards.app import create_app
from dashboards.blocks import FixedBlock
from dashboards.catalog import Catalog
from dashboards.contents import drawn, written
from dashboards.pages import block_of, blocks_of, overview, pages
from dashboards.site import Site
from sensitivity.analysis.view import View
from sensitivity.figures import catalogue
from sensitivity.figures.gauge import gauge
from sensitivity.figures.verdict_words import answers
from sensitivity.store.directory import place

LOCAL = "http://127.0.0.1"


@pytest.fixture(scope="module")
def three(make, tmp_path_factory):
    """A dashboard over a study of three optimizers, which compares K-FAC with each of the others."""
    root = tmp_path_factory.mktemp("three")
    optimizers = {
        "sgd": {"kind": "sgd", "lr": [0.01, 0.1], "momentum": 0.0},
        "heavy": {"kind": "sgd", "lr": [0.01, 0.1], "momentum": 0.9},
        "kfac": {"kind": "kfac", "lr": [0.01, 0.1], "damping": [0.01, 0.1], "momentum": 0.9},
    }
    pairs = [["kfac", "sgd"], ["kfac", "heavy"]]
    spec = make.make_spec(name="three", optimizers=optimizers, batch_sizes=[32], pairs=pairs)
    make.write_study(root / "three", spec, lambda trial: make.run(trial, [2.0, 0.1 + 0.01 * trial.seed]), packs=1)
    return Site(catalog=Catalog(place(str(root))), prefix="/", may_run=False)


def scene_of(site, page, **address):
    return site.scene(Address(page=page, study="three", **address), "light")[0]


def test_each_exhibit_is_on_exactly_one_page(three):
    names = []
    for page in pages().values():
        blocks = [b for b in blocks_of(page, scene_of(three, page.name)) if not isinstance(b, FixedBlock)]
        names += [block.name for block in blocks]
    assert len(names) == len(set(names))
    several = {"robustness": 3, "reached": 3, "verdict": 2, "ridge": 1}  # one per optimizer, question, or ridge
    for exhibit in catalogue.EXHIBITS:
        own = [name for name in names if name == exhibit.name or name.startswith(f"{exhibit.name}-")]
        assert len(own) >= several.get(exhibit.name, 1), exhibit.name


def test_pair_is_selected_by_the_address_and_a_control(three):
    page = pages()["overview"]
    scene = scene_of(three, "overview")
    control = next(b for b in blocks_of(page, scene) if isinstance(b, FixedBlock) and b.name.startswith("pair"))
    assert control.name == "pair kfac-sgd kfac-heavy"
    for key, other in (("kfac-sgd", "SGD"), ("kfac-heavy", "heavy")):
        scene = scene_of(three, "overview", options={"pair": key})
        assert f"value='{key}'" in str(control.content(scene))
        answers = str(written(block_of(page, scene, "answers"), scene))
        assert f"further with batch size than {other}" in answers
        assert answers.count("Does K-FAC scale further") == 1
        evidence = block_of(page, scene, "verdict-scaling").show(scene)
        assert f"{evidence.result.candidate}-{evidence.result.reference}" == key


def test_the_interval_of_an_answer_is_drawn_at_its_place(three, monkeypatch):
    shown = gauge(ratio=0.5, ends=(0.25, 0.8), margin=1.5, flipped=False, one="K-FAC", other="SGD")
    scene = scene_of(three, "overview")
    real = answers(scene.results, ("kfac", "sgd"))
    monkeypatch.setattr(overview, "answers", lambda *_: [replace(each, gauge=shown) for each in real])
    page = str(written(block_of(pages()["overview"], scene, "answers"), scene))
    (low, high) = shown.interval
    assert page.count(f"className='interval', style={{'left': '{low}%', 'width': '{high - low}%'}}") == len(real) == 2
    assert page.count(f"className='value', style={{'left': '{shown.value}%'}}") == 2
    assert page.count(shown.alt_text) == 2


def test_single_optimizer_has_no_pairs_to_choose(three):
    scene = scene_of(three, "overview", view=View(optimizers=("kfac",)))
    page = pages()["overview"]
    assert not [b for b in blocks_of(page, scene) if b.name.startswith("pair")]
    assert "No two optimizers" in drawn(block_of(page, scene, "verdict-scaling"), scene).why
    assert "No two optimizers" in str(written(block_of(page, scene, "answers"), scene))


@pytest.mark.parametrize(
    ("name", "value", "search", "anew"),
    [("optimizers", ["kfac"], "?optimizer=kfac", True), ("batch_sizes", ["32"], "?batch=32", False)],
)
def test_page_is_rebuilt_if_a_filter_changes_its_blocks(three, name, value, search, anew):
    """Without the optimizers that it excludes, and with a place for each that comes back."""
    app = create_app(three.catalog.root)
    client = app.server.test_client()
    client.get("/", base_url=LOCAL)
    output = next(key for key in app.callback_map if key.startswith("..asked.data..."))
    where = {"pathname": "/study/three/robustness", "search": ""}
    filter_id = {"type": "filter", "name": name}
    body = {
        "output": output,
        "outputs": [
            {"id": "asked", "property": "data"},
            {"id": "filtered", "property": "children"},
        ],
        "inputs": [[{"id": filter_id, "property": "value", "value": value}], [], []],
        "state": [
            [{"id": filter_id, "property": "id", "value": filter_id}], [], [],
            *({"id": "url", "property": key, "value": given} for key, given in where.items()),
        ],
        "changedPropIds": [f"{json.dumps(filter_id, separators=(',', ':'), sort_keys=True)}.value"],
    }  # fmt: skip
    answer = client.post("/_dash-update-component", base_url=LOCAL, headers={"Origin": LOCAL}, json=body)
    assert answer.status_code == 200, answer.text
    change = answer.json["response"]["asked"]["data"]
    assert (change["from"], change["to"], change["other_blocks"]) == ("", search, anew)
