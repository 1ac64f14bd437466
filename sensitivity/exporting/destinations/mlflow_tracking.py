"""MLflow: one experiment per study and one MLflow run per run, tagged with its group (all seeds of one setting).

The MLflow status is FINISHED or FAILED; the tag ``sensitivity.status`` distinguishes diverged from failed runs. A run
with status RUNNING was left incomplete by a killed process, and is deleted.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from mlflow.entities import Metric, Param, Run, ViewType
from mlflow.tracking import MlflowClient

from sensitivity.exporting.artefacts import Artefacts
from sensitivity.exporting.runs import FinishedRun
from sensitivity.importing.sources.mlflow_store import STATUS_TAG, VERDICT_TAG
from sensitivity.importing.sources.rows import SUMMARY
from sensitivity.study.redaction import redacted

_TAG = "sensitivity."
_STUDY, _TRIAL = f"{_TAG}study", f"{_TAG}trial_id"
_PAGE, _BATCH = 1000, 900
"""Runs per response, and metrics per request; servers accept up to 1,000."""
_MAX_TEXT = 500
"""Most characters of a tag or parameter that every version of MLflow accepts."""


def open_tracker(address: str, study: str) -> MlflowTracker:
    """Return a tracker of a study's runs at a tracking URI; an empty address is MLflow's default."""
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # minutes otherwise, for a server that is down
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)  # errors are also raised
    uri = address if "://" in address or not address else Path(address).expanduser().resolve().as_uri()
    return MlflowTracker(MlflowClient(uri or None), study)


class MlflowTracker:
    """The runs of one study in an MLflow experiment of its name."""

    def __init__(self, client: MlflowClient, study: str) -> None:
        self._client, self._study = client, study
        found = client.get_experiment_by_name(study)
        self._experiment = client.create_experiment(study) if found is None else found.experiment_id

    @property
    def where(self) -> str:
        """The experiment."""
        return f"MLflow experiment {self._study!r} at {redacted(self._client.tracking_uri)}"

    def known(self) -> set[str]:
        """Return the trials with complete runs; incomplete runs are deleted."""
        there = set()
        for run in list(self._runs()):
            if run.info.status == "RUNNING":
                self._client.delete_run(run.info.run_id)
            elif _TRIAL in run.data.tags:
                there.add(run.data.tags[_TRIAL])
        return there

    def send(self, run: FinishedRun) -> None:
        """Send a run; its status is written last."""
        tags = {
            _STUDY: self._study,
            _TRIAL: run.trial_id,
            f"{_TAG}cell_id": run.cell_id,
            f"{_TAG}group": run.group,
            STATUS_TAG: run.status.value,
            f"{_TAG}message": run.message,
        }
        made = self._create(run.name, run.started_at, tags)
        self._client.log_batch(made, params=[Param(name, str(value)[:_MAX_TEXT]) for name, value in run.config.items()])
        for batch in _batches(_metrics(run)):
            self._client.log_batch(made, metrics=batch)
        ended = "FINISHED" if run.succeeded else "FAILED"
        self._client.set_terminated(made, ended, end_time=round(1000 * run.finished_at))

    def send_study(self, artefacts: Artefacts) -> None:
        """Send the verdict, the report and the figures as artifacts of a run; earlier ones are deleted."""
        tags = {_STUDY: self._study, VERDICT_TAG: artefacts.version, "mlflow.note.content": artefacts.verdict}
        earlier = [run for run in self._runs() if VERDICT_TAG in run.data.tags]
        if any(run.data.tags[VERDICT_TAG] == artefacts.version and run.info.status == "FINISHED" for run in earlier):
            return
        made = self._create(f"verdict of {self._study}", None, tags, most=5000)
        counts = [Metric(f"runs.{status}", count, 0, 0) for status, count in artefacts.counts.items()]
        self._client.log_batch(made, metrics=counts)
        self._client.log_artifacts(made, str(artefacts.folder))
        self._client.set_terminated(made, "FINISHED")
        for run in earlier:
            self._client.delete_run(run.info.run_id)

    def close(self) -> None:
        """Do nothing: each request is synchronous."""

    def _create(self, name: str, started: float | None, tags: Mapping[str, str], *, most: int = _MAX_TEXT) -> str:
        start = None if started is None else round(1000 * started)
        cut = {key: value[:most] for key, value in tags.items()}
        made = self._client.create_run(self._experiment, start_time=start, tags=cut, run_name=name[:_MAX_TEXT])
        return str(made.info.run_id)

    def _runs(self) -> Iterator[Run]:
        """Yield the runs of the study that are not deleted."""
        token: str | None = None
        wanted = f"tags.`{_STUDY}` = '{self._study}'"
        while True:
            page = self._client.search_runs(
                [self._experiment], wanted, ViewType.ACTIVE_ONLY, max_results=_PAGE, page_token=token
            )
            yield from page
            token = page.token
            if not token:
                return


def _metrics(run: FinishedRun) -> Iterator[Metric]:
    for evaluation in run.evaluations:
        for name, value in evaluation.values.items():
            yield Metric(name, value, round(1000 * evaluation.at), evaluation.step)
    last = run.evaluations[-1].step if run.evaluations else 0
    for name, value in run.extra.items():
        yield Metric(f"{SUMMARY}{name}", value, round(1000 * run.finished_at), last)


def _batches(metrics: Iterable[Metric]) -> Iterator[list[Metric]]:
    batch: list[Metric] = []
    for metric in metrics:
        batch.append(metric)
        if len(batch) == _BATCH:
            yield batch
            batch = []
    if batch:
        yield batch
