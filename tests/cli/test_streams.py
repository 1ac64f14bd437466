"""Every command with every kind of output stream: no traceback, the work done, and the documented exit code."""

import contextlib
import io
import os
import pty
import re
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from types import MappingProxyType, SimpleNamespace

import pytest

from sensitivity.cli import exit_codes
from sensitivity.cli.display import plain_console, shown
from sensitivity.cli.main import app, main
from sensitivity.cli.streams import reader_gone, standard_streams
from sensitivity.report.page import Report

FULL = Path("/dev/full")
COMMANDS = {
    "list": ["list", "{root}"],
    "list --json": ["list", "{root}", "--json"],
    "verdict": ["verdict", "{study}"],
    "verdict --json": ["verdict", "{study}", "--json"],
    "report": ["report", "{study}", "-o", "{tmp}/r.html"],
    "export": ["export", "{study}", "{tmp}/r.csv"],
    "figure": ["figure", "{study}", "status"],
    "plan": ["plan", "{file}", "--storage", "{root}"],
    "help": ["--help"],
    "help of a command": ["run", "--help"],
}


@pytest.fixture
def run_main(monkeypatch):
    """Run a command in this process on given descriptors, as in a process of its own; return the exit code."""
    monkeypatch.setattr("sensitivity.report.write_report", lambda _: Report(html="×", figures={}))

    def call(arguments, out, err, encoding="utf-8"):
        with contextlib.ExitStack() as stack:
            for name, descriptor in (("stdout", out), ("stderr", err)):
                raw = io.FileIO(os.dup(descriptor), "w")
                stream = io.TextIOWrapper(io.BufferedWriter(raw), encoding=encoding, errors="strict")
                monkeypatch.setattr(sys, name, stream)
                stack.callback(stream.close)
            monkeypatch.setattr(sys, "argv", ["sensitivity", *arguments])
            with pytest.raises(SystemExit) as ended:
                main()
            return ended.value.code

    return call


@pytest.fixture
def arguments(half_done, study_file, tmp_path):
    places = {"root": half_done.parent, "study": half_done, "tmp": tmp_path, "file": study_file}
    return lambda name: [part.format(**places) for part in COMMANDS[name]]


@pytest.fixture
def collected():
    """Return descriptors, each with a function that returns the bytes written to it."""
    with contextlib.ExitStack() as stack:

        def one():
            file = stack.enter_context(tempfile.TemporaryFile())
            return file.fileno(), lambda: os.pread(file.fileno(), 10**6, 0)

        yield one


@contextlib.contextmanager
def without_reader():
    reading, writing = os.pipe()
    os.close(reading)
    yield writing
    os.close(writing)


@contextlib.contextmanager
def full():
    with FULL.open("wb", buffering=0) as stream:
        yield stream.fileno()


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_command_on_a_terminal_with_few_characters(run_main, arguments, collected, name, encoding):
    (out, said), (err, complained) = collected(), collected()
    assert run_main(arguments(name), out, err, encoding) == exit_codes.DONE
    assert said().decode(encoding)
    assert complained() == b""


@pytest.mark.parametrize("name", COMMANDS)
def test_command_without_a_reader(run_main, arguments, collected, tmp_path, name):
    err, complained = collected()
    with without_reader() as out:
        assert run_main(arguments(name), out, err) == exit_codes.DONE
    assert complained() == b""
    done = {"report": tmp_path / "r.html", "export": tmp_path / "r.csv"}
    assert name not in done or done[name].exists()


@pytest.mark.skipif(not FULL.exists(), reason="no /dev/full")
@pytest.mark.parametrize("name", COMMANDS)
def test_command_with_output_to_a_full_disk(run_main, arguments, collected, tmp_path, name):
    err, complained = collected()
    with full() as out:
        assert run_main(arguments(name), out, err) == exit_codes.FAULT
    assert complained().decode().splitlines() == [
        "error: standard output can't be written (No space left on device)",
        "  The command succeeded, but what it printed is lost; send its output elsewhere",
    ]
    done = {"report": tmp_path / "r.html", "export": tmp_path / "r.csv"}
    assert name not in done or done[name].exists()


