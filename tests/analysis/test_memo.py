"""Answers kept once: computed by one for all who ask, the least used dropped."""

import threading

import pytest

from sensitivity.analysis.memo import Memo


def test_a_result_is_computed_once_for_all_who_ask_at_a_time():
    memo, calls, gate = Memo(2), [], threading.Event()

    def slow():
        calls.append(1)
        gate.wait(5)
        return "result"

    found = []
    threads = [threading.Thread(target=lambda: found.append(memo.get("key", slow))) for _ in range(4)]
    for thread in threads:
        thread.start()
    gate.set()
    for thread in threads:
        thread.join()
    assert found == ["result"] * 4
    assert len(calls) == 1


def test_the_least_used_result_goes_and_a_failure_is_not_kept():
    memo = Memo(2)
    for key in ("a", "b", "a", "c"):
        memo.get(key, lambda key=key: key)
    assert memo.get("a", lambda: "again") == "a"
    assert memo.get("b", lambda: "again") == "again"
    with pytest.raises(ZeroDivisionError):
        memo.get("d", lambda: 1 / 0)
    assert memo.get("d", lambda: "fixed") == "fixed"
