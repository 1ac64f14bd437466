"""Notes and tags of runs: writers at once, killed writers, damage, and what every reader makes of them."""

import io
import multiprocessing
import os
import signal
import time

import pandas as pd
import pytest

from sensitivity.store.directory import place
from sensitivity.store.notes import note_parts, read_notes, write_note
from sensitivity.store.reader import export_runs, read_study
from sensitivity.study.annotations import Annotation, noted, parse_tags
from sensitivity.study.errors import UserError

RUN, OTHER = "0123456789abcdef", "fedcba9876543210"
CONTEXT = multiprocessing.get_context("forkserver")
"""Never this process forked, whose threads (Ray's, of other tests) may hold locks that the child would wait for."""
CONTEXT.set_forkserver_preload(["sensitivity.store.notes", "pytest"])


def test_a_note_replaces_what_was_seen_and_tags_are_sets(directory):
    write_note(directory, RUN, note="looks odd", tags=["outlier", "again"])
    write_note(directory, OTHER, tags=["again"])
    write_note(directory, RUN, note="looks fine", untag=["outlier"])
    found = read_notes(directory)
    assert (found[RUN].note, found[RUN].tags) == ("looks fine", ("again",))
    assert (found[OTHER].note, found[OTHER].tags) == ("", ("again",))
    write_note(directory, RUN, note="")
    assert read_notes(directory)[RUN].note == ""
    assert len(note_parts(directory)) == 4, "history is kept"


def test_two_that_saw_the_same_note_lose_neither(directory):
    write_note(directory, RUN, note="first")
    seen = read_notes(directory)[RUN].ids
    write_note(directory, RUN, note="one's", seen=seen)
    write_note(directory, RUN, note="the other's", seen=seen)
    both = read_notes(directory)[RUN]
    assert both.note == "one's\nthe other's"
    write_note(directory, RUN, note="agreed", seen=both.ids)
    assert read_notes(directory)[RUN].note == "agreed"


@pytest.fixture
def folder(tmp_path):
    """A study directory that several processes see."""
    return place(str(tmp_path))


def _write(directory, who):
    for k in range(20):
        write_note(directory, RUN, tags=[f"{who} {k}"])


def test_writers_at_once_lose_nothing_of_each_other(folder):
    writers = [CONTEXT.Process(target=_write, args=(folder, who)) for who in "abc"]
    for each in writers:
        each.start()
    for each in writers:
        each.join()
        assert each.exitcode == 0
    assert set(read_notes(folder)[RUN].tags) == {f"{who} {k}" for who in "abc" for k in range(20)}


def _write_until_killed(directory, told):
    told.send("begun")
    for k in range(10**6):
        write_note(directory, RUN, note=f"{k}" * 500, tags=[str(k)], seen=())


def test_a_killed_writer_leaves_whole_notes(folder, caplog):
    here, there = multiprocessing.Pipe()
    writer = CONTEXT.Process(target=_write_until_killed, args=(folder, there))
    writer.start()
    here.recv()
    end = time.monotonic() + 20
    while len(note_parts(folder)) < 5 and time.monotonic() < end:
        time.sleep(0.01)
    os.kill(writer.pid, signal.SIGKILL)
    writer.join()
    count = len(note_parts(folder))
    assert set(read_notes(folder)[RUN].tags) == {str(k) for k in range(count)}
    assert caplog.text == ""


def test_what_is_damaged_or_of_others_is_left_out(directory, caplog):
    write_note(directory, RUN, note="kept")
    folder = directory.child("notes")
    folder.write("0000000000000001-00000000.json", b'{"run": "0123')
    folder.write("README.json", b"{}")
    assert read_notes(directory)[RUN].note == "kept"
    assert "0000000000000001-00000000.json: damaged" in caplog.text
    assert "README" not in caplog.text


def test_notes_are_columns_of_every_table_and_not_of_results(directory, make, tmp_path):
    first, second, *_ = make.filled(directory)
    write_note(directory, first.id, note='a "quoted",\nnote', tags=["b", "a"])
    runs = read_study(directory).runs.set_index("trial_id")
    assert (runs.loc[first.id, "note"], runs.loc[first.id, "tags"]) == ('a "quoted",\nnote', "a, b")
    assert (runs.loc[second.id, "note"], runs.loc[second.id, "tags"]) == ("", "")
    for suffix, read in ((".csv", pd.read_csv), (".parquet", pd.read_parquet)):
        file = tmp_path / f"runs{suffix}"
        file.write_bytes(export_runs(directory, suffix))
        row = read(file).set_index("trial_id").loc[first.id]
        assert (row["note"], row["tags"]) == ('a "quoted",\nnote', "a, b")
    for part in directory.child("runs").files(".parquet"):
        assert "note" not in pd.read_parquet(io.BytesIO(directory.child("runs").read(part))).columns


def test_amendments_are_read_once(directory, monkeypatch):
    write_note(directory, RUN, note="one")
    kept = {}
    read_notes(directory, kept)
    monkeypatch.setattr(Annotation, "model_validate_json", lambda _: pytest.fail("read again"))
    assert read_notes(directory, kept)[RUN].note == "one"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"tags": ["a,b"]}, "tags: a tag is one or more words on one line, without a comma"),
        ({"tags": [" "]}, "tags: a tag is one or more words on one line, without a comma"),
        ({"tags": ["a\nb"]}, "tags: a tag is one or more words on one line, without a comma"),
        ({"tags": ["x" * 41]}, "tags: 40 characters at most"),
        ({"tags": [f"{k}" for k in range(21)]}, "tags: 20 at most"),
        ({"note": "x" * 4_001}, "note: 4,000 characters at most"),
    ],
)
def test_what_is_no_note_is_refused_and_nothing_written(directory, given, words):
    with pytest.raises(UserError, match=words):
        write_note(directory, RUN, **given)
    assert note_parts(directory) == ()


def test_tags_are_parsed():
    assert parse_tags(" good,  two  words ,, good") == ("good", "two words")
    assert parse_tags("") == ()
    with pytest.raises(UserError, match="characters at most"):
        parse_tags("x" * 41)
    assert noted({}) == {}
