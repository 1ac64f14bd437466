"""``RecordedRun``: a run of a user's own training loop. Any number of processes can record at the same time.

Each process writes only files of its own: a log (``logs``) during the run, and one part of curves and one of runs at
its end. No locks are needed, and no file is written by two processes.
"""

from __future__ import annotations

import math
import socket
import time
import traceback as tracebacks
import uuid
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from sensitivity.store.directory import Place, patiently
from sensitivity.store.logs import Log, curve_table, run_table
from sensitivity.store.schema import CURVES, OBSERVED_PART, RUNS
from sensitivity.store.writer import parquet_bytes
from sensitivity.study.errors import UserError
from sensitivity.study.metrics import METRICS
from sensitivity.study.nearest import nearest
from sensitivity.study.observed import OBSERVED, observed_ids
from sensitivity.study.plain import plain
from sensitivity.study.redaction import redacted
from sensitivity.study.results import Status

_TIMES = ("epoch", "lr", "train_seconds", "flops")
_LOSSES = ("train_loss", "test_loss")


class RecordedRun:
    """A run that is being recorded; a context manager.

    Leaving the block ends the run. Its status is *completed*; *diverged* if a logged loss is not finite; *failed* if
    the block raised an exception, whose message and traceback are recorded; or *interrupted* if the block was stopped
    (Ctrl-C, ``sys.exit``) or the process was killed. An interrupted run is replaced by the next one with the same
    optimizer, setting, batch size and seed.
    """

    def __init__(
        self,
        directory: Place,
        *,
        optimizer: str,
        batch_size: int,
        seed: int,
        hyperparameters: Mapping[str, float],
        kind: str = OBSERVED,
        spec_hash: str | None = None,
    ) -> None:
        self._directory = directory
        self._evaluations: list[dict[str, Any]] = []
        self._ended = False
        self._started = time.monotonic()
        trial_id, cell_id = observed_ids(optimizer, hyperparameters, batch_size, seed)
        self.id = trial_id
        """Id of the run: equal for runs with the same optimizer, setting, batch size and seed."""
        self._header = {
            "trial_id": trial_id,
            "cell_id": cell_id,
            "optimizer": optimizer,
            "kind": kind,
            "batch_size": batch_size,
            "seed": seed,
            "confirmation": False,
            "hyperparameters": dict(hyperparameters),
            "host": socket.gethostname(),
            "started_at": time.time(),
            "spec_hash": spec_hash,
        }
        self._name = f"{trial_id}-{uuid.uuid4().hex[:8]}"
        self._log = Log(directory, self._name)
        self._log.write(self._header)

    def log(self, *, step: int, **values: float) -> None:
        """Record an evaluation; it is stored once this returns.

        Args:
            step: number of optimizer steps so far; 0 is the untrained network.
            values: metrics such as train_loss or test_accuracy (accuracies as fractions); and, if known, epoch, lr,
                flops, and train_seconds, by default the time since the start of the run.

        Raises:
            UserError: a name is unknown, a value is impossible, or the run has ended.
            StorageError: the place can't be written.
        """
        if self._ended:
            raise UserError("this run has ended; record a new one")
        given = {name: _number(name, value) for name, value in plain(values).items()}
        if isinstance(step, bool) or not isinstance(plain(step), int) or plain(step) < 0:
            raise UserError(f"step: must be the number of steps so far, an integer >= 0; got {step!r}")
        if not given.keys() & METRICS.keys():
            raise UserError(f"no metric: log at least one of {', '.join(METRICS)}")
        seconds = {} if "train_seconds" in given else {"train_seconds": time.monotonic() - self._started}
        evaluation = {"step": plain(step), **given, **seconds}
        self._log.write(evaluation)
        self._evaluations.append(evaluation)

    def finish(self, status: str = "completed", message: str = "") -> None:
        """End the run explicitly, before or without the end of a ``with`` block.

        Args:
            status: completed, stopped (early, on purpose), failed or diverged.
            message: reason for the status.

        Raises:
            UserError: the status is unknown.
            StorageError: the place can't be written.
        """
        known = (Status.COMPLETED, Status.STOPPED, Status.FAILED, Status.DIVERGED)
        if status not in known:
            raise UserError(f"status: unknown {status!r}; allowed: {', '.join(known)}")
        self._end(Status(status), message)

    def __enter__(self) -> RecordedRun:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._ended:
            return
        if error is None:
            self._end(Status.COMPLETED, "")
        elif isinstance(error, Exception):
            text = "".join(tracebacks.format_exception(error))
            self._end(Status.FAILED, f"{type(error).__name__}: {error}", text)
        else:
            self._end(Status.INTERRUPTED, f"stopped by {type(error).__name__}")

    def _end(self, status: Status, message: str, traceback: str = "") -> None:
        if self._ended:
            return
        not_finite = [e for e in self._evaluations if any(not math.isfinite(e.get(name, 0.0)) for name in _LOSSES)]
        if status == Status.COMPLETED and not_finite:
            status, message = Status.DIVERGED, f"a loss at step {not_finite[0]['step']} is not finite"
        elif status in (Status.COMPLETED, Status.STOPPED) and not self._evaluations:
            status, message = Status.FAILED, "it measured nothing"
        row = run_table(
            self._header,
            self._evaluations,
            status=status,
            message=redacted(message)[:10_000],
            traceback=redacted(traceback)[-50_000:],
        )
        name = f"{OBSERVED_PART}{self._name}.parquet"
        curves = parquet_bytes(curve_table(self.id, self._evaluations))
        patiently(lambda: self._directory.write(f"{CURVES}/{name}", curves))
        patiently(lambda: self._directory.write(f"{RUNS}/{name}", parquet_bytes(row)))
        self._ended = True
        self._log.delete()


def _number(name: str, value: Any) -> float:
    if name not in METRICS and name not in _TIMES:
        allowed = (*METRICS, *_TIMES)
        similar = nearest(name, allowed)
        hint = f" (did you mean {similar!r}?)" if similar else ""
        raise UserError(f"unknown {name!r}{hint}; allowed: {', '.join(allowed)}")
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise UserError(f"{name}: must be a number; got {value!r}")
    fraction = name in METRICS and METRICS[name].percent
    if fraction and math.isfinite(value) and not 0 <= value <= 1:
        raise UserError(f"{name}: an accuracy is a fraction from 0 to 1; got {value:g}. Write 95% as 0.95")
    if name in _TIMES and not value >= 0:
        raise UserError(f"{name}: must be a number >= 0; got {value:g}")
    return float(value) if name in METRICS or math.isfinite(value) else math.nan
