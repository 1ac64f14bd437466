"""The notebook in examples/, the page docs/python.md, and further cells, run in one kernel with one Ray."""

import json
import re
import warnings
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat", reason="nbclient is not installed")
pytest.importorskip("ipykernel", reason="ipykernel is not installed")

ROOT = Path(__file__).parents[2]
NOTEBOOK = ROOT / "examples" / "notebook.ipynb"
PROBES = {
    "loop": "import asyncio; asyncio.get_running_loop().is_running()",
    "ray": "import ray; ray.get_runtime_context().get_node_id()",
    "interrupt": """
import os, signal
from sensitivity.face.progress import StatusLine
stopping = spec.replace(name="stopped", seeds=3)
def interrupt(self, text):  # as the kernel's interrupt does, once the first results are there
    if text[0] in "123456789":
        os.kill(os.getpid(), signal.SIGINT)
shown, StatusLine.show, StatusLine.pause = StatusLine.show, interrupt, 0.0  # each change is shown
try:
    sensitivity.run(stopping.replace(execution={"pack_size": 1}), workers=1)
    said = "ran to its end"
except KeyboardInterrupt as error:
    said = str(error)
finally:
    StatusLine.show = shown
kept = sensitivity.open("studies/stopped").runs.set_index("trial_id")
(said, int((kept["status"] == "pending").sum()), int((kept["status"] != "pending").sum()))
""",
    "resumed": """
whole = sensitivity.run(stopping, progress=False).runs.set_index("trial_id")
done = kept[kept["status"] != "pending"]
(sorted(set(whole["status"]) - {"diverged"}), whole.loc[done.index, "finished_at"].equals(done["finished_at"]))
""",
    "still the same ray": "ray.get_runtime_context().get_node_id()",
    "changed cell": "def network(shape, outputs):\n    return nn.Linear(shape[0], outputs)\n",
    "refused": """
try:
    sensitivity.run(sensitivity.Study(**{**rings_fields, "problem": {"dataset": rings, "model": network}}))
    said = "ran"
except sensitivity.UserError as error:
    said = str(error)
said
""",
    "kept apart": """
Path("late_helper.py").write_text("VALUE = 3")
import importlib, sys
sys.path.insert(0, "")
(importlib.import_module("late_helper").VALUE, "study_code" in sys.modules)
""",
    "mistakes": """
def broken():
    return missing_name
messages = []
for made in (
    lambda: sensitivity.run({"name": "x"}),
    lambda: sensitivity.run(3),
    lambda: sensitivity.run("nowhere.toml"),
    lambda: sensitivity.plan(spec.replace(**{"problem.dataset": broken, "problem.model": Network})),
):
    try:
        made()
    except sensitivity.UserError as error:
        messages.append(str(error).splitlines()[0])
messages
""",
}


def code_cells(path):
    if path.suffix == ".ipynb":
        return [cell for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]
    blocks = re.findall(r"```python\n(.*?)```", path.read_text(), re.DOTALL)
    return [nbformat.v4.new_code_cell(block) for block in blocks]


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """Run all cells in order, as a user would; returns the outputs of the probes, by name."""
    from nbclient import NotebookClient

    notebook = nbformat.read(NOTEBOOK, 4)
    example = len(notebook.cells)
    pages = code_cells(ROOT / "docs" / "python.md")
    keep = nbformat.v4.new_code_cell("rings_fields = dict(spec.model_dump(mode='json', exclude_unset=True))")
    # The probes come before the page's last block, which shuts Ray down.
    probes = [nbformat.v4.new_code_cell(source) for source in PROBES.values()]
    notebook.cells += [keep, *pages[:-1], *probes, pages[-1]]
    folder = tmp_path_factory.mktemp("notebook")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # from Jupyter's own packages
        NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(folder)}}).execute()
    found = {name: _result(cell) for name, cell in zip(PROBES, probes, strict=True)}
    return notebook.cells[:example], found, folder


def _result(cell):
    return "".join(output.data["text/plain"] for output in cell.outputs if output.output_type == "execute_result")


def test_notebook_is_stored_without_outputs_and_runs(executed):
    committed = json.loads(NOTEBOOK.read_text())["cells"]
    assert all(not cell["outputs"] and cell["execution_count"] is None for cell in committed if "outputs" in cell)
    outputs = [output for cell in executed[0] for output in cell.get("outputs", ())]
    assert not [output for output in outputs if output.output_type in ("error", "stream")]
    kinds = [kind for output in outputs for kind in output.get("data", ())]
    assert kinds.count("application/vnd.plotly.v1+json") == 2
    assert any("rings, test accuracy" in str(output.get("data", {}).get("text/plain")) for output in outputs)


def test_runs_inside_an_event_loop_and_starts_ray_once(executed):
    _, found, _ = executed
    assert found["loop"] == "True"
    assert found["ray"] == found["still the same ray"] != ""


def test_interrupt_stops_the_study_without_losing_results(executed):
    said, pending, kept = eval(executed[1]["interrupt"])
    assert said.startswith("stopped; every reported result is kept in studies/stopped")
    assert pending > 0
    assert kept > 0
    assert eval(executed[1]["resumed"]) == (["completed"], True)


def test_changed_cell_is_another_study(executed):
    said = eval(executed[1]["refused"])
    assert "studies/rings: contains a different study named 'rings'" in said
    assert "code: study_code.py has changed; the version that was trained is in studies/rings/source/" in said


def test_session_imports_are_isolated(executed):
    assert executed[1]["kept apart"] == "(3, False)"


def test_mistakes_match_those_of_the_commands(executed):
    fields, number, file, unknown = eval(executed[1]["mistakes"])
    assert fields == "study: 4 mistakes"
    assert number.endswith("or a sensitivity.Study; got int")
    assert file == "no study file 'nowhere.toml'"
    assert "NameError: name 'missing_name' is not defined" in unknown


def test_study_of_the_page_resumes_from_its_files(executed):
    """The ids of runs made in the notebook are those that the two files of the page give."""
    import sensitivity
    from sensitivity.execution.prepare import prepare
    from sensitivity.study.snapshot_imports import own_imports_kept

    folder = executed[2]
    with own_imports_kept():
        plan = prepare(str(folder / "moons.toml"))
    runs = sensitivity.open(folder / "studies" / "moons").runs
    assert {trial.id for trial in plan.trials} <= set(runs["trial_id"])