@pytest.mark.parametrize("broken", [without_reader, full])
def test_mistake_when_nothing_can_be_printed(run_main, broken):
    with broken() as descriptor:
        assert run_main(["verdict", "/no/where"], descriptor, descriptor) == exit_codes.FAULT
        assert run_main(["nosuch"], descriptor, descriptor) == exit_codes.FAULT


def test_file_names_with_invalid_bytes_are_printed_unchanged(run_main, half_done, tmp_path, collected):
    odd = str(tmp_path / os.fsdecode(b"odd\xff\xe9.csv"))
    for encoding in ("utf-8", "ascii", "latin-1"):
        (out, said), (err, _) = collected(), collected()
        assert run_main(["export", str(half_done), odd], out, err, encoding) == exit_codes.DONE
        assert said().startswith(b"runs: " + os.fsencode(odd) + b" (")
    assert run_main(["list", odd], out, err) == exit_codes.FAULT


class Progress:
    """Progress as the display uses it."""

    done, planned, fraction, rate, seconds_left, device_time, stage = 3, 4, 0.75, 2.0, 1.5, None, ""
    counts = MappingProxyType({"completed": 3, "diverged": 0, "failed": 0, "interrupted": 0})


def show_some(stream, monkeypatch):
    monkeypatch.setattr(sys, "stdout", stream)
    with standard_streams() as streams:
        with shown(Progress(), plain_console()) as changed:
            changed()
            changed()
        return streams.exit_code(0, failed=2), reader_gone()


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_progress_on_any_output(monkeypatch, collected, encoding):
    out, said = collected()
    with io.TextIOWrapper(io.FileIO(os.dup(out), "w"), encoding=encoding) as stream:
        assert show_some(stream, monkeypatch) == (0, False)
        point = " - " if encoding == "ascii" else " · "
        assert said().decode(encoding).startswith(f"3/4 runs{point}3 completed{point}")


def test_progress_on_a_terminal_with_few_characters(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "200")
    ours, theirs = pty.openpty()
    with io.TextIOWrapper(io.FileIO(theirs, "w"), encoding="ascii") as stream:
        assert show_some(stream, monkeypatch) == (0, False)
    seen = b""
    with contextlib.suppress(OSError):  # EIO: nobody writes any more, and everything is read
        while part := os.read(ours, 100_000):
            seen += part
    assert b"3/4 runs - 3 completed" in seen
    os.close(ours)


def test_progress_on_a_closed_terminal(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    ours, theirs = pty.openpty()
    os.close(ours)
    with io.TextIOWrapper(io.FileIO(theirs, "w"), encoding="utf-8") as stream:
        assert show_some(stream, monkeypatch) == (0, True)


@pytest.mark.parametrize(("broken", "code"), [(without_reader, 0), (full, 2)])
def test_progress_without_a_reader(monkeypatch, broken, code):
    with broken() as out, io.TextIOWrapper(io.FileIO(os.dup(out), "w"), encoding="utf-8") as stream:
        assert show_some(stream, monkeypatch)[0] == code


def test_stalled_pipe_gets_all_output_in_the_end(run_main, arguments):
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    collector = subprocess.Popen([sys.executable, "-c", "import sys; print(len(sys.stdin.read()))"],
                                 stdin=reading, stdout=subprocess.PIPE)  # fmt: skip
    os.close(reading)
    stream = io.TextIOWrapper(io.FileIO(writing, "w"), encoding="utf-8")
    before, sys.stdout = sys.stdout, stream
    try:
        with standard_streams() as streams:
            for _ in range(1000):
                sys.stdout.write("x" * 999 + "\n")
            assert streams.exit_code(0, failed=2) == 0
    finally:
        sys.stdout = before
        stream.close()
    assert collector.communicate()[0] == b"1000000\n"


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_command_with_closed_streams(closed, half_done, tmp_path):
    """In a process of its own: a file must not get the descriptor of a stream that was closed."""
    command = f'"{sys.executable}" -m sensitivity.cli.main export "{half_done}" "{tmp_path}/runs.csv" {closed}'
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "runs.csv").read_text().startswith("trial_id,")


