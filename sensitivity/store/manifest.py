"""``study.json``: the study of a directory, every version of it that was run, and the provenance of its results."""

from __future__ import annotations

import dataclasses
import functools
import json
from dataclasses import dataclass
from typing import Any

from sensitivity.store.directory import Place, first_line
from sensitivity.store.recorded_spec import infer_recorded_study
from sensitivity.store.schema import SCHEMA_VERSION
from sensitivity.store.sources import changed_files, write_source
from sensitivity.study.errors import StorageError, StudyFileError
from sensitivity.study.hashing import content_hash
from sensitivity.study.identity import Identity
from sensitivity.study.load import parse_study
from sensitivity.study.origin import Origin
from sensitivity.study.provenance import code_version, machine, package_versions
from sensitivity.study.spec import StudySpec

MANIFEST = "study.json"
_MAX_BYTES = 64 * 2**20
"""A spec takes some kilobytes, and each extension of a study adds one."""


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The content of study.json."""

    spec: StudySpec
    source: str
    """Hash of the user's own problem code; empty for shipped problems."""
    specs: dict[str, Any]
    """Every spec that was run in the directory, by its hash, with code version, packages and machine."""
    identity: Identity | None = None
    """Identity of the data, network and code of the runs; None if an older version wrote the directory."""
    determinism: dict[str, Any] | None = None
    """Result of training some runs again, at the end of the latest command that trained any."""

    @property
    def history(self) -> dict[str, dict[str, Any]]:
        """All study files that were run in the directory, as JSON-like data, by hash."""
        return {name: entry["spec"] for name, entry in self.specs.items() if isinstance(entry.get("spec"), dict)}

    @functools.cached_property
    def spec_hash(self) -> str:
        """Hash of the current spec."""
        return spec_hash(self.spec)


def spec_hash(spec: StudySpec) -> str:
    """Return the hash of a resolved study, without the destinations of its logs."""
    return content_hash(spec.model_dump(mode="json", exclude={"log"}))


def read_manifest(directory: Place) -> Manifest:
    """Read study.json.

    Raises:
        StorageError: the file does not exist, is damaged, or has another schema version.
    """
    if not directory.exists(MANIFEST):
        wanted = "Use a study directory"
        if directory.uri.endswith(".toml"):
            wanted = "A study file has no results. Use the directory of its results, such as studies/NAME"
        raise StorageError(
            f"{directory.uri}: no study here (no {MANIFEST})\n"
            f"  {wanted}; `sensitivity list ROOT` shows those below a folder"
        )
    try:
        data = directory.read_start(MANIFEST, _MAX_BYTES + 1)
        if len(data) > _MAX_BYTES:
            raise ValueError(f"it has more than {_MAX_BYTES:,} bytes")  # noqa: TRY301 - reported as damage
        content = json.loads(data)
        version = content["schema_version"]
        if version != SCHEMA_VERSION:
            older = isinstance(version, int) and version < SCHEMA_VERSION
            fix = "run the study again into another place" if older else "upgrade this package"
            raise StorageError(
                f"{directory.uri}: written with schema version {version}; this code reads {SCHEMA_VERSION}\n"
                f"  Read it with the version that wrote it ({content.get('written_by', 'unknown')}), or {fix}"
            )
        specs = content["specs"]
        if not all(isinstance(specs[key], dict) for key in specs):
            raise TypeError("specs are not tables")  # noqa: TRY301 - reported as damage
        if not _is_comparison(content.get("determinism")):
            raise TypeError("determinism is not a comparison")  # noqa: TRY301 - reported as damage
        raw = _without_retired(content["spec"])
        if isinstance(raw, dict) and isinstance(raw.get("observed"), dict) and raw["observed"].get("recorded"):
            raw = infer_recorded_study(directory, raw)
        return Manifest(
            spec=parse_study(raw, source=MANIFEST),
            source=str(content["source"]),
            specs=specs,
            identity=Identity.of_content(content["identity"]) if content.get("identity") else None,
            determinism=content.get("determinism"),
        )
    except (ValueError, KeyError, TypeError, RecursionError, StudyFileError) as error:
        reason = (
            f"its study is not valid: {error.mistakes[0]}" if isinstance(error, StudyFileError) else first_line(error)
        )
        raise StorageError(
            f"{directory.uri_of(MANIFEST)}: damaged ({reason})\n"
            "  Restore it from a copy; or move it away and run the same study file again, which keeps its runs"
        ) from None


def _is_comparison(found: Any) -> bool:
    """Whether a value is None or a comparison, which consists of a sentence and a list of faults."""
    if found is None:
        return True
    if not isinstance(found, dict) or not isinstance(found.get("sentence"), str):
        return False
    faults = found.get("faults")
    return isinstance(faults, list) and all(isinstance(fault, str) for fault in faults)


