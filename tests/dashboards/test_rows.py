"""The table of runs compared with pandas, and invalid requests."""

import io
import re
from pathlib import Path

import pandas as pd
import pytest

import dashboards
from dashboards.address import Address, parse, path_of, search_of
from dashboards.listing import MOST_CHOSEN, Listing, grid_model, in_words, parse_where, where_text
from dashboards.rows import MAX_ROWS, columns, csv_text, listed, rows_of
from sensitivity.store.directory import place
from sensitivity.store.reader import read_study


@pytest.fixture(scope="module")
def runs(studies):
    return read_study(place(str(studies / "half"))).runs


def ask(runs, filters=None, sort=None, start=0, end=100):
    return rows_of(runs, {"startRow": start, "endRow": end, "filterModel": filters or {}, "sortModel": sort or []})


def test_pages_of_rows_join_to_the_whole_table(runs):
    rows, count = ask(runs, end=40)
    more, _ = ask(runs, start=40, end=200)
    assert count == len(runs) == 108
    assert [row["trial_id"] for row in rows + more] == list(runs["trial_id"])


def test_page_of_rows_is_bounded(runs):
    many = pd.concat([runs] * 10)
    assert len(ask(many, end=10**8)[0]) == MAX_ROWS


def test_varying_columns_come_first_and_empty_ones_are_left_out(runs):
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
def test_filters_agree_with_pandas(runs, filters, expected):
    rows, count = ask(runs, filters, end=200)
    assert [row["trial_id"] for row in rows] == list(runs.loc[expected(runs), "trial_id"])
    assert count == len(rows)


def test_sorting_puts_missing_values_last(runs):
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
def test_invalid_requests_are_ignored(runs, request_):
    rows, count = rows_of(runs, request_)
    assert count == len(runs)
    assert len(rows) in (0, 9)


@pytest.fixture(scope="module")
def parts(studies):
    """The runs with a result as stored in the parts, read without the code under test."""
    return pd.concat([pd.read_parquet(part) for part in sorted((studies / "half" / "runs").glob("*.parquet"))])


def listing_of(*where, **changes):
    return Listing(where=tuple(map(parse_where, where)), **changes)


def test_download_has_the_shown_rows_with_full_precision(runs, parts):
    listing = listing_of(
        "status:equals:completed|equals:diverged", "param.lr:greaterThan:0.05", "param.lr:lessThanOrEqual:1",
        sort=(("train_loss", True), ("seed", False)), columns=("trial_id", "param.lr", "seed", "train_loss", "host"),
    )  # fmt: skip
    expected = parts[parts["status"].isin(["completed", "diverged"]) & (parts["param.lr"] > 0.05)]
    file = pd.read_csv(io.StringIO(csv_text(runs, listing)))
    assert list(file.columns) == ["param.lr", "seed", "train_loss", "host", "trial_id"], "in the order of the table"
    assert file["train_loss"].is_monotonic_decreasing
    same = expected.set_index("trial_id").loc[file["trial_id"]].reset_index()
    assert len(file) == len(expected) > 20
    for name in file.columns:
        assert list(file[name]) == list(same[name]), name
    rows, count = ask(runs, grid_model(listing.where, {"param.lr"}), [{"colId": "train_loss", "sort": "desc"}], end=500)
    assert count == len(file)
    assert [row["train_loss"] for row in rows] == list(file["train_loss"])


def test_listing_round_trips_through_an_address():
    listing = listing_of(
        "message:contains:a%3Ab%7Cc d&e", "status:equals:failed|equals:completed", "test_loss:inRange:0.1:2e-3",
        "host:blank",
        sort=(("param.lr", True),), columns=("seed", "param.lr"), chosen=("0123456789abcdef",),
    )  # fmt: skip
    assert listing.where[0].any_of[0].operands == ("a:b|c d&e",)
    address = Address(page="runs", study="s", listing=listing)
    assert parse(path_of(address), search_of(address)) == address
    assert [where_text(parse_where(where_text(one))) for one in listing.where] == list(map(where_text, listing.where))
    assert in_words(listing.where[1], "status") == "status is failed or completed"
    assert in_words(listing.where[2], "test loss") == "test loss is between 0.1 and 2e-3"


@pytest.mark.parametrize(
    "text", ["", "status", "status:is:x", "status:equals", "a:inRange:1", ":equals:1", "a:blank:1"]
)
def test_invalid_filters_give_none(text):
    assert parse_where(text) is None


@pytest.mark.parametrize("where", ["param.lr:lessThan:x", "nothing:equals:1", "param.lr:lessThan:nan"])
def test_inapplicable_filters_keep_all_runs(runs, where):
    assert len(listed(runs, listing_of(where))) == len(runs)


def test_filter_by_one_of_several_tags_and_ticked_runs(runs):
    tagged = runs.assign(tags=["odd, look again"] + ["oddly"] * (len(runs) - 1))
    assert list(listed(tagged, listing_of("tags:equals:odd")).index) == [0]
    assert len(listed(tagged, listing_of("tags:notEqual:odd"))) == len(runs) - 1
    assert "tags" in columns(tagged)
    assert "tags" not in columns(runs)
    rows, _ = rows_of(tagged, {"startRow": 0, "endRow": 3}, chosen=[tagged["trial_id"].iloc[1]])
    assert [row["chosen"] for row in rows] == [False, True, False]


def test_page_and_address_have_the_same_limit_of_ticks():
    script = (Path(dashboards.__file__).parent / "assets" / "page.js").read_text(encoding="utf-8")
    assert re.search(r"const MOST_CHOSEN = (\d+);", script)[1] == str(MOST_CHOSEN)
