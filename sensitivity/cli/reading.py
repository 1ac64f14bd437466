"""The work of ``report`` and ``verdict``: studies read, finished or not."""

from __future__ import annotations

import json
import math
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from sensitivity.analysis.claims import Claim
from sensitivity.analysis.evaluations import read_tables
from sensitivity.analysis.study_results import StudyResults
from sensitivity.cli.display import shown_file, size
from sensitivity.figures.labels import target_in_words
from sensitivity.figures.verdict_words import answer_in_words
from sensitivity.store.directory import place
from sensitivity.store.record import refuse_record
from sensitivity.study.whole_files import refuse_unwritable, write_output

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
    results = StudyResults(read_tables(place(study_dir)))
    name = results.spec.name
    print(json.dumps(_content(name, results), indent=2) if as_json else _words(name, results))


def _words(name: str, results: StudyResults) -> str:
    target = target_in_words(results.target)
    lines = [", ".join(part for part in (name, target) if part)]
    lines += [_wrapped(why.text) for why in (*results.why_not, *results.look_cautions)]
    for claim in results.claims:
        answer = answer_in_words(claim)
        lines += ["", answer.question, f"  {answer.answer.upper()}: {answer.headline}"]
        lines += [_wrapped(text, "  ") for text in (answer.effect, answer.role) if text]
        lines += ["  why:", *(_wrapped(text, "  - ") for text in answer.reasons)]
        lines += ["  what would settle it:"] * bool(answer.settle)
        lines += [_wrapped(text, "  - ") for text in answer.settle]
    return "\n".join(lines)


def _wrapped(text: str, mark: str = "") -> str:
    return textwrap.fill(text, _WIDTH, initial_indent=mark, subsequent_indent=" " * len(mark))


def _content(name: str, results: StudyResults) -> dict[str, Any]:
    metric, level = results.target or (None, None)
    return {
        "study": name,
        "target": {"metric": metric, "level": level} if results.target else None,
        "answers": [_answer(claim) for claim in results.claims],
        "looks": [{"code": look.code, "text": look.text} for look in results.look_cautions],
        "why_not": [{"code": why.code, "text": why.text} for why in results.why_not],
    }


def _answer(claim: Claim) -> dict[str, Any]:
    verdict = claim.verdict
    effect, primary = verdict.effect, verdict.primary
    interval = None if effect.interval is None else [_finite(end) for end in effect.interval]
    return {
        "question": verdict.question,
        "candidate": verdict.candidate,
        "reference": verdict.reference,
        "answer": verdict.answer,
        "role": claim.role,
        "error_rate": claim.rate,
        "effect": {
            "value": _finite(effect.value),
            "interval": interval,
            "level": 1 - verdict.alpha,
            "n": effect.n,
            "of": effect.of,
        },
        "p": None if primary is None else _finite(primary.p),
        "p_equivalence": None if primary is None else _finite(primary.p_equivalence),
        "margin": None if primary is None else math.exp(primary.margin),
        "reasons": [{"code": reason.code, "text": reason.text} for reason in verdict.reasons],
        "settle": [
            {"code": r.code, "text": r.text, "runs": r.runs, "device_seconds": _finite(r.device_seconds)}
            for r in verdict.settle
        ],
    }


def _finite(value: float) -> float | None:
    """Return a number as JSON has it: null for NaN and infinity."""
    return value if math.isfinite(value) else None
