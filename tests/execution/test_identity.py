"""A run's identity is what was trained: files that change after the plan change nothing in silence."""

import re
import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from sensitivity.cli.main import main
from sensitivity.execution.loading import ChangedError, forget_loaded
from sensitivity.execution.preflight import problem_fault
from sensitivity.execution.prepare import prepare
from sensitivity.execution.worker import run_pack
from sensitivity.store.directory import place
from sensitivity.store.manifest import read_manifest, write_manifest
from sensitivity.store.reader import read_study
from sensitivity.store.writer import append, write_plan
from sensitivity.study.errors import StorageError, StudyFileError, UserError
from sensitivity.study.snapshot import Snapshot
from sensitivity.study.snapshot_imports import use_snapshot
from sensitivity.study.trials import expand, group

ARRAYS = ["data, train inputs", "data, train targets", "data, test inputs", "data, test targets"]
own = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("own_study.py"))))


@pytest.fixture(autouse=True)
def _forgotten():
    yield
    use_snapshot(Snapshot(roots=(".",)))
    forget_loaded()


@pytest.fixture
def study(tmp_path) -> Path:
    return own.write_study(tmp_path / "own", "identity_own")


def edit(study: Path, module: str, old: str, new: str) -> None:
    path = study.with_name(f"{module}.py")
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


def trained(plan, directory):
    """Run a plan pack by pack in this process, as workers do, each of which loads the problem anew."""
    threads = torch.get_num_threads()
    write_manifest(directory, plan.spec, plan.source, plan.origin)
    write_plan(directory, plan.trials)
    for pack in group(plan.trials, 2):
        forget_loaded()
        append(directory, run_pack(pack, plan.spec.execution, plan.origin, directory), spec_hash="", code_version="")
    torch.set_num_threads(threads)
    return read_study(directory).curves.drop(columns="train_seconds")


def test_modules_that_are_saved_again_after_the_plan_change_nothing(study, tmp_path):
    undisturbed = trained(prepare(str(study)), place(str(tmp_path / "before")))
    plan = prepare(str(study))
    edit(study, "identity_own", "nn.Tanh()", "nn.ReLU()")
    edit(study, "identity_own_helper", "> 0", "> 1")
    use_snapshot(Snapshot(roots=(".",)))  # as in a process that has imported nothing yet
    pd.testing.assert_frame_equal(trained(plan, place(str(tmp_path / "after"))), undisturbed, check_exact=True)
    assert prepare(str(study)).source != plan.source


def test_data_changed_after_the_plan_stop_every_process(study, tmp_path):
    plan = prepare(str(study))
    assert problem_fault(plan.origin) == ""
    own.write_data(study.parent, 1)
    forget_loaded()
    with pytest.raises(ChangedError, match=r"data, train inputs: other values, float32 \[80, 5\] as before") as caught:
        run_pack(group(plan.trials, 2)[0], plan.spec.execution, plan.origin, place(str(tmp_path)))
    assert "the code itself (identity_own.py, identity_own_helper.py) is a snapshot" in str(caught.value)
    fault = problem_fault(plan.origin)  # what a node with other data says to the driver
    assert "data, train targets: int64 [80]" in fault
    assert fault.endswith("use the same files on every node")
    (study.parent / "x.npy").unlink()
    assert "could be loaded when the study was planned, but not now problem.dataset: " in problem_fault(plan.origin)
    own.write_data(study.parent, 0)
    assert problem_fault(plan.origin) == ""


def test_data_that_differ_by_rounding_alone_are_the_same(study):
    plan = prepare(str(study))
    own.write_data(study.parent, 0, scale=1 + 1e-7)
    forget_loaded()
    assert problem_fault(plan.origin) == ""


def test_grid_is_not_extended_on_other_data_or_code(study, tmp_path):
    directory = place(str(tmp_path / "mine"))
    plan = prepare(str(study))
    trained(plan, directory)
    before = {path: path.read_bytes() for path in (tmp_path / "mine").rglob("*") if path.is_file()}

    def refusal():
        study.write_text(study.read_text().replace("[0.01, 0.1]", "[0.01, 0.1, 0.2]"))
        longer = prepare(str(study))
        with pytest.raises(StorageError) as caught:
            write_manifest(directory, longer.spec, longer.source, longer.origin)
        assert {path: path.read_bytes() for path in before} == before
        return str(caught.value).splitlines()

    own.write_data(study.parent, 1)
    first, *lines, fix = refusal()
    assert first == f"{directory.uri}: contains a different study named 'mine'"
    assert [line.split(":")[0].strip(" -") for line in lines] == ARRAYS
    assert fix.startswith("  Undo these changes to continue it; or choose another name for this study")

    own.write_data(study.parent, 0)
    edit(study, "identity_own_helper", "> 0", ">= 0")
    _, line, _ = refusal()
    kept = f"{directory.uri}/source/{plan.source}/identity_own_helper.py"
    assert line == f"  - code: identity_own_helper.py has changed; the version that was trained is in {kept}"

    study.with_name("identity_own_helper.py").write_bytes(Path(kept).read_bytes())
    edit(study, "identity_own", "Linear(shape[0], 8)", "Linear(shape[0], 9)")
    edit(study, "identity_own", "Linear(8, outputs)", "Linear(9, outputs)")
    code, network = refusal()[1:-1]
    assert code.startswith("  - code: identity_own.py has changed")
    assert network.startswith("  - network, initial parameters at seed 0: 4 arrays of 66 ")

    kept = f"{directory.uri}/source/{plan.source}/identity_own.py"
    study.with_name("identity_own.py").write_bytes(Path(kept).read_bytes())
    longer = prepare(str(study))
    write_manifest(directory, longer.spec, longer.source, longer.origin)
    assert len(read_manifest(directory).specs) == 2


