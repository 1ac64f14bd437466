"""Write what studies found into ``docs/findings``: ``python docs/hooks/findings.py studies/NAME ...``.

Each study's page, ``docs/findings/NAME.md``, is written by hand around a part between two marks, which this replaces.
Of a settled study it holds the answers with their intervals, what they took, and a figure of the looks; of a grid over
learning rate and damping, how much their ratio explains. The tables of runs and the figures go beside the page. Where
the page is missing, it is begun.
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
from sensitivity.figures.settled_words import settlement_summary
from sensitivity.store.directory import Place, place
from sensitivity.store.ledger import settling_place
from sensitivity.store.reader import export_runs, read_study
from sensitivity.study.amendments import Answer
from sensitivity.study.ledger import Ledger
from sensitivity.study.seed_ranges import purpose
from sensitivity.study.words import duration

FINDINGS = Path(__file__).parents[1] / "findings"
_MARKS = ("<!-- results -->", "<!-- /results -->")
_QUESTIONS = {"scaling": "scales further", "sensitivity": "is cheaper to tune"}
_HEADER = f"| pair | question | answer | ratio | interval | error rate | looks |\n{'| --- ' * 7}|"


def write_finding(directory: Path) -> Path:
    """Write a study's results into its page, and return the page.

    Raises:
        SystemExit: the study is neither settled nor a grid of which every run is done.
    """
    study = sensitivity.open(directory)
    ledger = study.results.tables.ledger
    settled = ledger is not None and ledger.settlement is not None
    if not settled and not any(each.ridge for each in study.results.importance):
        raise SystemExit(f"{directory}: neither `sensitivity settle` nor a grid of learning rate and damping has ended")
    folder = FINDINGS / study.name
    folder.mkdir(exist_ok=True)
    runs = settling_place(place(str(directory))) if settled else place(str(directory))
    (folder / "runs.parquet").write_bytes(export_runs(runs, ".parquet"))
    figure = "looks" if settled else "ridge"
    command = [sys.executable, "-m", "sensitivity.cli.main", "figure", str(directory), figure]
    subprocess.run([*command, "-o", str(folder / f"{figure}.svg")], check=True, stdout=subprocess.DEVNULL)
    page = FINDINGS / f"{study.name}.md"
    text = page.read_text(encoding="utf-8") if page.exists() else f"# {study.name}\n\n{_MARKS[0]}\n{_MARKS[1]}\n"
    before, _, rest = text.partition(_MARKS[0])
    after = rest.partition(_MARKS[1])[2]
    results = _map_results(study) if ledger is None or not settled else _results(study, ledger)
    page.write_text(f"{before}{_MARKS[0]}\n{results}\n{_MARKS[1]}{after}", encoding="utf-8")
    return page


def _results(study: OpenedStudy, ledger: Ledger) -> str:
    lines = [_row(answer) for answer in study.results.settled]
    runs = pd.read_parquet(FINDINGS / study.name / "runs.parquet")
    versions = ", ".join(sorted(runs["code_version"].dropna().unique()))
    return "\n\n".join(
        [
            "\n".join([_HEADER, *lines]),
            f"![What each planned look at the first pair showed]({study.name}/looks.svg)",
            *_winners(place(study.directory), ledger),
            f"{settlement_summary(ledger)} Declared before the first run:"
            f" `{ledger.declared.hash[:16]}`. Code {versions}.",
            f"[Every run of it]({study.name}/runs.parquet), [the study file]({study.name}.toml).",
        ]
    )


def _map_results(study: OpenedStudy) -> str:
    """Return what a grid of learning rate and damping showed: how much their ratio explains, and the best settings."""
    stored = read_study(place(study.directory))
    declared = study.results.target
    assert declared is not None
    metric = study.results.metric
    times = compute_times(stored.runs, stored.curves, *declared)
    header = (
        f"| batch size | {metric.label} explained by lr / damping alone | by lr alone | by damping alone "
        "| slope of the ridge | fewest steps | setting |"
    )
    lines = [header, "| --- " * 7 + "|"]
    for each in study.results.importance:
        if not each.ridge:
            continue
        own = times[(times["optimizer"] == each.optimizer) & (times["batch_size"] == each.batch_size)]
        best, slope = _ridge(own)
        setting = f"learning rate {number(best['param.lr'])}, damping {number(best['param.damping'])}"
        explained = [f"{each.share_of(name).value:.0%}" for name in ("lr / damping", "lr", "damping")]
        cells = [each.batch_size, *explained, number(slope, 2), number(float(np.exp(best["log_steps"])), 3), setting]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    versions = ", ".join(sorted(stored.runs["code_version"].dropna().unique()))
    return "\n\n".join(
        [
            "\n".join(lines),
            f"![{metric.label.capitalize()} across the ridge of learning rate and damping]({study.name}/ridge.svg)",
            f"Measured in {len(stored.runs):,} runs and {duration(stored.runs['train_seconds'].sum())} of device time."
            f" Code {versions}.",
            f"[Every run of it]({study.name}/runs.parquet), [the study file]({study.name}.toml).",
        ]
    )


def _ridge(times: pd.DataFrame) -> tuple[pd.Series, float]:
    """Return the setting with the fewest steps, and the slope of log best learning rate against log damping.

    Steps are geometric means over seeds, all of which reached the target. A damping whose best learning rate is the
    smallest or the largest of the grid doesn't enter the slope.
    """
    table = (
        times.assign(log_steps=np.log(times["steps"]), reached=times["outcome"] == "reached")
        .groupby(["param.damping", "param.lr"], as_index=False)
        .agg(log_steps=("log_steps", "mean"), reached=("reached", "all"))
        .query("reached")
        .sort_values(["log_steps", "param.lr"])
    )
    best = table.groupby("param.damping").head(1)
    inside = best[best["param.lr"].between(times["param.lr"].min(), times["param.lr"].max(), inclusive="neither")]
    slope = np.polyfit(np.log(inside["param.damping"]), np.log(inside["param.lr"]), 1)[0]
    return table.iloc[0], float(slope)


def _winners(directory: Place, ledger: Ledger) -> list[str]:
    """Return a table of the settings that were judged at each batch size, and of their steps to the target, if any."""
    if ledger.freeze is None:
        return []
    stored = read_study(settling_place(directory))
    declared = ledger.declaration.target
    times = compute_times(stored.runs, stored.curves, declared[0], declared[1])
    judged = times[times["seed"].map(purpose) == "judge_scaling"]
    lines = []
    for winner in ledger.freeze.winners:
        own = judged[(judged["optimizer"] == winner.arm) & (judged["batch_size"] == winner.batch_size)]
        if own.empty:
            continue
        reached = own.loc[own["outcome"] == "reached", "steps"]
        searched = {name for box in ledger.freeze.boxes if box.arm == winner.arm for name, _, _ in box.sides}
        values = [(name, value) for name, value in winner.hyperparameters if name in searched]
        setting = ", ".join(f"{parameter_name(name)} {number(value)}" for name, value in values)
        steps = number(float(np.exp(np.log(reached).mean())), 3) if len(reached) else "–"
        cells = [optimizer_name(winner.arm), winner.batch_size, setting, steps, len(own), len(own) - len(reached)]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    head = ["| optimizer | batch size | setting | steps, geometric mean | seeds | missed |", "| --- " * 6 + "|"]
    title = "The frozen winners, and what they took on the judging seeds:"
    return [title, "\n".join([*head, *lines])] if lines else []


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
