"""Write what settled studies found into ``docs/findings``: ``python docs/hooks/findings.py studies/NAME ...``.

Each study's page, ``docs/findings/NAME.md``, is written by hand around a part between two marks, which this replaces:
the answers with their intervals, what they took, and a figure of the looks. The tables of runs and the figures go
beside the page. Where the page is missing, it is begun.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd

import sensitivity
from sensitivity.analysis.times import compute_times
from sensitivity.face.opened import OpenedStudy
from sensitivity.figures.labels import number, optimizer_name, parameter_name
from sensitivity.figures.settled_words import what_it_took
from sensitivity.store.directory import Place, place
from sensitivity.store.ledger import settling_place
from sensitivity.store.reader import export_runs, read_study
from sensitivity.study.amendments import Answer
from sensitivity.study.ledger import Ledger
from sensitivity.study.seed_ranges import purpose

FINDINGS = Path(__file__).parents[1] / "findings"
_MARKS = ("<!-- results -->", "<!-- /results -->")
_QUESTIONS = {"scaling": "scales further", "sensitivity": "is cheaper to tune"}
_HEADER = f"| pair | question | answer | ratio | interval | error rate | looks |\n{'| --- ' * 7}|"


def write_finding(directory: Path) -> Path:
    """Write a settled study's results into its page, and return the page.

    Raises:
        SystemExit: nobody has settled the study.
    """
    study = sensitivity.open(directory)
    ledger = study.results.tables.ledger
    if ledger is None or ledger.settlement is None:
        raise SystemExit(f"{directory}: `sensitivity settle` has not ended there")
    folder = FINDINGS / study.name
    folder.mkdir(exist_ok=True)
    (folder / "runs.parquet").write_bytes(export_runs(settling_place(place(str(directory))), ".parquet"))
    command = [sys.executable, "-m", "sensitivity.cli.main", "figure", str(directory), "looks"]
    subprocess.run([*command, "-o", str(folder / "looks.svg")], check=True, stdout=subprocess.DEVNULL)
    page = FINDINGS / f"{study.name}.md"
    text = page.read_text(encoding="utf-8") if page.exists() else f"# {study.name}\n\n{_MARKS[0]}\n{_MARKS[1]}\n"
    before, _, rest = text.partition(_MARKS[0])
    after = rest.partition(_MARKS[1])[2]
    page.write_text(f"{before}{_MARKS[0]}\n{_results(study, ledger)}\n{_MARKS[1]}{after}", encoding="utf-8")
    return page


def _results(study: OpenedStudy, ledger: Ledger) -> str:
    lines = [_row(answer) for answer in study.results.settled]
    runs = pd.read_parquet(FINDINGS / study.name / "runs.parquet")
    versions = ", ".join(sorted(runs["code_version"].dropna().unique()))
    return "\n\n".join(
        [
            "\n".join([_HEADER, *lines]),
            f"![What each planned look at the first pair showed]({study.name}/looks.svg)",
            "The frozen winners, and what they took on the judging seeds:",
            *_winners(place(study.directory), ledger),
            f"{what_it_took(ledger)} Declared before the first run: `{ledger.declared.hash[:16]}`. Code {versions}.",
            f"[Every run of it]({study.name}/runs.parquet), [the study file]({study.name}.toml).",
        ]
    )


def _winners(directory: Place, ledger: Ledger) -> list[str]:
    """Return a table of the settings that were judged at each batch size, and of their steps to the target."""
    if ledger.freeze is None or not ledger.freeze.winners:
        return []
    stored = read_study(settling_place(directory))
    declared = ledger.declaration.target
    times = compute_times(stored.runs, stored.curves, declared[0], declared[1])
    judged = times[times["seed"].map(purpose) == "judge_scaling"]
    lines = ["| optimizer | batch size | setting | steps, geometric mean | seeds | missed |", "| --- " * 6 + "|"]
    for winner in ledger.freeze.winners:
        own = judged[(judged["optimizer"] == winner.arm) & (judged["batch_size"] == winner.batch_size)]
        reached = own.loc[own["outcome"] == "reached", "steps"]
        searched = {name for box in ledger.freeze.boxes if box.arm == winner.arm for name, _, _ in box.sides}
        values = [(name, value) for name, value in winner.hyperparameters if name in searched]
        setting = ", ".join(f"{parameter_name(name)} {number(value)}" for name, value in values)
        steps = number(float(np.exp(np.log(reached).mean())), 3) if len(reached) else "–"
        cells = [optimizer_name(winner.arm), winner.batch_size, setting, steps, len(own), len(own) - len(reached)]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return ["\n".join(lines)]


def _row(answer: Answer) -> str:
    claim = answer.claim
    pair = f"{optimizer_name(claim.candidate)} against {optimizer_name(claim.reference)}"
    ends = [other if end is None else number(end) for end, other in ((answer.low, "0"), (answer.high, "∞"))]
    cells = [
        pair,
        _QUESTIONS[claim.question],
        f"**{answer.answer}**",
        "–" if answer.estimate is None else number(answer.estimate),
        "–" if answer.estimate is None else f"{ends[0]} to {ends[1]}",
        f"{claim.alpha:.2%}",
        str(answer.looks),
    ]
    return f"| {' | '.join(re.sub(r'[|]', '/', cell) for cell in cells)} |"


if __name__ == "__main__":
    for name in sys.argv[1:]:
        write_finding(Path(name))
