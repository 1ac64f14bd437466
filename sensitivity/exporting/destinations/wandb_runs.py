"""W&B: one project per study and one W&B run per run, grouped by setting; or files for ``wandb sync`` in offline mode.

The W&B id of a run is a hash of the study's name and the trial's id, so that W&B recognises a run that is sent twice.
Runs left incomplete by a killed process are resumed; with WANDB_MODE=offline, their files are deleted.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import wandb

from sensitivity.exporting.artefacts import REPORT, Artefacts
from sensitivity.exporting.runs import FinishedRun
from sensitivity.importing.sources.wandb_runs import TRIAL_ID, read_file
from sensitivity.study.hashing import content_hash

_MAX_NAME = 120
"""Most characters of a name or a group; W&B accepts 128."""
_VERDICT = "verdict"


def open_tracker(address: str, study: str) -> WandbTracker:
    """Return a tracker of a study's runs in ENTITY/PROJECT or PROJECT; an empty address is the study's name."""
    os.environ.setdefault("WANDB_SILENT", "true")  # errors are also raised
    entity, _, project = address.rpartition("/")
    settings = wandb.setup().settings
    if settings.mode == "disabled":
        raise RuntimeError("WANDB_MODE=disabled: unset it, or set it to offline")
    offline = Path(settings.wandb_dir) if settings.mode in ("offline", "dryrun") else None
    return WandbTracker(entity or settings.entity, project or settings.project or study, study, offline)


@dataclass(frozen=True)
class WandbTracker:
    """The runs of one study in a project."""

    entity: str | None
    project: str
    study: str
    offline: Path | None
    """Folder of files to be synced later; None to send immediately."""

    @property
    def where(self) -> str:
        """The project, or the files."""
        project = f"{self.entity}/{self.project}" if self.entity else self.project
        if self.offline is None:
            return f"W&B project {project}"
        return f"{self.offline} (send it with `wandb sync --sync-all`)"

    def known(self) -> set[str]:
        """Return the trials with complete runs."""
        return {str(config[TRIAL_ID]) for config in self._found(TRIAL_ID)}

    def send(self, run: FinishedRun) -> None:
        """Send a run; its status is written last."""
        group = run.group if len(run.group) <= _MAX_NAME else f"{run.group[: _MAX_NAME - 10]} {run.cell_id[:8]}"
        config = {**run.config, "status": run.status.value, TRIAL_ID: run.trial_id}
        made = self._begin(run.trial_id, name=run.name, group=group, kind="run", config=config, tag=run.status.value)
        for evaluation in run.evaluations:
            made.log({"step": evaluation.step, **evaluation.values}, step=evaluation.step)
        made.summary.update({**run.summary, "cell_id": run.cell_id, "message": run.message})
        made.finish(exit_code=0 if run.succeeded else 1)

    def send_study(self, artefacts: Artefacts) -> None:
        """Send the verdict, the report and the figures as an artifact of a run, which shows the report."""
        if any(config["version"] == artefacts.version for config in self._found("version")):
            return
        config = {"study": self.study, "version": artefacts.version}
        made = self._begin(_VERDICT, name=_VERDICT, group=_VERDICT, kind=_VERDICT, config=config, tag=_VERDICT)
        made.config.update({"version": artefacts.version}, allow_val_change=True)
        artifact = wandb.Artifact(f"{content_hash({'study': self.study})}-verdict", type=_VERDICT)
        artifact.add_dir(str(artefacts.folder))
        made.log_artifact(artifact)
        made.log({"report": wandb.Html((artefacts.folder / REPORT).read_text(encoding="utf-8"), inject=False)})
        made.summary.update(
            {"verdict": artefacts.verdict, **{f"runs.{status}": count for status, count in artefacts.counts.items()}}
        )
        made.finish(exit_code=0)

    def close(self) -> None:
        """End W&B's own process, which first sends the remaining data."""
        wandb.teardown()

    def _id(self, of: str) -> str:
        return content_hash({"study": self.study, "of": of})

    def _begin(self, of: str, *, name: str, group: str, kind: str, config: Mapping[str, Any], tag: str) -> Any:
        own = self._id(of)
        if self.offline is not None:
            for earlier in self.offline.glob(f"offline-run-*-{own}"):
                shutil.rmtree(earlier)
        return wandb.init(
            entity=self.entity,
            project=self.project,
            id=own,
            name=name[:_MAX_NAME],
            group=group,
            job_type=kind,
            config=dict(config),
            tags=[tag],
            resume="allow" if self.offline is None else None,
            reinit="create_new",
            settings=wandb.Settings(
                silent=True, console="off", save_code=False, disable_git=True, x_disable_stats=True, x_disable_meta=True
            ),
        )

    def _found(self, key: str) -> Iterator[Mapping[str, Any]]:
        """Yield the configuration of each complete run of the study that has the field `key`."""
        if self.offline is None:
            yield from (config for config in self._at_server() if key in config)
            return
        for file in sorted(self.offline.glob("offline-run-*/run-*.wandb")):
            found = read_file(file)
            if key not in found.settings or found.settings.get("study") != self.study:
                continue
            if found.facts["status"] != "running":
                yield found.settings

    def _at_server(self) -> Iterator[Mapping[str, Any]]:
        path = f"{self.entity}/{self.project}" if self.entity else self.project
        wanted = {"config.study.value": self.study, "state": {"$in": ["finished", "failed"]}}
        try:
            yield from (run.config for run in wandb.Api().runs(path, filters=wanted, per_page=1000))
        except ValueError as error:
            if "could not find project" not in str(error).lower():
                raise  # otherwise the project does not exist yet; its first run creates it
