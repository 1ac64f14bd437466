"""Nodes and workers that go away while the cluster is looked at or measured cost no study its run."""

from types import SimpleNamespace

import pytest
import ray
from ray import exceptions

from sensitivity.execution import losses, preflight
from sensitivity.execution.preflight import NodeReport
from sensitivity.study.errors import UserError
from sensitivity.study.execution import ExecutionSpec

DIED, CRASHED = exceptions.NodeDiedError("it died"), exceptions.WorkerCrashedError()
UNKNOWN = exceptions.TaskUnschedulableError("no such node")
A, B = "a" * 56, "b" * 56


class Cluster:
    """Ray as the preflight sees it: `says` holds, by node, what its tasks answer or raise, one after another."""

    exceptions = exceptions

    def __init__(self, says, alive):
        self.says, self.alive, self.asked = says, alive, []

    def remote(self, **options):
        return lambda function: SimpleNamespace(options=self._options)

    def _options(self, scheduling_strategy=None, **where):
        node = scheduling_strategy.node_id if scheduling_strategy else "anywhere"
        return SimpleNamespace(remote=lambda *question: self._start(node))

    def _start(self, node):
        self.asked.append(node)
        return (node, len(self.asked))

    def wait(self, answers, num_returns, timeout):
        return answers, []

    def get(self, reference):
        answer = self.says[reference[0]].pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def nodes(self):
        return [{"NodeID": id_, "Alive": True, "NodeManagerHostname": id_} for id_ in self.alive]


@pytest.fixture
def ask(monkeypatch):
    def asked(nodes, says, alive):
        cluster = Cluster(says, alive)
        monkeypatch.setattr(preflight, "ray", cluster)
        plan = SimpleNamespace(spec=SimpleNamespace(execution=ExecutionSpec()), origin=None)
        return [each.node for each in preflight._query(nodes, plan, None, "mark")], cluster.asked

    return asked


def told(node):
    return NodeReport(node=node, versions={}, storage="", dataset="")


@pytest.mark.parametrize("gone", [DIED, UNKNOWN])
def test_a_node_that_died_is_left_out_even_if_ray_still_lists_it(ask, gone):
    reports, asked = ask([A, B], {A: [told("a")], B: [gone]}, alive=[A, B])
    assert reports == ["a"]
    assert asked == [A, B]


def test_a_node_whose_worker_died_is_asked_again(ask):
    assert ask([A, B], {A: [told("a")], B: [CRASHED, told("b")]}, alive=[A, B]) == (["a", "b"], [A, B, B])


def test_a_worker_that_dies_each_time_is_said(ask):
    with pytest.raises(UserError, match="-bbbbbb can't run this study"):
        ask([A, B], {A: [told("a")], B: [CRASHED] * 3}, alive=[A, B])


def test_where_all_nodes_died_the_next_one_is_asked(ask):
    says = {A: [DIED], "anywhere": [DIED, told("c")]}
    assert ask([A], says, alive=[]) == (["c"], [A, "anywhere", "anywhere"])


def test_what_is_lost_is_started_again_and_nothing_else_is(monkeypatch):
    def get(outcome):
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    monkeypatch.setattr(ray, "get", get)
    outcomes = iter([CRASHED, DIED, 7])
    assert losses.result_with_restarts(lambda: next(outcomes), doing="measuring", fix="fix") == 7
    outcomes = iter([CRASHED, DIED, UNKNOWN, 7])
    with pytest.raises(UserError, match=r"measuring: .*no such node\n  fix"):
        losses.result_with_restarts(lambda: next(outcomes), doing="measuring", fix="fix")
    outcomes = iter([exceptions.OutOfMemoryError("no memory"), 7])
    with pytest.raises(UserError, match="no memory"):
        losses.result_with_restarts(lambda: next(outcomes), doing="measuring", fix="fix")
