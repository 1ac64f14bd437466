"""The ``report`` and ``verdict`` commands, for finished and unfinished studies."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from sensitivity.analysis.evaluations import read_tables
from sensitivity.analysis.study_results import StudyResults
from sensitivity.figures.verdict_text import verdict_text
from sensitivity.store.directory import place
from sensitivity.store.record import refuse_record
from sensitivity.study.whole_files import refuse_unwritable, write_output
from sensitivity.study.words import count, size


def write_report_file(study_dirs: Sequence[str], output: Path | None, figures: Path | None) -> Iterator[str]:
    """Write the report of one or more studies, and its figures if a folder is given; yield what was written.

    Raises:
        UserError: a study can't be read, or a file can't be written.
    """
    from sensitivity.cli.display import shown_file
    from sensitivity.report import write_report
    from sensitivity.report.images import write_images

    directories = [place(study_dir) for study_dir in study_dirs]
    name = directories[0].path.rpartition("/")[2] if len(directories) == 1 else "comparison"
    target = _page(output or Path(f"{name}.html"))
    for each in (target, *([figures] if figures is not None else [])):
        refuse_record(each)
    refuse_unwritable(target)
    made = write_report(directories)
    yield f"report: {shown_file(write_output(target, made.html.encode()))}"
    if figures is not None:
        images = write_images(made.figures, figures)
        yield f"figures: {count(len(images), 'file')} in {figures} ({size(sum(image.size for image in images), 'B')})"


def _page(output: Path) -> Path:
    """Return the file of the page; a new name without a suffix gets ``.html``, so that a browser opens it."""
    return output if output.suffix or output.exists() else output.with_name(f"{output.name}.html")


def show_verdict(study_dir: str, *, as_json: bool) -> None:
    """Print the answers to a study's two questions."""
    results = StudyResults(read_tables(place(study_dir)))
    if not as_json:
        print(verdict_text(results))
        return
    from sensitivity.cli.json_output.base import json_text
    from sensitivity.cli.json_output.verdict import verdict_output

    print(json_text(verdict_output(results), indent=2))
