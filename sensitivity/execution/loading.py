"""Loads a problem in any process from the study's snapshot, and compares it with the plan."""

from __future__ import annotations

from pathlib import Path

import torch

from sensitivity.study.errors import UserError
from sensitivity.study.origin import Origin
from sensitivity.study.snapshot_imports import use_snapshot
from sensitivity.study.users_code import users_code
from sensitivity.training.identity import identity
from sensitivity.training.problems import Problem, load_problem


class ChangedError(UserError):
    """A problem differs from the plan or can't be loaded. It does not count as a failure of runs."""


_loaded: tuple[Origin, torch.device, Problem] | None = None


def load(origin: Origin, device: torch.device) -> Problem:
    """Load a problem, or return the latest one loaded in this process, because workers train many packs.

    Raises:
        ChangedError: the problem can't be loaded here, or its data or network differ from those of the plan.
    """
    global _loaded
    if _loaded is None or _loaded[:2] != (origin, device):
        _loaded = None  # before loading, so that two problems are never in memory
        _loaded = (origin, device, _load(origin, device))
    return _loaded[2]


def forget_loaded() -> None:
    """Discard the cached problem, so that the next call loads it again."""
    global _loaded
    _loaded = None


def _load(origin: Origin, device: torch.device) -> Problem:
    use_snapshot(origin.snapshot)
    try:
        with users_code("the problem"):
            problem = load_problem(origin.problem, device=device, folder=Path(origin.folder))
            found = identity(problem)
    except UserError as error:
        raise ChangedError(f"it could be loaded when the study was planned, but not now\n  {error}") from None
    except SystemExit as error:
        raise ChangedError(f"its own code ends the process (sys.exit({error.code!r}))") from None
    if differences := origin.identity.differences(found):
        files = ", ".join(origin.snapshot.files)
        reader = f"a file that the code reads; the code itself ({files}) is a snapshot" if files else "the data set"
        raise ChangedError(
            "it differs from the planned one\n"
            + "".join(f"  - {line}\n" for line in differences)
            + f"  The change is in {reader}"
        )
    return problem
