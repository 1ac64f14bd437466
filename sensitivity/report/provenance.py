"""The last section of a study's report: code, packages, machines, and the study as it was run."""

from __future__ import annotations

import json

from sensitivity.analysis.study_results import StudyResults
from sensitivity.figures.labels import number
from sensitivity.figures.tables import Table
from sensitivity.report.parts import Details, Exhibited, PageSection, Paragraph, Part


def provenance_section(results: StudyResults, prefix: str) -> PageSection:
    """Return the section on the origin of the results."""
    manifest, runs = results.manifest, results.tables.runs
    done = runs[runs["code_version"].notna()]
    made = [
        (label, ", ".join(str(value) for value in done[column].dropna().unique()) or "–")
        for column, label in (("code_version", "code"), ("host", "hosts"), ("device", "devices"))
    ]
    # The hash of a study changes when a later version of this package adds fields; the last entry has the current hash.
    last = next(reversed(manifest.specs), manifest.spec_hash)
    entry = manifest.specs.get(manifest.spec_hash, manifest.specs.get(last, {}))
    made += [(str(name), str(value)) for name, value in entry.get("machine", {}).items()]
    packages = ", ".join(f"{name} {version}" for name, version in entry.get("packages", {}).items())
    made.append(("packages", packages or "–"))
    made.append(("study hash", manifest.spec_hash))
    made += [("source of the user's problem code", manifest.source)] if manifest.source else []
    table = Table(caption="Code and machines of these results.", header=("what", "value"), rows=made, text_columns=2)
    versions = len(manifest.specs)
    changed = f"The study was run with {number(versions)} versions of its file."
    spec = json.dumps(manifest.spec.model_dump(mode="json"), indent=2)
    parts: tuple[Part, ...] = (
        *([Paragraph(changed)] if versions > 1 else []),
        Exhibited(tables=(table,)),
        Details("The study, as resolved", spec),
    )
    return PageSection(id=f"{prefix}provenance", title="Provenance", short="Provenance", parts=parts)