def _without_retired(spec: Any) -> Any:
    """Return a spec without fields that no longer exist and on which no result depended."""
    margins = spec.get("margins") if isinstance(spec, dict) else None
    if not isinstance(margins, dict):
        return spec
    return {**spec, "margins": {name: value for name, value in margins.items() if name != "robust_decades"}}


def write_manifest(directory: Place, spec: StudySpec, source: str, origin: Origin | None = None) -> Manifest:
    """Create study.json or update it with an extended spec; store the user's code next to it.

    Args:
        directory: study directory.
        spec: the study to run.
        source: hash of the problem's own code, which is part of the trial ids.
        origin: code, data and network of the problem; None stores and compares none of it.

    Raises:
        StorageError: the directory contains a different study of the same name.
    """
    identity, determinism = None if origin is None else origin.identity, None
    specs: dict[str, Any] = {}
    if directory.exists(MANIFEST):
        existing = read_manifest(directory)
        refuse_other_study(directory, existing, spec, source, origin)
        specs, determinism = existing.specs, existing.determinism
        identity = existing.identity or identity  # the first one, so that differences within rounding do not accumulate
    if origin is not None:
        write_source(directory, source, origin.snapshot)
    entry = {
        "spec": spec.model_dump(mode="json"),
        "code_version": code_version(),
        "packages": package_versions(),
        "machine": machine(),
    }
    manifest = Manifest(
        spec=spec,
        source=source,
        specs={**specs, spec_hash(spec): entry},
        identity=identity,
        determinism=determinism,
    )
    _write(directory, manifest)
    return manifest


def record_determinism(directory: Place, manifest: Manifest, found: dict[str, Any]) -> None:
    """Record the result of training some runs again in study.json.

    Raises:
        StorageError: the place can't be written.
    """
    _write(directory, dataclasses.replace(manifest, determinism=found))


def read_declared_spec(directory: Place) -> dict[str, Any] | None:
    """Return the study that study.json declares, unparsed; None if there is none.

    Raises:
        StorageError: the file can't be read.
    """
    if not directory.exists(MANIFEST):
        return None
    try:
        return dict(json.loads(directory.read(MANIFEST))["spec"])
    except (ValueError, KeyError, TypeError, RecursionError):
        read_manifest(directory)  # raises the error with its fix
        raise


def write_recorded(directory: Place, declared: dict[str, Any]) -> None:
    """Create the study.json of a directory whose study is inferred from the runs recorded in it.

    Args:
        directory: study directory.
        declared: fields of the study that can't be inferred from runs: its name and targets.

    Raises:
        StorageError: the place can't be written.
    """
    content = {
        "schema_version": SCHEMA_VERSION,
        "written_by": f"sensitivity {code_version()}",
        "spec": {**declared, "observed": {"recorded": True}},
        "source": "",
        "specs": {},
    }
    directory.write(MANIFEST, json.dumps(content, indent=2).encode())


def _write(directory: Place, manifest: Manifest) -> None:
    content = {
        "schema_version": SCHEMA_VERSION,
        "written_by": f"sensitivity {code_version()}",
        "spec": manifest.spec.model_dump(mode="json"),
        "source": manifest.source,
        "identity": None if manifest.identity is None else manifest.identity.content(),
        "determinism": manifest.determinism,
        "specs": manifest.specs,
    }
    directory.write(MANIFEST, json.dumps(content, indent=2).encode())


def refuse_other_study(
    directory: Place, existing: Manifest, spec: StudySpec, source: str, origin: Origin | None = None
) -> None:
    """Raise unless `spec` with `source` equals or extends the study in `directory`.

    Args:
        directory: study directory.
        existing: content of its study.json.
        spec: the study to run.
        source: hash of the problem's own code, which is part of the trial ids.
        origin: code, data and network of the problem, compared unless None.

    Raises:
        StorageError: the studies differ; the message names each difference.
    """
    old, new = _flat(existing.spec.identity()), _flat(spec.identity())
    different = [
        f"{name}: {old.get(name)!r} there, {new.get(name)!r} now"
        for name in old | new
        if old.get(name) != new.get(name)
    ]
    if existing.source != source:
        if origin is None:
            different.append("the source of the problem's own code has changed")
        else:
            different += changed_files(directory, existing.source, origin.snapshot) or ["the images have changed"]
    trained = existing.spec.problem is not None and spec.problem is not None
    same = trained and existing.spec.required_problem.fixed() == spec.required_problem.fixed()
    if origin is not None and existing.identity is not None and same:
        different += existing.identity.differences(origin.identity)
    if different:
        lines = "\n".join(f"  - {line}" for line in different)
        raise StorageError(
            f"{directory.uri}: contains a different study named {spec.name!r}\n{lines}\n"
            "  Undo these changes to continue it; or choose another name for this study, or another place with "
            "--storage. The existing study is unchanged"
        )


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat
