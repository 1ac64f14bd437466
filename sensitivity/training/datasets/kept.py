"""Cached arrays in the data folder, which all workers of a node map into memory.

``about.json`` contains metadata and checksums and is written last to a temporary folder, which is then renamed. Hence
an existing folder is complete unless it was damaged later, which the checksums detect.
"""

from __future__ import annotations

import json
import logging
import shutil
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sensitivity.study.whole_files import write_whole
from sensitivity.training.datasets.data_folder import data_folder, only_one, writing

logger = logging.getLogger(__name__)

_CHUNK = 1 << 24

Write = Callable[[Path], Mapping[str, Any]]
"""Writes the files to a folder; returns metadata, as JSON-like data."""


def kept(key: str, files: Sequence[str], write: Write) -> tuple[Path, Mapping[str, Any]]:
    """Return the folder of `files` under `key` and their metadata; write them first if missing or damaged.

    Raises:
        UserError: they can't be made, or the data folder can't be written.
    """
    folder = data_folder() / "arrays" / key
    if not _is_whole(folder, files):
        with only_one(key):
            if not _is_whole(folder, files):  # another process may have written them meanwhile
                _keep(folder, files, write)
    about: Mapping[str, Any] = json.loads((folder / "about.json").read_text())
    return folder, about


def _keep(folder: Path, files: Sequence[str], write: Write) -> None:
    scratch = folder.with_name(f".{folder.name}")
    with writing():
        shutil.rmtree(scratch, ignore_errors=True)  # left by a killed process
        scratch.mkdir(parents=True)
    try:
        about = write(scratch)
        with writing():
            checksums = {name: _checksum(scratch / name) for name in files}
            write_whole(scratch / "about.json", json.dumps({**about, "checksums": checksums}).encode())
            if folder.exists():
                shutil.rmtree(folder)
            scratch.replace(folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _is_whole(folder: Path, files: Sequence[str]) -> bool:
    try:
        checksums = json.loads((folder / "about.json").read_text())["checksums"]
        whole = all(_checksum(folder / name) == checksums[name] for name in files)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except (OSError, ValueError, KeyError, TypeError):
        whole = False
    if not whole:
        logger.warning("%s is damaged and will be created again", folder)
    return whole


def _checksum(path: Path) -> int:
    value = 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            value = zlib.crc32(chunk, value)
    return value
