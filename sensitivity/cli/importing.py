"""The ``import`` command: imports runs made elsewhere, and shows how they were read and any problems."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from sensitivity.importing.mapping import ImportMapping, mapping_text, read_mapping
from sensitivity.importing.study import Imported, OpenQuestionsError, import_study
from sensitivity.store.directory import place
from sensitivity.study.errors import UserError
from sensitivity.study.whole_files import write_output
from sensitivity.study.words import count


def import_source(source: str, name: str, mapping_file: Path | None, storage: str) -> Iterator[str]:
    """Import runs into STORAGE/NAME; yield how they were read and what was found.

    An inferred mapping is written next to the study, so that it can be corrected.

    Raises:
        UserError: the source can't be read, or its columns are ambiguous.
    """
    mapping_path = Path(f"{name}.map.toml")
    if mapping_file is None and mapping_path.exists():
        raise UserError(
            f"{mapping_path} exists already\n"
            f"  Import with it: --map {mapping_path}; or remove it, to infer a new mapping"
        )
    directory = place(storage).child(name)
    command = f"sensitivity import {source} --as {name} --map {mapping_path}"
    try:
        found = import_study(source, directory, None if mapping_file is None else read_mapping(mapping_file))
    except OpenQuestionsError as error:
        write_output(mapping_path, error.guess.text(error.source, command).encode())
        raise UserError(f"{error}\n  Answer them in {mapping_path}, and import with it:\n  {command}") from None
    if found.guessed is not None:
        write_output(mapping_path, found.guessed.text(found.source, command).encode())
    yield from _lines(found, mapping_path if found.guessed is not None else mapping_file)


def _lines(found: Imported, mapping_file: Path | None) -> Iterator[str]:
    table, spec = found.runs.runs, found.inferred.spec
    statuses = ", ".join(f"{n:,} {status}" for status, n in table["status"].value_counts().items())
    yield f"{found.source}: {count(len(table), 'run')} ({statuses}), {count(len(found.runs.evaluations), 'evaluation')}"
    sizes = ", ".join(f"{size:,}" for size in spec.batch_sizes)
    yield f"batch sizes {sizes}; {count(len(spec.seeds), 'seed')}{' (numbered here)' if found.runs.unpaired else ''}"
    for name, words in found.inferred.designs.items():
        yield f"{name}: {words}"
    yield f"read as ({mapping_file}, which you may correct):"
    yield from (f"  {line}" for line in mapping_text(_shown(found.mapping)).splitlines() if line)
    if found.guessed is not None:
        yield from found.guessed.remarks
    if spec.observed is not None and spec.observed.cautions:
        yield "found:"
        yield from (f"  - {text}" for text in spec.observed.cautions)
    yield f"study: {found.directory.uri}"
    if not spec.targets:
        yield (
            "It declares no target, which both questions need: add to the mapping\n"
            "  [study.targets]\n  test_accuracy = [0.9]"
        )


def _shown(mapping: ImportMapping) -> ImportMapping:
    return mapping.model_copy(update={"study": {}})
