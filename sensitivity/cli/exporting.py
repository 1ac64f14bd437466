"""The ``export`` command: writes the table of runs to a file, or all runs to an Optuna storage or a tracking tool."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path

from sensitivity.cli.display import shown_file
from sensitivity.store.directory import Place, first_line, place
from sensitivity.store.ledger import refuse_settling_folder, settling_place
from sensitivity.store.manifest import MANIFEST
from sensitivity.store.reader import export_runs
from sensitivity.store.record import refuse_record
from sensitivity.study.errors import UserError
from sensitivity.study.redaction import redacted
from sensitivity.study.trackers import Target, names_tracker, parse_target, target_without_credentials
from sensitivity.study.whole_files import refuse_unwritable, write_output
from sensitivity.study.words import count, size

_OPTUNA = "optuna:"


def export_study(study_dir: str, target: str) -> Iterator[str]:
    """Write a study to `target`; yield what was written.

    Raises:
        UserError: the study can't be read, or the target can't be written.
    """
    directory = place(study_dir)
    if target.startswith(_OPTUNA):
        from sensitivity.execution.optuna_export import export_optuna, sqlite_file  # takes half a second to import

        url = target.removeprefix(_OPTUNA) or f"{directory.path.rpartition('/')[2]}.db"
        file = sqlite_file(url)
        if file is not None:
            refuse_record(file)
        yield from (f"Optuna study: {name}" for name in export_optuna(directory, url))
        written = "" if file is None else f" ({size(file.stat().st_size, 'B')})"
        yield f"storage: {redacted(url) if '://' in url else f'sqlite:///{url}'}{written}"
        return
    file = Path(target)
    if names_tracker(target) or (":" in target and not file.suffix):  # the latter is a misspelled tool
        yield from _send(directory, parse_target(target_without_credentials(target)))
        return
    refuse_record(file)
    refuse_unwritable(file)
    yield f"runs: {shown_file(write_output(file, export_runs(directory, file.suffix.lower())))}"
    settled = settling_place(directory)
    if settled.exists(MANIFEST):
        yield f"Its settlement has runs of its own: sensitivity export {shlex.quote(settled.uri)} FILE"


def _send(directory: Place, target: Target) -> Iterator[str]:
    """Send the runs that a tool lacks; repeating it sends only new runs.

    Raises:
        UserError: the tool's package isn't installed, or the tool can't be reached.
    """
    if target.missing:
        raise UserError(target.missing)
    from sensitivity.exporting.sending import Sender  # slow to import, because it sends the report too

    refuse_settling_folder(directory)
    sender = Sender(directory, target)
    try:
        sender.send_runs()
        sender.send_study()
        where = sender.where
        sender.close()
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"{target.shown}: sending failed ({redacted(first_line(error))}); {count(sender.sent, 'run')} arrived\n"
            f"  {target.kind.check}, then repeat the command to send the rest"
        ) from None
    yield f"{target.shown}: {count(sender.sent, 'run')} sent, {sender.there:,} in all, with the verdict and the report"
    yield f"see:    {where}"