STOPPED_IN = {
    "list": "sensitivity.cli.listing.place",
    "verdict": "sensitivity.cli.reading.place",
    "report": "sensitivity.cli.reading.place",
    "paper": "sensitivity.cli.paper.place",
    "verify": "sensitivity.cli.verifying.place",
    "export": "sensitivity.cli.exporting.place",
    "figure": "sensitivity.cli.figure.place",
    "new": "sensitivity.cli.starting.find_study",
    "plan": "sensitivity.cli.planning.prepare",
    "run": "sensitivity.cli.running.prepare",
    "settle": "sensitivity.cli.settling.prepare",
    "import": "sensitivity.cli.importing.place",
    "dashboard": "sensitivity.cli.dashboard.place",
    "submit": "sensitivity.cli.jobs.place",
    "status": "sensitivity.cli.jobs._cluster",
    "logs": "sensitivity.cli.jobs._cluster",
    "stop": "sensitivity.cli.jobs._cluster",
}
OTHER_ARGUMENTS = {
    "plan": ["quickstart"],
    "run": ["quickstart"],
    "settle": ["quickstart"],
    "import": ["runs.csv", "--as", "mine"],
    "export": ["x", "y.csv"],
    "submit": ["quickstart", "--storage", "/mnt/x"],
    "status": [],
    "dashboard": [],
}


def test_all_commands_are_covered():
    assert {command.name or command.callback.__name__ for command in app.registered_commands} == set(STOPPED_IN)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("name", STOPPED_IN)
def test_stopped_command_exits_with_130(command, monkeypatch, name, number):
    ours = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
    before = signal.signal(number, ours)  # `nohup pytest`, or `pytest &` of a script, has them ignored
    monkeypatch.setattr(STOPPED_IN[name], lambda *_, **__: os.kill(os.getpid(), number))
    try:
        answer = command(name, *OTHER_ARGUMENTS.get(name, ["x"]))
        assert signal.getsignal(number) is ours
    finally:
        signal.signal(number, before)
    assert answer.code == exit_codes.STOPPED
    assert answer.err == "stopped; what is stored stays as it was\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_signals_ignored_by_the_caller_stay_ignored(command, monkeypatch, number, tmp_path):
    before = signal.signal(number, signal.SIG_IGN)
    monkeypatch.setattr("sensitivity.cli.listing.studies", lambda *_: os.kill(os.getpid(), number) or ())
    try:
        assert command("list", tmp_path).code == exit_codes.DONE
    finally:
        signal.signal(number, before)


@pytest.mark.parametrize("name", STOPPED_IN)
def test_wrong_usage_exits_with_2(command, name):
    for arguments in ([name, "--nosuch"], [name, "a", "b", "c", "--json=x"]):
        answer = command(*arguments)
        assert answer.code == exit_codes.FAULT
        assert "Error: " in answer.err


@pytest.mark.parametrize("name", ["list", "export", "plan"])
def test_machine_faults_give_a_message(command, monkeypatch, name):
    def fail(*_, **__):
        raise OSError(24, "Too many open files", "/some/file")

    monkeypatch.setattr(STOPPED_IN[name], fail)
    answer = command(name, *OTHER_ARGUMENTS.get(name, ["x"]))
    assert answer.code == exit_codes.FAULT
    assert answer.err.startswith("error: /some/file: Too many open files\n  ")


def test_text_from_users_is_not_markup(monkeypatch, capsys):
    plain_console().print("a [/b] and [red] and :smile:")
    assert capsys.readouterr().out == "a [/b] and [red] and :smile:\n"


def test_following_a_job_ends_when_nobody_reads(monkeypatch):
    from sensitivity.cli import jobs

    printed = []

    def follow(id_, show):
        while True:
            show("x" * 100)
            printed.append(1)
            assert len(printed) < 10

    @contextlib.contextmanager
    def cluster(address):
        yield SimpleNamespace(follow=follow)

    monkeypatch.setattr(jobs, "_cluster", cluster)
    with without_reader() as out, io.TextIOWrapper(io.FileIO(os.dup(out), "w"), encoding="utf-8") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        with standard_streams():
            assert jobs.show_logs("job", address="", follow=True) == exit_codes.DONE


def test_help_documents_the_exit_codes(command):
    said = re.sub(r"\s+", " ", command("--help").out)
    for code in (exit_codes.DONE, exit_codes.FAULT, exit_codes.STOPPED):
        assert re.search(rf"\b{code}\b", said.partition("Exit codes:")[2])
