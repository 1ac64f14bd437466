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
"""How long a thread may take to end after its last report."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """Settings shared by all packs of a run."""

    execution: ExecutionSpec
    origin: Origin
    directory: Place
    """Study directory, for checkpoints."""


class PackWorker:
    """The actor of a Tune trial. It does not import Tune, which would take a third of the start-up time.

    A trial starts with `begin`; then Tune calls `train` repeatedly, each time receiving a report of progress and
    finally of the results. The pack is trained in a separate thread, so that `train` can return meanwhile.
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
            BaseException: an exception of the training that is not the result of a run.
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
        """End the trial, and this process too if training has not ended, because it can't be stopped otherwise."""
        if self._thread is not None:
            if self._ended:
                self._thread.join(_LAST_REPORT_S)
            if self._thread.is_alive():
                os._exit(0)
        self._thread = None

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call a function other than training."""
        return function(*arguments)

    def rest(self) -> None:
        """Release unused memory to the system and the accelerator until the next run."""
        release_unused()
        return_freed_memory()


def _train(pack: Pack, job: Job, report: Callable[[dict[str, Any] | BaseException], None]) -> None:
    """Train a pack, and report its progress and results; end the process if the device is lost."""
    last = -math.inf

    def on_progress(fraction: float) -> None:
        nonlocal last
        if time.monotonic() - last >= _REPORT_EVERY_S:
            last = time.monotonic()
            if fraction:  # a start at 0 is known without a report; a start from a checkpoint is reported
                report({"fraction": fraction})

    try:
        report({"result": run_pack(pack, job.execution, job.origin, job.directory, on_progress=on_progress)})
    except ChangedError as error:
        report({"changed": f"the problem on {platform.node()}: {error}"})
    except DeviceLostError:  # the pack is restarted in another process; the driver reads the reason from stderr
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)
    except BaseException as error:  # for Tune, which waits for a report
        report(error)
