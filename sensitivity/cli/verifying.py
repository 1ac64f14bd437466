"""The ``verify`` command: trains recorded runs again, and compares them with their records."""

from __future__ import annotations

import random

import torch

from sensitivity.cli.json_output.base import json_text
from sensitivity.cli.json_output.runs import verify_output
from sensitivity.execution.loading import ChangedError, load
from sensitivity.execution.verification import curves_of, sample, train_again
from sensitivity.store.directory import Place, place
from sensitivity.store.manifest import Manifest, read_manifest
from sensitivity.store.sources import read_source
from sensitivity.study.errors import UserError
from sensitivity.study.origin import Origin
from sensitivity.study.snapshot import Snapshot

DIFFERENT_EXIT = 2


def verify_study(study_dir: str, *, runs: int, as_json: bool, draw: random.Random | None = None) -> int:
    """Train a random sample of a study's runs again, print the comparison, and return the exit code."""
    directory = place(study_dir)
    manifest = read_manifest(directory)
    packs = sample(directory, manifest, runs, draw or random.Random())
    if not packs:
        raise UserError(f"{directory.uri}: no run has been trained yet\n  `sensitivity run` trains them")
    origin, found = _origin(directory, manifest), []
    for recorded in packs:
        device = torch.device(recorded.execution.device)
        if device.type == "cuda" and not torch.cuda.is_available():
            raise UserError(
                f"{directory.uri}: its runs were trained on an accelerator, and this machine has none\n"
                "  Verify it on a machine that has one"
            )
        try:
            problem = load(origin, device)
        except ChangedError as error:
            raise UserError(f"{directory.uri}: the problem differs from what was trained: {error}") from None
        compared = train_again(problem, recorded, curves_of(directory, recorded))
        found.append(compared)
        if not as_json:
            print("\n".join([compared.sentence(), *(f"  {fault}" for fault in compared.faults)]))
    if as_json:
        print(json_text([verify_output(each) for each in found]))
    return DIFFERENT_EXIT if any(each.faults for each in found) else 0


def _origin(directory: Place, manifest: Manifest) -> Origin:
    snapshot = read_source(directory, manifest.source)
    if manifest.identity is None or (manifest.source and snapshot is None):
        raise UserError(
            f"{directory.uri}: it was run by a version that didn't store what a run was trained on\n"
            "  Run the same study file again: nothing is trained twice, and what is needed is then stored"
        )
    return Origin(
        problem=manifest.spec.required_problem.fixed(),
        snapshot=snapshot or Snapshot(roots=(".",)),
        identity=manifest.identity,
    )
