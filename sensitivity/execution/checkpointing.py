"""Checkpoints in workers: a pack in training is saved every few minutes, and resumed from its checkpoint."""

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

    Errors never end the training: a checkpoint that can't be written is written later, and one that can't be restored
    is ignored.
    """

    def __init__(self, directory: Place, pack: Pack, *, every_s: float) -> None:
        self._directory, self._pack, self._every_s = directory, pack, every_s
        self._last = time.monotonic()
        self._trials = tuple(trial.id for trial in pack.trials)

    def load(self, problem: Problem, *, micro_batch: int | None) -> Mapping[str, Any] | None:
        """Return the state to resume from, on the CPU; None without a checkpoint of this pack and code."""
        try:
            found = read_checkpoint(self._directory, self._pack.id)
        except StorageError as error:
            logger.warning("%s", error)
            return None
        if found is None:
            return None
        header, payload = found
        if header != self._header(header.step):
            logger.warning("the checkpoint of pack %s belongs to other code or another pack; ignored", self._pack.id)
            return None
        try:
            # A study directory from someone else must not run code, so only plain containers of tensors are read. They
            # are loaded to the CPU, where states of generators must be; restoring copies the rest to the device.
            state = torch.load(io.BytesIO(payload), weights_only=True, map_location="cpu")
            PackTraining(self._pack, problem, micro_batch=micro_batch).restore(state)
        except Exception as error:  # the file may contain anything
            reason = str(error).partition("\n")[0]
            logger.warning("the checkpoint of pack %s can't be restored (%s); ignored", self._pack.id, reason)
            return None
        return dict(state)

    def save_if_due(self, training: PackTraining) -> None:
        """Save a checkpoint if the interval since the last one has passed."""
        if time.monotonic() - self._last < self._every_s:
            return
        payload = io.BytesIO()
        torch.save(training.state(), payload)
        try:
            # On a machine without access to the study directory, nobody would ever read the file.
            if self._directory.exists(MANIFEST):
                write_checkpoint(self._directory, self._pack.id, self._header(training.done), payload.getvalue())
        except StorageError as error:
            logger.warning("%s", error)
        self._last = time.monotonic()  # after writing, so that a slow place does not use up the training time

    def discard(self) -> None:
        """Delete the checkpoint of a pack that will not be trained further in this form."""
        delete_checkpoint(self._directory, self._pack.id)

    def _header(self, step: int) -> CheckpointHeader:
        return CheckpointHeader(trials=self._trials, step=step, code_version=_code(), torch=torch.__version__)


@functools.cache
def _code() -> str:
    return code_version()
