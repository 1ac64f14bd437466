"""Trains one pack on any machine. Exceptions in the user's code are converted to results here."""

from __future__ import annotations

import functools
import logging
import platform
import time
import traceback
from collections.abc import Callable

import torch

from sensitivity.execution.checkpointing import PackCheckpoint
from sensitivity.execution.loading import load
from sensitivity.store.directory import Place
from sensitivity.study.execution import ExecutionSpec
from sensitivity.study.origin import Origin
from sensitivity.study.results import PackResult, RunResult, Status
from sensitivity.study.trials import Pack
from sensitivity.training.device_errors import out_of_memory, require_device
from sensitivity.training.loop import train_pack
from sensitivity.training.memory import keep_freed_memory, release_unused
from sensitivity.training.precision import set_tf32
from sensitivity.training.problems import Problem

logger = logging.getLogger(__name__)


def run_pack(
    pack: Pack,
    execution: ExecutionSpec,
    origin: Origin,
    directory: Place,
    *,
    on_progress: Callable[[float], None] = lambda fraction: None,
) -> PackResult:
    """Train a pack in this process and return its result; a failing trial does not raise.

    Long packs are saved in the study directory at intervals, and resumed from there.

    Raises:
        ChangedError: the problem on this machine is not the planned one; nothing was trained.
        DeviceLostError: the device no longer works in this process, which must end.
    """
    torch.set_num_threads(execution.threads)
    keep_freed_memory()
    set_tf32(pack.trials[0].workload.problem.precision)
    device = torch.device(execution.device)
    started, began = time.time(), time.perf_counter()
    problem = load(origin, device)
    keep = functools.partial(PackCheckpoint, directory, every_s=60 * execution.checkpoint_minutes)
    runs = _train(device, pack, functools.partial(_train_whole, execution, problem, on_progress), keep)
    return PackResult(
        runs=runs,
        pack_id=pack.id,
        host=platform.node(),
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        started_at=started,
        wall_seconds=time.perf_counter() - began,
    )


def _train_whole(
    execution: ExecutionSpec,
    problem: Problem,
    on_progress: Callable[[float], None],
    pack: Pack,
    checkpoint: PackCheckpoint,
) -> tuple[RunResult, ...]:
    return train_pack(
        pack,
        problem,
        micro_batch=execution.micro_batch,
        on_progress=on_progress,
        on_check=checkpoint.save_if_due,
        resume=checkpoint.load(problem, micro_batch=execution.micro_batch),
    )


def _train(
    device: torch.device,
    pack: Pack,
    train: Callable[[Pack, PackCheckpoint], tuple[RunResult, ...]],
    keep: Callable[[Pack], PackCheckpoint],
) -> tuple[RunResult, ...]:
    """Train a pack; if it raises or runs out of memory, train its halves, down to single trials."""
    checkpoint = keep(pack)
    try:
        return train(pack, checkpoint)
    except (Exception, SystemExit) as error:  # the user's model may raise anything
        too_large, text = out_of_memory(error), traceback.format_exc()
        message = f"{type(error).__name__}: {error}"
        require_device(device)
    if too_large:
        release_unused()
    if len(pack.trials) > 1:
        why = "does not fit in memory" if too_large else f"raised {message}"
        logger.warning("a pack of %d %s: training its halves", len(pack.trials), why)
        checkpoint.discard()
        return tuple(run for half in pack.halves() for run in _train(device, half, train, keep))
    if too_large:
        message = f"out of memory with a single trial: set execution.micro_batch or problem.ghost_batch ({message})"
    return (RunResult(trial=pack.trials[0], status=Status.FAILED, message=message, traceback=text),)
