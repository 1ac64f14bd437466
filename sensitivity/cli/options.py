"""Arguments and options that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

StudyArgument = Annotated[str, typer.Argument(metavar="STUDY", help="a .toml file, or a name of search_spaces/")]
DirectoryArgument = Annotated[str, typer.Argument(metavar="STUDY_DIR", help="a study directory: a path or URI")]
StorageOption = Annotated[str, typer.Option(metavar="URI", help="folder of study directories, or s3://...")]
WorkersOption = Annotated[int | None, typer.Option(min=1, help="packs in parallel (default: one per core)")]
AddressOption = Annotated[str | None, typer.Option(help="a running Ray cluster (default: start Ray here)")]
LogOption = Annotated[
    list[str] | None,
    typer.Option(metavar="TOOL[:ADDRESS]", help="also send runs, as they end, to mlflow, tensorboard or wandb"),
]
JsonOption = Annotated[bool, typer.Option("--json", help="print the result as JSON")]
