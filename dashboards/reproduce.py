"""Writes a study file for a single run: the same trial with the same id as in its study."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dashboards.catalog import Loaded
from sensitivity.store.schema import PARAM_PREFIX
from sensitivity.study.errors import StudyFileError
from sensitivity.study.load import parse_study
from sensitivity.study.toml_text import toml_text
from sensitivity.study.trials import expand

_OF_MANY = ("design", "samples", "device_hours", "design_seed")
"""Fields of an arm that determine its configurations."""


def reproduction(loaded: Loaded, run: Mapping[str, Any]) -> str | None:
    """Return the shell commands that repeat `run`, a row of runs, or None if its study file isn't known any more."""
    known = loaded.manifest.specs.get(str(run.get("spec_hash")), {}).get("spec")
    spec = known or loaded.spec.model_dump(mode="json")
    optimizer = str(run["optimizer"])
    if optimizer not in spec["optimizers"]:
        return None
    arm = {k: v for k, v in spec["optimizers"][optimizer].items() if k not in _OF_MANY}
    for name, value in run.items():
        if str(name).startswith(PARAM_PREFIX) and value == value:
            arm[str(name).removeprefix(PARAM_PREFIX)] = float(value)
    single = {
        "name": f"run-{run['trial_id']}",
        **{k: spec[k] for k in ("problem", "budget", "schedule", "evaluation", "execution") if k in spec},
        "batch_sizes": [int(run["batch_size"])],
        "seeds": [int(run["seed"])],
        "optimizers": {optimizer: arm},
    }
    text = toml_text(single)
    try:
        trials = expand(parse_study(_without_empty(single), source="run"), source=loaded.manifest.source)
    except StudyFileError:
        return None
    if [trial.id for trial in trials] != [run["trial_id"]]:
        return None
    name = f"run-{run['trial_id']}.toml"
    return f"cat > {name} <<'END'\n{text}END\nsensitivity run {name} --storage reproduced"


def _without_empty(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return `content` without None values, which TOML can't express."""
    return {k: _without_empty(v) if isinstance(v, Mapping) else v for k, v in content.items() if v is not None}
