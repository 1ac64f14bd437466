"""The commands. Each imports what it needs when it runs, so that ``--help`` answers at once."""

from __future__ import annotations

import atexit
import contextlib
import gc
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from sensitivity.cli.cluster import register
from sensitivity.cli.exit_codes import DONE, FAULT, STOPPED
from sensitivity.cli.group import Commands, Stopped
from sensitivity.cli.options import (
    AddressOption,
    DirectoryArgument,
    JsonOption,
    LogOption,
    StorageOption,
    StudyArgument,
    WorkersOption,
)
from sensitivity.cli.streams import standard_streams
from sensitivity.cli.version import show_version
from sensitivity.study.errors import UserError
from sensitivity.study.paths import STUDIES, path_faults
from sensitivity.study.redaction import RedactingFormatter

_STOPPED = "stopped; what is stored stays as it was"

app = typer.Typer(
    cls=Commands,
    epilog="Exit codes: 0, the command succeeded; 2, an error, which a message explains; 130, "
    "stopped by Ctrl-C, SIGTERM or SIGHUP.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


@contextlib.contextmanager
def _importing() -> Iterator[None]:
    """Let signals end the process at once during an import, which could swallow the exception or fail with another.

    Imported objects live until the end, so garbage collection, which would find nothing, is paused.
    """

    def end(number: int, frame: FrameType | None) -> None:
        with contextlib.suppress(OSError):
            os.write(2, f"{_STOPPED}\n".encode())
        os._exit(STOPPED)

    from sensitivity.execution.interruption import heeded

    main_thread = threading.current_thread() is threading.main_thread()
    before = {number: signal.signal(number, end) for number in (heeded() if main_thread else ())}
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
        for number, known in before.items():
            signal.signal(number, known)


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=show_version, is_eager=True, help="show the version and exit")
    ] = False,
) -> None:
    """Measure how far an optimizer scales with batch size, and how sensitive it is to its hyperparameters."""


