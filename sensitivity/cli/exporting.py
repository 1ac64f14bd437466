"""The ``export`` command's work: the table of runs as a file, or an Optuna storage."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from sensitivity.store.directory import place
from sensitivity.store.reader import export_runs
from sensitivity.study.errors import UserError

_OPTUNA = "optuna:"


def export_study(study_dir: str, target: str) -> Iterator[str]:
    """Write a study to `target`; yield what to say of it."""
    directory = place(study_dir)
    if target.startswith(_OPTUNA):
        from sensitivity.execution.optuna_export import export_optuna  # half a second, which the others need not wait

        url = target.removeprefix(_OPTUNA) or f"{directory.path.rpartition('/')[2]}.db"
        names = export_optuna(directory, url)
        yield from (f"Optuna study: {name}" for name in names)
        yield f"storage: {url if '://' in url else f'sqlite:///{url}'}"
        return
    file = Path(target)
    data = export_runs(directory, file.suffix.lower())
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
    except OSError as error:
        raise UserError(f"{file}: can't be written ({error.strerror}); give another file") from None
    yield f"runs: {file}"
