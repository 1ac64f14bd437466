"""All claims of a study together keep its error rate: which verdict is made at which level, and in which role."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from sensitivity.analysis import claims
from sensitivity.analysis.claims import Evidence, compute_claims
from sensitivity.analysis.estimates import Caution, Estimate
from sensitivity.analysis.looks import RATE, Level, Looks
from sensitivity.analysis.paired import holm
from sensitivity.analysis.remedies import Remedy
from sensitivity.analysis.verdict import Verdict
from sensitivity.study.spec import StudySpec

ARM = {"kind": "sgd", "lr": 0.1}
FIRST = Looks(extensions=(), seeds_alone=True, changed=())
HALF = Level(rate=RATE / 2, cautions=())
KEYS = [(pair, question) for pair in (("b", "a"), ("c", "a")) for question in ("scaling", "sensitivity")]


def spec(**changes):
    base = {
        "name": "three", "batch_sizes": [8], "seeds": 2, "budget": {"steps": 1}, "targets": {"test_loss": [1.0]},
        "optimizers": {"a": ARM, "b": ARM, "c": ARM},
    }  # fmt: skip
    return StudySpec.model_validate({**base, **changes, "seeds": tuple(range(2))})


@pytest.fixture
def judged(monkeypatch):
    """Verdicts whose two-sided p-values are given by pair and question; returns what computes the claims."""

    def verdict(question, p, pair, alpha, reasons, remedies):
        return Verdict(
            question=question, candidate=pair[0], reference=pair[1], answer="better" if p <= alpha else "undetermined",
            effect=Estimate(value=1.0), primary=None, by_batch=(), reasons=reasons, blocks=(),
            remedies=remedies, alpha=alpha,
        )  # fmt: skip

    def of(p_values, study, looks=FIRST, level=HALF, reasons=(), remedies=(), **options):
        for name, question in (("scaling", "scaling"), ("sensitivity", "sensitivity")):
            monkeypatch.setattr(
                claims,
                f"compute_{name}_verdict",
                lambda _runs, _what, *pair, question=question, alpha, **_: verdict(
                    question, p_values.get((pair, question), 1.0), pair, alpha, reasons, remedies
                ),
            )
        runs = pd.DataFrame({"optimizer": ["a", "b", "c"], "confirmation": [False] * 3})
        evidence = Evidence(runs=runs, curves=(), draws=(), clipping=())
        found = compute_claims(study, evidence, looks, level, **options)
        return {((c.verdict.candidate, c.verdict.reference), c.verdict.question): c for c in found}

    return of


def test_every_pair_and_question_is_judged_each_against_the_first(judged):
    assert list(judged({}, spec())) == KEYS


def test_claims_are_those_of_holms_procedure(judged):
    rng = np.random.default_rng(0)
    seen = set()
    for _ in range(200):
        p_values = 10 ** rng.uniform(-3.5, 0, size=len(KEYS))
        found = judged(dict(zip(KEYS, p_values, strict=True)), spec())
        # One-sided rates: a two-sided p of 2 x RATE / 2 is the level of the family at the first look.
        wanted = [p <= 2 * HALF.rate for p in holm(list(p_values))]
        assert [found[key].verdict.answer == "better" for key in KEYS] == wanted
        seen.add(sum(wanted))
    assert seen == {0, 1, 2, 3, 4}, "the test can fail"


def test_the_primary_claim_has_the_whole_rate_and_the_rest_is_exploratory(judged):
    primary = {"question": "sensitivity", "pair": ("c", "a")}
    study = spec(primary=primary)
    key = (("c", "a"), "sensitivity")
    found = judged({key: 2 * HALF.rate}, study)
    assert next(iter(found))[0] == ("c", "a")
    assert (found[key].role, found[key].rate, found[key].verdict.answer) == ("primary", HALF.rate, "better")
    rest = [claim for at, claim in found.items() if at != key]
    assert {(claim.role, claim.rate) for claim in rest} == {("exploratory", HALF.rate / 3)}
    assert judged({key: 2 * HALF.rate * 1.01}, study)[key].verdict.answer == "undetermined"


@pytest.mark.parametrize("primary", [None, {"question": "scaling"}])
def test_what_was_chosen_after_results_is_exploratory(judged, primary):
    changed = replace(FIRST, changed=(Caution(code="changed-after-results", text="margins"),))
    for options in ({"looks": changed}, {"chosen": True}):
        assert {claim.role for claim in judged({}, spec(primary=primary), **options).values()} == {"exploratory"}


def test_nothing_is_claimed_between_planned_looks(judged):
    found = judged(dict.fromkeys(KEYS, 0.0), spec(), level=Level(rate=0.0, cautions=()))
    assert {(claim.verdict.answer, claim.rate) for claim in found.values()} == {("undetermined", 0.0)}
    assert {claim.verdict.alpha for claim in found.values()} == {RATE / 4}, "the interval is that of a first look"


def test_between_planned_looks_the_next_one_is_what_would_settle_it(judged):
    tests = tuple(Caution(code=code, text=code) for code in ("test", "anytime", "batch-size"))
    cures = tuple(Remedy(code=code, text=code) for code in ("seeds", "edge"))
    told = Level(rate=0.0, cautions=(Caution(code="unplanned-look", text="the next one is at 11"),))
    found = judged({}, spec(), level=told, reasons=tests, remedies=cures)[("b", "a"), "scaling"].verdict
    assert [reason.code for reason in found.reasons] == ["test"]
    assert [remedy.text for remedy in found.settle] == ["the next one is at 11", "edge"]


def test_optimizers_without_runs_are_not_compared():
    runs = pd.DataFrame({"optimizer": ["a", "c"], "confirmation": [False, False]})
    assert claims.compared_pairs(spec(), runs) == (("c", "a"),)
    assert claims.compared_pairs(spec(pairs=[("b", "c")]), runs) == ()


def test_margins_are_those_of_the_study(monkeypatch):
    given = []
    for name in ("compute_scaling_verdict", "compute_sensitivity_verdict"):
        monkeypatch.setattr(
            claims,
            name,
            lambda *_, margins, **__: given.append(margins) or SimpleNamespace(answer="undetermined"),
        )
    runs = pd.DataFrame({"optimizer": ["a", "b"], "confirmation": [False, False]})
    study = spec(margins={"scaling_ratio": 3.0, "tuning_ratio": 4.0})
    compute_claims(study, Evidence(runs=runs, curves=(), draws=(), clipping=()), FIRST, HALF)
    assert {(margins.scaling_ratio, margins.tuning_ratio) for margins in given} == {(3.0, 4.0)}
