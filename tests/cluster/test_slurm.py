"""docs/slurm/study.sbatch under a real SLURM of two nodes. Minutes long: only with ``--cluster``, which records it."""

import json
import os
import re
import runpy
import subprocess
import sys
import time
from pathlib import Path

import pytest
import ray

from sensitivity.store.counting import finished_trials
from sensitivity.store.directory import place
from sensitivity.store.ledger import read_ledger
from sensitivity.store.lock import LOCK
from sensitivity.store.reader import read_study

SCRIPT = Path(__file__).parents[2] / "docs/slurm/study.sbatch"
GPUS = 2
TESTS = 6
LONG_S = 900
BATCH = """
name = "plain"
batch_sizes = [64, 256]
seeds = 4
budget = { epochs = 1 }
execution = { pack_size = 4 }
[optimizers.sgd]
kind = "sgd"
lr = [0.01, 0.1, 1.0, 10.0]
[optimizers.kfac]
kind = "kfac"
lr = [0.01, 0.1]
damping = [0.01, 0.1]
"""
TROUBLE = re.compile(r"srun:|slurmstepd|Traceback|\berror\b|\bERROR\b|WARNING")


@pytest.fixture(scope="module")
def slurm(request, tmp_path_factory):
    if not request.config.getoption("--cluster"):
        pytest.skip("takes minutes; --cluster runs it")
    parts = runpy.run_path(str(Path(__file__).with_name("slurm.py")))
    if why := parts["obstacle"]():
        pytest.skip(why)
    made = parts["Slurm"](tmp_path_factory.mktemp("slurm"), gpus=GPUS)
    try:
        made.start()
        yield made
    finally:
        made.close()


@pytest.fixture(scope="module")
def record(slurm, write_record):
    """Write what was seen, once all has been."""
    seen: list[str] = []
    yield seen.append
    if len(seen) == TESTS:
        circumstances = f"SLURM {slurm.version}, munge, Ray {ray.__version__}, two nodes of one CPU on one machine"
        write_record("slurm", "The SLURM script under a real SLURM", circumstances, seen)


def without_gpus(folder: Path) -> Path:
    """Return the script without its line on GPUs."""
    kept = [line for line in SCRIPT.read_text().splitlines(keepends=True) if not line.startswith("#SBATCH --gpus")]
    (folder / "plain.sbatch").write_text("".join(kept))
    return folder / "plain.sbatch"


def said(slurm, job: str) -> str:
    number, _, task = job.partition("_")
    path = slurm.folder / f"{number}_{task or 4294967294}.txt"  # what SLURM calls the task of a job that is no array
    return path.read_text() if path.exists() else ""


def ended(slurm, held, job: str, state: str) -> str:
    """Wait for the end of a job, check its state, and return its output."""
    over = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")
    held.wait(lambda: slurm.state(job)["JobState"] in over, lambda: said(slurm, job), LONG_S)
    assert slurm.state(job)["JobState"] == state, said(slurm, job)
    return said(slurm, job)


def all_begun(held, slurm, job: str, folder: Path, packs: int) -> None:
    """Wait until so many packs are held at a time, each in a process of its own."""

    def begun() -> bool:
        assert slurm.state(job)["JobState"] in ("PENDING", "CONFIGURING", "RUNNING"), said(slurm, job)
        return len(list((folder / "began").iterdir())) == packs

    held.wait(begun, lambda: said(slurm, job), LONG_S)


def check_nothing_left(slurm, *jobs: str) -> None:
    """Check that neither a token nor Ray's files are left of jobs that could end in their own time."""
    assert not list(slurm.folder.glob(".ray-token-*"))
    numbers = [slurm.state(job)["JobId"] for job in jobs]
    assert not [path for number in numbers for path in Path("/tmp").glob(f"ray-{number}-*")]


def submitted(slurm, study: object, storage: Path, *options: object) -> str:
    """Send a study with `submit --slurm` to both nodes, and return the job's number."""
    sbatch = "--nodes=2 --cpus-per-task=1 --gpus-per-node=0 --time=30 --output=%A_%a.txt"
    command = (sys.executable, "-m", "sensitivity.cli.main", "submit", study, "--storage", storage, "--slurm", sbatch)
    return json.loads(slurm.run(*command, *options, "--json"))["id"]


