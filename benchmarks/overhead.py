"""Ray's share of a study's wall-clock time: what remains after training, measuring and preparation.

    python benchmarks/overhead.py [STUDY]      (default: quickstart)

Runs the study on this machine as `sensitivity run` does, and records when packs were training. Ray's share is its start
and end, and the time in which a worker waits although packs are left: the start of workers, and the time from one
pack's results to the next pack. It excludes what any executor would need: importing this package, measuring pack sizes,
and workers that are idle because no pack is left.
"""

from __future__ import annotations

import argparse
import contextlib
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from sensitivity.execution import study_run
from sensitivity.execution.costs import measure_here
from sensitivity.execution.launch import launch
from sensitivity.execution.prepare import available_workers, prepare
from sensitivity.execution.progress import Progress
from sensitivity.store.directory import place
from sensitivity.store.reader import read_study


@dataclass(frozen=True)
class Span:
    """Training time of a pack, in seconds since the epoch."""

    began: float
    ended: float


def pack_spans(uri: str) -> list[Span]:
    """Return when each pack trained: from its start, for the sum of its runs' shares."""
    runs = read_study(place(uri)).runs
    runs["busy"] = runs["train_seconds"] + runs["eval_seconds"]
    packs = runs.groupby("pack_id").agg(began=("started_at", "first"), busy=("busy", "sum"))
    return [
        Span(began.timestamp(), began.timestamp() + busy)
        for began, busy in zip(packs["began"], packs["busy"], strict=True)
    ]


def waiting_seconds(spans: Sequence[Span], workers: int, since: float) -> float:
    """Return the mean over workers of the seconds without a pack, from `since` until the last pack starts."""
    last = max(span.began for span in spans)
    busy = sum(min(span.ended, last) - span.began for span in spans)
    return (last - since) - busy / workers


def main() -> None:
    """Run a study and print its time by cause."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("study", nargs="?", default="quickstart")
    study = parser.parse_args().study
    began = time.time()
    plan = prepare(study)
    workers = available_workers(plan.spec.execution.threads)
    prepared = time.time()
    marks: dict[str, float] = {}

    def measure(*arguments: object, **options: object) -> object:
        marks["ray started"] = time.time()
        costs = measure_here(*arguments, **options)  # type: ignore[arg-type]
        marks["measured"] = time.time()
        return costs

    @contextlib.contextmanager
    def show(progress: Progress) -> Iterator[Callable[[], None]]:
        yield lambda: None

    study_run.measure_here = measure  # type: ignore[assignment, attr-defined]
    with tempfile.TemporaryDirectory() as folder:
        directory = place(folder).child(plan.spec.name)
        outcome = launch(plan, directory, study_run.Machines(workers=workers), show=show)
        ended = time.time()
        spans = pack_spans(directory.uri)
    start = marks["ray started"] - prepared
    waits = waiting_seconds(spans, workers, marks["measured"])
    first = sorted(span.began for span in spans)[:workers]
    starting = sum(first) / len(first) - marks["measured"]
    end = ended - max(span.ended for span in spans)
    print(f"{study}: {outcome.planned} runs in {len(spans)} packs, {workers} workers, {ended - began:.1f} s in all")
    print(f"  {prepared - began:6.1f} s  preparing: the study, its data and model")
    print(f"  {marks['measured'] - marks['ray started']:6.1f} s  measuring pack sizes")
    print(
        f"  {sum(span.ended - span.began for span in spans) / workers:6.1f} s  training and evaluating, a worker's mean"
    )
    print(f"  {start:6.1f} s  Ray: import and start")
    print(f"  {starting:6.1f} s  Ray: workers starting, a worker's mean")
    print(f"  {waits - starting:6.1f} s  Ray: waits between packs, a worker's mean")
    print(f"  {end:6.1f} s  Ray: end")
    print(f"Ray's share: {start + waits + end:.1f} s")


if __name__ == "__main__":
    main()
