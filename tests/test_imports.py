"""Readers never import runners. import-linter does not see what an `__init__` pulls in; a fresh process does."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
RUNNERS = ("torch", "ray", "optuna", "sensitivity.training", "sensitivity.execution", "sensitivity.kfac")


def modules_of(*rooms):
    """Names of the modules in rooms of the source tree, so that a new file is tested from its first day."""
    for room in rooms:
        for path in sorted((ROOT / room).rglob("*.py")):
            yield ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


READERS = [
    "sensitivity",
    "sensitivity.cli.main",
    *modules_of(
        "sensitivity/study", "sensitivity/store", "sensitivity/analysis", "sensitivity/figures", "sensitivity/report",
        "sensitivity/face", "dashboards", "search_spaces",
    ),
]  # fmt: skip


def loaded_by(*names):
    """What a fresh process holds in `sys.modules` after importing each of `names` in turn."""
    code = (
        "import importlib, json, sys\n"
        "found = {}\n"
        "for name in json.loads(sys.argv[1]):\n"
        "    importlib.import_module(name)\n"
        "    found[name] = sorted(sys.modules)\n"
        "print(json.dumps(found))\n"
    )
    command = [sys.executable, "-W", "error", "-c", code, json.dumps(names)]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout)


def within(names, packages):
    return [name for name in names if any(name == p or name.startswith(f"{p}.") for p in packages)]


def test_the_readers_are_found():
    assert {"sensitivity.study.spec", "sensitivity.store.reader", "sensitivity.analysis", "dashboards"} <= set(READERS)


def test_readers_load_no_runner():
    # One process for all: a runner that any of them loads stays there, and the first to load it is named.
    loaded = loaded_by(*READERS)
    culprits = {name: within(found, RUNNERS)[:3] for name, found in loaded.items() if within(found, RUNNERS)}
    assert not culprits


def test_declarations_of_optimizers_load_no_runner():
    names = ["sensitivity.study.arms", *modules_of("sensitivity/optimizers/kinds")]
    loaded = loaded_by(*names)
    assert {"sensitivity.optimizers.kinds.kfac", "sensitivity.optimizers.kinds.own"} <= loaded.keys()
    assert not {name: within(found, RUNNERS)[:3] for name, found in loaded.items() if within(found, RUNNERS)}


def test_analysis_alone_loads_no_runner():
    assert not within(loaded_by("sensitivity.analysis")["sensitivity.analysis"], RUNNERS)


def test_the_package_itself_imports_none_of_its_rooms():
    assert within(loaded_by("sensitivity")["sensitivity"], ["sensitivity"]) == ["sensitivity"]


def test_the_commands_answer_without_heavy_packages():
    heavy = ("numpy", "scipy", "pandas", "pyarrow", "plotly", "sklearn", "pydantic")
    assert not within(loaded_by("sensitivity.cli.main")["sensitivity.cli.main"], heavy)


def test_a_verdict_loads_neither_what_draws_nor_what_fits_nor_what_is_for_other_commands():
    """More than half of its processor time is imports."""
    loaded = loaded_by("sensitivity.cli.reading")["sensitivity.cli.reading"]
    others = ("plotly", "sklearn", "scipy.stats", "rich", "sensitivity.cli.json_output", "sensitivity.report")
    assert not within(loaded, [*RUNNERS, *others])


def test_kfac_stands_on_torch_alone():
    names = loaded_by(*modules_of("sensitivity/kfac"))
    assert "torch" in names["sensitivity.kfac"]
    last = list(names.values())[-1]
    assert {".".join(name.split(".")[:2]) for name in within(last, ["sensitivity"])} == {
        "sensitivity",
        "sensitivity.kfac",
    }
    assert not within(last, ["pandas", "pyarrow", "pydantic", "plotly", "ray"])