@app.command()
def plan(
    study: StudyArgument,
    storage: StorageOption = STUDIES,
    workers: WorkersOption = None,
    tflops: Annotated[
        float | None, typer.Option(metavar="RATE", help="price it by FLOPs at this rate, without measuring")
    ] = None,
    shrink_to: Annotated[
        str | None, typer.Option(metavar="TIME", help="suggest what to leave out to fit this time, such as 24h")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Check a study and show what it would run and cost on this machine."""
    if tflops is not None and (shrink_to is not None or as_json):
        raise UserError("--tflops: measures nothing, so it can't be combined with --json or --shrink-to")
    with _importing():
        from sensitivity.cli.planning import show_count, show_plan

    if tflops is not None:
        show_count(study, tflops=tflops)
        return
    show_plan(study, storage=storage, workers=workers, shrink_to=shrink_to, as_json=as_json)


@app.command()
def new(
    name: Annotated[str, typer.Argument(metavar="NAME", help="name of the study, and of the file NAME.toml")],
    source: Annotated[
        str, typer.Option("--from", metavar="STUDY", help="a study file, or a name of search_spaces/")
    ] = "template",
) -> None:
    """Write a study file of your own, starting from a shipped one."""
    with _importing():
        from sensitivity.cli.starting import new_study

    print(new_study(name, source))


@app.command()
def run(
    study: StudyArgument,
    storage: StorageOption = STUDIES,
    address: AddressOption = None,
    workers: WorkersOption = None,
    log: LogOption = None,
    as_json: JsonOption = False,
) -> None:
    """Run the missing runs of a study, and store them in STORAGE/NAME."""
    with _importing():
        from sensitivity.cli.running import run_study

    raise typer.Exit(run_study(study, storage=storage, address=address, workers=workers, log=log, as_json=as_json))


@app.command()
def settle(
    study: StudyArgument,
    within: Annotated[str | None, typer.Option(metavar="TIME", help="limit for this command, such as 1h30min")] = None,
    runs: Annotated[
        int | None, typer.Option(min=1, help="limit for the settlement (default without any limit: 2000)")
    ] = None,
    flops: Annotated[float | None, typer.Option(metavar="N", help="limit for the settlement, such as 1e15")] = None,
    question: Annotated[
        str | None, typer.Option(help="scaling, sensitivity or both (default: both, or as before)")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="show the next step and its price, and run nothing")
    ] = False,
    storage: StorageOption = STUDIES,
    address: AddressOption = None,
    workers: WorkersOption = None,
    log: LogOption = None,
    as_json: JsonOption = False,
) -> None:
    """Run what a study's questions need, and no more, until each has its answer or a budget ends."""
    with _importing():
        from sensitivity.cli.limits import limits
        from sensitivity.cli.settling import settle as settle_study
        from sensitivity.cli.settling import show_next_step

    asked = limits(within=within, runs=runs, flops=flops, question=question)
    if dry_run:
        show_next_step(study, storage=storage, workers=workers, limits=asked, as_json=as_json)
        return
    code = settle_study(
        study,
        storage=storage,
        address=address,
        workers=workers,
        limits=asked,
        log=log,
        as_json=as_json,
    )
    raise typer.Exit(code)


@app.command()
def report(
    study_dirs: Annotated[list[str], typer.Argument(metavar="STUDY_DIR...", help="study directories: paths or URIs")],
    output: Annotated[Path | None, typer.Option("-o", "--output", help="the HTML file (default: NAME.html)")] = None,
    figures: Annotated[
        Path | None, typer.Option(metavar="DIR", help="write each figure there too, PNG and SVG")
    ] = None,
) -> None:
    """Write the report of one or more studies: one HTML file that needs no network."""
    with _importing():
        from sensitivity.cli.reading import write_report_file

    for line in write_report_file(study_dirs, output, figures):
        print(line, flush=True)


@app.command()
def figure(
    study_dir: DirectoryArgument,
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="an exhibit (default: list them with their options)")
    ] = None,
    options: Annotated[
        list[str] | None,
        typer.Argument(metavar="[OPTION=VALUE...]", help="its options, such as optimizer=kfac (default: the first)"),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", help=".html, .svg, .png, .csv or .json (default: NAME.html; tables are printed)"
        ),
    ] = None,
) -> None:
    """Write one figure of a study, or its data, to a file."""
    with _importing():
        from sensitivity.cli.figure import show_figure

    for line in show_figure(study_dir, name, options or [], output):
        print(line, flush=True)


@app.command()
def paper(
    study_dir: DirectoryArgument,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="a folder (default: NAME-paper)")] = None,
) -> None:
    """Write the parts of a paper on a study: figures at column width, tables, methods, references."""
    with _importing():
        from sensitivity.cli.paper import write_paper_folder

    for line in write_paper_folder(study_dir, output):
        print(line, flush=True)


@app.command()
def verdict(study_dir: DirectoryArgument, as_json: JsonOption = False) -> None:
    """Answer a study's questions: which optimizer scales further, which is less sensitive, and why."""
    with _importing():
        from sensitivity.cli.reading import show_verdict

    show_verdict(study_dir, as_json=as_json)


@app.command()
def verify(
    study_dir: DirectoryArgument,
    runs: Annotated[int, typer.Option(min=1, help="number of runs sampled at random, each with its pack")] = 3,
    as_json: JsonOption = False,
) -> None:
    """Train some of a study's runs again, with the code stored in it, and compare; exit code 2 if they differ."""
    with _importing():
        from sensitivity.cli.verifying import verify_study

    raise typer.Exit(verify_study(study_dir, runs=runs, as_json=as_json))


@app.command()
def export(
    study_dir: DirectoryArgument,
    target: Annotated[
        str,
        typer.Argument(
            metavar="FILE.{csv,parquet}|TOOL[:ADDRESS]", help="a file, or optuna:, mlflow:, tensorboard:, wandb:"
        ),
    ],
) -> None:
    """Write the table of runs, every planned run included, to a file; or send the runs to another tool."""
    with _importing():
        from sensitivity.cli.exporting import export_study

    for line in export_study(study_dir, target):
        print(line, flush=True)


