"""The ``paper`` command."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from sensitivity.analysis.evaluations import read_tables
from sensitivity.analysis.study_results import StudyResults
from sensitivity.figures.labels import count
from sensitivity.report.paper import write_paper
from sensitivity.store.directory import place
from sensitivity.store.record import refuse_record
from sensitivity.study.whole_files import refuse_unwritable
from sensitivity.study.words import size


def write_paper_folder(study_dir: str, output: Path | None) -> Iterator[str]:
    """Write the parts of a paper on a study into a folder; yield what was written.

    Raises:
        UserError: the study can't be read, or the folder can't be written.
    """
    results = StudyResults(read_tables(place(study_dir)))
    folder = output or Path(f"{results.spec.name}-paper")
    refuse_record(folder / "methods.tex")
    refuse_unwritable(folder / "methods.tex")
    written = list(write_paper(results, folder))
    for file in (one for one in written if one.path.parent != folder / "figures"):
        yield f"{file.path} ({size(file.size, 'B')})"
    images = [one for one in written if one.path.parent == folder / "figures"]
    yield f"{folder / 'figures'}: {count(len(images), 'file')} ({size(sum(one.size for one in images), 'B')})"
    yield f"study hash: {results.manifest.spec_hash}"
