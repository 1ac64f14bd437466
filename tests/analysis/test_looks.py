"""Looks are counted from what a directory holds, and all claims together stay within the error rate."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm

from sensitivity.analysis.looks import RATE, compute_looks, level

SGD = {"kind": "sgd", "lr": [0.1]}


def spec(**changes):
    return {
        "seeds": [0, 1, 2],
        "batch_sizes": [32, 64],
        "optimizers": {"sgd": SGD},
        "search": None,
        "targets": {"test_loss": [0.5]},
        "margins": {"scaling_ratio": 1.25},
        "pairs": [],
        "primary": None,
        "execution": {"threads": 1},
        **changes,
    }


def runs(*hashes):
    """Return finished runs, one for each hash, a day after the other; None waits."""
    days = pd.date_range("2026-01-01", periods=len(hashes), tz="UTC")
    finished = [day if name else pd.NaT for day, name in zip(days, hashes, strict=True)]
    return pd.DataFrame({"spec_hash": list(hashes), "finished_at": finished})


def looks(specs, *hashes, present=None):
    return compute_looks(specs, runs(*hashes), present or list(specs.values())[-1])


def test_one_command_is_one_look():
    found = looks({"a": spec()}, "a", "a", None)
    assert found.count == 1
    assert level(found, 3, ()).rate == RATE / 2
    assert not level(found, 3, ()).cautions


def test_results_that_do_not_exist_can_not_be_looked_at():
    assert looks({"a": spec(), "b": spec(seeds=[0, 1, 2, 3])}, "b", "b").count == 1


@pytest.mark.parametrize(
    ("changes", "words", "seeds_alone"),
    [
        ({"seeds": [0, 1, 2, 3]}, "seeds from 3 to 4", True),
        ({"batch_sizes": [32, 64, 128]}, "batch sizes from 2 to 3", False),
        ({"optimizers": {"sgd": {"kind": "sgd", "lr": [0.1, 0.2]}}}, "the design of sgd", False),
        ({"optimizers": {"sgd": SGD, "kfac": {}}}, "the design of kfac", False),
        ({"search": {"confirm": 3}}, "the search or its confirmations", False),
        (
            {"seeds": [0], "search": {"confirm": 3}},
            "seeds from 3 to 1 and the search or its confirmations",
            False,
        ),
    ],
)
def test_an_extension_after_results_is_a_look(changes, words, seeds_alone):
    found = looks({"a": spec(), "b": spec(**changes)}, "a", "b")
    assert (found.count, found.extensions, found.seeds_alone) == (2, (words,), seeds_alone)
    assert level(found, 4, ()).rate == pytest.approx(RATE / 6)
    (caution,) = level(found, 4, ()).cautions
    assert words in caution.text


def test_what_changes_no_run_is_no_look():
    specs = {"a": spec(), "b": spec(execution={"threads": 2}), "c": spec(targets={"test_loss": [0.4]})}
    assert looks(specs, "a", "b", "c").count == 1


def test_a_study_taken_up_again_as_it_was_is_no_further_look():
    specs = {"a": spec(), "b": spec(seeds=[0, 1, 2, 3])}
    assert looks(specs, "a", "b", "a", "b").count == 2


def test_the_order_is_that_of_the_results():
    specs = {"b": spec(seeds=list(range(9))), "a": spec()}  # as of a directory whose file went back and forth
    assert looks(specs, "a", "b").extensions == ("seeds from 3 to 9",)


@pytest.mark.parametrize("table", ["targets", "margins", "pairs", "primary"])
def test_a_claim_that_was_changed_after_results_is_exploratory(table):
    other = {
        "targets": {"test_loss": [0.4]},
        "margins": {"scaling_ratio": 2.0},
        "pairs": [["a", "b"]],
        "primary": {"question": "scaling"},
    }[table]
    before = {"a": spec()}
    assert not looks(before, "a").changed
    (caution,) = looks(before, "a", present=spec(**{table: other})).changed
    assert table in caution.text
    assert not looks({"a": spec(), "b": spec(**{table: other})}, "b").changed  # before any result


def test_rates_of_all_looks_add_up_to_the_rate():
    specs = {str(n): spec(seeds=list(range(n))) for n in range(3, 2003)}
    names = list(specs)
    rates = [level(looks(specs, *names[:k]), 3, ()).rate for k in (1, 2, 3, 4)]
    assert rates == pytest.approx([RATE / 2, RATE / 6, RATE / 12, RATE / 20])
    k = np.arange(1, 10**6)
    assert (RATE / (k * (k + 1.0))).sum() == pytest.approx(RATE, abs=1e-6)


def test_planned_looks_have_their_share_and_nothing_is_claimed_between_them():
    plan = (8, 11, 14, 20)
    found = looks({"a": spec()}, "a")
    rates = [level(found, n, plan).rate for n in plan]
    assert sum(rates) == pytest.approx(RATE)
    assert [rate / rates[0] for rate in rates] == pytest.approx([math.sqrt(n / 8) for n in plan])
    between = level(found, 9, plan)
    assert between.rate == 0
    assert "seeds = 11" in between.cautions[0].text
    assert "no look is left" in level(found, 21, plan).cautions[0].text


@pytest.mark.parametrize("seeds", [7, 8, 11, 14])
def test_a_study_that_leaves_its_plan_has_what_the_plan_has_left(seeds):
    plan = (8, 11)
    specs = {str(n): spec(batch_sizes=list(range(8, 8 + n))) for n in range(1, 2002)}
    names = list(specs)
    after = [level(looks(specs, *names[: k + 1]), seeds, plan) for k in (1, 2, 3)]
    spent = sum(math.sqrt(n) for n in plan if n <= seeds) / sum(map(math.sqrt, plan))
    left = RATE * (1 - spent)
    assert [found.rate for found in after] == pytest.approx([left / 2, left / 6, left / 12])
    assert "more than the planned looks" in after[0].cautions[0].text
    assert ("new study" in after[0].cautions[0].text) == (seeds >= 11)
    k = np.arange(1, 10**6)
    assert RATE * spent + (left / (k * (k + 1.0))).sum() == pytest.approx(RATE, abs=1e-6)


def test_any_look_keeps_the_rate_when_the_answer_decides_whether_to_go_on():
    """Studies stop at the first claim and look after every seed from 6 to 20: without the rates 2 of 10 claim."""
    rng = np.random.default_rng(0)
    n = np.arange(6, 21)
    z = rng.standard_normal((20_000, 20)).cumsum(axis=1)[:, n - 1] / np.sqrt(n)  # a true effect at the margin
    k = np.arange(1, len(n) + 1)
    rates = RATE / (k * (k + 1))
    assert (z > norm.isf(rates)).any(axis=1).mean() <= RATE
    assert (z > norm.isf(RATE)).any(axis=1).mean() > 2 * RATE


def test_the_price_of_a_look_is_that_of_the_power_it_takes():
    """At look 2 the share of further seeds, by the textbook's sample size of a one-sided z test."""
    specs = {"a": spec(), "b": spec(seeds=[0, 1, 2, 3])}
    (caution,) = level(looks(specs, "a", "b"), 4, ()).cautions
    power = norm.ppf(0.8)
    needed = ((norm.isf(RATE / 6) + power) / (norm.isf(RATE / 2) + power)) ** 2 - 1
    assert f"{needed:.0%} more seeds" in caution.text
