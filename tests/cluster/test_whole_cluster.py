"""The quickstart on a real cluster, and what may befall it. Minutes long: only with ``--cluster``, which records it."""

import datetime
import json
import os
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import ray

from sensitivity.store.counting import finished_trials
from sensitivity.store.directory import place
from sensitivity.store.ledger import read_ledger, settling_place
from sensitivity.store.lock import LOCK
from sensitivity.store.reader import read_study
from sensitivity.study.load import shipped

RESULT = Path(__file__).parents[2] / "benchmarks/results/cluster.md"
STORAGE = "s3://studies/whole"
MEASURED = ["trial_id", "status", "steps", "train_loss", "train_accuracy", "test_loss", "test_accuracy"]


@pytest.fixture(scope="module", autouse=True)
def _asked_for(request):
    if not request.config.getoption("--cluster"):
        pytest.skip("takes minutes; --cluster runs it")


@pytest.fixture(scope="module")
def record():
    """Write what was seen, once all has been."""
    seen: list[str] = []
    yield seen.append
    if len(seen) == 6:
        today = datetime.datetime.now(tz=datetime.UTC).date()
        head = [
            "# A cluster of three nodes on one machine",
            "",
            f"`pytest --cluster -n 0 tests/cluster/test_whole_cluster.py`, {today}, Ray {ray.__version__}, "
            f"{os.cpu_count()} cores, results on S3 (moto):",
            "",
        ]
        RESULT.write_text("\n".join([*head, *(f"- {line}" for line in seen)]) + "\n")


def quickstart(folder: Path) -> Path:
    """Return the quickstart with packs of a fixed size, so that they hold the same trials wherever they run."""
    text = shipped()["quickstart"].read_text()
    assert "execution" not in tomllib.loads(text)
    (folder / "quickstart.toml").write_text(text + "\n[execution]\npack_size = 48\n")
    return folder / "quickstart.toml"


def wait(condition, seconds: float = 400):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.3)


def test_a_killed_drivers_quickstart_is_finished_and_equals_a_local_one(cluster, tmp_path, record):
    study, directory = quickstart(tmp_path), place(f"{STORAGE}/quickstart")
    job = cluster.command("submit", study, "--storage", STORAGE).stdout.split()[1]
    wait(lambda: directory.exists("study.json") and len(finished_trials(directory)) >= 144)
    os.kill(json.loads(directory.read(LOCK))["pid"], signal.SIGKILL)
    wait(lambda: "failed" in cluster.command("status", job).stdout)
    before = finished_trials(directory)
    assert 144 <= len(before) < 912
    again = cluster.command("submit", study, "--storage", STORAGE).stdout.split()[1]
    assert again == f"{job}-2"
    followed = cluster.command("logs", "-f", again, timeout=900)
    assert followed.returncode == 0, followed.stdout
    local = cluster.command("run", study, "--storage", tmp_path / "local", timeout=900)
    assert local.returncode == 0, local.stderr
    there, here = read_study(directory), read_study(place(str(tmp_path / "local/quickstart")))
    # Confirmations of winners are planned in the order in which their searches end.
    one, other = (each.runs[MEASURED].sort_values("trial_id", ignore_index=True) for each in (there, here))
    pd.testing.assert_frame_equal(one, other)
    columns = ["trial_id", "step", "train_loss", "test_loss", "train_accuracy", "test_accuracy"]
    one, other = (each.curves[columns].sort_values(columns[:2], ignore_index=True) for each in (there, here))
    pd.testing.assert_frame_equal(one, other)
    same = int(np.sum(there.runs["status"] == "completed"))
    record(
        f"the quickstart, its driver killed (SIGKILL) after {len(before)} of 912 runs and submitted again: every "
        f"loss, accuracy and curve equal, bit for bit, to a local run's ({same} completed, {912 - same} diverged)"
    )


def test_its_report_is_read_from_s3(cluster, tmp_path, record):
    written = cluster.command("report", f"{STORAGE}/quickstart", "-o", tmp_path / "report.html")
    assert written.returncode == 0, written.stderr
    page = (tmp_path / "report.html").read_text()
    assert "912" in page
    for secret in ("a-secret-of-the-test", "a-key-of-the-test"):
        assert secret not in page
        assert secret not in place(f"{STORAGE}/quickstart").read("study.json").decode()
    exported = cluster.command("export", f"{STORAGE}/quickstart", tmp_path / "runs.csv")
    assert exported.returncode == 0, exported.stderr
    assert len(pd.read_csv(tmp_path / "runs.csv")) == 912
    record(f"its report ({len(page) / 1e6:.1f} MB) and its table written straight from S3, no credential in either")


