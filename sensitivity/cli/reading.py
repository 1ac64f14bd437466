"""The work of ``report`` and ``verdict``: studies read, finished or not."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path

from sensitivity.cli.display import shown_file
from sensitivity.cli.json_output.base import json_text
from sensitivity.cli.json_output.verdict import verdict_output
from sensitivity.figures.verdict_words import answer_in_words
from sensitivity.report.results import Verdicts, compute_verdicts
from sensitivity.report.words import target_in_words
from sensitivity.store.directory import place
from sensitivity.store.reader import read_study
from sensitivity.store.record import refuse_record
from sensitivity.study.whole_files import refuse_unwritable, write_output
from sensitivity.study.words import size

_WIDTH = 100


def write_report_file(study_dirs: Sequence[str], output: Path | None, figures: Path | None) -> Iterator[str]:
    """Write the report of one study or several, and its figures where a folder is given; yield what was written.

    Raises:
        UserError: a study can't be read, or a file can't be written.
    """
    from sensitivity.report import write_report
    from sensitivity.report.images import write_images

    directories = [place(study_dir) for study_dir in study_dirs]
    name = directories[0].path.rpartition("/")[2] if len(directories) == 1 else "comparison"
    target = output or Path(f"{name}.html")
    for each in (target, *([figures] if figures is not None else [])):
        refuse_record(each)
    refuse_unwritable(target)
    made = write_report(directories)
    yield f"report: {shown_file(write_output(target, made.html.encode()))}"
    if figures is not None:
        images = write_images(made.figures, figures)
        yield f"figures: {len(images)} files in {figures} ({size(sum(image.size for image in images), 'B')})"


def show_verdict(study_dir: str, *, as_json: bool) -> None:
    """Print the answers to a study's two questions."""
    study = read_study(place(study_dir))
    verdicts = compute_verdicts(study)
    name = study.manifest.spec.name
    print(json_text(verdict_output(name, verdicts), indent=2) if as_json else _words(name, verdicts))


def _words(name: str, verdicts: Verdicts) -> str:
    target = target_in_words(verdicts)
    lines = [", ".join(part for part in (name, target) if part)]
    lines += [_wrapped(why.text) for why in (*verdicts.why_not, *verdicts.looks)]
    for claim in verdicts.claims:
        answer = answer_in_words(claim)
        lines += ["", answer.question, f"  {answer.answer.upper()}: {answer.headline}"]
        lines += [_wrapped(text, "  ") for text in (answer.effect, answer.role) if text]
        lines += ["  why:", *(_wrapped(text, "  - ") for text in answer.reasons)]
        lines += ["  what would settle it:"] * bool(answer.settle)
        lines += [_wrapped(text, "  - ") for text in answer.settle]
    return "\n".join(lines)


def _wrapped(text: str, mark: str = "") -> str:
    return textwrap.fill(text, _WIDTH, initial_indent=mark, subsequent_indent=" " * len(mark))
