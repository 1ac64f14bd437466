"""One pack, wherever it runs. An exception in the user's code becomes a result here."""

from __future__ import annotations

import functools
import logging
import platform
import time
import traceback
from collections.abc import Callable

import torch

from sensitivity.execution.prepare import use_folder
from sensitivity.study.results import PackResult, RunResult, Status
from sensitivity.study.spec import ExecutionSpec, ProblemSpec
from sensitivity.study.trials import Pack
from sensitivity.training.loop import train_pack
from sensitivity.training.memory import keep_freed_memory
from sensitivity.training.problems import Problem, load_problem

logger = logging.getLogger(__name__)


def run_pack(
    pack: Pack,
    execution: ExecutionSpec,
    import_folder: str,
    *,
    on_progress: Callable[[float], None] = lambda fraction: None,
) -> PackResult:
    """Train a pack in this process and return what came of it; never raises for what a trial does."""
    use_folder(import_folder)
    torch.set_num_threads(execution.threads)
    keep_freed_memory()
    device = torch.device(execution.device)
    started, began = time.time(), time.perf_counter()
    runs = _train(pack, device, on_progress)
    return PackResult(
        runs=runs,
        pack_id=pack.id,
        host=platform.node(),
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        started_at=started,
        wall_seconds=time.perf_counter() - began,
    )


@functools.lru_cache(maxsize=1)
def _problem(spec: ProblemSpec, device: torch.device) -> Problem:
    """Load a problem once a process: workers are re-used from pack to pack."""
    return load_problem(spec, device=device)


def _train(pack: Pack, device: torch.device, on_progress: Callable[[float], None]) -> tuple[RunResult, ...]:
    try:
        problem = _problem(pack.trials[0].workload.problem, device)
        return train_pack(pack, problem, on_progress=on_progress)
    except Exception as error:  # the user's model may raise anything
        if len(pack.trials) > 1:  # find the members that fail, and leave the others whole
            middle = len(pack.trials) // 2
            logger.info("pack of %d raised %r; training its halves", len(pack.trials), error)
            return tuple(
                run
                for half in (pack.trials[:middle], pack.trials[middle:])
                for run in _train(Pack(half), device, on_progress)
            )
        return (
            RunResult(
                trial=pack.trials[0],
                status=Status.FAILED,
                message=f"{type(error).__name__}: {error}",
                traceback=traceback.format_exc(),
            ),
        )
