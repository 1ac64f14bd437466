"""``import_runs``: runs made elsewhere as a study directory, from Python."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sensitivity.store.directory import place

if TYPE_CHECKING:
    from sensitivity.face.opened import OpenedStudy


def import_runs(
    source: str | os.PathLike[str],
    name: str,
    *,
    mapping: str | os.PathLike[str] | Mapping[str, Any] | None = None,
    storage: str | os.PathLike[str] = "studies",
) -> OpenedStudy:
    """Import runs that were made elsewhere, and return the study directory ``storage/NAME``, opened.

    Args:
        source: a CSV, Parquet or JSON-lines file, a folder of such, or what another tool keeps (docs/importing.md).
        name: of the study.
        mapping: how the source is read: a TOML file, or its content. None guesses it from the names of columns.
        storage: where study directories are kept: a folder or a URI.

    Raises:
        UserError: the source can't be read; without a mapping, with every question that it leaves open.
    """
    from sensitivity.face.opened import opened
    from sensitivity.importing.mapping import read_mapping
    from sensitivity.importing.study import import_study

    how = read_mapping(mapping) if isinstance(mapping, (str, os.PathLike)) else mapping
    directory = place(os.fspath(storage)).child(name)
    import_study(os.fspath(source), directory, how)
    return opened(directory)
