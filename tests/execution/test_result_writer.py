"""Results are written in other threads; each counts once it is in the study directory, in the order it came."""

import threading

import pytest

from sensitivity.execution import result_writer
from sensitivity.execution.result_writer import ResultWriter
from sensitivity.study.errors import StorageError
from sensitivity.study.load import parse_study
from sensitivity.study.results import PackResult
from sensitivity.study.trials import Pack, expand

SPEC = {
    "name": "w",
    "batch_sizes": [8],
    "seeds": 40,
    "budget": {"steps": 1},
    "optimizers": {"sgd": {"kind": "sgd", "lr": 0.1}},
}
PACKS = [Pack((trial,)) for trial in expand(parse_study(SPEC, source="test"))]


def result(pack):
    return PackResult(runs=(), pack_id=pack.id, host="", device="", started_at=0.0, wall_seconds=0.0)


def put(writer, pack):
    writer.put(pack, result(pack))


def ids(found):
    return [pack.id for pack, _ in found]


@pytest.fixture
def gates():
    """An event for each pack: its result is written once it is set."""
    opened = {pack.id: threading.Event() for pack in PACKS}
    yield opened
    for gate in opened.values():
        gate.set()


@pytest.fixture
def writer(gates):
    own = ResultWriter(lambda pack, _: gates[pack.id].wait(30) and None)
    yield own
    for gate in gates.values():
        gate.set()
    own.close()


def test_a_result_counts_once_it_is_written_in_the_order_of_results(writer, gates):
    for pack in PACKS[:3]:
        put(writer, pack)
    gates[PACKS[1].id].set()
    assert ids(writer.written()) == []
    assert PACKS[1] in writer
    assert len(writer) == 3
    gates[PACKS[0].id].set()
    assert ids(writer.written(wait=True))[0] == PACKS[0].id
    assert ids(writer.written(wait=True) if PACKS[1] in writer else []) in ([], [PACKS[1].id])
    assert PACKS[1] not in writer
    assert PACKS[2] in writer


def test_many_unwritten_results_make_further_ones_wait(writer, gates):
    most = result_writer._MOST_UNWRITTEN
    for pack in PACKS[:most]:
        put(writer, pack)
    one_more = threading.Thread(target=put, args=(writer, PACKS[most]))
    one_more.start()
    one_more.join(0.2)
    assert one_more.is_alive()
    gates[PACKS[0].id].set()
    one_more.join(30)
    assert not one_more.is_alive()
    assert len(writer) == most + 1


def test_a_stop_while_waiting_loses_nothing(writer, gates):
    for pack in PACKS[:3]:
        put(writer, pack)

    class StoppedOnce:
        def __init__(self, own):
            self.own, self.stopped = own, False

        def result(self):
            if not self.stopped:
                self.stopped = True
                raise KeyboardInterrupt
            return self.own.result()

    pack, found, writing = writer._unwritten[0]
    writer._unwritten[0] = pack, found, StoppedOnce(writing)
    with pytest.raises(KeyboardInterrupt):
        list(writer.written(wait=True))
    for gate in gates.values():
        gate.set()
    got = []
    while len(writer):
        got += ids(writer.written(wait=True))
    assert got == [pack.id for pack in PACKS[:3]]
    assert not writer.failed


def test_what_can_not_be_written_is_raised_and_the_rest_is_discarded(gates):
    written = []

    def write(pack, _):
        gates[pack.id].wait(30)
        if pack == PACKS[0]:
            raise StorageError("the disk is full")
        written.append(pack.id)

    writer = ResultWriter(write)
    for pack in PACKS[:10]:
        put(writer, pack)
    gates[PACKS[0].id].set()
    with pytest.raises(StorageError, match="the disk is full"):
        list(writer.written(wait=True))
    closing = threading.Thread(target=writer.close)
    closing.start()
    for gate in gates.values():
        gate.set()
    closing.join(30)
    assert not closing.is_alive()
    assert len(written) < 10
