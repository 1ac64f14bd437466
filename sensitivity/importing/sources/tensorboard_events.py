"""TensorBoard event files: every folder with event files is a run, and its scalars are its evaluations by step."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tensorboard.backend.event_processing.event_accumulator import SCALARS, EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from sensitivity.importing.sources.rows import LoggedRun, source_of
from sensitivity.importing.tables import Source

_HPARAMS = "_hparams_/session_start_info"


def read(address: str) -> Source:
    """Read all event files below a folder.

    Raises:
        UserError: there are none.
    """
    root = Path(address).expanduser()
    folders = sorted({file.parent for file in root.glob("**/*tfevents*")})
    runs = [_run(folder, root) for folder in folders]
    return source_of([run for run in runs if run.settings or run.evaluations], root.name)


def _run(folder: Path, root: Path) -> LoggedRun:
    events = EventAccumulator(str(folder), size_guidance={SCALARS: 0})  # 0 keeps all
    events.Reload()
    by_step: dict[int, dict[str, Any]] = {}
    times: list[float] = []
    for tag in events.Tags()["scalars"]:
        for event in events.Scalars(tag):
            by_step.setdefault(event.step, {"step": event.step})[tag] = event.value
            times.append(event.wall_time)
    settings = dict(_settings(events))
    status = {"status": settings.pop("status")} if "status" in settings else {}
    return LoggedRun(
        run=folder.relative_to(root).as_posix(),
        settings=settings,
        facts=status | ({"started_at": min(times), "finished_at": max(times)} if times else {}),
        evaluations=[by_step[step] for step in sorted(by_step)],
    )


def _settings(events: EventAccumulator) -> Iterator[tuple[str, Any]]:
    """Yield the hyperparameters stored by the hparams plugin (``SummaryWriter.add_hparams``)."""
    content = events.summary_metadata.get(_HPARAMS)
    if content is None:
        return
    data = HParamsPluginData.FromString(content.plugin_data.content)
    for name, value in data.session_start_info.hparams.items():
        yield name, getattr(value, str(value.WhichOneof("kind")))
