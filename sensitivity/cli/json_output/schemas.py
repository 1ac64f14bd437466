"""The JSON Schema (draft 2020-12) of each output, as stored in ``docs/json/``.

``python -m sensitivity.cli.json_output.schemas FOLDER`` writes them.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue

from sensitivity.cli.json_output.jobs import JobOutput, SubmitOutput
from sensitivity.cli.json_output.plan import PlanOutput
from sensitivity.cli.json_output.runs import RunOutput, VerifyOutput
from sensitivity.cli.json_output.settle import NextStepOutput, SettleOutput
from sensitivity.cli.json_output.studies import StudyOutput, UnreadableOutput
from sensitivity.cli.json_output.verdict import VerdictOutput

OUTPUTS: Mapping[str, TypeAdapter[Any]] = MappingProxyType(
    {
        "plan": TypeAdapter(PlanOutput),
        "run": TypeAdapter(RunOutput),
        "settle": TypeAdapter(SettleOutput | NextStepOutput),
        "verdict": TypeAdapter(VerdictOutput),
        "verify": TypeAdapter(tuple[VerifyOutput, ...]),
        "list": TypeAdapter(tuple[StudyOutput | UnreadableOutput, ...]),
        "submit": TypeAdapter(SubmitOutput),
        "status": TypeAdapter(JobOutput | tuple[JobOutput, ...]),
    }
)
"""Output type of each command with ``--json``."""


class _Schemas(GenerateJsonSchema):
    """Schemas without key titles, which would repeat the key names, and without defaults, as every key is printed."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False

    def default_schema(self, schema: Any) -> JsonSchemaValue:
        return self.generate_inner(schema["schema"])


def schema(command: str) -> dict[str, Any]:
    """Return the schema of a command's output with ``--json``."""
    generated = OUTPUTS[command].json_schema(mode="serialization", schema_generator=_Schemas)
    return {"$schema": _Schemas.schema_dialect, **generated, "title": f"sensitivity {command} --json"}


def files() -> dict[str, str]:
    """Return the schema files: file name -> content."""
    return {f"{command}.schema.json": json.dumps(schema(command), indent=2) + "\n" for command in OUTPUTS}


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    for name, content in files().items():
        (folder / name).write_text(content, encoding="utf-8")
