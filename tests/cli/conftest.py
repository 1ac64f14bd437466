import sys
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from sensitivity.cli.main import main


@dataclass(frozen=True)
class Answer:
    code: int
    out: str
    err: str


@pytest.fixture
def command(monkeypatch, capsys) -> Callable[..., Answer]:
    """Run a command in this process and return its exit code and what it printed."""

    def call(*arguments: object) -> Answer:
        monkeypatch.setattr(sys, "argv", ["sensitivity", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            main()
        printed = capsys.readouterr()
        return Answer(int(stopped.value.code or 0), printed.out, printed.err)

    return call