UNSEEDED = {
    "numpy": "numpy.random.permutation(len(x))",
    "default_rng": "numpy.random.default_rng().permutation(len(x))",
    "torch": "__import__('torch').randperm(len(x)).numpy()",
    "random": "__import__('random').sample(range(len(x)), len(x))",
}


@pytest.mark.parametrize("draw", UNSEEDED.values(), ids=UNSEEDED)
def test_an_unseeded_permutation_in_the_data_is_refused_with_the_mend(study, draw):
    edit(study, "identity_own_helper", "def halves(x):", f"import numpy\ndef halves(x):\n    x = x[{draw}]")
    with pytest.raises(
        UserError, match=r"problem\.dataset: identity_own:data returns different train inputs(.|\n)*seed"
    ):
        prepare(str(study))


def test_a_network_of_the_systems_randomness_is_refused_with_the_mend(study):
    drawn = "import os, torch\n    torch.manual_seed(int.from_bytes(os.urandom(4), 'big'))\n    return"
    edit(study, "identity_own", "return nn", f"{drawn} nn")
    with pytest.raises(StudyFileError, match=r"problem\.model: identity_own:net has different initial parameters"):
        prepare(str(study))


def test_weights_that_a_network_reads_from_a_file_are_part_of_what_is_trained(study):
    weights = study.with_name("w.npy")
    edit(study, "identity_own", "return nn", "made = nn")
    with study.with_name("identity_own.py").open("a") as module:
        module.write(
            "    import torch\n    start = torch.from_numpy(np.load(Path(__file__).parent / 'w.npy'))\n"
            "    made[0].weight.data.copy_(start)\n    return made\n"
        )
    np.save(weights, np.ones((8, 5)))
    plan = prepare(str(study))
    np.save(weights, np.zeros((8, 5)))
    forget_loaded()
    assert "network, initial parameters at seed 0: other values" in problem_fault(plan.origin)


def test_a_shipped_problem_adds_nothing_to_the_ids():
    plan = prepare("quickstart")
    assert plan.trials == expand(plan.spec), "as the study file alone gives them"


def test_run_uses_the_planned_code_whatever_is_saved_meanwhile(study, tmp_path, monkeypatch, capsys):
    """From outside, as a user runs it: the module is saved again as soon as the plan is printed."""
    undisturbed = trained(prepare(str(study)), place(str(tmp_path / "undisturbed")))
    storage = tmp_path / "studies"
    command = ["sensitivity.cli.main", "run", str(study), "--storage", str(storage)]
    options = {"cwd": study.parent, "text": True, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    with subprocess.Popen([sys.executable, "-m", *command, "--workers", "1"], **options) as process:
        assert process.stdout.readline() == "mine: 4 runs\n"
        module = study.with_name("identity_own.py")
        planned = module.read_text()
        edit(study, "identity_own", "nn.Tanh()", "nn.ReLU()")
        said = process.stdout.read()
    assert process.returncode == 0, said
    curves = read_study(place(str(storage / "mine"))).curves.drop(columns="train_seconds")
    pd.testing.assert_frame_equal(curves, undisturbed, check_exact=True)
    again = r"checked: 2 runs of sgd at batch size 16 trained again for \d+ of 40 steps: equal to the last bit"
    assert re.search(again, said), "for as many steps as a share of the time that the command took allows"

    study.write_text(study.read_text().replace("[0.01, 0.1]", "[0.01, 0.1, 0.2]"))
    monkeypatch.setattr(sys, "argv", command)
    for change, named in (
        (lambda: None, "code: identity_own.py has changed"),
        (lambda: (module.write_text(planned), own.write_data(study.parent, 1)), "data, train inputs: other values"),
    ):
        change()
        forget_loaded()
        with pytest.raises(SystemExit) as refused:
            main()
        assert refused.value.code == 2
        said = capsys.readouterr().err
        assert named in said
        assert "Traceback" not in said
    assert (read_study(place(str(storage / "mine"))).runs["status"] == "completed").all()
