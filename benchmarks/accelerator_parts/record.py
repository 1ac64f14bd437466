"""Record of a part of the benchmark, written after every case, so that an interrupted run keeps what it has."""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

JSON, MARKDOWN = "accelerator.json", "accelerator.md"


@dataclass
class Record:
    """The record of one part, in a folder shared by all parts."""

    folder: Path
    part: str
    ends: float
    """Monotonic time after which no case is started."""

    @property
    def left(self) -> float:
        """Seconds until no further case is started."""
        return self.ends - time.monotonic()

    def case(self, name: str, work: Callable[[], Mapping[str, Any]], *, takes: float = 0.0) -> Mapping[str, Any] | None:
        """Run `work` and record what it returns; its key `ok` is the verdict. An exception makes the case a failure.

        Work that would likely take longer than the time left is recorded as skipped.
        """
        if self.left < takes:
            self._add(name, {"skipped": f"{self.left:.0f} s left, and it takes about {takes:.0f}"}, 0.0)
            return None
        began = time.perf_counter()
        found: Mapping[str, Any] | None = None
        try:
            found = work()
            values = dict(found)
        except Exception as error:  # the next case may succeed
            place = traceback.extract_tb(error.__traceback__)[-1]
            reason = (str(error).splitlines() or [""])[0][:300]
            where = f"{Path(place.filename).name}:{place.lineno}"
            values = {"ok": False, "failed": f"{type(error).__name__}: {reason} ({where})"}
        self._add(name, values, time.perf_counter() - began)
        return found

    def _add(self, name: str, values: dict[str, Any], seconds: float) -> None:
        cases = cases_in(self.folder)
        cases.append({"part": self.part, "case": name, "seconds": round(seconds, 2), **values})
        write(self.folder, cases)
        print(f"{self.part}: {name}: {_text(values)} [{seconds:.1f} s]", flush=True)


def cases_in(folder: Path) -> list[dict[str, Any]]:
    """Return the cases recorded so far."""
    file = folder / JSON
    return json.loads(file.read_text()) if file.is_file() else []


def write(folder: Path, cases: list[dict[str, Any]]) -> None:
    """Write all cases as JSON and as tables; each file is written whole or not at all."""
    for name, text in ((JSON, json.dumps(cases, indent=1)), (MARKDOWN, _markdown(cases))):
        new = folder / f".{name}"
        new.write_text(text)
        new.replace(folder / name)


def _markdown(cases: list[dict[str, Any]]) -> str:
    failed = [case for case in cases if case.get("ok") is False]
    lines = ["# Accelerator", ""]
    lines += [f"{len(cases)} cases, {len(failed)} failed" + (": " if failed else ".")]
    lines += [f"- **{case['part']}: {case['case']}**" for case in failed]
    part = ""
    for case in cases:
        if case["part"] != part:
            part = case["part"]
            lines += ["", f"## {part}", "", "| case | found | s |", "| --- | --- | ---: |"]
        values = {key: value for key, value in case.items() if key not in ("part", "case", "seconds")}
        lines.append(f"| {case['case']} | {_text(values)} | {case['seconds']:.1f} |")
    return "\n".join(lines) + "\n"


def _text(values: Mapping[str, Any]) -> str:
    shown = [f"{key} {_number(value)}" for key, value in values.items() if key != "ok"]
    if "ok" in values:
        shown.insert(0, "passed" if values["ok"] else "**FAILED**")
    return "; ".join(shown).replace("|", "\\|")


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
