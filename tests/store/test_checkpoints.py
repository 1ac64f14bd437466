import logging

import pytest

from sensitivity.store.checkpoints import (
    CHECKPOINTS,
    CheckpointHeader,
    delete_checkpoint,
    read_checkpoint,
    sweep_checkpoints,
    write_checkpoint,
)

PAYLOAD = bytes(range(256)) * 40  # with newlines in it


def header(*trials, step=10):
    return CheckpointHeader(trials=trials, step=step, code_version="1", torch="2")


def names(directory):
    return directory.child(CHECKPOINTS).files("")


def test_a_checkpoint_comes_back_and_a_later_one_replaces_it(directory):
    assert read_checkpoint(directory, "p") is None
    write_checkpoint(directory, "p", header("a", "b"), PAYLOAD)
    write_checkpoint(directory, "p", header("a", "b", step=20), PAYLOAD[::-1])
    assert read_checkpoint(directory, "p") == (header("a", "b", step=20), PAYLOAD[::-1])
    delete_checkpoint(directory, "p")
    delete_checkpoint(directory, "p")
    assert read_checkpoint(directory, "p") is None
    assert not names(directory)


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[:-1],
        lambda data: data[:10],
        lambda data: data.replace(b'"step": 10', b'"step": "x"'),
        lambda data: data[:-100] + b"!" + data[-99:],
        lambda data: b"[" * 100_000,
        lambda data: b"\x80\x04\x95" + data,
    ],
)
def test_a_damaged_checkpoint_is_not_used_and_the_log_says_so(directory, damage, caplog):
    write_checkpoint(directory, "p", header("a"), PAYLOAD)
    name = f"{CHECKPOINTS}/p.checkpoint"
    directory.write(name, damage(directory.read(name)))
    with caplog.at_level(logging.WARNING):
        assert read_checkpoint(directory, "p") is None
    assert "p.checkpoint: damaged, not used" in caplog.text
    sweep_checkpoints(directory, {"a"})  # no error either


def test_what_nothing_can_go_on_from_is_swept(directory):
    write_checkpoint(directory, "whole", header("a", "b", step=5), PAYLOAD)
    write_checkpoint(directory, "half", header("b", step=9), PAYLOAD)  # the same trial, further
    write_checkpoint(directory, "partly_done", header("c", "d"), PAYLOAD)
    write_checkpoint(directory, "unplanned", header("z"), PAYLOAD)
    write_checkpoint(directory, "good", header("e", "f", step=7), PAYLOAD)
    assert sweep_checkpoints(directory, {"a", "b", "d", "e", "f"}) == (("b",), ("e", "f"))
    assert names(directory) == ("good.checkpoint", "half.checkpoint")
    assert sweep_checkpoints(directory, set()) == ()
    assert not names(directory)
