"""What a Jobs server may answer, or not: one message each, with its mend. The server is a stand-in that misbehaves."""

import asyncio
import errno
import re
import socket
import threading
import tomllib
from pathlib import Path

import pytest
from aiohttp import web

from sensitivity.cli.jobs import show_logs
from sensitivity.execution import jobs
from sensitivity.study.errors import UserError
from sensitivity.study.spec import StudySpec

JOB = {
    "type": "SUBMISSION",
    "submission_id": "mine-1",
    "status": "RUNNING",
    "entrypoint": "x",
    "metadata": {"sensitivity.study": "mine", "sensitivity.storage": "/shared", "sensitivity.spec": "abc"},
    "start_time": 1_700_000_000_000,
}


@pytest.fixture
def server():
    """Start a server from handlers by path; return its address."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    runners = []

    async def start(routes):
        app = web.Application()
        for path, handler in routes.items():
            app.router.add_route("*", path, handler)
        runner = web.AppRunner(app)
        await runner.setup()
        runners.append(runner)
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        return f"http://127.0.0.1:{runner.addresses[0][1]}"

    yield lambda routes: asyncio.run_coroutine_threadsafe(start(routes), loop).result(10)
    for runner in runners:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(10)
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


def answer(content, status=200):
    async def handler(request):
        return web.json_response(content, status=status)

    return handler


def text(content, status):
    async def handler(request):
        return web.Response(text=content, status=status)

    return handler


VERSION = {"/api/version": answer({"version": "4", "ray_version": "2.60.0", "ray_commit": "x"})}


def test_jobs_are_read_with_what_they_are_about(server):
    other = {**JOB, "submission_id": "raysubmit_1", "metadata": {}}
    cluster = jobs.Cluster(server({**VERSION, "/api/jobs/": answer([other, JOB]), "/api/jobs/mine-1": answer(JOB)}))
    (job,) = cluster.jobs()
    assert job == cluster.job("mine-1")
    assert (job.study, job.storage, job.spec_hash, job.status) == ("mine", "/shared", "abc", "RUNNING")
    assert job.active
    assert job.started_at == 1_700_000_000


def test_the_address_asked_for_is_the_one_used(server, monkeypatch):
    address = server({**VERSION, "/api/jobs/": answer([JOB])})
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:9")
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://127.0.0.1:9")
    assert len(jobs.Cluster(address + "/").jobs()) == 1


@pytest.mark.parametrize(
    ("handler", "message"),
    [
        (text("Unauthorized: Missing authentication token", 401), r"requires a token\n  Set RAY_AUTH_MODE=token"),
        (text("Forbidden: Invalid authentication token", 403), r"requires another token\n  Set RAY_AUTH_"),
        (text("a page of something else", 404), r"no Jobs server answers at .*\n  Use the address of the cluster's"),
        (text("a page of something else", 200), r"no Jobs server answers at .*\n  Use the address of the cluster's"),
        (answer({"ray_version": "2.40.0"}), r"runs Ray 2\.40\.0; a study needs 2\.55 or later\n  Upgrade Ray"),
    ],
)
def test_a_server_that_will_not_do(server, handler, message):
    with pytest.raises(UserError, match=message):
        jobs.Cluster(server({"/api/version": handler}))


@pytest.mark.parametrize("address", ["nonsense:port", "ray://127.0.0.1:10001", "http://", "http://h:99999"])
def test_an_address_that_is_none(address):
    with pytest.raises(UserError, match=r"not the address of a Jobs server\n  Use one such as http://HEAD:8265"):
        jobs.Cluster(address)


def test_nobody_listens():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        with pytest.raises(UserError, match=r"no Jobs server answers at .*refused.*\n.*ssh -L 8265"):
            jobs.Cluster(f"http://127.0.0.1:{probe.getsockname()[1]}")


def test_an_unknown_job(server):
    cluster = jobs.Cluster(server({**VERSION, "/api/jobs/{job}": text("Job x does not exist", 404)}))
    with pytest.raises(UserError, match=r"no job 'x' on the cluster at .*\n  `sensitivity status` lists"):
        cluster.job("x")


@pytest.mark.filterwarnings("ignore:ssl=None is deprecated:DeprecationWarning")  # Ray's own call
@pytest.mark.parametrize("goodbye", ["abrupt", "polite"])
def test_a_head_that_goes_away_while_its_logs_are_followed(server, goodbye):
    async def tail(request):
        stream = web.WebSocketResponse()
        await stream.prepare(request)
        await stream.send_str("1/4 runs\n")
        if goodbye == "abrupt":
            request.transport.abort()
        else:
            await stream.close()
        return stream

    cluster = jobs.Cluster(server({**VERSION, "/api/jobs/mine-1": answer(JOB), "/api/jobs/mine-1/logs/tail": tail}))
    seen = []
    with pytest.raises(UserError) as lost:
        cluster.follow("mine-1", seen.append)
    assert seen == ["1/4 runs\n"]
    assert "was lost while following mine-1" in str(lost.value)
    assert "reported results are in /shared. Submit the study again" in str(lost.value)


def test_who_stops_following_stops_no_job(server, monkeypatch, capsys):
    def follow(cluster, job, show):
        show("1/4 runs\n")
        raise KeyboardInterrupt

    monkeypatch.setattr(jobs.Cluster, "follow", follow)
    address = server({**VERSION, "/api/jobs/mine-1": answer(JOB)})
    assert show_logs("mine-1", address=address, follow=True) == 130
    said = capsys.readouterr()
    assert said.out == "1/4 runs\n"
    assert "mine-1 is still running; `sensitivity stop mine-1` ends it" in said.err


def test_files_that_can_not_be_read_are_not_the_clusters_fault(server):
    class Unreadable:
        spec = StudySpec.model_validate(
            {
                "name": "mine",
                "batch_sizes": [64],
                "seeds": 1,
                "budget": {"steps": 1},
                "optimizers": {"sgd": {"kind": "sgd", "lr": [0.1]}},
            }
        )

        def fault(self):
            raise PermissionError(errno.EACCES, "Permission denied", "/home/me/key.pem")

    with pytest.raises(UserError, match=r"^/home/me/key.pem: Permission denied\n  It would be sent with the job"):
        jobs.Cluster(server(VERSION)).submit(Unreadable(), storage="/shared", workers=None)


def test_the_oldest_ray_is_that_of_the_package():
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    (stated,) = {m for line in project["dependencies"] for m in re.findall(r"^ray\[.*\]>=([\d.]+)", line)}
    assert tuple(map(int, stated.split("."))) == jobs.OLDEST_RAY
