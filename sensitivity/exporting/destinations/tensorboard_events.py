"""TensorBoard: one folder per setting with one event file per seed, with hyperparameters and scalars by step.

A file is written atomically under a name with the trial's id, so that none is incomplete or duplicated.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tensorboardX.proto.api_pb2 import Status as SessionStatus
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.proto.plugin_hparams_pb2 import HParamsPluginData, SessionEndInfo
from tensorboardX.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboardX.record_writer import RecordWriter
from tensorboardX.summary import hparams, text

from sensitivity.exporting.artefacts import Artefacts
from sensitivity.exporting.runs import FinishedRun
from sensitivity.store.directory import Place, place

_FILE = re.compile(r"events\.out\.tfevents\.\d+\.([0-9a-f]{16})")
_VERDICT = "verdict"
_MAX_NAME = 150
"""Most characters of a folder's name."""


def open_tracker(address: str, study: str) -> TensorboardTracker:
    """Return a tracker that writes below a folder or a URI, as for study directories."""
    return TensorboardTracker(place(address or "tensorboard").child(study))


class TensorboardTracker:
    """The event files of one study."""

    def __init__(self, root: Place) -> None:
        self._root = root

    @property
    def where(self) -> str:
        """The folder."""
        return f"tensorboard --logdir {self._root.uri}"

    def known(self) -> set[str]:
        """Return the trials that have a file."""
        files = (file for cell in self._root.folders() for seed in cell.folders() for file in seed.files(""))
        return {found[1] for file in files if (found := _FILE.fullmatch(file))}

    def send(self, run: FinishedRun) -> None:
        """Write the event file of a run."""
        events = [_at(run.started_at, "brain.Event:2"), *_events(run)]
        setting = run.group.replace(", ", ",").replace(" ", "=")[:_MAX_NAME]
        folder = self._root.child(f"{setting},{run.cell_id[:8]}").child(f"seed-{run.config['seed']}")
        _write(folder, f"events.out.tfevents.{round(run.started_at)}.{run.trial_id}", events)

    def send_study(self, artefacts: Artefacts) -> None:
        """Write the verdict as text for TensorBoard, and the report and the figures next to it."""
        folder = self._root.child(_VERDICT)
        name = f"events.out.tfevents.0.{artefacts.version}"
        there = [file for file in folder.files("") if _FILE.fullmatch(file)]
        if name in there:
            return
        for path in sorted(artefacts.folder.rglob("*")):
            if path.is_file():
                relative = path.relative_to(artefacts.folder)
                below = folder if relative.parent == Path() else folder.child(relative.parent.as_posix())
                below.write(relative.name, path.read_bytes())
        counts = ", ".join(f"{count} {status}" for status, count in artefacts.counts.items())
        shown = Event(
            wall_time=0.0, step=0, summary=text("verdict", f"Runs: {counts}\n\n```\n{artefacts.verdict}\n```")
        )
        _write(folder, name, [_at(0.0, "brain.Event:2"), shown])
        for file in there:
            folder.delete(file)

    def close(self) -> None:
        """Do nothing: every file is complete."""


def _events(run: FinishedRun) -> Iterator[Event]:
    config = {**run.config, "status": run.status.value}
    scalars = dict.fromkeys(name for evaluation in run.evaluations for name in evaluation.values)
    experiment, start, _ = hparams(config, scalars)
    ended = SessionStatus.Value("STATUS_SUCCESS" if run.succeeded else "STATUS_FAILURE")
    content = HParamsPluginData(session_end_info=SessionEndInfo(status=ended, end_time_secs=run.finished_at), version=0)
    metadata = SummaryMetadata(
        plugin_data=SummaryMetadata.PluginData(plugin_name="hparams", content=content.SerializeToString())
    )
    end = Summary(value=[Summary.Value(tag="_hparams_/session_end_info", metadata=metadata)])
    for summary in (experiment, start):
        yield Event(wall_time=run.started_at, step=0, summary=summary)
    for evaluation in run.evaluations:
        values = [Summary.Value(tag=name, simple_value=value) for name, value in evaluation.values.items()]
        yield Event(wall_time=evaluation.at, step=evaluation.step, summary=Summary(value=values))
    if run.message:
        yield Event(wall_time=run.finished_at, step=0, summary=text(run.status.value, run.message))
    yield Event(wall_time=run.finished_at, step=0, summary=end)


def _at(moment: float, version: str) -> Event:
    return Event(wall_time=moment, file_version=version)


def _write(folder: Place, name: str, events: list[Event]) -> None:
    with tempfile.TemporaryDirectory(prefix="sensitivity-export-") as scratch:
        file = Path(scratch) / name
        writer = RecordWriter(str(file))
        for event in events:
            writer.write(event.SerializeToString())
        writer.close()
        folder.write(name, file.read_bytes())
