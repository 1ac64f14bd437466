"""A study on a real cluster, through its Jobs server: of three nodes with results on S3, and of two without."""

import os
import re
import urllib.request

import pytest

from sensitivity.store.directory import place
from sensitivity.store.lock import LOCK
from sensitivity.store.reader import read_study

pytestmark = pytest.mark.skipif(os.name != "posix", reason="Ray clusters need POSIX")

BUCKET = "s3://studies"


def test_a_study_of_the_users_own_survives_a_stop_and_the_loss_of_a_node(request, held, tmp_path):
    if not request.config.getoption("--cluster"):
        pytest.skip("takes minutes; --cluster runs it")
    cluster = request.getfixturevalue("cluster")
    wait = held.wait
    study, hold, began = held.own_study(tmp_path), tmp_path / "hold", tmp_path / "began"
    sent = cluster.command("submit", study, "--storage", BUCKET)
    assert sent.returncode == 0, sent.stdout + sent.stderr
    job = sent.stdout.split()[1]
    directory = place(f"{BUCKET}/held")

    def both_are_held():
        return len(list(began.iterdir())) == 2  # so that everything before is finished; asking S3 would take a core

    wait(both_are_held, lambda: cluster.command("logs", job).stdout)
    kept = read_study(directory)
    assert (kept.runs["status"] == "completed").sum() == 4
    # A second one, of the same study: refused with the first one's name.
    second = cluster.command("submit", study, "--storage", BUCKET)
    assert second.returncode == 2
    assert f"is already being run by the job {job}" in second.stderr
    assert job in directory.read(LOCK).decode()

    assert "asked to stop" in cluster.command("stop", job).stdout
    wait(lambda: not directory.exists(LOCK), "the driver does not let go of the study")
    wait(lambda: "stopped" in cluster.command("status", job).stdout, "the job does not stop")

    for path in began.iterdir():
        path.unlink()
    again = cluster.command("submit", study, "--storage", BUCKET)
    assert again.returncode == 0, again.stderr
    assert again.stdout.split()[1] == f"{job}-2"
    wait(both_are_held, lambda: cluster.command("logs", f"{job}-2").stdout)
    cluster.kill("two")
    hold.unlink()
    followed = cluster.command("logs", "-f", f"{job}-2")
    assert followed.returncode == 0, followed.stdout + followed.stderr
    assert "Traceback" not in followed.stdout
    assert "secret" not in followed.stdout

    found = read_study(directory)
    held.check_equal(found, held.here(study, tmp_path / "here"))
    held.check_kept(kept, found)
    assert set(found.runs["code_version"]) == {found.manifest.specs[found.manifest.spec_hash]["code_version"]}
    assert "unknown" not in set(found.runs["code_version"])
    listed = urllib.request.urlopen(f"{cluster.s3_env['AWS_ENDPOINT_URL']}/studies?list-type=2").read().decode()
    keys = re.findall("<Key>(.*?)</Key>", listed)
    assert {key.rpartition("/")[0] for key in keys} >= {"held", "held/runs", "held/curves"}
    assert not {"held/runs/", "held/curves/"} & set(keys), "objects that stand for folders, made anew with each part"
    written = cluster.command("report", f"{BUCKET}/held", "-o", tmp_path / "held.html")
    assert written.returncode == 0, written.stderr
    assert "a-secret-of-the-test" not in (tmp_path / "held.html").read_text() + directory.read("study.json").decode()


def test_a_place_that_every_node_has_for_itself_is_refused(cluster, held, tmp_path):
    if not cluster.own_disks:
        pytest.skip("this user may not mount, so the nodes share every folder")
    study = held.own_study(tmp_path)
    storage = cluster.own_disk / "studies"
    job = cluster.command("submit", study, "--storage", storage).stdout.split()[1]
    followed = cluster.command("logs", "-f", job)
    assert followed.returncode == 2
    assert "the cluster is not ready; nothing was run" in followed.stdout
    assert "files that the driver wrote there do not appear; use a place that all nodes share" in followed.stdout
    assert "Traceback" not in followed.stdout
    assert not list((storage / "held").glob("runs/*"))
    assert not list((tmp_path / "began").iterdir())
