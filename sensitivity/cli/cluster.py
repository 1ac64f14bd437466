"""The commands that send studies to a cluster and follow them there."""

from __future__ import annotations

from typing import Annotated

import typer

from sensitivity.cli.options import JsonOption, StudyArgument
from sensitivity.study.errors import UserError

JobArgument = Annotated[str, typer.Argument(metavar="JOB", help="as `submit` and `status` name it")]
AddressOption = Annotated[
    str, typer.Option(envvar="RAY_API_SERVER_ADDRESS", metavar="URL", help="the cluster's Jobs server (its dashboard)")
]
JOBS_SERVER = "http://127.0.0.1:8265"


def register(app: typer.Typer) -> None:
    """Add the commands to an application."""
    for command in (submit, status, logs, stop):
        app.command()(command)


def submit(
    study: StudyArgument,
    storage: Annotated[str, typer.Option(metavar="URI", help="a place that all nodes share: s3://..., gs://..., NFS")],
    address: AddressOption = JOBS_SERVER,
    workers: Annotated[int | None, typer.Option(min=1, help="packs at a time (default: what fits)")] = None,
    installed: Annotated[
        bool, typer.Option("--installed", help="use the cluster's own copy of this package, don't send this one")
    ] = False,
    include: Annotated[
        list[str] | None,
        typer.Option(metavar="FILE", help="send this file beside the study though it looks like credentials"),
    ] = None,
    settle: Annotated[bool, typer.Option("--settle", help="settle it there, as `sensitivity settle` does")] = False,
    within: Annotated[str | None, typer.Option(metavar="TIME", help="as of `settle`")] = None,
    runs: Annotated[int | None, typer.Option(min=1, help="as of `settle`")] = None,
    flops: Annotated[float | None, typer.Option(metavar="N", help="as of `settle`")] = None,
    question: Annotated[str | None, typer.Option(help="as of `settle`")] = None,
    log: Annotated[
        list[str] | None, typer.Option(metavar="TOOL[:ADDRESS]", help="as of `run`; sent from there")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Send a study to a Ray cluster: it runs there what is missing, or settles it, and this machine may go."""
    from sensitivity.cli.jobs import submit_study
    from sensitivity.cli.limits import limits as read_limits
    from sensitivity.study.trackers import target_without_credentials

    read_limits(within=within, runs=runs, flops=flops, question=question)  # a mistake is told before anything is sent
    given = {"--within": within, "--runs": runs, "--flops": flops, "--question": question}
    sent = [word for target in log or [] for word in ("--log", target_without_credentials(target))]
    limits = [word for name, value in given.items() if value is not None for word in (name, str(value))]
    if limits and not settle:
        raise UserError(f"{limits[0]}: only with --settle")
    submit_study(
        study,
        address=address,
        storage=storage,
        workers=workers,
        with_package=not installed,
        include=include or [],
        command=[*(["settle", *limits] if settle else ["run"]), *sent],
        as_json=as_json,
    )


def status(
    job: Annotated[str | None, typer.Argument(metavar="[JOB]", help="a job (default: all studies there)")] = None,
    address: AddressOption = JOBS_SERVER,
    as_json: JsonOption = False,
) -> None:
    """Show how the jobs of a cluster stand."""
    from sensitivity.cli.jobs import show_status

    show_status(job, address=address, as_json=as_json)


def logs(
    job: JobArgument,
    address: AddressOption = JOBS_SERVER,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="go on until the job ends")] = False,
) -> None:
    """Print what a job has printed."""
    from sensitivity.cli.jobs import show_logs

    raise typer.Exit(show_logs(job, address=address, follow=follow))


def stop(job: JobArgument, address: AddressOption = JOBS_SERVER) -> None:
    """Stop a job; what it has reported is kept, and submitting the study again goes on from there."""
    from sensitivity.cli.jobs import stop_job

    stop_job(job, address=address)
