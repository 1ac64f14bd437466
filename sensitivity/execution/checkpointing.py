"""A worker's side of checkpoints: a pack in training is saved every few minutes and resumed from there."""

from __future__ import annotations

import functools
import io
import logging
import time
from collections.abc import Mapping
from typing import Any

import torch

from sensitivity.store.checkpoints import (
    CheckpointHeader,
    delete_checkpoint,
    read_checkpoint,
    write_checkpoint,
)
from sensitivity.store.directory import Place
from sensitivity.store.manifest import MANIFEST
from sensitivity.study.errors import StorageError
from sensitivity.study.provenance import code_version
from sensitivity.study.trials import Pack
from sensitivity.training.pack_training import PackTraining
from sensitivity.training.problems import Problem

logger = logging.getLogger(__name__)


class PackCheckpoint:
    """The checkpoint of one pack in a study directory, for the worker that trains it.

    Nothing here ends a training: what can't be written is written later, and what can't be used is not used.
    """

    def __init__(self, directory: Place, pack: Pack, *, every_s: float) -> None:
        self._directory, self._pack, self._every_s = directory, pack, every_s
        self._last = time.monotonic()
        self._trials = tuple(trial.id for trial in pack.trials)

    def load(self, problem: Problem, *, micro_batch: int | None) -> Mapping[str, Any] | None:
        """Return the state to go on from, on the host; None without one that fits this pack and code."""
        try:
            found = read_checkpoint(self._directory, self._pack.id)
        except StorageError as error:
            logger.warning("%s", error)
            return None
        if found is None:
            return None
        header, payload = found
        if header != self._header(header.step):
            logger.warning("the checkpoint of pack %s is of other code or another pack, not used", self._pack.id)
            return None
        try:
            # A study directory from someone else must not run code: plain containers of tensors alone are read. To
            # the host, whatever trained: states of generators belong there, and restoring copies the rest in place.
            state = torch.load(io.BytesIO(payload), weights_only=True, map_location="cpu")
            PackTraining(self._pack, problem, micro_batch=micro_batch).restore(state)
        except Exception as error:  # whatever a foreign file holds
            reason = str(error).partition("\n")[0]
            logger.warning("the checkpoint of pack %s can't be restored (%s), not used", self._pack.id, reason)
            return None
        return dict(state)

    def look(self, training: PackTraining) -> None:
        """Save a checkpoint if the last one is old enough."""
        if time.monotonic() - self._last < self._every_s:
            return
        payload = io.BytesIO()
        torch.save(training.state(), payload)
        try:
            # A worker elsewhere that does not see the study would leave files that nobody ever reads.
            if self._directory.exists(MANIFEST):
                write_checkpoint(self._directory, self._pack.id, self._header(training.done), payload.getvalue())
        except StorageError as error:
            logger.warning("%s", error)
        self._last = time.monotonic()  # writing aside, so that a slow place does not take all the time

    def discard(self) -> None:
        """Delete the checkpoint, as the pack will not be trained further in this form."""
        delete_checkpoint(self._directory, self._pack.id)

    def _header(self, step: int) -> CheckpointHeader:
        return CheckpointHeader(trials=self._trials, step=step, code_version=_code(), torch=torch.__version__)


@functools.cache
def _code() -> str:
    return code_version()
