"""W&B: a project per study, a run per run, grouped by setting; or files for ``wandb sync`` with WANDB_MODE=offline.

A run's id at W&B is a hash of the study's name and the trial's id, so that W&B itself takes what is sent twice for one
run. Runs that a killed process has left half-way are resumed; in offline mode their files are removed.
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

_LONGEST = 120
"""Characters of a name or a group, of which W&B takes 128."""
_VERDICT = "verdict"


def open_tracker(address: str, study: str) -> WandbTracker:
    """Return a tracker of a study's runs in ENTITY/PROJECT or PROJECT; empty takes the study's name as the project."""
    os.environ.setdefault("WANDB_SILENT", "true")  # what goes wrong is raised, too
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
    """The folder of files that are sent later; None sends at once."""

    @property
    def where(self) -> str:
        """The project, or the files."""
        project = f"{self.entity}/{self.project}" if self.entity else self.project
        if self.offline is None:
            return f"W&B project {project}"
        return f"{self.offline} (send it with `wandb sync --sync-all`)"

    def known(self) -> set[str]:
        """Return the trials that are there whole."""
        return {str(config[TRIAL_ID]) for config in self._found(TRIAL_ID)}

    def send(self, run: FinishedRun) -> None:
        """Send a run; its end is written last."""
        group = run.group if len(run.group) <= _LONGEST else f"{run.group[: _LONGEST - 10]} {run.cell_id[:8]}"
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
        """End W&B's own process, which sends what is left."""
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
            name=name[:_LONGEST],
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
        """Yield the configuration of each whole run of the study that has `key` in it."""
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
                raise  # a new project is made by its first run
