"""What the pages of findings say is what their tables of runs hold."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from sensitivity.study.load import load_study
from sensitivity.study.results import Status
from sensitivity.study.seed_ranges import purpose

FINDINGS = Path(__file__).parents[2] / "docs" / "findings"
STUDIES = sorted(path.stem for path in FINDINGS.glob("*.toml"))
MAPS = [name for name in STUDIES if (FINDINGS / name / "ridge.svg").exists()]
"""Grids that were run; the others are settled."""
SETTLED = [name for name in STUDIES if name not in MAPS]
_TOOK = re.compile(r"(?:in|within|after) ([\d,]+) runs")
_WINNER = re.compile(r"^\| [^|]+ \| (?P<size>\d+) \| [^|]+ \| [\d.,–]+ \| (?P<seeds>\d+) \| \d+ \|$", re.MULTILINE)


def test_every_finding_is_listed_with_its_page():
    listed = (FINDINGS / "index.md").read_text(encoding="utf-8")
    assert STUDIES
    assert all(f"({name}.md)" in listed for name in STUDIES)


def test_the_list_repeats_the_answers_of_the_pages():
    rows = re.findall(r"^\| .*\[.+?\].*\|$", (FINDINGS / "index.md").read_text(encoding="utf-8"), re.MULTILINE)
    answers = ("better", "worse", "equivalent", "undetermined")
    listed = [row.replace("**", "") for row in rows if any(answer in row for answer in answers)]
    shown = [re.findall(r"(better|worse|equivalent|undetermined), (\S+) \[(\S+), (\S+)\]", row) for row in listed]
    told = {
        answer
        for name in SETTLED
        for answer in re.findall(
            r"\| \*\*(\w+)\*\* \| (\S+) \| (\S+) to (\S+) \|", (FINDINGS / f"{name}.md").read_text(encoding="utf-8")
        )
    }
    assert all(shown)
    assert {answer for row in shown for answer in row} <= told
    took = {row.split("|")[-2].strip() for row in rows if re.search(r"\(\w+\.md\)", row)}
    pages = "".join((FINDINGS / f"{name}.md").read_text(encoding="utf-8") for name in SETTLED)
    assert took == set(_TOOK.findall(pages))


def test_the_readme_repeats_the_list():
    readme = (FINDINGS.parents[1] / "README.md").read_text(encoding="utf-8")
    shown = re.findall(r"^\| \[.*?\]\(docs/findings/(?!index)(\w+)\.md\).*? \| (.*) \|$", readme, re.MULTILINE)
    listed = (FINDINGS / "index.md").read_text(encoding="utf-8")
    assert shown
    for name, cells in shown:
        assert re.search(rf"\({name}\.md\)[^|]*\|[^|]*\| {re.escape(cells)} \|$", listed, re.MULTILINE), name


@pytest.mark.parametrize("name", SETTLED)
def test_a_page_agrees_with_its_table_of_runs(name):
    spec = load_study(FINDINGS / f"{name}.toml")
    assert spec.name == name
    page = (FINDINGS / f"{name}.md").read_text(encoding="utf-8")
    runs = pd.read_parquet(FINDINGS / name / "runs.parquet")
    assert set(runs["optimizer"]) == set(spec.optimizers)
    assert set(runs["batch_size"]) == set(spec.batch_sizes)
    (took,) = _TOOK.findall(page)
    assert int(took.replace(",", "")) == runs["status"].isin(list(Status)).sum()
    # The frozen winners ran on judging seeds, as many as the page says, at every batch size.
    judged = runs[runs["seed"].map(purpose) == "judge_scaling"]
    seeds = judged.groupby(["optimizer", "batch_size"])["seed"].nunique()
    rows = [match.groupdict() for match in _WINNER.finditer(page)]
    assert bool(rows) != judged.empty
    assert sorted((int(row["size"]), int(row["seeds"])) for row in rows) == sorted(
        (size, int(count)) for (_, size), count in seeds.items()
    )


@pytest.mark.parametrize("name", MAPS)
def test_a_map_explains_what_its_table_of_runs_does(name):
    page = (FINDINGS / f"{name}.md").read_text(encoding="utf-8")
    runs = pd.read_parquet(FINDINGS / name / "runs.parquet")
    assert _TOOK.findall(page) == [f"{len(runs):,}"]
    runs = runs[runs["optimizer"] == "kfac"]
    untrained = 0.1  # of ten classes
    runs["score"] = runs["test_accuracy"].fillna(0).clip(lower=untrained)
    runs["ratio"] = np.log10(runs["param.lr"] / runs["param.damping"]).round(3)
    rows = re.findall(r"^\| (\d+) \| (\d+)% \| (\d+)% \| (\d+)% \|", page, re.MULTILINE)
    assert [int(row[0]) for row in rows] == sorted(runs["batch_size"].unique())
    for size, *shares in rows:
        cells = runs[runs["batch_size"] == int(size)].groupby(["param.lr", "param.damping", "ratio"])["score"].mean()
        for coordinate, share in zip(("ratio", "param.lr", "param.damping"), shares, strict=True):
            means = cells.groupby(coordinate).transform("mean")
            assert means.var() / cells.var() == pytest.approx(int(share) / 100, abs=0.06)
