"""The files of a settlement, in the folder ``settle`` of a study directory.

``declaration.json`` and ``freeze.json`` are written once, before the first run and before the first judging run.
``ledger.json`` gains one entry per step; it follows from the other two files and the runs, and can be rewritten from
them. Each file contains the hash of its content. The folder is itself a study directory with the runs of the
settlement, separate from those of the study file's own design.
"""

from __future__ import annotations

from typing import TypeVar

from pydantic import TypeAdapter, ValidationError

from sensitivity.store.directory import Place
from sensitivity.study.amendments import Amendment, Freeze, Settlement
from sensitivity.study.errors import StorageError
from sensitivity.study.hashing import content_hash
from sensitivity.study.ledger import Declared, Ledger, LedgerEntry

FOLDER = "settle"
DECLARATION = "declaration.json"
FREEZE = "freeze.json"
LEDGER = "ledger.json"

_KEPT = (
    "  Restore it from a copy: the declaration and the choices frozen before the judging runs must not change. Or"
    " settle the study under another name"
)
_FIX = {
    DECLARATION: _KEPT,
    FREEZE: _KEPT,
    LEDGER: "  Restore it from a copy; or delete it and settle the study again, which rewrites it from the runs",
}
"""Fix in the error message about each file."""

A = TypeVar("A", bound=Amendment)


class _Steps(Amendment):
    """The content of ledger.json."""

    declaration: str
    """Hash of the declaration that the steps follow from."""
    entries: tuple[LedgerEntry, ...]
    settlement: Settlement | None
    hash: str = ""

    @property
    def own_hash(self) -> str:
        """Hash of the content."""
        return content_hash(self.model_dump(mode="json", exclude={"hash"}))


class _Frozen(Amendment):
    """The content of freeze.json."""

    hash: str
    freeze: Freeze


def settling_place(directory: Place) -> Place:
    """Return the folder of a study directory in which its settlement is kept."""
    return directory.child(FOLDER)


def refuse_settling_folder(directory: Place) -> None:
    """Raise if a directory is the ``settle`` folder of a study, whose runs do not belong to the study's own design.

    Raises:
        StorageError: the directory is such a folder; the message names the directory to use instead.
    """
    if directory.exists(DECLARATION):
        raise StorageError(
            f"{directory.uri}: contains the runs of a settlement and is not a study directory of its own\n"
            "  Use the study directory above it. `sensitivity export` and `verify` accept this one, too"
        )


def read_declared(directory: Place) -> Declared | None:
    """Return the declaration of a study's settlement; None if none has started.

    Raises:
        StorageError: the file is damaged, or was changed.
    """
    folder = settling_place(directory)
    if not folder.exists(DECLARATION):
        return None
    declared = _read(folder, DECLARATION, TypeAdapter(Declared))
    if declared.hash != declared.declaration.hash:
        raise _changed(folder, DECLARATION)
    return declared


def read_ledger(directory: Place) -> Ledger | None:
    """Return the ledger of a study's settlement; None if none has started.

    Raises:
        StorageError: a file is damaged, or was changed.
    """
    declared, folder = read_declared(directory), settling_place(directory)
    if declared is None:
        return None
    if not folder.exists(LEDGER):
        return Ledger(declared=declared)
    steps = _read(folder, LEDGER, TypeAdapter(_Steps))
    if steps.declaration != declared.hash or steps.hash != steps.own_hash:
        raise _changed(folder, LEDGER)
    ledger = Ledger(declared=declared, entries=steps.entries, settlement=steps.settlement)
    if ledger.freeze is not None and ledger.freeze != _read_freeze(folder):
        raise _changed(folder, FREEZE)
    return ledger


def write_declared(directory: Place, declared: Declared) -> None:
    """Write the declaration of a settlement, before its first run.

    Raises:
        StorageError: the place can't be written.
    """
    _write(settling_place(directory), DECLARATION, declared)


def write_freeze(directory: Place, freeze: Freeze) -> None:
    """Write the choices that are fixed before the judging runs; a resumed command may write the same content again.

    Raises:
        StorageError: the file exists with other content, or the place can't be written.
    """
    folder = settling_place(directory)
    if not folder.exists(FREEZE):
        _write(folder, FREEZE, _Frozen(hash=freeze.hash, freeze=freeze))
    elif _read_freeze(folder) != freeze:
        raise StorageError(
            f"{folder.uri_of(FREEZE)}: another choice was frozen earlier\n"
            "  A choice can't be changed after its judging runs. Settle the study under another name"
        )


def write_ledger(directory: Place, ledger: Ledger) -> None:
    """Update ledger.json.

    Raises:
        StorageError: the place can't be written.
    """
    steps = _Steps(declaration=ledger.declared.hash, entries=ledger.entries, settlement=ledger.settlement)
    _write(settling_place(directory), LEDGER, steps.model_copy(update={"hash": steps.own_hash}))


def _read_freeze(folder: Place) -> Freeze:
    frozen = _read(folder, FREEZE, TypeAdapter(_Frozen))
    if frozen.hash != frozen.freeze.hash:
        raise _changed(folder, FREEZE)
    return frozen.freeze


def _read(folder: Place, name: str, adapter: TypeAdapter[A]) -> A:
    if not folder.exists(name):
        raise StorageError(f"{folder.uri_of(name)}: missing\n{_FIX[name]}")
    try:
        return adapter.validate_json(folder.read(name))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "its content"
        raise StorageError(f"{folder.uri_of(name)}: damaged ({where}: {first['msg']})\n{_FIX[name]}") from None


def _changed(folder: Place, name: str) -> StorageError:
    return StorageError(
        f"{folder.uri_of(name)}: its content does not match its hash; it was changed after it was written\n{_FIX[name]}"
    )


def _write(folder: Place, name: str, content: Amendment) -> None:
    folder.write(name, content.model_dump_json(indent=1).encode())
