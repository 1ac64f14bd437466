"""The ``export`` command's work: the table of runs as a file, or an Optuna storage."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from sensitivity.cli.display import shown_file
from sensitivity.store.directory import place
from sensitivity.store.reader import export_runs
from sensitivity.store.record import refuse_record
from sensitivity.study.redaction import redacted
from sensitivity.study.whole_files import refuse_unwritable, write_output
from sensitivity.study.words import size

_OPTUNA = "optuna:"


def export_study(study_dir: str, target: str) -> Iterator[str]:
    """Write a study to `target`; yield what was written.

    Raises:
        UserError: the study can't be read, or the target can't be written.
    """
    directory = place(study_dir)
    if target.startswith(_OPTUNA):
        from sensitivity.execution.optuna_export import export_optuna, sqlite_file  # half a second

        url = target.removeprefix(_OPTUNA) or f"{directory.path.rpartition('/')[2]}.db"
        file = sqlite_file(url)
        if file is not None:
            refuse_record(file)
        yield from (f"Optuna study: {name}" for name in export_optuna(directory, url))
        written = "" if file is None else f" ({size(file.stat().st_size, 'B')})"
        yield f"storage: {redacted(url) if '://' in url else f'sqlite:///{url}'}{written}"
        return
    file = Path(target)
    refuse_record(file)
    refuse_unwritable(file)
    yield f"runs: {shown_file(write_output(file, export_runs(directory, file.suffix.lower())))}"
