"""Kills at random moments: of the command, of workers, of nodes. Running the same command again finishes the study.

Every kill is a SIGKILL, at a moment drawn from a seeded generator; machines differ in what happens to run then. The
final table must be that of an undisturbed run to the last bit, with nothing that had been reported done again.
`pytest tests/faults --faults 200` makes more kills.
"""

from __future__ import annotations

import contextlib
import datetime
import platform
import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest
import torch

from sensitivity.execution.environment import ray_environment
from sensitivity.execution.pack_scheduler import PackScheduler
from sensitivity.execution.prepare import prepare
from sensitivity.execution.searches import Searches
from sensitivity.execution.worker import run_pack
from sensitivity.store.checkpoints import CHECKPOINTS
from sensitivity.store.directory import place
from sensitivity.store.manifest import write_manifest
from sensitivity.store.reader import read_study
from sensitivity.store.writer import append, write_plan
from sensitivity.study.provenance import code_version
from sensitivity.study.trials import group

STUDY = """
name = "faults"
batch_sizes = [4, 64]
seeds = 2
[problem]
dataset = "noisy_quadratic"
model = "quadratic"
loss = "quadratic"
[budget]
steps = 200
[evaluation]
every_steps = 20
train_examples = 1
[execution]
pack_size = 1
checkpoint_minutes = 0.001
[optimizers.sgd]
kind = "sgd"
lr = [0.25, 1e3]
momentum = 0.5
[optimizers.kfac]
kind = "newton"
lr = [0.01]
damping = 0.1
[optimizers.searched]
kind = "newton"
design = "tpe"
samples = 4
lr = { log = [1e-3, 1.0] }
damping = { log = [1e-2, 1.0] }
[search]
objective = "test_loss"
round = 2
confirm = 1
"""
RUNS = 2 * (2 * (2 + 1 + 4) + 3)
KINDS = ("command", "worker", "worker", "node")
"""Of so many kills, drawn in another order each time; the suite makes them once."""
SEED = 7
_LONGEST_S = {"command": 4.0, "node": 4.0, "worker": 1.0}
"""From one kill, or for a worker from something new that was written, to the next."""
_HANGS_S = 900.0
"""No command takes so long on the slowest machine, unless it hangs."""


