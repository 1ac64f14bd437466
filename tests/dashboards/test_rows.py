"""The table of runs against pandas, and what is not understood."""

import pandas as pd
import pytest

from dashboards.rows import MOST_ROWS, columns, rows_of
from sensitivity.store.directory import place
from sensitivity.store.reader import read_study


@pytest.fixture(scope="module")
def runs(studies):
    return read_study(place(str(studies / "half"))).runs


def ask(runs, filters=None, sort=None, start=0, end=100):
    return rows_of(runs, {"startRow": start, "endRow": end, "filterModel": filters or {}, "sortModel": sort or []})


def test_pages_join_to_the_whole_table(runs):
    rows, count = ask(runs, end=40)
    more, _ = ask(runs, start=40, end=200)
    assert count == len(runs) == 108
    assert [row["trial_id"] for row in rows + more] == list(runs["trial_id"])


def test_a_page_is_bounded(runs):
    many = pd.concat([runs] * 10)
    assert len(ask(many, end=10**8)[0]) == MOST_ROWS


def test_columns_that_vary_lead_and_empty_ones_are_left_out(runs):
    shown = columns(runs)
    assert shown[:2] == ("optimizer", "batch_size")
    assert "param.lr" in shown
    assert "param.weight_decay" not in shown
    assert shown[-1] == "trial_id"


def _wanted(kind, text):
    return {"filterType": "text", "type": kind, "filter": text}


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({"status": {"type": "equals", "filter": "Diverged"}}, lambda r: r["status"] == "diverged"),
        (
            {"param.lr": {"filterType": "number", "type": "inRange", "filter": 0.05, "filterTo": 0.5}},
            lambda r: r["param.lr"] == 0.1,
        ),
        ({"param.lr": {"filterType": "number", "type": "equals", "filter": 0.01}}, lambda r: r["param.lr"] == 0.01),
        ({"train_loss": {"filterType": "number", "type": "lessThan", "filter": 0.2}}, lambda r: r["train_loss"] < 0.2),
        ({"train_loss": {"type": "blank"}}, lambda r: r["train_loss"].isna()),
        (
            {"optimizer": {"operator": "OR", "conditions": [_wanted("startsWith", "k"), _wanted("contains", "z")]}},
            lambda r: r["optimizer"] == "kfac",
        ),
        ({"message": {"filterType": "text", "type": "contains", "filter": "(.*"}}, lambda r: r["seed"] < 0),
    ],
)  # fmt: skip
def test_filters_leave_what_pandas_leaves(runs, filters, expected):
    rows, count = ask(runs, filters, end=200)
    assert [row["trial_id"] for row in rows] == list(runs.loc[expected(runs), "trial_id"])
    assert count == len(rows)


def test_sorting_puts_what_is_missing_last(runs):
    rows, _ = ask(runs, sort=[{"colId": "train_loss", "sort": "desc"}, {"colId": "seed", "sort": "asc"}], end=200)
    values = [row["train_loss"] for row in rows]
    known = [value for value in values if value is not None]
    assert known == sorted(known, reverse=True)
    assert all(value is None for value in values[len(known) :])


@pytest.mark.parametrize(
    "request_",
    [
        {},
        {"startRow": -5, "endRow": "x", "filterModel": [], "sortModel": "no"},
        {"startRow": 0, "endRow": 9, "filterModel": {"__class__": {"type": "equals", "filter": 1}}, "sortModel": [1]},
        {"startRow": 0, "endRow": 9, "filterModel": {"seed": {"filterType": "number", "type": "!", "filter": None}}},
    ],
)
def test_what_is_not_understood_is_not_applied(runs, request_):
    rows, count = rows_of(runs, request_)
    assert count == len(runs)
    assert len(rows) in (0, 9)
