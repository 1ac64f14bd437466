"""What the guides tell to type exists, and the files beside them are what they say."""

import copy
import re
import shutil
import subprocess
from pathlib import Path

import jsonschema
import pytest
import yaml
from typer.main import get_command

from sensitivity.cli.main import app
from sensitivity.study.execution import ExecutionSpec

DOCS = Path(__file__).parents[2] / "docs"
MANIFEST = yaml.safe_load((DOCS / "kuberay/rayjob.yaml").read_text())
SCHEMA = yaml.safe_load(Path(__file__).with_name("rayjob_schema.yaml").read_text())


def test_the_rayjob_is_one():
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    jsonschema.validate(MANIFEST, SCHEMA)
    assert yaml.safe_load(MANIFEST["spec"]["runtimeEnvYAML"])["env_vars"]["PYTHONPATH"] == "/study"


def spoil(path, value):
    spoilt = copy.deepcopy(MANIFEST)
    *way, last = path
    here = spoilt
    for step in way:
        here = here[step]
    here[last] = value
    return spoilt


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("spec", "entryPoint"), "x"),
        (("spec", "backoffLimit"), "3"),
        (("spec", "submissionMode"), "Http"),
        (("spec", "rayClusterSpec", "headGroupSpec", "rayStartParams", "num-cpus"), 0),
        (("spec", "rayClusterSpec", "workerGroupSpecs", 0, "maxReplicas"), -1),
        (("spec", "rayClusterSpec", "headGroupSpec", "template", "spec", "containers"), []),
    ],
)
def test_the_schema_finds_mistakes(path, value):
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(spoil(path, value), SCHEMA)


def test_volumes_that_are_mounted_are_there():
    cluster = MANIFEST["spec"]["rayClusterSpec"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        pod = group["template"]["spec"]
        mounted = {mount["name"] for container in pod["containers"] for mount in container["volumeMounts"]}
        assert mounted == {volume["name"] for volume in pod["volumes"]}


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_the_slurm_script_is_valid():
    subprocess.run(["bash", "-n", DOCS / "slurm/study.sbatch"], check=True)


def test_commands_and_options_in_the_guides_exist():
    commands = get_command(app).commands
    texts = [(DOCS / name).read_text() for name in ("clusters.md", "slurm/study.sbatch", "kuberay/rayjob.yaml")]
    shown = re.findall(r"^(?:.*[ `])?sensitivity ([a-z]+)( [^`\n#&|]*)?", "\n".join(texts), re.MULTILINE)
    assert {name for name, _ in shown} >= {"submit", "status", "logs", "stop", "run", "report", "dashboard"}
    for name, rest in shown:
        own = re.sub(r"'[^']*'", "", rest)  # those in quotes are sbatch's
        known = {option for parameter in commands[name].params for option in parameter.opts}
        assert set(re.findall(r"(?<= )--?[a-z][a-z-]*", own)) <= known, (name, own)


def test_fields_in_the_guide_are_those_of_study_files():
    table = (DOCS / "clusters.md").read_text().partition("## Resources")[2].partition("## From")[0]
    named = {
        field for row in re.findall(r"^\| (`.*?) \|", table, re.MULTILINE) for field in re.findall(r"`(\w+)`", row)
    }
    assert named <= set(ExecutionSpec.model_fields)
    assert len(named) > 8
