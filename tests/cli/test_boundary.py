"""Unusable input from users: a message and exit code 2 from the command itself, never a traceback."""

import os
import sys

import pytest

STUDY = 'name = "n"\nbatch_sizes = [4]\nseeds = 1\n[budget]\nsteps = 3\n[optimizers.sgd]\nkind = "sgd"\nlr = 0.1\n'
OWN = STUDY + '[problem]\ndataset = "boundary_own:data"\n'
EXIT = b"import sys\nsys.exit(0)\n"
FRAME = b"import pandas\ndef data(): return [pandas.DataFrame({'a': [1.0]})] * 4\n"
CASES = [
    ("plan", STUDY.replace("0.1", "0,1"), b"", "use a decimal point: 0.1, not 0,1"),
    ("plan", STUDY.replace('"n"', '"n\0"'), b"", "the line contains null bytes"),
    ("plan", STUDY.encode("utf-16"), b"", "UTF-16 text (byte 0, line 1); save the file as UTF-8"),
    ("plan", OWN, EXIT, "importing it: it exits the process (sys.exit(0))"),
    ("run", OWN, EXIT, "importing it: it exits the process (sys.exit(0))"),
    ("plan", OWN, b"raise KeyboardInterrupt", "it raises KeyboardInterrupt; raise an error instead"),
    ("plan", OWN, b"x = '\xe9'", "SyntaxError: "),
    ("plan", OWN, FRAME, "train inputs are a DataFrame; give its numbers: .to_numpy()"),
    ("plan", STUDY + '[problem]\ndataset = "imagefolder:~no-such-user/x"', b"", "there is no such home folder"),
]


@pytest.mark.parametrize(("verb", "study", "module", "said"), CASES, ids=[said[:40] for *_, said in CASES])
def test_mistakes_give_a_message(command, tmp_path, monkeypatch, verb, study, module, said):
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "boundary_own", raising=False)
    path = tmp_path / os.fsdecode(b"caf\xe9.toml")
    path.write_bytes(study if isinstance(study, bytes) else study.encode())
    (tmp_path / "boundary_own.py").write_bytes(module)
    answer = command(verb, path, "--storage", tmp_path / "none")
    assert answer.code == 2
    assert answer.err.startswith("error: ")
    assert said in answer.err
    assert "Traceback" not in answer.err
    assert answer.out == ""


@pytest.mark.parametrize(
    "arguments",
    [
        ["plan", "~no-such-user/x.toml"], ["plan", "quickstart", "--storage", "~no-such-user/x"],
        ["report", "~no-such-user/x"], ["verdict", "~no-such-user/x"], ["list", "~no-such-user/x"],
        ["export", "~no-such-user/x", "a.csv"], ["dashboard", "~no-such-user/x", "--port", "0"],
        ["list", "a\0b"], ["list", "x" * 5000], ["plan", os.fsdecode(b"\xff")], ["plan", "x" * 5000],
        ["dashboard", "--port", "0", "--host-name", "a b"],
    ],
    ids=lambda arguments: " ".join(arguments)[:30].replace("\0", "NUL").encode("ascii", "replace").decode(),
)  # fmt: skip
def test_invalid_places_give_a_message(command, arguments):
    answer = command(*arguments)
    assert answer.code == 2
    assert answer.err.startswith("error: ")
    assert len(answer.err) < 7_000


def test_removed_current_folder_gives_a_message(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tmp_path.rmdir()
    answer = command("list")
    assert answer.code == 2
    assert answer.err == (
        "error: the current folder: can't be read (No such file or directory)\n  Change to a folder that exists\n"
    )
