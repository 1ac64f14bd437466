"""The public surface, pinned: any addition, removal or renaming here is deliberate and listed in the changelog."""

import inspect
import json
import subprocess
import sys
from pathlib import Path

import pytest

import sensitivity

FUNCTIONS = {
    "import_runs": "(source: 'str | os.PathLike[str]', name: 'str', *, mapping: 'str | os.PathLike[str] |"
    " Mapping[str, Any] | None' = None, storage: 'str | os.PathLike[str]' = 'studies') -> 'OpenedStudy'",
    "open": "(directory: 'str | os.PathLike[str]') -> 'OpenedStudy'",
    "plan": "(study: 'StudyLike', *, storage: 'str | os.PathLike[str]' = 'studies', workers: 'int | None' = None)"
    " -> 'StudyPrice'",
    "run": "(study: 'StudyLike', *, storage: 'str | os.PathLike[str]' = 'studies', address: 'str | None' = None,"
    " workers: 'int | None' = None, log: 'str | Sequence[str] | None' = None, progress: 'bool' = True)"
    " -> 'OpenedStudy'",
    "settle": "(study: 'StudyLike', *, hours: 'float | None' = None, runs: 'int | None' = None,"
    " flops: 'float | None' = None, questions: 'Question | Sequence[Question]' = (),"
    " storage: 'str | os.PathLike[str]' = 'studies', address: 'str | None' = None,"
    " workers: 'int | None' = None, log: 'str | Sequence[str] | None' = None, progress: 'bool' = True)"
    " -> 'OpenedStudy'",
    "record": "(directory: 'str | os.PathLike[str]', *, optimizer: 'str', batch_size: 'int', seed: 'int', targets:"
    " 'Mapping[str, Sequence[float]] | None' = None, **hyperparameters: 'float') -> 'RecordedRun'",
    "shutdown": "() -> 'None'",
    "trials": "(study: 'str | os.PathLike[str] | StudySpec', *, storage: 'str | os.PathLike[str]' = 'studies', part:"
    " 'tuple[int, int]' = (0, 1)) -> 'Iterator[PlannedTrial]'",
}
CLASSES = {
    "OpenedStudy": {
        "annotate": "(self, run: 'str', *, note: 'str | None' = None, tags: 'Sequence[str]' = (),"
        " untag: 'Sequence[str]' = ()) -> 'None'",
        "curves": None,
        "directory": None,
        "exhibits": None,
        "figure": "(self, exhibit: 'str', **options: 'object') -> 'go.Figure'",
        "name": None,
        "results": None,
        "runs": None,
        "spec": None,
        "table": "(self, exhibit: 'str', **options: 'object') -> 'pd.DataFrame'",
        "verdict": "(self) -> 'Verdict'",
    },
    "Verdict": {"conclusions": None, "text": None},
    "StudyPrice": dict.fromkeys(("device_seconds", "missing", "planned", "spec", "table", "wall_seconds")),
    "Study": {
        "code": None,
        "read": "(study: 'str | os.PathLike[str]') -> 'Self'",
        "replace": "(self, **changes: 'Any') -> 'Self'",
        "to_toml": "(self) -> 'str'",
    },
    "UserError": {},
}  # fmt: skip
OF_PYDANTIC = {"Study"}
"""Classes whose other members are the fields of a study file, and those of pydantic models."""


def test_public_names():
    assert set(sensitivity.__all__) == {*FUNCTIONS, *CLASSES}
    assert set(sensitivity.__all__) <= set(dir(sensitivity))
    with pytest.raises(AttributeError, match="module 'sensitivity' has no attribute 'opne'"):
        _ = sensitivity.opne


@pytest.mark.parametrize("name", FUNCTIONS)
def test_function_signatures(name):
    assert str(inspect.signature(getattr(sensitivity, name))) == FUNCTIONS[name]


@pytest.mark.parametrize("name", CLASSES)
def test_class_members(name):
    given = getattr(sensitivity, name)
    fields = getattr(given, "__dataclass_fields__", {})
    members = {each for each in (*dir(given), *fields) if not each.startswith("_") and not hasattr(Exception, each)}
    assert members >= CLASSES[name].keys()
    assert members == CLASSES[name].keys() or name in OF_PYDANTIC
    for member, signature in CLASSES[name].items():
        if signature is not None:
            assert str(inspect.signature(getattr(given, member))) == signature


def test_everything_public_has_a_docstring():
    for name, members in CLASSES.items():
        for member in members:
            given = inspect.getattr_static(getattr(sensitivity, name), member, None)
            assert inspect.getdoc(given) or member in getattr(sensitivity, name).__dataclass_fields__
    assert all(inspect.getdoc(getattr(sensitivity, name)) for name in sensitivity.__all__)


def test_package_is_marked_as_typed():
    assert (Path(sensitivity.__file__).parent / "py.typed").is_file()


READ = """
import sys, json
import sensitivity
steps = {"import": sorted(sys.modules)}
sensitivity.Study.read("quickstart").replace(seeds=3).to_toml()
steps["spec"] = sorted(sys.modules)
study = sensitivity.open(sys.argv[1])
repr(study), study._repr_html_(), study.runs, study.curves, study.verdict(), study.exhibits
study.figure("robustness", optimizer="kfac"), study.table("status")
steps["read"] = sorted(sys.modules)
print(json.dumps(steps))
"""


def test_reading_loads_neither_torch_nor_ray(stored):
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", READ, stored], capture_output=True, text=True, check=True
    )
    loaded = json.loads(ran.stdout)
    assert [name for name in loaded["import"] if name.startswith("sensitivity")] == ["sensitivity"]
    assert not {"numpy", "pandas", "pydantic", "plotly"} & set(loaded["import"])
    assert not {"pandas", "plotly", "pyarrow"} & set(loaded["spec"])
    assert not {"torch", "ray", "optuna", "sensitivity.execution", "sensitivity.training"} & set(loaded["read"])


@pytest.mark.parametrize("ask", [sensitivity.plan, sensitivity.run])
def test_zero_workers_are_refused_before_anything_starts(ask):
    with pytest.raises(sensitivity.UserError, match="workers: must be at least 1"):
        ask("quickstart", workers=0)


def test_notebook_shows_mistakes_without_a_traceback():
    """IPython asks an exception how to show itself; otherwise it would print thirty lines of this package's code."""
    error = sensitivity.UserError("no study 'x'\n  Give one of: a, b")
    assert error._render_traceback_() == ["error: no study 'x'\n  Give one of: a, b"]
    source = "import sensitivity\nsensitivity.open('nowhere/at/all')"
    script = f"from IPython.core.interactiveshell import InteractiveShell as S; S.instance().run_cell({source!r})"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False)
    shown = done.stdout + done.stderr
    assert "error: " in shown
    assert "nowhere/at/all" in shown
    assert "Traceback" not in shown
    assert ".py" not in shown
