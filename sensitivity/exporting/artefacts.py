"""Artefacts of a study as files: the verdict, the report, and the data of each figure for Plotly."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sensitivity.analysis.evaluations import read_tables
from sensitivity.analysis.study_results import StudyResults
from sensitivity.figures.theme import LIGHT
from sensitivity.figures.verdict_text import verdict_text
from sensitivity.report import render_report
from sensitivity.report.embed import in_theme
from sensitivity.store.directory import Place
from sensitivity.study.hashing import content_hash

VERDICT, REPORT, FIGURES = "verdict.txt", "report.html", "figures"


@dataclass(frozen=True, kw_only=True)
class Artefacts:
    """Files in a folder, with the information that trackers show."""

    study: str
    folder: Path
    """Folder with ``verdict.txt``, ``report.html`` and ``figures/NAME.json``."""
    verdict: str
    counts: Mapping[str, int]
    """Number of runs of the study's own design by status, including those without a result."""
    version: str
    """Hash of the verdict and the statuses of the runs."""


def write_artefacts(directory: Place, folder: Path) -> Artefacts:
    """Write the files of a study directory into an empty folder.

    Raises:
        StorageError: the study can't be read.
    """
    tables = read_tables(directory)
    results = StudyResults(tables)
    verdict = verdict_text(results)
    (folder / VERDICT).write_text(f"{verdict}\n", encoding="utf-8")
    report = render_report([tables])
    (folder / REPORT).write_text(report.html, encoding="utf-8")
    (folder / FIGURES).mkdir()
    for name, figure in report.figures.items():
        (folder / FIGURES / f"{name}.json").write_text(json.dumps(in_theme(figure, LIGHT)), encoding="utf-8")
    counts = {str(status): int(n) for status, n in tables.runs["status"].value_counts().items()}
    runs = sorted(zip(tables.runs["trial_id"], tables.runs["status"], strict=True))
    return Artefacts(
        study=results.spec.name,
        folder=folder,
        verdict=verdict,
        counts=counts,
        version=content_hash({"verdict": verdict, "runs": runs}),
    )
