"""Sources of imported runs: tables, and the stores of other tools, one file per tool."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sensitivity.importing.tables import SUFFIXES, Source, is_table, read_table
from sensitivity.study.errors import UserError
from sensitivity.study.redaction import redacted


@dataclass(frozen=True, kw_only=True)
class Tool:
    """A tool whose runs can be imported."""

    name: str
    """Name of the tool, the part before the colon of an address such as ``optuna:sqlite:///runs.db``."""
    label: str
    module: str
    """Module with ``read(address) -> Source``."""
    package: str
    """Required package, which the extra with the tool's name installs."""
    recognises: Callable[[Path], bool]
    """Whether a path without a tool's name is one of its stores."""


def _has(pattern: str) -> Callable[[Path], bool]:
    return lambda path: path.is_dir() and next(path.glob(pattern), None) is not None


TOOLS: tuple[Tool, ...] = (
    Tool(
        name="optuna",
        label="an Optuna storage",
        module="optuna_storage",
        package="optuna",
        recognises=lambda path: path.is_file() and path.suffix in (".db", ".sqlite", ".sqlite3", ".log"),
    ),
    Tool(
        name="ray",
        label="a Ray Tune result folder",
        module="ray_tune",
        package="",
        recognises=_has("*/params.json"),
    ),
    Tool(
        name="tensorboard",
        label="TensorBoard event files",
        module="tensorboard_events",
        package="tensorboard",
        recognises=_has("**/*tfevents*"),
    ),
    Tool(
        name="mlflow",
        label="an MLflow store",
        module="mlflow_store",
        package="mlflow",
        recognises=_has("*/meta.yaml"),
    ),
    Tool(
        name="wandb",
        label="W&B runs",
        module="wandb_runs",
        package="wandb",
        recognises=_has("*run-*/*.wandb"),
    ),
)


def find_source(address: str) -> Source:
    """Read the runs that `address` names: a file or folder, or ``TOOL:ADDRESS``.

    Raises:
        UserError: there are none, or the package that reads them is not installed.
    """
    name, colon, rest = address.partition(":")
    tool = next((each for each in TOOLS if colon and each.name == name), None)
    if tool is not None and rest:
        return _read(tool, rest)
    path = Path(address).expanduser()
    if is_table(path):
        return read_table(path)
    found = next((each for each in TOOLS if each.recognises(path)), None)
    if found is not None:
        return _read(found, address)
    why = "there is no such file or folder" if not path.exists() else "no table of runs found there"
    tools = ", ".join(f"{each.name}:ADDRESS ({each.label})" for each in TOOLS)
    raise UserError(f"{redacted(address)}: {why}\n  Use a file that ends in {', '.join(SUFFIXES)}, or {tools}")


def _read(tool: Tool, address: str) -> Source:
    try:
        module = importlib.import_module(f"{__name__}.{tool.module}")
        found: Source = module.read(address)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != tool.package:
            raise
        raise UserError(
            f"{redacted(address)}: reading {tool.label} needs the package {tool.package}, which isn't installed\n"
            f"  Install it: pip install 'sensitivity[{tool.name}]'"
        ) from None
    return found
