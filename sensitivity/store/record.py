"""Protection of the files that form a study's record; only runs may write them."""

from __future__ import annotations

import os
from pathlib import Path

from sensitivity.store.checkpoints import CHECKPOINTS
from sensitivity.store.ledger import FOLDER
from sensitivity.store.lock import LOCK
from sensitivity.store.logs import RECORDED
from sensitivity.store.manifest import MANIFEST
from sensitivity.store.notes import NOTES
from sensitivity.store.schema import CURVES, PLAN, RUNS
from sensitivity.store.sources import SOURCE
from sensitivity.study.errors import UserError

_RECORD = (MANIFEST, PLAN, RUNS, CURVES, CHECKPOINTS, RECORDED, LOCK, FOLDER, SOURCE, NOTES)


def refuse_record(path: Path) -> None:
    """Raise if an output at `path` would overwrite, or lie in, the record in a local study directory.

    Raises:
        UserError: it would. Other files in the study directory are allowed.
    """
    target = Path(os.path.realpath(path))
    for folder in target.parents:
        if (folder / MANIFEST).is_file() and (part := target.relative_to(folder).parts[0]) in _RECORD:
            raise UserError(
                f"{path}: can't be written ({part} is part of the record of the study in {folder})\n"
                f"  Write to another place, such as {path.name}"
            )
