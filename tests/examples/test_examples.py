"""The examples run as they stand. Studies train in this process, without Ray, at a fraction of their size."""

import json
import os
import re
import runpy
import shlex
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
from typer.main import get_command

from sensitivity.cli.main import app
from sensitivity.execution.prepare import prepare_spec
from sensitivity.study.load import load_study
from sensitivity.study.results import Status
from sensitivity.study.trials import group
from sensitivity.training.loop import train_pack

EXAMPLES = Path(__file__).parents[2] / "examples"
SCHEMAS = EXAMPLES.parent / "docs/json"


@pytest.mark.parametrize(
    ("name", "changes", "reached"),
    [
        ("own_problem", {"optimizers.sgd.lr": 0.3}, 0.9),
        ("own_optimizer", {"optimizers.bounded.lr": 0.1, "budget.epochs": 2}, 0.8),
    ],
)
def test_a_study_with_code_of_its_own_trains(name, changes, reached):
    file = EXAMPLES / name / "study.toml"
    spec = load_study(file).replace(batch_sizes=[64 if name == "own_optimizer" else 50], seeds=1, **changes)
    plan = prepare_spec(spec, folder=file.parent, source=str(file))
    found = [run for pack in group(plan.trials, 16) for run in train_pack(pack, plan.problem)]
    assert {run.trial.arm for run in found} == set(spec.optimizers)
    own = [run for run in found if run.trial.arm in ("sgd", "bounded")]
    assert all(run.status is Status.COMPLETED for run in own)
    assert max(run.measurements[-1].test_accuracy for run in own) > reached


def test_a_table_with_a_loss_and_metrics_of_its_own_trains():
    file = EXAMPLES / "own_metric" / "study.toml"
    spec = load_study(file).replace(batch_sizes=[64], seeds=1, budget={"steps": 100})
    plan = prepare_spec(spec, folder=file.parent, source=str(file))
    found = [run for pack in group(plan.trials, 16) for run in train_pack(pack, plan.problem)]
    assert {run.trial.arm for run in found} == set(spec.optimizers)
    best = min((run for run in found if run.status is Status.COMPLETED), key=lambda run: run.measurements[-1].test_loss)
    last = best.measurements[-1]
    assert last.train_loss < 0.5 * best.measurements[0].train_loss
    assert 0.6 < last.of("validation_covered") < 0.95, "the quantile that the loss asks for is 0.8"
    assert last.of("validation_miscoverage") == pytest.approx(abs(last.of("validation_covered") - 0.8))


def test_kfac_trains_in_a_plain_script(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["kfac_training.py", "--epochs", "2"])
    runpy.run_path(str(EXAMPLES / "kfac_training.py"), run_name="__main__")
    said = dict(re.findall(r"^(\S+) +test accuracy ([\d.]+)%", capsys.readouterr().out, re.MULTILINE))
    assert said.keys() == {"SGD", "K-FAC"}
    assert all(float(accuracy) > 80 for accuracy in said.values())


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_the_submission_follows_the_job_that_submit_has_made(tmp_path):
    """Against a stand-in for `sensitivity` that records how it is called: the commands take these arguments."""
    answer = {key: f"the {key}" for key in json.loads((SCHEMAS / "submit.schema.json").read_text())["required"]}
    stand_in = tmp_path / "sensitivity"
    stand_in.write_text(
        f"#!/bin/sh\nprintf '%s\\n' \"$*\" >> calls\n[ \"$1\" = submit ] && echo '{json.dumps(answer)}'\nexit 0\n"
    )
    stand_in.chmod(0o755)
    subprocess.run(
        [EXAMPLES / "cluster/submit.sh", "http://head:8265", "s3://bucket/studies"],
        cwd=tmp_path, env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}, check=True,
    )  # fmt: skip
    submitted, followed, reported = map(
        shlex.split, (tmp_path / "calls").read_text().replace("the id", "the-id").splitlines()
    )
    assert tomllib.loads(Path(submitted[1]).read_text())["name"] == "spirals"
    assert followed[:3] == ["logs", "-f", "the-id"]
    assert reported[:2] == ["report", "s3://bucket/studies/spirals"]
    for name, *arguments in (submitted, followed, reported):
        get_command(app).commands[name].make_context(name, list(arguments))  # raises where it takes no such arguments