def test_a_study_over_two_nodes_equals_a_local_run_and_ends_in_silence(slurm, held, tmp_path, record):
    study = tmp_path / "plain.toml"
    study.write_text(BATCH)
    began = time.monotonic()
    output = ended(slurm, held, job := submitted(slurm, study, tmp_path / "studies"), "COMPLETED")
    seconds = time.monotonic() - began
    assert not TROUBLE.search(output), output
    assert output.count("Ray runtime started") == 2
    assert slurm.state(job)["NumNodes"] == "2"
    check_nothing_left(slurm, job)
    there = read_study(place(str(tmp_path / "studies/plain")))
    held.check_equal(there, held.here(study, tmp_path / "here"))
    # Two packs at a time: the study did not begin before both nodes were there.
    packs = there.runs.groupby("pack_id").agg(start=("started_at", "max"), end=("finished_at", "max"))
    at_once = [int(((packs["start"] <= moment) & (packs["end"] > moment)).sum()) for moment in packs["start"]]
    assert max(at_once) == 2
    record(
        f"{len(there.runs)} runs of SGD and K-FAC over two nodes, sent by `submit --slurm`: every loss, accuracy and "
        f"curve equal, bit for bit, to a local run's, and no line of srun's in the output ({seconds:.0f} s with Ray's "
        "start on both)"
    )


def test_a_requeued_job_goes_on_and_its_gpus_are_rays(slurm, held, tmp_path, record):
    study, directory = held.own_study(tmp_path, "requeued"), place(str(tmp_path / "studies/requeued"))
    sent = ("--nodes=2", "--cpus-per-task=1", f"--gpus-per-node={GPUS}", "--time=60", SCRIPT, study)
    job = slurm.submit(*sent, tmp_path / "studies")
    all_begun(held, slurm, job, tmp_path, 2)
    port = 20_000 + int(job) % 5000
    host = re.search(r"--address='([0-9.]+):", said(slurm, job))[1]
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(slurm.folder / f".ray-token-{job}")}
    command = [Path(sys.executable).with_name("ray"), "status", f"--address={host}:{port}"]
    status = subprocess.run(
        command, env={**slurm.env, **token}, capture_output=True, text=True, timeout=120, check=True
    ).stdout
    assert f"/{2 * GPUS}.0 GPU" in status, status
    kept = read_study(directory)
    assert f'"job": "slurm-{job}"' in directory.read(LOCK).decode()

    slurm.run("scontrol", "requeue", job)
    held.wait(lambda: slurm.state(job)["JobState"] == "PENDING", lambda: said(slurm, job))
    for path in (tmp_path / "began").iterdir():
        path.unlink()
    (tmp_path / "hold").unlink()
    slurm.run("scontrol", "update", f"JobId={job}", "StartTime=now")  # SLURM waits for two minutes by itself
    output = ended(slurm, held, job, "COMPLETED")
    assert slurm.state(job)["Restarts"] == "1"
    assert output.count("requeued: 8 runs") == 2, "the second part is written behind the first"
    found = read_study(directory)
    held.check_equal(found, held.here(study, tmp_path / "here"))
    held.check_kept(kept, found)
    check_nothing_left(slurm, job)
    record(
        f"`scontrol requeue` after {len(kept.runs[kept.runs['status'] == 'completed'])} of 8 runs: the job went on "
        f"and finished, no reported run done again, the final table equal to a local run's; with `--gpus-per-node="
        f"{GPUS}` Ray had {2 * GPUS} GPUs (pretended ones)"
    )


