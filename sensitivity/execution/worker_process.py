"""A worker process: a Ray actor that trains packs one after another and runs other functions."""

from __future__ import annotations

import math
import os
import platform
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any

from sensitivity.execution.loading import ChangedError
from sensitivity.execution.worker import run_pack
from sensitivity.store.directory import Place
from sensitivity.study.execution import ExecutionSpec
from sensitivity.study.origin import Origin
from sensitivity.study.trials import Pack
from sensitivity.training.device_errors import DeviceLostError
from sensitivity.training.memory import release_unused, return_freed_memory

_REPORT_EVERY_S = 1.0
_LAST_REPORT_S = 10.0
"""How long a thread that has reported its last may take to end."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """What all packs of a run have in common."""

    execution: ExecutionSpec
    origin: Origin
    directory: Place
    """Of the study, for checkpoints."""


class PackWorker:
    """The actor of a Tune trial. It does not import Tune, which would take a third of the start-up time.

    A trial begins with `begin`; then Tune calls `train` again and again, and each time gets a report: of progress, and
    at last of the results. The pack trains in a thread of its own, so that `train` can return while it goes on.
    """

    def __init__(self) -> None:
        self._reports: SimpleQueue[dict[str, Any] | BaseException] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._ended = True

    def begin(self, pack: Pack, job: Job) -> None:
        """Start training a pack."""
        self._reports, self._ended = SimpleQueue(), False
        self._thread = threading.Thread(target=_train, args=(pack, job, self._reports.put), name="pack", daemon=True)
        self._thread.start()

    def train(self) -> dict[str, Any]:
        """Return the next report.

        Raises:
            BaseException: what the training raised that is no result of a run.
        """
        report = self._reports.get()
        if isinstance(report, BaseException):
            self._ended = True
            raise report
        self._ended = "fraction" not in report
        return {"done": self._ended, "pid": os.getpid(), **report}

    def get_auto_filled_metrics(self, **_: Any) -> dict[str, Any]:
        """Return Tune's metrics for a trial that has reported nothing."""
        return {"pid": os.getpid()}

    def stop(self) -> None:
        """End the trial, and this process too if training has not ended, as nothing else stops it."""
        if self._thread is not None:
            if self._ended:
                self._thread.join(_LAST_REPORT_S)
            if self._thread.is_alive():
                os._exit(0)
        self._thread = None

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Run another function than training."""
        return function(*arguments)

    def rest(self) -> None:
        """Release unused memory to the system and the accelerator, as the next run may be far off."""
        release_unused()
        return_freed_memory()


def _train(pack: Pack, job: Job, report: Callable[[dict[str, Any] | BaseException], None]) -> None:
    """Train a pack, and report its progress now and then, and what came of it; where the device is lost, end."""
    last = -math.inf

    def on_progress(fraction: float) -> None:
        nonlocal last
        if time.monotonic() - last >= _REPORT_EVERY_S:
            last = time.monotonic()
            if fraction:  # first of all where a checkpoint has left off, for that is more than was known
                report({"fraction": fraction})

    try:
        report({"result": run_pack(pack, job.execution, job.origin, job.directory, on_progress=on_progress)})
    except ChangedError as error:
        report({"changed": f"the problem on {platform.node()}: {error}"})
    except DeviceLostError:  # the pack starts again in another process; the driver reads why from these last words
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)
    except BaseException as error:  # for Tune, which waits for a report
        report(error)
