"""``import_runs``: convert runs made elsewhere to a study directory, from Python."""

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
    """Import runs that were made elsewhere into the study directory ``storage/NAME``.

    Example:
        ```python
        study = sensitivity.import_runs("runs.csv", "imported")
        print(study.runs["status"].value_counts())
        ```

    Args:
        source: a CSV, Parquet or JSON-lines file, a folder of such files, or the data of another tracking tool
            (docs/importing.md lists them).
        name: name of the study, and of its directory in `storage`.
        mapping: how to read the source: path of a TOML file, or its content as a dictionary. With None, the mapping is
            inferred from the names of the columns.
        storage: folder or URI that contains the study directories.

    Returns:
        The imported study, opened.

    Raises:
        UserError: the source can't be read, or no mapping was passed and the columns are ambiguous; the message then
            lists every open question.
    """
    from sensitivity.face.opened import opened
    from sensitivity.importing.mapping import read_mapping
    from sensitivity.importing.study import import_study

    how = read_mapping(mapping) if isinstance(mapping, (str, os.PathLike)) else mapping
    directory = place(os.fspath(storage)).child(name)
    import_study(os.fspath(source), directory, how)
    return opened(directory)