def test_a_killed_drivers_settlement_is_finished_and_equals_a_local_one(cluster, tmp_path, record):
    study, directory = quickstart(tmp_path), place(f"{STORAGE}/settled")
    study.write_text(study.read_text().replace('name = "quickstart"', 'name = "settled"'))
    events = "s3://studies/events"
    sent = ("submit", study, "--storage", STORAGE, "--settle", "--runs", "400", "--log", f"tensorboard:{events}")
    job = cluster.command(*sent).stdout.split()[1]
    folder = settling_place(directory)
    wait(lambda: folder.exists("study.json") and len(finished_trials(folder)) >= 100)
    os.kill(json.loads(folder.read(LOCK))["pid"], signal.SIGKILL)
    wait(lambda: "failed" in cluster.command("status", job).stdout)
    before = len(finished_trials(folder))
    again = cluster.command(*sent).stdout.split()[1]
    followed = cluster.command("logs", "-f", again, timeout=900)
    assert followed.returncode == 0, followed.stdout
    local = cluster.command("settle", study, "--storage", tmp_path / "local", "--runs", "400", timeout=900)
    assert local.returncode == 0, local.stderr
    there, here = read_ledger(directory), read_ledger(place(str(tmp_path / "local/settled")))
    assert [entry.step for entry in there.entries] == [entry.step for entry in here.entries]
    assert there.settlement.model_dump() == here.settlement.model_dump()
    assert 100 <= before < there.cost.runs == here.cost.runs <= 400
    cells = place(f"{events}/settled").folders()
    sent_files = [file for cell in cells for seed in cell.folders() for file in seed.files("") if ".tfevents." in file]
    trials = {file.rpartition(".")[2] for file in sent_files}
    assert len(sent_files) == len(trials) == there.cost.runs
    record(
        f"the quickstart settled by `submit --settle`, its driver killed after {before} of {there.cost.runs} runs and"
        " submitted again: the steps of its ledger and its answers equal those of `settle` on one machine, and"
        " TensorBoard's events of each run are on S3 once (`--log`)"
    )


def test_images_that_only_the_head_has(cluster, tmp_path, record):
    if not cluster.own_disks:
        pytest.skip("this user may not mount, so the nodes share every folder")
    from PIL import Image

    for k in range(20):
        path = cluster.own_disk / f"images/{'ab'[k % 2]}/{k}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), color=12 * k).save(path)
    (tmp_path / "images.toml").write_text(
        'name = "images"\nbatch_sizes = [4]\nseeds = 1\nbudget = { steps = 2 }\n'
        f'problem = {{ dataset = "imagefolder:{cluster.own_disk}/images" }}\n'
        'optimizers = { sgd = { kind = "sgd", lr = [0.1] } }\n'
    )
    job = cluster.command("submit", tmp_path / "images.toml", "--storage", STORAGE).stdout.split()[1]
    followed = cluster.command("logs", "-f", job)
    assert followed.returncode == 2
    assert "the cluster is not ready; nothing was run" in followed.stdout
    complaints = [line for line in followed.stdout.splitlines() if line.startswith("  - the problem on ")]
    assert len(complaints) == 2, followed.stdout
    assert "Traceback" not in followed.stdout
    assert not read_study(place(f"{STORAGE}/images")).curves.size
    record("images that the head alone has: refused before anything was run, with what is wrong on each of both nodes")


def test_packs_wait_for_nodes_of_a_cluster_that_grows(cluster, tmp_path, record):
    (tmp_path / "elastic.toml").write_text(
        'name = "elastic"\nbatch_sizes = [64]\nseeds = 2\nbudget = { steps = 4 }\n'
        "execution = { elastic = true, max_concurrent = 2 }\n"
        'optimizers = { sgd = { kind = "sgd", lr = [0.1, 0.2] } }\n'
    )
    cluster.kill("one")
    cluster.kill("two")
    job = cluster.command("submit", tmp_path / "elastic.toml", "--storage", STORAGE).stdout.split()[1]
    directory = place(f"{STORAGE}/elastic")
    wait(lambda: directory.exists("plan.parquet"))
    assert "running" in cluster.command("status", job).stdout
    cluster.start_nodes("three")
    followed = cluster.command("logs", "-f", job, timeout=400)
    assert followed.returncode == 0, followed.stdout
    assert read_study(directory).runs["status"].tolist() == ["completed"] * 4
    record("a study with `elastic` whose workers had just gone waited, and ran to its end when a node had come")


def test_the_head_goes_away_while_its_logs_are_followed(cluster, tmp_path, record):
    text = quickstart(tmp_path).read_text().replace('name = "quickstart"', 'name = "lost"')
    (tmp_path / "lost.toml").write_text(text)
    job = cluster.command("submit", tmp_path / "lost.toml", "--storage", STORAGE).stdout.split()[1]
    command = [sys.executable, "-m", "sensitivity.cli.main", "logs", "-f", job]
    follower = subprocess.Popen(
        command, env=cluster.env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, cwd=cluster.folder
    )
    directory = place(f"{STORAGE}/lost")
    wait(lambda: directory.exists("study.json") and len(finished_trials(directory)) >= 48)
    cluster.kill("head")
    _, said = follower.communicate(timeout=120)
    assert follower.returncode == 2
    assert "Traceback" not in said
    assert f"was lost while following {job}" in said
    assert f"reported results are in {STORAGE}" in said
    kept = len(finished_trials(directory))
    assert kept >= 48
    record(f"the head killed (SIGKILL) while its logs were followed: said in one message; {kept} runs are kept on S3")
