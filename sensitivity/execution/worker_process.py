"""A worker process: an actor of Ray that trains one pack after another, and does what else is asked of it."""

from __future__ import annotations

import gc
import math
import os
import platform
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any

import torch
from ray import tune

from sensitivity.execution.loading import ChangedError
from sensitivity.execution.worker import run_pack
from sensitivity.store.directory import Place
from sensitivity.study.execution import ExecutionSpec
from sensitivity.study.origin import Origin
from sensitivity.study.trials import Pack
from sensitivity.training.memory import return_freed_memory

_REPORT_EVERY_S = 1.0
_LAST_REPORT_S = 10.0
"""How long a thread that has reported its last may take to end."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """What all packs of a run share."""

    execution: ExecutionSpec
    origin: Origin
    directory: Place
    """Of the study, for checkpoints."""


class Parcel:
    """A pack in the configuration of a Tune trial, which Tune copies, prints and hashes."""

    def __init__(self, pack: Pack) -> None:
        self.pack = pack

    def __deepcopy__(self, memo: dict[int, Any]) -> Parcel:
        return self

    def __repr__(self) -> str:
        return self.pack.id


class PackTrainable(tune.Trainable):
    """One pack as Tune sees it: each step is a report of progress, and the last one has the results.

    The pack trains in a thread of its own, so that a step can return while it goes on.
    """

    def train_pack(self, pack: Pack, job: Job) -> None:
        """Start the training; called once, before the first step."""
        self._reports: SimpleQueue[dict[str, Any] | BaseException] = SimpleQueue()
        self._ended = False
        self._thread = threading.Thread(target=self._run, args=(pack, job), name="pack", daemon=True)
        self._thread.start()

    def step(self) -> dict[str, Any]:
        """Return the next report.

        Raises:
            BaseException: what the training raised that is no result of a run.
        """
        report = self._reports.get()
        self._ended = isinstance(report, BaseException) or report.get("done", False)
        if isinstance(report, BaseException):
            raise report
        return report

    def cleanup(self) -> None:
        """End the process where the training has not ended: nothing else stops it."""
        if self._ended:
            self._thread.join(_LAST_REPORT_S)
        if self._thread.is_alive():
            os._exit(0)

    def _run(self, pack: Pack, job: Job) -> None:
        last = -math.inf

        def on_progress(fraction: float) -> None:
            nonlocal last
            if time.monotonic() - last >= _REPORT_EVERY_S:
                last = time.monotonic()
                if fraction:  # first of all where a checkpoint has left off, for that is more than was known
                    self._reports.put({"fraction": fraction})

        try:
            result = run_pack(pack, job.execution, job.origin, job.directory, on_progress=on_progress)
        except ChangedError as error:
            self._reports.put({"changed": f"the problem on {platform.node()}: {error}", "done": True})
        except BaseException as error:  # for Tune, which waits for a report
            self._reports.put(error)
        else:
            self._reports.put({"result": result, "done": True})


class PackWorker:
    """The actor. `train` and `stop` are what Tune calls on a trial's actor; a trial begins with `begin`."""

    def __init__(self) -> None:
        self._home = os.getcwd()  # noqa: PTH109
        self._trainable: PackTrainable | None = None

    def begin(self, config: dict[str, Any], storage: Any, job: Job) -> None:
        """Start to train the pack in a trial's configuration."""
        pack = config.pop("parcel").pack
        self._trainable = PackTrainable(config, storage)
        self._trainable.train_pack(pack, job)

    def train(self) -> dict[str, Any]:
        """Return the next report of the pack in training."""
        assert self._trainable is not None
        return dict(self._trainable.train())  # type: ignore[no-untyped-call]

    def get_auto_filled_metrics(self, **options: Any) -> dict[str, Any]:
        """Return what Tune shows of a trial that has no result yet."""
        assert self._trainable is not None
        return dict(self._trainable.get_auto_filled_metrics(**options))

    def stop(self) -> None:
        """End the trial."""
        if self._trainable is not None:
            self._trainable.stop()  # type: ignore[no-untyped-call]
            self._trainable = None
        os.chdir(self._home)  # Tune's folder of the trial will be deleted

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Do something else than training a pack."""
        return function(*arguments)

    def rest(self) -> None:
        """Give unused memory back to the system and the accelerator: it may take long until the next run."""
        gc.collect()
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            torch.cuda.empty_cache()
        return_freed_memory()
