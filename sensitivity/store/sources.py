"""``source/HASH/``: the version of a user's own code that was trained, for comparison and for `verify`."""

from __future__ import annotations

import json

from sensitivity.store.directory import Place, first_line
from sensitivity.study.errors import StorageError
from sensitivity.study.snapshot import Module, Snapshot

SOURCE = "source"
_ABOUT = "snapshot.json"


def source_folder(directory: Place, source: str) -> Place:
    """Return the folder of the code with hash `source`."""
    return directory.child(SOURCE).child(source)


def write_source(directory: Place, source: str, snapshot: Snapshot) -> None:
    """Store a snapshot under the hash `source`, unless it exists or the hash is empty (shipped problems).

    Raises:
        StorageError: the place can't be written.
    """
    folder = source_folder(directory, source)
    if not source or folder.exists(_ABOUT):
        return
    for file, module in snapshot.files.items():
        folder.write(file, module.source)
    about = {
        "roots": snapshot.roots,
        "modules": [_about(each, snapshot) for each in snapshot.modules],
        "installed": [_about(each, snapshot) for each in snapshot.installed],
    }
    folder.write(_ABOUT, json.dumps(about, indent=2).encode())


def read_source(directory: Place, source: str) -> Snapshot | None:
    """Return the snapshot stored under the hash `source`; None if there is none.

    Raises:
        StorageError: the snapshot is damaged, or can't be read.
    """
    folder = source_folder(directory, source)
    if not source or not folder.exists(_ABOUT):
        return None
    try:
        about = json.loads(folder.read(_ABOUT))
        modules, installed = (
            tuple(
                Module(
                    name=each["name"],
                    path=each["path"],
                    source=folder.read(each["file"]) if each["file"] else b"",
                    locations=None if each["locations"] is None else tuple(each["locations"]),
                )
                for each in about[kind]
            )
            for kind in ("modules", "installed")
        )
        return Snapshot(roots=tuple(about["roots"]), modules=modules, installed=installed)
    except (ValueError, KeyError, TypeError) as error:
        raise StorageError(
            f"{folder.uri_of(_ABOUT)}: damaged ({first_line(error)})\n  Restore it from a copy"
        ) from None


def changed_files(directory: Place, source: str, now: Snapshot) -> list[str]:
    """Describe the files of the user's code that differ between `now` and the snapshot with hash `source`."""
    kept = read_source(directory, source)
    if kept is None:
        return ["code: the modules that the study names, or that they import, have changed"] if now.files else []
    before, after = kept.files, now.files
    folder = source_folder(directory, source)
    lines = [
        f"code: {file} has changed; the version that was trained is in {folder.uri_of(file)}"
        for file in before
        if file in after and before[file].source != after[file].source
    ]
    gone = [file for file in before if file not in after]
    lines += [
        f"code: {file} is no longer imported; the version that was trained is in {folder.uri_of(file)}" for file in gone
    ]
    lines += [f"code: {file} is imported now, but was not before" for file in after if file not in before]
    return lines


def _about(module: Module, snapshot: Snapshot) -> dict[str, object]:
    file = next((name for name, each in snapshot.files.items() if each == module), "")
    return {"name": module.name, "path": module.path, "file": file, "locations": module.locations}
