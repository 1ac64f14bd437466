"""A cache of measured costs by device and workload."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from sensitivity.study.execution import ExecutionSpec
from sensitivity.study.hashing import content_hash
from sensitivity.study.provenance import code_version
from sensitivity.study.trials import Trial
from sensitivity.study.whole_files import write_whole
from sensitivity.training.calibration import Cost
from sensitivity.training.problems import Problem


class CostCache:
    """A folder with one file per measurement: ``$XDG_CACHE_HOME/sensitivity/costs``, by default in ``~/.cache``."""

    def __init__(self, problem: Problem, execution: ExecutionSpec, *, workers: int) -> None:
        """Create the cache for packs of a problem, of which `workers` at a time share the memory."""
        root = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
        try:
            self._folder = Path(root).expanduser() / "sensitivity" / "costs"
        except RuntimeError:  # without a home folder, nothing can be cached
            self._folder = Path(os.devnull)
        device = torch.cuda.get_device_name() if execution.device == "cuda" else platform.processor()
        self._setting = {
            "device": device,
            "machine": [platform.node(), os.cpu_count()],
            "torch": torch.__version__,
            "version": code_version(),
            "examples": [problem.dataset.train_size, len(problem.dataset.test_inputs)],
            "workers": workers,
            "execution": execution.model_dump(mode="json"),
        }

    def get(self, trials: Sequence[Trial]) -> Cost | None:
        """Return the cached cost of these trials; None if there is none."""
        try:
            return Cost(**json.loads(self._file(trials).read_text()))
        except (OSError, ValueError, TypeError):  # absent or damaged
            return None

    def put(self, trials: Sequence[Trial], cost: Cost) -> None:
        """Store a measurement; failures to write are ignored."""
        try:
            write_whole(self._file(trials), json.dumps(dataclasses.asdict(cost)).encode())
        except OSError:
            return

    def _file(self, trials: Sequence[Trial]) -> Path:
        first = trials[0]
        content: dict[str, Any] = {
            **self._setting,
            "workload": first.workload.content,
            "training_asked": first.workload.training_asked,
            "settings": dict(first.settings),
            "structure": first.structure,
            "batch_size": first.batch_size,
            "trials": len(trials),
        }
        return self._folder / f"{content_hash(content)}.json"
