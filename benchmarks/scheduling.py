"""Cost of the driver: packs per second and memory, over thousands of trivial packs, compared with plain Ray Tune.

    python benchmarks/scheduling.py              prints, and writes benchmarks/results/scheduling.md
    python benchmarks/scheduling.py --packs 200  fewer packs

A pack here is one trial of one step, so the measured work is the bookkeeping of Tune and of this package, and two
Parquet parts per pack. Both halves of the packs are timed, to show whether the driver slows down with their number.
Plain Tune, in its fastest mode with reused actors, runs as many trials twice: with a function that trains the same
packs and keeps nothing, and with one that returns at once.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import os
import platform
import resource
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sensitivity.execution.environment import ray_environment

if TYPE_CHECKING:
    from sensitivity.execution.prepare import Plan
    from sensitivity.study.trials import Pack

STUDY = """
name = "scheduling"
batch_sizes = [64]
seeds = {packs}
[problem]
train_subset = 64
test_subset = 16
[budget]
steps = 1
[execution]
pack_size = 1
[optimizers.sgd]
kind = "sgd"
lr = [0.1]
"""
RESULT = Path(__file__).parent / "results" / "scheduling.md"
WORKERS = 2


@dataclass(frozen=True)
class Measured:
    """Measurements of one way to run the packs."""

    name: str
    packs: int
    first_half_s: float
    second_half_s: float
    memory_before_mb: float
    """Peak resident memory of the driver before the first pack."""
    memory_half_mb: float
    """Peak resident memory when half of the packs are done."""
    memory_mb: float
    """Peak resident memory at the end."""

    def row(self) -> str:
        """Return a table row."""
        half = self.packs / 2
        cells = (
            self.name,
            f"{self.packs:,}",
            f"{self.packs / (self.first_half_s + self.second_half_s):.1f}",
            f"{half / self.first_half_s:.1f}",
            f"{half / self.second_half_s:.1f}",
            f"{self.memory_before_mb:.0f}",
            f"{self.memory_half_mb:.0f}",
            f"{self.memory_mb:.0f}",
        )
        return f"| {' | '.join(cells)} |"


class Laps:
    """Records when the first pack, half of the packs, and all packs were done."""

    def __init__(self, packs: int) -> None:
        self._at = {1: 0.0, packs // 2: 0.0, packs: 0.0}
        self._memory = dict(self._at)
        self._packs = packs

    def done(self, count: int) -> None:
        """Record that `count` packs are done; results are written by several threads, so a count may be skipped."""
        for lap, at in self._at.items():
            if not at and count >= lap:
                self._at[lap], self._memory[lap] = time.perf_counter(), peak_mb()

    def measured(self, name: str) -> Measured:
        """Return the measurements."""
        first, half, last = self._at.values()
        return Measured(name, self._packs, half - first, last - half, *self._memory.values())


def peak_mb() -> float:
    """Return this process's peak resident memory so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def ours(packs: int) -> Measured:
    """Run the packs as a study."""
    import contextlib

    from sensitivity.execution.launch import launch
    from sensitivity.execution.prepare import prepare
    from sensitivity.execution.study_run import Machines
    from sensitivity.store.directory import place

    laps = Laps(packs)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "scheduling.toml"
        path.write_text(STUDY.format(packs=packs))
        outcome = launch(
            prepare(str(path)),
            place(f"{folder}/studies/scheduling"),
            Machines(workers=WORKERS),
            show=lambda progress: contextlib.nullcontext(lambda: laps.done(progress.done)),
        )
    if outcome.statuses != {"completed": packs}:
        raise SystemExit(f"not all packs were run: {outcome.statuses}")
    return laps.measured("sensitivity")


def the_same_training(packs: int) -> Measured:
    """Train the same packs with Tune alone, without storing anything."""
    from sensitivity.execution.prepare import prepare

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "scheduling.toml"
        path.write_text(STUDY.format(packs=packs))
        plan = prepare(str(path))
        return plain_tune(packs, plan, f"{folder}/nothing")


