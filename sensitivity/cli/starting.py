"""The ``new`` command: writes a study file of the user's own, starting from a shipped one."""

from __future__ import annotations

import json
import re
from pathlib import Path

from sensitivity.study.errors import UserError
from sensitivity.study.load import find_study, parse_study, parse_toml, read_study
from sensitivity.study.whole_files import write_output

_NAME = re.compile(r'^name = "[^"\n]*"', re.MULTILINE)


def new_study(name: str, source: str) -> str:
    """Write NAME.toml into the current folder, and return a message on what to do with it.

    Raises:
        UserError: the source doesn't exist, the name is invalid, or the file exists already.
    """
    target = Path(f"{name}.toml")
    text = read_study(find_study(source))
    made = _NAME.sub(lambda _: f"name = {json.dumps(name)}", text, count=1)
    parse_study(parse_toml(made, source=target.name), source=target.name)  # the name becomes a folder name
    if target.exists():
        raise UserError(f"{target} exists already\n  Give another name, or move the file away first")
    write_output(target, made.encode())
    return f"{target}, from {source}: `sensitivity plan {target}` prices it, and `sensitivity run` runs it"
