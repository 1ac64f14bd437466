"""A study on nodes that come and go. Minutes long: only with ``--cluster``, which records it."""

import itertools
import statistics
import time

import pandas as pd
import pytest
import ray

from sensitivity.store.directory import place
from sensitivity.store.reader import read_study

STEP_S, CHECKPOINT_S, EVERY, STEPS, RUNS = 0.04, 3.0, 10, 500, 24
STUDY = f"""
name = "spot"
batch_sizes = [64]
seeds = {RUNS}
budget = {{ steps = {STEPS} }}
evaluation = {{ every_steps = {EVERY} }}
[problem]
model = "slow_net:net"
[execution]
pack_size = 1
checkpoint_minutes = {CHECKPOINT_S / 60}
elastic = true
max_concurrent = 2
[optimizers.sgd]
kind = "sgd"
lr = [0.01]
"""
NET = """
import os, pathlib, time
from torch import nn
TRACE = pathlib.Path({trace!r})
class Slow(nn.Module):
    def __init__(self, outputs):
        super().__init__(); self.layer = nn.Linear(64, outputs)
    def forward(self, x):
        if self.training and len(x) == 64:
            with (TRACE / str(os.getpid())).open("a") as steps: steps.write(f"{{time.time()}}\\n")
            time.sleep({step})
        return self.layer(x.flatten(1))
def net(shape, outputs): return Slow(outputs)
"""
MEASURED = ["trial_id", "status", "steps", "train_loss", "train_accuracy", "test_loss", "test_accuracy"]


@pytest.fixture(scope="module", autouse=True)
def _asked_for(request):
    if not request.config.getoption("--cluster"):
        pytest.skip("takes minutes; --cluster runs it")


def test_nodes_come_and_go_under_a_study(cluster, tmp_path, write_record):
    """A node goes every 20 s, with notice (SIGTERM) and without (SIGKILL) in turn, and another one comes."""
    trace, folder = tmp_path / "trace", tmp_path / "study"
    trace.mkdir()
    folder.mkdir()
    (folder / "spot.toml").write_text(STUDY)
    (folder / "slow_net.py").write_text(NET.format(trace=str(trace), step=STEP_S))
    directory = place("s3://studies/spot/spot")
    job = cluster.command("submit", folder / "spot.toml", "--storage", "s3://studies/spot").stdout.split()[1]
    nodes, names, came = ["one", "two"], itertools.count(3), []
    while not any(trace.iterdir()):
        time.sleep(0.2)
    while "running" in cluster.command("status", job).stdout:
        time.sleep(20)
        gone, new = nodes.pop(0), f"node{next(names)}"
        if len(came) % 2:
            cluster.kill(gone)
        else:
            cluster.end(gone)
        cluster.start_nodes(new)
        nodes.append(new)
        came.append(time.time())
        assert len(came) < 40, cluster.command("logs", job).stdout
    followed = cluster.command("logs", "-f", job)
    assert followed.returncode == 0, followed.stdout
    there = read_study(directory)
    ended = there.runs["finished_at"].max().timestamp()
    came = [at for at in came if at < ended]
    assert len(came) >= 4
    workers = [[float(line) for line in path.read_text().splitlines()] for path in trace.iterdir()]
    again = sum(at <= ended for steps in workers for at in steps) - RUNS * STEPS
    assert 0 <= again <= len(came) * (CHECKPOINT_S / STEP_S + 2 * EVERY), "it repeats what no checkpoint has"
    begins = sorted(steps[0] for steps in workers)
    waits = [next(at for at in begins if at > joined) - joined for joined in came if begins[-1] > joined]

    (folder / "slow_net.py").write_text(NET.format(trace=str(trace), step=0.0))
    local = cluster.command("run", folder / "spot.toml", "--storage", tmp_path / "local", timeout=900)
    assert local.returncode == 0, local.stderr
    here = read_study(place(str(tmp_path / "local/spot")))
    columns = ["seed", *MEASURED[1:]]  # the code of the user's network is part of a run's identity
    one, other = (each.runs[columns].sort_values("seed", ignore_index=True) for each in (there, here))
    pd.testing.assert_frame_equal(one, other)
    write_record(
        "spot",
        "Nodes that come and go",
        f"Ray {ray.__version__}, nodes of one CPU on one machine, a checkpoint every {CHECKPOINT_S:g} s",
        [
            f"a node ended every 20 s, {len(came)} in all, with notice (SIGTERM) and without (SIGKILL) in turn, and "
            f"another joined: {RUNS} runs of {STEPS} steps completed, equal to those of a local study to the last bit",
            f"{again / len(came):.0f} steps were repeated for each node that went, {STEP_S * again / len(came):.1f} s",
            f"the first step on a node that had joined came after {statistics.median(waits):.1f} s (median)",
        ],
    )