def plain_tune(packs: int, plan: Plan | None = None, nowhere: str = "") -> Measured:
    """Run as many trials with Tune alone: the packs of a plan, or trials that do nothing."""
    with ray_environment(local=True), tempfile.TemporaryDirectory() as folder:
        import ray
        from ray import tune

        from sensitivity.execution.worker import run_pack
        from sensitivity.store.directory import place

        laps = Laps(packs)
        cut = plan.packs({}, finished=frozenset(), workers=WORKERS) if plan else ()
        execution, origin = (plan.spec.execution, plan.origin) if plan else (None, None)

        def work(config: dict[str, int], cut: Sequence[Pack]) -> dict[str, float]:
            if execution is not None and origin is not None:
                run_pack(cut[config["index"]], execution, origin, place(nowhere))
            return {"loss": float(config["index"])}

        class Count(tune.Callback):
            completed = 0

            def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
                self.completed += 1
                laps.done(self.completed)

        ray.init(
            address="local", num_cpus=WORKERS, include_dashboard=False, log_to_driver=False,
            logging_level=logging.ERROR, object_store_memory=100 * 2**20,
        )  # fmt: skip
        tune.Tuner(
            tune.with_resources(tune.with_parameters(work, cut=cut), {"cpu": 1}),
            param_space={"index": tune.grid_search(list(range(packs)))},
            tune_config=tune.TuneConfig(max_concurrent_trials=WORKERS, reuse_actors=True),
            run_config=tune.RunConfig(name="plain", storage_path=folder, verbose=0, callbacks=[Count()]),
        ).fit()
        ray.shutdown()
    return laps.measured("plain Ray Tune, the same training" if plan else "plain Ray Tune, nothing to do")


def requests_a_pack(packs: int = 20) -> float:
    """Return the number of requests to an S3 server that storing a pack needs."""
    import logging
    import urllib.request

    from moto.server import ThreadedMotoServer

    from sensitivity.execution.prepare import prepare
    from sensitivity.execution.worker import run_pack
    from sensitivity.store.directory import place
    from sensitivity.store.lock import WriterLock
    from sensitivity.store.manifest import write_manifest
    from sensitivity.store.writer import append, write_plan

    asked: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: asked.append(record.getMessage())  # type: ignore[method-assign]
    log = logging.getLogger("werkzeug")
    log.setLevel(logging.INFO)
    log.addHandler(handler)
    log.propagate = False
    os.environ |= {"AWS_ACCESS_KEY_ID": "none", "AWS_SECRET_ACCESS_KEY": "none", "AWS_EC2_METADATA_DISABLED": "true"}
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    _, port = server.get_host_and_port()
    urllib.request.urlopen(urllib.request.Request(f"http://127.0.0.1:{port}/bucket", method="PUT")).close()
    directory = place(f"s3://bucket/scheduling?endpoint_override=127.0.0.1:{port}&scheme=http&region=us-east-1")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "scheduling.toml"
        path.write_text(STUDY.format(packs=packs))
        plan = prepare(str(path))
        cut = plan.packs({}, finished=frozenset(), workers=WORKERS)
        results = [run_pack(pack, plan.spec.execution, plan.origin, place(f"{folder}/nothing")) for pack in cut]
        with WriterLock(directory) as lock:
            spec_hash = write_manifest(directory, plan.spec, plan.source).spec_hash
            write_plan(directory, plan.trials)
            before = len(asked)
            for result in results:
                lock.require()
                append(directory, result, spec_hash=spec_hash, code_version="")
            counted = len(asked) - before
    server.stop()
    return counted / packs


def alone(run: str, packs: int) -> Measured:
    """Run one of the ways in a process of its own, so that its memory is measured separately."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply({"ours": ours, "same": the_same_training, "plain": plain_tune}[run], (packs,))


def main() -> None:
    """Measure all ways, print, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--packs", type=int, default=2000)
    packs = parser.parse_args().packs
    began = os.getloadavg()[0]
    rows = [alone(run, packs).row() for run in ("ours", "same", "plain")]
    requests = requests_a_pack()
    import ray

    lines = [
        "# Scheduling",
        "",
        f"`python benchmarks/scheduling.py --packs {packs}`: {os.cpu_count()} cores ({platform.machine()}), {WORKERS} "
        f"workers, Ray {ray.__version__}; load {began:.1f} before it. Times count from the first result. Memory is the "
        "driver's peak so far; what it gains with each pack is what Tune keeps of a trial. A study also stores two "
        "files a pack, by threads beside Tune's event loop, before the pack counts. On S3 that takes "
        f"{requests:.1f} requests a pack, one after the other (a heartbeat's may be among them).",
        "",
        "| | packs | packs/s | first half | second half | MB at the first | MB at half | MB at the end |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
        *rows,
    ]
    print("\n".join(lines))
    RESULT.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