class Study:
    """The real command on the study, again and again, in one folder."""

    def __init__(self, folder: Path, address: str | None) -> None:
        folder.mkdir()
        self._folder, self._address, self._log = folder, address, folder / "log"
        self.file.write_text(STUDY)
        self._process: subprocess.Popen[str] | None = None
        self._reported: dict[str, bytes] = {}
        self.starts = 0

    @property
    def file(self) -> Path:
        return self._folder / "faults.toml"

    @property
    def directory(self) -> Path:
        return self._folder / "studies/faults"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        where = ["--address", self._address] if self._address else ["--workers", "1"]
        storage = str(self._folder / "studies")
        command = [sys.executable, "-m", "sensitivity.cli.main", "run", str(self.file), "--storage", storage, *where]
        with self._log.open("w") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, text=True)
        self.starts += 1

    @property
    def ended(self) -> bool:
        """Whether the command has ended by itself, which it does well or says why."""
        assert self._process is not None
        if self._process.poll() is None:
            return False
        assert self._process.returncode == 0, self.said()
        return True

    def said(self) -> str:
        return self._log.read_text()

    def kill(self) -> None:
        """Kill the command, and remember what it had reported."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()
        self._reported |= {path.name: path.read_bytes() for path in self.directory.glob("runs/*.parquet")}

    def finish(self) -> None:
        """Run to the end, as often as it takes: a run that was given up waits for the next command."""
        for _ in range(5):
            assert self._process is not None
            assert self._process.wait(timeout=_HANGS_S) == 0, self.said()
            if set(self.runs()["status"]) <= {"completed", "diverged"}:
                return
            self.start()
        pytest.fail(f"runs are given up again and again: {self.said()}")

    def written(self) -> set[tuple[str, float]]:
        """Return the results and checkpoints that are there, with their times."""
        found = set()
        for path in self.directory.glob("[cr]*/*.[cp]*"):
            with contextlib.suppress(FileNotFoundError):  # removed meanwhile
                found.add((path.name, path.stat().st_mtime))
        return found

    def runs(self) -> pd.DataFrame:
        return read_study(place(str(self.directory))).runs

    def check(self) -> None:
        """Check that nothing was lost, done twice, or left behind."""
        for name, content in self._reported.items():
            assert (self.directory / "runs" / name).read_bytes() == content
        rows = pd.concat(pd.read_parquet(path) for path in self.directory.glob("runs/*.parquet"))
        final = rows[rows["status"].isin(["completed", "diverged"])]
        assert final["trial_id"].is_unique, "a reported result was computed again"
        assert len(final) == len(self.runs()) == RUNS
        assert not list((self.directory / CHECKPOINTS).glob("*")), "checkpoints of finished packs are left"
        assert not list(self.directory.rglob("*.tmp")), "half-written files are left"
        assert not (self.directory / "writer.lock").exists()


def results(study: Study) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return what a run of the study yields, clock times and places aside; searches take turns as time has it."""
    kept = read_study(place(str(study.directory)))
    told = ["status", "steps", "message", "initial_train_loss", "train_loss", "test_loss", "flops"]
    runs = kept.runs[["trial_id", "optimizer", "batch_size", "seed", "param.lr", "confirmation", *told]]
    return runs.sort_values("trial_id", ignore_index=True), kept.curves[
        ["trial_id", "step", "lr", "train_loss", "test_loss"]
    ]


@pytest.fixture(scope="module")
def cluster():
    """Two nodes of one core on this machine; packs run on either."""
    with pytest.MonkeyPatch.context() as patch, ray_environment(local=True):
        patch.setenv("RAY_AUTH_MODE", "disabled")  # read when Ray is imported: the same in every test that does
        from ray.cluster_utils import Cluster

        small = {"num_cpus": 1, "object_store_memory": 100 * 2**20, "include_dashboard": False}
        cluster = Cluster(initialize_head=True, head_node_args=small)
        cluster.add_node(num_cpus=1, object_store_memory=100 * 2**20)
        yield cluster
        cluster.shutdown()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """What the study yields where nothing can go wrong: in this process, without Ray."""
    study = Study(tmp_path_factory.mktemp("undisturbed") / "study", None)
    plan, directory = prepare(str(study.file)), place(str(study.directory))
    write_manifest(directory, plan.spec, plan.source)
    known, threads = list(plan.trials), torch.get_num_threads()

    def cut(trials):
        known.extend(trials)
        return group(trials, 1)

    with Searches(plan.spec, plan.source, plan.trials) as searches:
        packs = plan.packs({}, finished=frozenset(), workers=1)
        scheduler = PackScheduler(packs, workers=1, source=searches, cut=cut)
        while not scheduler.done:
            if (pack := scheduler.take()) is not None:
                result = run_pack(pack, plan.spec.execution, plan.origin, place(str(study.directory / "none")))
                append(directory, result, spec_hash="", code_version="")
                scheduler.finish(pack, result)
    torch.set_num_threads(threads)
    write_plan(directory, known)
    study.check()
    return results(study)


def raylet(node) -> int:
    (info,) = node.all_processes["raylet"]
    return info.process.pid


def strike(kind: str, study: Study, cluster, processes, draw: random.Random) -> bool:
    """Kill one thing of a kind; False if there is none just now."""
    nodes = [cluster.head_node, *cluster.worker_nodes]

    def workers() -> list[int]:
        return [pid for node in nodes for pid in processes.training_workers(raylet(node))]

    if kind == "command":
        study.kill()
    elif kind == "worker":
        if not (there := workers()):
            return False
        processes.kill(draw.choice(there))
    else:
        (node,) = cluster.worker_nodes
        processes.kill(raylet(node))
        cluster.remove_node(node, allow_graceful=False)
        cluster.add_node(num_cpus=1, object_store_memory=100 * 2**20)
    return True


def test_kills_at_random_moments_change_nothing(cluster, processes, undisturbed, tmp_path, request):
    wanted = request.config.getoption("--faults")
    draw, kills, studies = random.Random(SEED), Counter(), []
    began = time.monotonic()
    study, kinds = None, []
    while kills.total() < (wanted or len(KINDS)):
        if study is None or study.ended:
            study = Study(tmp_path / f"study{len(studies)}", cluster.address)
            studies.append(study)
            study.start()
            wait_for_work(study)
        kinds = kinds or draw.sample(KINDS, len(KINDS))
        kind = kinds[-1]
        wait_for_moment(kind, study, draw)
        if study.ended or not strike(kind, study, cluster, processes, draw):
            continue
        kills[kinds.pop()] += 1
        if kind == "command":
            study.start()
    for each in studies:
        if not each.ended or set(each.runs()["status"]) - {"completed", "diverged"}:
            each.finish()
        each.check()
        for found, expected in zip(results(each), undisturbed, strict=True):
            pd.testing.assert_frame_equal(found, expected, check_exact=True)
    if wanted:
        record(kills, studies, time.monotonic() - began)


def wait_for_work(study: Study) -> None:
    """Return when a study has written something new, so that however slow the machine, a kill meets it at work."""
    deadline, before = time.monotonic() + _HANGS_S, study.written()
    while study.written() == before and not study.ended:
        assert time.monotonic() < deadline, study.said()
        time.sleep(0.02)


def wait_for_moment(kind: str, study: Study, draw: random.Random) -> None:
    """Return at the moment of the next kill, or when the study has ended."""
    if kind == "worker":
        wait_for_work(study)
    moment = time.monotonic() + draw.uniform(0, _LONGEST_S[kind])
    while time.monotonic() < moment and not study.ended:
        time.sleep(0.01)


def record(kills: Counter[str], studies: list[Study], seconds: float) -> None:
    told = ", ".join(
        f"{count} of {'a' if kind != 'command' else 'the'} {kind}" for kind, count in sorted(kills.items())
    )
    text = f"""# Kills at random moments

`pytest tests/faults --faults {kills.total()}`, {datetime.date.today():%Y-%m-%d}, code {code_version()}, \
{platform.system()}, two Ray nodes of one core on one machine.

{kills.total()} SIGKILLs ({told}), while {len(studies)} studies of {RUNS} runs each were trained with
{sum(study.starts for study in studies)} starts of the command, in {seconds / 60:.0f} minutes. Every final table was
equal to that of an undisturbed run to the last bit; no reported run was done again, none was lost.
"""
    (Path(__file__).parents[2] / "benchmarks/results/faults.md").write_text(text)


def test_a_machine_that_loses_its_ray_finishes_when_run_again(request, processes, undisturbed, tmp_path):
    if not request.config.getoption("--faults"):
        pytest.skip("takes a minute; --faults N runs it")
    study = Study(tmp_path / "study", None)
    study.start()
    wait_for_work(study)
    (ray,) = (pid for pid, title in processes.below(study.pid) if "/raylet/raylet " in title)
    processes.kill(ray)
    assert study._process.wait(timeout=_HANGS_S) == 2
    study.kill()  # has ended already, and what it had reported is remembered
    assert "No reported result is lost: " in study.said()
    assert "Run the same command again to continue" in study.said()
    for noise in ("Traceback", "(raylet)", "state-dump"):
        assert noise not in study.said()
    assert not (study.directory / "writer.lock").exists()
    study.start()
    study.finish()
    study.check()
    for found, expected in zip(results(study), undisturbed, strict=True):
        pd.testing.assert_frame_equal(found, expected, check_exact=True)
