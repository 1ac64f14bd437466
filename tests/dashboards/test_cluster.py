"""A named cluster, with a replacement for the command that queries it: jobs are shown, submitted and stopped."""

import json
import sys
import textwrap
from pathlib import Path

import pytest

from dashboards import jobs
from dashboards.app import create_app
from dashboards.cluster import Cluster, Job
from dashboards.pages.studies import _stop
from dashboards.site import Site
from sensitivity.store.directory import place
from sensitivity.study.errors import UserError

URL = "http://head:8265"


@pytest.fixture
def root(tmp_path):
    return place(str(tmp_path / "studies"))


@pytest.fixture
def command(tmp_path, monkeypatch):
    """A command that records its calls, and answers as `sensitivity` does; yields a function that reads the records."""
    script, notes = tmp_path / "command.py", tmp_path / "notes.jsonl"
    script.write_text(
        textwrap.dedent(f"""
        import json, os, pathlib, sys
        name, *rest = sys.argv[1:]
        known = {{"name": name, "arguments": rest, "address": os.environ["RAY_API_SERVER_ADDRESS"]}}
        if name == "submit":
            known["text"] = pathlib.Path(rest[0]).read_text()
        with open({str(notes)!r}, "a") as stream:
            print(json.dumps(known), file=stream)
        root = {str(tmp_path / "studies")!r}
        job = lambda study, storage, status, id: dict(
            id=id, study=study, storage=storage, status=status, message="the driver\\nran out of memory"
        )
        if name == "status":
            print(json.dumps([job("other", "s3://elsewhere", "RUNNING", "job-0"), job("half", root, "FAILED", "job-1"),
                              job("half", root + "/", "RUNNING", "job-2")]))
        elif name == "submit":
            print(json.dumps(job("half", root, "PENDING", "job-3")))
        elif rest[0] == "gone":
            sys.exit("error: no job 'gone' on the cluster")
        else:
            print(rest[0] + ": asked to stop")
    """)
    )
    monkeypatch.setattr(jobs, "_COMMAND", (sys.executable, str(script)))
    return lambda: [json.loads(line) for line in notes.read_text().splitlines()]


def test_last_job_of_each_study_below_the_root_is_known(root, command):
    cluster = Cluster(URL, root)
    cluster.refresh()
    assert cluster.jobs() == {"half": Job(id="job-2", status="RUNNING", message="the driver\nran out of memory")}
    assert command() == [{"name": "status", "arguments": ["--json"], "address": URL}]
    cluster.jobs()
    assert len(command()) == 1, "a known answer is not requested again at once"


def test_submitted_study_file_has_a_visible_name(root, command, make):
    spec = make.make_spec(name="half")
    assert Cluster(URL, root).submit("name = 'half'\n", spec) == "job-3"
    (sent,) = command()
    file, *options = sent["arguments"]
    assert sent["text"] == "name = 'half'\n"
    assert options == ["--storage", root.uri, "--json"]
    assert sent["address"] == URL
    assert Path(file).parent == Path(root.path), "next to the studies, where the user's own modules are found"
    assert not Path(file).name.startswith("."), "hidden files are not uploaded"
    assert not Path(file).exists(), "it is deleted afterwards"
    assert list(Path(root.path).iterdir()) == []


def test_running_job_is_stopped_on_its_cluster(root, command, make, studies):
    from dashboards.catalog import Catalog

    there = place(str(studies))
    cluster = Cluster(URL, root)
    cluster.refresh()
    site = Site(catalog=Catalog(there), prefix="/", may_run=True, cluster=cluster)
    assert _stop(site, "half") == "job-2: asked to stop"
    assert command()[-1] == {"name": "stop", "arguments": ["job-2"], "address": URL}
    with pytest.raises(UserError, match="nothing runs this study"):
        _stop(site, "bowl")
    with pytest.raises(UserError, match="no job 'gone'"):
        cluster.stop("gone")


def test_job_of_an_unknown_cluster_is_not_killed_here(tmp_path, monkeypatch):
    monkeypatch.setenv("SENSITIVITY_JOB", "job-7")
    from sensitivity.store.lock import WriterLock

    directory = place(str(tmp_path))
    with WriterLock(directory), pytest.raises(UserError, match="sensitivity stop job-7"):
        jobs.stop(directory)


def test_unreachable_cluster_is_reported(root):
    """The command itself reports it: nothing listens on that port."""
    cluster = Cluster("http://127.0.0.1:9", root)
    cluster.refresh()
    assert cluster.jobs() == {}
    assert "no Jobs server answers at http://127.0.0.1:9" in cluster.fault


@pytest.mark.parametrize(
    ("allow", "cluster", "expected"), [(True, URL, True), (False, URL, False), (True, None, False)]
)
def test_submit_needs_permission_and_a_cluster(root, allow, cluster, expected):
    app = create_app(root, allow_run=allow, cluster=cluster)
    asked = {
        key for entry in app.callback_map.values() for key in (f"{i['id']}.{i['property']}" for i in entry["inputs"])
    }
    assert ("submit.n_clicks" in asked) is expected
    assert ("start.n_clicks" in asked) is allow
