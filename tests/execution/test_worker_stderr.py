"""What a lost worker had to say is found among Ray's logs: folders of files as Ray writes them."""

import os

import pytest

from sensitivity.execution.worker_stderr import crash_line, quoted, read_stderr

TRACEBACK = (
    'Traceback (most recent call last):\n  File "pandas.py", line 1, in <module>\nValueError: no\n'
    "\nDuring handling of the above exception, another exception occurred:\n\n"
    'Traceback (most recent call last):\n  File "x.py", line 2, in <module>\nAttributeError: no DataFrame\n'
)
SEGFAULT = "*** SIGSEGV received at time=17 on cpu 1 ***\nPC: @ 0x7f01  (unknown)  (unknown)\n"
GONE = 2**22 + 1
"""No process has that number."""


@pytest.fixture
def logs(tmp_path):
    def write(pid, text, *, at, worker="ab12"):
        file = tmp_path / f"worker-{worker}-01000000-{pid}.err"
        file.write_text(":job_id:01000000\n:actor_name:ImplicitFunc\n" + text)
        os.utime(file, (at, at))

    write(GONE + 1, "an earlier command\n", at=10.0)
    write(GONE + 2, TRACEBACK, at=100.0)
    write(GONE + 3, "", at=102.0, worker="cd34")  # was idle
    write(os.getpid(), "still runs\n", at=103.0)
    (tmp_path / f"worker-ab12-01000000-{GONE + 2}.out").write_text("not an error\n")
    (tmp_path / "raylet.err").write_text("not a worker\n")
    return tmp_path


def test_the_process_that_ray_names_is_quoted(logs):
    said = "The actor died unexpectedly before finishing this task.\n\tpid: {}\n\tip: 10.0.0.1\nEnd of file"
    assert read_stderr(logs, said.format(GONE + 2), since=50.0) == TRACEBACK.strip()
    assert read_stderr(logs, said.format(GONE + 1), since=50.0) == "", "an earlier process of that number"
    assert read_stderr(logs, said.format(7), since=50.0) == ""


def test_where_ray_names_none_it_is_the_last_that_wrote_and_has_ended(logs):
    assert read_stderr(logs, "", since=50.0) == TRACEBACK.strip()
    assert read_stderr(logs, "", since=101.0) == ""
    assert read_stderr(logs / "gone", "", since=0.0) == ""


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (TRACEBACK, "AttributeError: no DataFrame"),
        (f"some warning\n{SEGFAULT}", "*** SIGSEGV received at time=17 on cpu 1 ***"),
        ("Fatal Python error: Aborted\n\nThread 0x01:\n  File x\n", "Fatal Python error: Aborted"),
        ("UserWarning: slow\n", ""),
        ("", ""),
    ],
)
def test_the_line_that_says_why_a_process_ended_by_itself(words, line):
    assert crash_line(words) == line


def test_a_long_text_is_quoted_by_its_end():
    said = quoted("\n".join(f"line {k}" for k in range(100)))
    assert said.startswith("  Its standard error ended with\n    line 88\n")
    assert said.endswith("    line 99\n")
    assert quoted("") == ""