@app.command(name="import")
def import_(
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="a CSV, Parquet or JSON-lines file, a folder, or TOOL:ADDRESS")
    ],
    name: Annotated[str, typer.Option("--as", metavar="NAME", help="the name of the study")],
    mapping: Annotated[
        Path | None, typer.Option("--map", metavar="FILE", help="how to read the source (default: inferred, and shown)")
    ] = None,
    storage: StorageOption = STUDIES,
) -> None:
    """Import runs that were made elsewhere as a study, into STORAGE/NAME."""
    with _importing():
        from sensitivity.cli.importing import import_source

    for line in import_source(source, name, mapping, storage):
        print(line, flush=True)


@app.command(name="list")
def list_(
    root: Annotated[
        str | None, typer.Argument(metavar="[ROOT]", help=f"a folder of study directories (default: {STUDIES}/)")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """List the studies below ROOT with the state of their runs."""
    with _importing():
        from sensitivity.cli.listing import show_studies

    show_studies(root, as_json=as_json)


@app.command()
def dashboard(
    root: Annotated[str, typer.Argument(metavar="[ROOT]", help="a folder or URI of study directories")] = STUDIES,
    host: Annotated[str, typer.Option(help="listen here; beyond loopback a token is required")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="listen on this port; 0 is a free one")] = 8050,
    host_name: Annotated[
        list[str] | None, typer.Option(help="another host name, or a proxy's address such as https://lab.example")
    ] = None,
    prefix: Annotated[str, typer.Option(help="the path below which a proxy shows it")] = "/",
    strip_prefix: Annotated[bool, typer.Option("--strip-prefix", help="the proxy removes the prefix")] = False,
    allow_run: Annotated[
        bool,
        typer.Option("--allow-run", help="let anyone with the token start and stop studies, which runs their code"),
    ] = False,
    notes: Annotated[
        bool, typer.Option("--notes/--no-notes", help="let anyone who reaches it write notes and tags of runs")
    ] = True,
    cluster: Annotated[
        str | None,
        typer.Option(metavar="URL", help="a cluster's Jobs server: show its jobs; with --allow-run, submit to it"),
    ] = None,
) -> None:
    """Explore the studies below ROOT in a browser, while they run."""
    with _importing():
        from sensitivity.cli.dashboard import serve

    serve(
        root,
        host=host,
        port=port,
        host_names=host_name or [],
        prefix=prefix,
        strip_prefix=strip_prefix,
        allow_run=allow_run,
        allow_notes=notes,
        cluster=cluster,
    )


register(app)


def _put_current_folder_last() -> None:
    """Put the current folder last, so that installed packages win; ``python -m`` puts it first in the path."""
    with contextlib.suppress(OSError):  # the folder was removed
        if sys.path[0] in ("", str(Path.cwd())):
            sys.path.append(sys.path.pop(0))


def main() -> None:
    """Run a command; a user's mistake gives a message and exit code 2, never a traceback."""
    _put_current_folder_last()
    code = STOPPED
    with contextlib.suppress(KeyboardInterrupt), standard_streams() as streams:
        handler = logging.StreamHandler()
        handler.setFormatter(RedactingFormatter("%(message)s"))
        logging.basicConfig(level=logging.WARNING, handlers=[handler])
        logging.getLogger("sensitivity").setLevel(logging.INFO)
        code = streams.exit_code(_exit_code_of_command(), failed=FAULT)
    if code == STOPPED:
        from sensitivity.execution.interruption import ignore_stops

        atexit.register(ignore_stops)  # registered first, so it runs last, after Ray's cleanup
    sys.exit(code)


def _exit_code_of_command() -> int:
    from sensitivity.execution.interruption import Interruptible  # here, so reading commands don't load it

    try:
        with path_faults("the current folder", "Change to a folder that exists"):
            Path.cwd()  # if it was removed, libraries fail in various ways, some by ending the process
        with Interruptible():
            app()
    except (Stopped, KeyboardInterrupt):
        print(_STOPPED, file=sys.stderr)
        return STOPPED
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return FAULT
    except SystemExit as ended:
        if isinstance(ended.code, str):
            print(f"error: {ended.code}", file=sys.stderr)
        return DONE if not ended.code else STOPPED if ended.code == STOPPED else FAULT
    return DONE


if __name__ == "__main__":
    main()
