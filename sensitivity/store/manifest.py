"""``study.json``: which study a directory holds, every spec it was run with, and what made its results."""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from sensitivity.store.directory import Place, first_line
from sensitivity.store.schema import SCHEMA_VERSION
from sensitivity.study.errors import StorageError
from sensitivity.study.provenance import code_version, machine, package_versions
from sensitivity.study.spec import StudySpec
from sensitivity.study.trials import content_hash

MANIFEST = "study.json"


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The content of study.json."""

    spec: StudySpec
    source: str
    """Hash of the user's own problem code; empty for shipped problems."""
    specs: dict[str, Any]
    """Each spec the directory was run with, by its hash, with code version, packages and machine."""

    @functools.cached_property
    def spec_hash(self) -> str:
        """Hash of the present spec."""
        return spec_hash(self.spec)


def spec_hash(spec: StudySpec) -> str:
    """Return the hash of a resolved study."""
    return content_hash(spec.model_dump(mode="json"))


def read_manifest(directory: Place) -> Manifest:
    """Read study.json.

    Raises:
        StorageError: there is none, it is damaged, or of another schema version.
    """
    if not directory.exists(MANIFEST):
        raise StorageError(
            f"{directory.uri}: no study here (no {MANIFEST})\n"
            "  Give a study directory; `sensitivity list ROOT` shows those below a folder"
        )
    try:
        content = json.loads(directory.read(MANIFEST))
        version = content["schema_version"]
        if version != SCHEMA_VERSION:
            older = isinstance(version, int) and version < SCHEMA_VERSION
            mend = "run the study again into another place" if older else "upgrade this package"
            raise StorageError(
                f"{directory.uri}: written with schema version {version}; this code reads {SCHEMA_VERSION}\n"
                f"  Read it with what wrote it ({content.get('written_by', 'unknown')}), or {mend}"
            )
        return Manifest(
            spec=StudySpec.model_validate(_without_retired(content["spec"])),
            source=str(content["source"]),
            specs={**content["specs"]},
        )
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        reason = "its study is not valid" if isinstance(error, ValidationError) else first_line(error)
        raise StorageError(
            f"{directory.uri_of(MANIFEST)}: damaged ({reason})\n"
            "  Restore it from a copy; or move it away and run the same study file again: its runs are kept"
        ) from None


def _without_retired(spec: Any) -> Any:
    """Return a spec without fields that were in study files once, and that no result depends on."""
    margins = spec.get("margins") if isinstance(spec, dict) else None
    if not isinstance(margins, dict):
        return spec
    return {**spec, "margins": {name: value for name, value in margins.items() if name != "robust_decades"}}


def write_manifest(directory: Place, spec: StudySpec, source: str) -> Manifest:
    """Create study.json, or bring it up to date with an extended spec.

    Raises:
        StorageError: the directory holds a different study of the same name.
    """
    specs: dict[str, Any] = {}
    if directory.exists(MANIFEST):
        known = read_manifest(directory)
        refuse_other_study(directory, known, spec, source)
        specs = known.specs
    entry = {
        "spec": spec.model_dump(mode="json"),
        "code_version": code_version(),
        "packages": package_versions(),
        "machine": machine(),
    }
    specs = {**specs, spec_hash(spec): entry}
    content = {
        "schema_version": SCHEMA_VERSION,
        "written_by": f"sensitivity {entry['code_version']}",
        "spec": entry["spec"],
        "source": source,
        "specs": specs,
    }
    directory.write(MANIFEST, json.dumps(content, indent=2).encode())
    return Manifest(spec=spec, source=source, specs=specs)


def refuse_other_study(directory: Place, known: Manifest, spec: StudySpec, source: str) -> None:
    """Raise if `known`, of `directory`, is another study than `spec` with `source`, and not the same one extended.

    Raises:
        StorageError: naming each difference.
    """
    old, new = _flat(known.spec.identity()), _flat(spec.identity())
    different = [
        f"{name}: {old.get(name)!r} there, {new.get(name)!r} now"
        for name in old | new
        if old.get(name) != new.get(name)
    ]
    if known.source != source:
        different.append("the source of the problem's own code has changed")
    if different:
        lines = "\n".join(f"  - {line}" for line in different)
        raise StorageError(
            f"{directory.uri}: holds a different study named {spec.name!r}\n{lines}\n"
            "  Give this one another name, or another place with --storage; what is there stays as it is"
        )


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat
