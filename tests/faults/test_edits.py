"""The user's files are edited in mid-run while workers are killed: what was planned is trained, or nothing is.

Slow, and so run by option alone: `pytest -n 0 tests/faults/test_edits.py --faults 10` makes ten kills.
"""

from __future__ import annotations

import random
import runpy
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import torch

from sensitivity.execution.loading import forget_loaded
from sensitivity.execution.prepare import prepare
from sensitivity.execution.worker import run_pack
from sensitivity.store.directory import place
from sensitivity.store.manifest import write_manifest
from sensitivity.store.reader import read_study
from sensitivity.store.writer import append, write_plan
from sensitivity.study.trials import group

own = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[1] / "execution/own_study.py")))
SEED = 11
_HANGS_S = 900.0


def write(folder: Path) -> Path:
    return own.write_study(folder, "edited_own", seeds=4, steps=6000, every=100)


def results(directory: Path) -> pd.DataFrame:
    curves = read_study(place(str(directory))).curves
    return curves.drop(columns="train_seconds")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> pd.DataFrame:
    folder = tmp_path_factory.mktemp("undisturbed")
    plan, directory, threads = prepare(str(write(folder / "own"))), place(str(folder / "mine")), torch.get_num_threads()
    write_manifest(directory, plan.spec, plan.source, plan.origin)
    write_plan(directory, plan.trials)
    for pack in group(plan.trials, 2):
        result = run_pack(pack, plan.spec.execution, plan.origin, place(str(folder / "none")))
        append(directory, result, spec_hash="", code_version="")
    torch.set_num_threads(threads)
    forget_loaded()
    return results(folder / "mine")


class Command:
    """`sensitivity run` on a study of the user's own, in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.study, self.directory, self._log = write(folder), folder / "studies/mine", folder / "log"
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "sensitivity.cli.main", "run", str(self.study), "--workers", "1"]
        with self._log.open("w") as log:
            self.process = subprocess.Popen(
                [*command, "--storage", str(self.directory.parent)],
                cwd=self.study.parent,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    @property
    def ended(self) -> bool:
        return self.process.poll() is not None

    def said(self) -> str:
        return self._log.read_text()

    def wait(self) -> int:
        return self.process.wait(timeout=_HANGS_S)

    def wait_for_work(self) -> None:
        """Return when something new has been written, or the command has ended."""

        def written() -> set[tuple[str, int]]:
            paths = [*self.directory.glob("runs/*.parquet"), *self.directory.glob("checkpoints/*")]
            return {(path.name, path.stat().st_mtime_ns) for path in paths if path.exists()}

        deadline, before = time.monotonic() + _HANGS_S, written()
        while written() == before and not self.ended:
            assert time.monotonic() < deadline, self.said()
            time.sleep(0.02)

    def edit_and_kill(self, processes, *, data: bool) -> int:
        """Save another network, and other data if asked to, under a running command; return how many workers died."""
        module = self.study.with_name("edited_own.py")
        module.write_text(module.read_text().replace("nn.Tanh()", "nn.ReLU()"))
        if data:
            own.write_data(self.study.parent, 1)
        workers = processes.training_workers(self.process.pid)
        for worker in workers:
            processes.kill(worker)
        return len(workers)

    def finish(self) -> bool:
        """Wait for the end and restore all files; return whether it trained to the end, or else start it again."""
        code = self.wait()
        write(self.study.parent)
        if code == 0:
            return True
        assert code == 2, self.said()
        assert "data, train inputs: other values, float32 [80, 5] as before" in self.said()
        assert "Traceback" not in self.said()
        self.start()
        return False


def test_what_was_planned_is_trained_or_nothing_is(processes, tmp_path, request):
    if (wanted := request.config.getoption("--faults")) is None:
        pytest.skip("slow: run with --faults N")
    undisturbed = request.getfixturevalue("undisturbed")  # here, as it trains
    draw, kills, refusals = random.Random(SEED), Counter(), 0
    command = None
    while kills.total() < wanted or command is not None:
        if command is None:
            command = Command(tmp_path / f"study{kills.total()}")
        command.wait_for_work()
        data = kills.total() < wanted and draw.random() < 0.5
        if kills.total() < wanted and not command.ended:
            kills["data" if data else "code"] += command.edit_and_kill(processes, data=data)
        if data or command.ended or kills.total() >= wanted:
            if command.finish():
                pd.testing.assert_frame_equal(results(command.directory), undisturbed, check_exact=True)
                command = None
            else:
                refusals += 1
    print(f"{dict(kills)} workers killed while files were edited; {refusals} commands refused other data")  # noqa: T201
