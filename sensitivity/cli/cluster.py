"""The commands that send studies to a cluster and follow them there."""

from __future__ import annotations

from typing import Annotated

import typer

from sensitivity.cli.options import JsonOption, StudyArgument
from sensitivity.study.errors import UserError

JobArgument = Annotated[str, typer.Argument(metavar="JOB", help="job id, as `submit` and `status` print it")]
AddressOption = Annotated[
    str, typer.Option(envvar="RAY_API_SERVER_ADDRESS", metavar="URL", help="the cluster's Jobs server (its dashboard)")
]
JOBS_SERVER = "http://127.0.0.1:8265"


def register(app: typer.Typer) -> None:
    """Add the commands to an application."""
    for command in (submit, status, logs, stop):
        app.command()(command)


def submit(
    context: typer.Context,
    study: StudyArgument,
    storage: Annotated[str, typer.Option(metavar="URI", help="a place that all nodes share: s3://..., gs://..., NFS")],
    address: AddressOption = JOBS_SERVER,
    workers: Annotated[int | None, typer.Option(min=1, help="packs in parallel (default: as many as fit)")] = None,
    installed: Annotated[
        bool, typer.Option("--installed", help="use the cluster's own copy of this package instead of sending this one")
    ] = False,
    include: Annotated[
        list[str] | None,
        typer.Option(metavar="FILE", help="send this file next to the study even if it looks like credentials"),
    ] = None,
    slurm: Annotated[
        str | None,
        typer.Option(
            metavar="OPTIONS", help="send to SLURM with these options of sbatch, such as '--nodes=2 --time=60'"
        ),
    ] = None,
    settle: Annotated[bool, typer.Option("--settle", help="settle the study, as `sensitivity settle` does")] = False,
    within: Annotated[str | None, typer.Option(metavar="TIME", help="as for `settle`")] = None,
    runs: Annotated[int | None, typer.Option(min=1, help="as for `settle`")] = None,
    flops: Annotated[float | None, typer.Option(metavar="N", help="as for `settle`")] = None,
    question: Annotated[str | None, typer.Option(help="as for `settle`")] = None,
    log: Annotated[
        list[str] | None, typer.Option(metavar="TOOL[:ADDRESS]", help="as for `run`; sent from the cluster")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Send a study to a Ray cluster or SLURM, which runs or settles it; this machine may be turned off."""
    from sensitivity.cli.jobs import submit_study
    from sensitivity.cli.limits import limits as read_limits
    from sensitivity.study.trackers import target_without_credentials

    read_limits(within=within, runs=runs, flops=flops, question=question)  # reports mistakes before sending
    given = {"--within": within, "--runs": runs, "--flops": flops, "--question": question}
    sent = [word for target in log or [] for word in ("--log", target_without_credentials(target))]
    limits = [word for name, value in given.items() if value is not None for word in (name, str(value))]
    if limits and not settle:
        raise UserError(f"{limits[0]}: needs --settle")
    command = [*(["settle", *limits] if settle else ["run"]), *sent]
    if slurm is not None:
        from sensitivity.cli.slurm import submit_to_slurm

        for name in ("address", "installed", "include"):
            source = context.get_parameter_source(name)
            if source is not None and source.name == "COMMANDLINE":
                raise UserError(f"--{name}: for a Ray cluster, not for --slurm")
        command += [] if workers is None else ["--workers", str(workers)]
        submit_to_slurm(study, storage=storage, options=slurm, command=command, as_json=as_json)
        return
    submit_study(
        study,
        address=address,
        storage=storage,
        workers=workers,
        with_package=not installed,
        include=include or [],
        command=command,
        as_json=as_json,
    )


def status(
    job: Annotated[str | None, typer.Argument(metavar="[JOB]", help="a job (default: all studies there)")] = None,
    address: AddressOption = JOBS_SERVER,
    as_json: JsonOption = False,
) -> None:
    """Show the status of a cluster's jobs."""
    from sensitivity.cli.jobs import show_status

    show_status(job, address=address, as_json=as_json)


def logs(
    job: JobArgument,
    address: AddressOption = JOBS_SERVER,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="continue until the job ends")] = False,
) -> None:
    """Print the output of a job."""
    from sensitivity.cli.jobs import show_logs

    raise typer.Exit(show_logs(job, address=address, follow=follow))


def stop(job: JobArgument, address: AddressOption = JOBS_SERVER) -> None:
    """Stop a job; its reported results are kept, and submitting the study again resumes it."""
    from sensitivity.cli.jobs import stop_job

    stop_job(job, address=address)