def test_a_time_limit_stops_the_study_in_time_and_a_second_job_finishes_it(slurm, held, tmp_path, record):
    study, directory = held.own_study(tmp_path, "limited"), place(str(tmp_path / "studies/limited"))
    sent = ("--nodes=2", "--cpus-per-task=1", "--gpus-per-node=0", SCRIPT, study, tmp_path / "studies")
    job = slurm.submit("--time=5", "--signal=B:TERM@90", *sent)
    all_begun(held, slurm, job, tmp_path, 2)
    output = ended(slurm, held, job, "FAILED")  # and not TIMEOUT: it ended by itself, within the grace
    assert "stopped; every reported result is kept" in output, output
    assert f"To go on in a new allocation: scontrol requeue {job}" in output
    assert slurm.state(job)["ExitCode"] == "130:0"
    assert "srun:" not in output
    assert "Traceback" not in output
    assert not directory.exists(LOCK)
    check_nothing_left(slurm, job)
    kept = read_study(directory)
    (tmp_path / "hold").unlink()
    output = ended(slurm, held, slurm.submit("--time=30", *sent), "COMPLETED")
    assert not TROUBLE.search(output), output
    found = read_study(directory)
    held.check_equal(found, held.here(study, tmp_path / "here"))
    held.check_kept(kept, found)
    record(
        "a time limit of five minutes in mid-study, `--signal=B:TERM@90`: the study stopped by itself with exit code "
        "130 and its lock released, and the same job sent again finished it, equal to a local run"
    )


def test_an_array_of_studies_of_which_one_is_cancelled(slurm, held, tmp_path, record):
    studies = [held.own_study(tmp_path / name, name) for name in ("first", "second")]
    directories = [place(str(tmp_path / "studies" / name)) for name in ("first", "second")]
    sent = ("--nodes=1", "--cpus-per-task=1", "--time=60", without_gpus(tmp_path))
    array = slurm.submit("--array=0-1", *sent, *studies, tmp_path / "studies")
    for k, name in enumerate(("first", "second")):
        all_begun(held, slurm, f"{array}_{k}", tmp_path / name, 1)
    kept = [read_study(directory) for directory in directories]
    slurm.run("scancel", f"{array}_0")
    ended(slurm, held, f"{array}_0", "CANCELLED")
    (tmp_path / "second/hold").unlink()
    output = ended(slurm, held, f"{array}_1", "COMPLETED")
    assert not TROUBLE.search(output), output
    assert len(finished_trials(directories[0])) == len(kept[0].runs[kept[0].runs["status"] == "completed"]) == 4
    (tmp_path / "first/hold").unlink()
    again = slurm.submit("--nodes=1", *sent[1:], studies[0], tmp_path / "studies")
    ended(slurm, held, again, "COMPLETED")
    for study, directory, before in zip(studies, directories, kept, strict=True):
        found = read_study(directory)
        held.check_equal(found, held.here(study, study.parent.parent / "here"))
        held.check_kept(before, found)
    record(
        "an array of two studies, both at once; one `scancel`led in mid-study kept its 4 reported runs, did not "
        "disturb the other, and was finished by a job of its own"
    )


def test_a_study_is_settled(slurm, held, tmp_path, record):
    job = submitted(slurm, "quickstart", tmp_path, "--settle")
    output = ended(slurm, held, job, "COMPLETED")
    assert "srun:" not in output
    assert "Traceback" not in output
    ledger = read_ledger(place(str(tmp_path / "quickstart")))
    assert ledger.standing == "settled"
    record(f"`submit --slurm --settle` of the quickstart: every question answered, with {ledger.cost.runs} runs")


def test_a_job_that_is_sent_wrongly_says_so(slurm, held, tmp_path, record):
    script = without_gpus(tmp_path)
    output = ended(slurm, held, slurm.submit("--nodes=1", "--cpus-per-task=1", script, "mine.toml"), "FAILED")
    assert "usage: sbatch" in output
    study = held.own_study(tmp_path, "refused")
    (tmp_path / "hold").unlink()
    directory = place(str(tmp_path / "studies/refused"))
    directory.write("study.json", b"{}")
    sent = ("--nodes=2", "--cpus-per-task=1", "--time=10", script, study, tmp_path / "studies")
    output = ended(slurm, held, job := slurm.submit(*sent), "FAILED")
    assert slurm.state(job)["ExitCode"] == "2:0"
    assert "Traceback" not in output
    assert "srun:" not in output
    check_nothing_left(slurm, job)
    record("arguments that are missing, and a study that is refused: exit code 2 and its message, Ray ended in silence")
    assert os.environ.get("SLURM_JOB_ID") is None
