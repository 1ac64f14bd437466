"""Ray Tune result folders: every trial is a run, and every report an evaluation. Reading them does not need Ray."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sensitivity.importing.sources.rows import REPORTED, LoggedRun, source_of
from sensitivity.importing.tables import Source
from sensitivity.study.errors import UserError
from sensitivity.study.paths import path_faults

_HOUSEKEEPING = frozenset(
    [
        "config",
        "date",
        "done",
        "experiment_id",
        "experiment_tag",
        "hostname",
        "iterations_since_restore",
        "node_ip",
        "pid",
        "should_checkpoint",
        "time_since_restore",
        "time_this_iter_s",
        "timestamp",
        "timesteps_since_restore",
        "checkpoint_dir_name",
        "trial_id",
        "training_iteration",
        "timesteps_total",
        "episodes_total",
        "time_total_s",
    ]
)
"""Fields that Tune adds to each report."""


def read(address: str) -> Source:
    """Read the trials in the folder of an experiment.

    Raises:
        UserError: there are none, or a file is damaged.
    """
    folder = Path(address).expanduser()
    with path_faults(folder, "Use the folder of a Ray Tune experiment, which has a folder for each trial"):
        statuses = _statuses(folder)
        runs = [_run(path.parent, statuses) for path in sorted(folder.glob("*/params.json"))]
    return source_of(runs, folder.name, reported="training_iteration, which counts reports")


def _run(folder: Path, statuses: dict[str, str]) -> LoggedRun:
    reports = list(_reports(folder / "result.json"))
    trial_id = str(reports[-1].get("trial_id", folder.name)) if reports else folder.name
    crashed = (folder / "error.txt").exists()
    known = next((status for name, status in statuses.items() if name in folder.name or name == trial_id), "")
    first = reports[0] if reports else {}
    return LoggedRun(
        run=folder.name,
        settings=json.loads((folder / "params.json").read_text()),
        facts={
            "status": "ERROR" if crashed else known or ("TERMINATED" if reports and reports[-1].get("done") else ""),
            "started_at": float(first["timestamp"]) - float(first.get("time_this_iter_s", 0)) if first else None,
            "finished_at": float(reports[-1]["timestamp"]) if reports else None,
        },
        evaluations=[
            {
                **{name: value for name, value in report.items() if name not in _HOUSEKEEPING},
                REPORTED: report.get("training_iteration"),
                "train_seconds": report.get("time_total_s"),
            }
            for report in reports
        ],
    )


def _reports(file: Path) -> Iterator[dict[str, Any]]:
    if file.exists():
        for line in file.read_text().splitlines():
            try:
                found = json.loads(line)
            except ValueError:
                continue  # a truncated line of a killed worker
            if isinstance(found, dict):
                yield found


def _statuses(folder: Path) -> dict[str, str]:
    """Return each trial's status by id from the experiment's last state file; empty if there is none."""
    states = sorted(folder.glob("experiment_state-*.json"))
    found: dict[str, str] = {}
    for trial, _ in json.loads(states[-1].read_text()).get("trial_data", ()) if states else ():
        try:
            content = json.loads(trial) if isinstance(trial, str) else trial
            found[str(content["trial_id"])] = str(content["status"])
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{states[-1]}: damaged ({error})\n  Restore it from a copy, or move it away") from None
    return found
