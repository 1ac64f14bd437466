"""A study on a real cluster of three nodes, through its Jobs server, with its results on S3."""

import os
import re
import time
import urllib.request
from pathlib import Path

import pandas as pd
import pytest

from sensitivity.execution.prepare import prepare
from sensitivity.execution.worker import run_pack
from sensitivity.store.directory import place
from sensitivity.store.lock import LOCK
from sensitivity.store.manifest import write_manifest
from sensitivity.store.reader import read_study
from sensitivity.store.writer import append, write_plan

pytestmark = pytest.mark.skipif(os.name != "posix", reason="Ray clusters need POSIX")

STUDY = """
name = "held"
batch_sizes = [64, 65]
seeds = 1
[problem]
model = "held_net:net"
[budget]
steps = 4
[execution]
pack_size = 1
[optimizers.sgd]
kind = "sgd"
lr = [0.01, 0.02, 0.03, 0.04]
"""
NET = """
import os, pathlib, time
from torch import nn
HOLD, BEGAN = pathlib.Path({hold!r}), pathlib.Path({began!r})
class Held(nn.Module):
    def __init__(self, outputs):
        super().__init__(); self.layer = nn.Linear(64, outputs)
    def forward(self, x):
        while self.training and len(x) == 65 and HOLD.exists():
            (BEGAN / str(os.getpid())).touch(); time.sleep(0.02)
        return self.layer(x.flatten(1))
def net(shape, outputs): return Held(outputs)
"""
BUCKET = "s3://studies"
MEASURED = ["trial_id", "status", "steps", "train_loss", "train_accuracy", "test_loss", "test_accuracy"]


def own_study(folder: Path) -> Path:
    began, hold = folder / "began", folder / "hold"
    (folder / "study").mkdir()
    began.mkdir()
    hold.touch()
    (folder / "study/held.toml").write_text(STUDY)
    (folder / "study/held_net.py").write_text(NET.format(hold=str(hold), began=str(began)))
    return folder / "study/held.toml"


def wait(condition, what: str, seconds: float = 400):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what() if callable(what) else what
        time.sleep(0.2)


def here(study: Path, target: Path):
    """Run a study pack by pack in this process, without Ray."""
    plan, directory = prepare(str(study)), place(str(target))
    manifest = write_manifest(directory, plan.spec, plan.source)
    write_plan(directory, plan.trials)
    for pack in plan.packs({}, finished=frozenset(), workers=1):
        result = run_pack(pack, plan.spec.execution, plan.origin, directory)
        append(directory, result, spec_hash=manifest.spec_hash, code_version="here")
    return read_study(directory)


def test_a_study_of_the_users_own_survives_a_stop_and_the_loss_of_a_node(cluster, tmp_path):
    study, hold, began = own_study(tmp_path), tmp_path / "hold", tmp_path / "began"
    sent = cluster.command("submit", study, "--storage", BUCKET)
    assert sent.returncode == 0, sent.stdout + sent.stderr
    job = sent.stdout.split()[1]
    directory = place(f"{BUCKET}/held")

    def both_are_held():
        return len(list(began.iterdir())) == 2  # so that everything before is finished; asking S3 would take a core

    wait(both_are_held, lambda: cluster.command("logs", job).stdout)
    kept = read_study(directory).runs
    assert (kept["status"] == "completed").sum() == 4
    # A second one, of the same study: refused with the first one's name.
    second = cluster.command("submit", study, "--storage", BUCKET)
    assert second.returncode == 2
    assert f"is being run already, by the job {job}" in second.stderr
    assert job in directory.read(LOCK).decode()

    assert "asked to stop" in cluster.command("stop", job).stdout
    wait(lambda: not directory.exists(LOCK), "the driver does not let go of the study")
    wait(lambda: "stopped" in cluster.command("status", job).stdout, "the job does not stop")

    for path in began.iterdir():
        path.unlink()
    again = cluster.command("submit", study, "--storage", BUCKET)
    assert again.returncode == 0, again.stderr
    assert again.stdout.split()[1] == f"{job}-2"
    wait(both_are_held, lambda: cluster.command("logs", f"{job}-2").stdout)
    cluster.kill("two")
    hold.unlink()
    followed = cluster.command("logs", "-f", f"{job}-2")
    assert followed.returncode == 0, followed.stdout + followed.stderr
    assert "Traceback" not in followed.stdout
    assert "secret" not in followed.stdout

    found, alone = read_study(directory), here(study, tmp_path / "here")
    pd.testing.assert_frame_equal(found.runs[MEASURED], alone.runs[MEASURED])
    curves = ["trial_id", "step", "train_loss", "test_accuracy"]
    pd.testing.assert_frame_equal(found.curves[curves], alone.curves[curves])
    done = kept[kept["status"] == "completed"].set_index("trial_id")["finished_at"]
    after = found.runs.set_index("trial_id")["finished_at"].loc[done.index]
    pd.testing.assert_series_equal(after, done)  # what was reported was not done again
    assert set(found.runs["code_version"]) == {found.manifest.specs[found.manifest.spec_hash]["code_version"]}
    assert "unknown" not in set(found.runs["code_version"])
    listed = urllib.request.urlopen(f"{cluster.s3_env['AWS_ENDPOINT_URL']}/studies?list-type=2").read().decode()
    keys = re.findall("<Key>(.*?)</Key>", listed)
    assert {key.rpartition("/")[0] for key in keys} >= {"held", "held/runs", "held/curves"}
    assert not {"held/runs/", "held/curves/"} & set(keys), "objects that stand for folders, made anew with each part"
    written = cluster.command("report", f"{BUCKET}/held", "-o", tmp_path / "held.html")
    assert written.returncode == 0, written.stderr
    assert "a-secret-of-the-test" not in (tmp_path / "held.html").read_text() + directory.read("study.json").decode()


def test_a_place_that_every_node_has_for_itself_is_refused(cluster, tmp_path):
    if not cluster.own_disks:
        pytest.skip("this user may not mount, so the nodes share every folder")
    study = own_study(tmp_path)
    storage = cluster.own_disk / "studies"
    job = cluster.command("submit", study, "--storage", storage).stdout.split()[1]
    followed = cluster.command("logs", "-f", job)
    assert followed.returncode == 2
    assert "the cluster is not ready; nothing was run" in followed.stdout
    assert "what the driver wrote there does not appear; give a place that all nodes share" in followed.stdout
    assert "Traceback" not in followed.stdout
    assert not list((storage / "held").glob("runs/*"))
    assert not list((tmp_path / "began").iterdir())
