"""A study of five optimizers and a study-wide axis, from its file to its report, with real training."""

import runpy
import tomllib
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest

from sensitivity.face.opened import opened
from sensitivity.report import write_report
from sensitivity.study.load import load_study, shipped
from sensitivity.study.toml_text import toml_text
from sensitivity.study.trials import expand, group
from sensitivity.training.loop import train_pack
from sensitivity.training.problems import load_problem

synthetic = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[1] / "analysis" / "synthetic.py")))
RATE = 0.025
"""One-sided error rate of all claims of a study that is looked at once."""


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """The shipped study of five optimizers with few steps, and with a box for SGD that is far too wide."""
    folder = tmp_path_factory.mktemp("five")
    raw = tomllib.loads(shipped()["optimizers_digits"].read_text())
    raw |= {"batch_sizes": [32], "seeds": 12, "budget": {"steps": 8}, "targets": {"train_loss": [2.2]}}
    raw["evaluation"] = {"every_steps": 8}
    del raw["search"]
    raw["problem"] |= {"train_subset": 200, "test_subset": 60, "model_arguments": {"width": [8, 12]}}
    boxes = {"sgd": [1e-7, 3.0], "adamw": [3e-3, 3e-2], "kfac": [0.03, 0.3], "muon": [0.01, 0.1], "soap": [3e-3, 3e-2]}
    for arm, box in boxes.items():
        raw["optimizers"][arm] |= {"samples": 3, "lr": {"log": box}}
    path = folder / "five.toml"
    path.write_text(toml_text(raw))
    spec = load_study(path)
    task, results = load_problem(spec.problem.fixed()), {}
    for pack in group(expand(spec), 64):
        results |= {result.trial.id: result for result in train_pack(pack, task)}
    return synthetic.write_study(folder / "five", spec, lambda trial: results[trial.id])


@pytest.fixture(scope="module")
def open_study(study):
    return opened(study)


def test_all_pairs_share_the_error_rate_by_holm(open_study):
    claims = open_study.results.claims
    questions = Counter((c.verdict.candidate, c.verdict.reference) for c in claims)
    assert len(questions) == 10
    assert set(questions.values()) == {2}
    assert {c.role for c in claims} == {"confirmatory"}
    opened_claims = [c for c in claims if c.verdict.answer == "undetermined"]
    made = [c for c in claims if c.verdict.answer != "undetermined"]
    assert made, "SGD seldom reaches the target, the others always do"
    assert {c.verdict.reference for c in made} == {"sgd"}
    assert {c.verdict.answer for c in made} == {"better"}
    # Holm 1979: of m open claims each is tested at 1/m of the rate; the claims still open were tested last.
    assert {c.rate for c in opened_claims} == {RATE / len(opened_claims)}
    left = len(claims)
    for rate, count in sorted(Counter(c.rate for c in made).items()):
        assert rate == pytest.approx(RATE / left)
        left -= count


def test_report_has_all_five_optimizers_and_every_axis(study):
    page = write_report([study]).html
    for words in ("SGD", "AdamW", "K-FAC", "Muon", "SOAP", "model width"):
        assert words in page
