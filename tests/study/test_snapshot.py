"""Snapshots of the user's modules: their content, their hash, and that nothing else is imported."""

import importlib
import inspect
import pickle
import sys
import traceback

import pytest

from sensitivity.study.errors import UserError
from sensitivity.study.problem import ProblemSpec
from sensitivity.study.snapshot import Snapshot, take_snapshot
from sensitivity.study.snapshot_imports import SnapshotFinder, own_imports_kept, use_snapshot


@pytest.fixture
def write(tmp_path):
    """Write user files; their modules are removed from this process afterwards."""

    def write(files):
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    before = set(sys.modules)
    yield write
    use_snapshot(Snapshot(roots=(str(tmp_path),)))
    for name in set(sys.modules) - before:
        if getattr(sys.modules[name], "__file__", None) and str(tmp_path) in sys.modules[name].__file__:
            del sys.modules[name]


def taken(tmp_path, problem="mine:f", **fields):
    return take_snapshot(ProblemSpec(dataset=problem, **fields), str(tmp_path))


def names(snapshot):
    return [module.name for module in snapshot.modules]


def test_shipped_problems_have_no_source(tmp_path):
    for spec in (ProblemSpec(), ProblemSpec(dataset="imagefolder:no_module")):
        snapshot = take_snapshot(spec, str(tmp_path))
        assert (snapshot.hash, snapshot.files) == ("", {})


def test_the_snapshot_contains_exactly_the_imported_user_modules(write, tmp_path):
    write(
        {
            "mine.py": """
import json, numpy, at_top, package.inner as inner
from together import part, value
if False:
    from typing import missing_in_typing
def f():
    import in_function
    from . import nothing
    return __import__("by_name"), importlib.import_module("by_library")
class K:
    from in_class import *
""",
            "at_top.py": "from second import x",
            "second.py": "",
            "package/__init__.py": "from .sibling import y",
            "package/sibling.py": "from .. import above\nfrom . import other",
            "package/other.py": "",
            "package/inner.py": "",
            "package/unused.py": "",
            "together/part.py": "",  # a folder without __init__.py
            "in_function.py": "",
            "in_class.py": "",
            "by_name.py": "",
            "by_library.py": "",
            "unrelated.py": "",
            "pandas.py": "raise ImportError",  # not imported, so it does no harm
            "json/x.txt": "",
        }
    )
    assert names(taken(tmp_path)) == [
        *("at_top", "by_library", "by_name", "in_class", "in_function", "mine", "package", "package.inner"),
        *("package.other", "package.sibling", "second", "together", "together.part"),
    ]


def test_the_snapshot_hash_depends_on_all_contents(write, tmp_path):
    write({"mine.py": "import helper", "helper.py": "SIZE = 1", "other.py": ""})
    first = taken(tmp_path).hash
    assert len(first) == 16
    write({"other.py": "changed"})
    assert taken(tmp_path).hash == first
    write({"helper.py": "SIZE = 2"})
    assert taken(tmp_path).hash != first
    write({"helper.py": "SIZE = 1"})
    assert taken(tmp_path).hash == first
    assert taken(tmp_path, model="other:g").hash != first


def test_imports_use_the_hashed_source_even_if_the_file_changes(write, tmp_path):
    write({"mine.py": "import helper\ndef f():\n    import late\n    return helper.SIZE, late.SIZE\ndef g(): 1 / 0\n"})
    write({"helper.py": "SIZE = 1", "late.py": "SIZE = 2", "data.txt": "beside"})
    snapshot = pickle.loads(pickle.dumps(taken(tmp_path)))
    write({"mine.py": "raise ImportError", "helper.py": "SIZE = 10", "late.py": "SIZE = 20"})
    use_snapshot(snapshot)
    mine = importlib.import_module("mine")
    assert mine.f() == (1, 2)
    assert mine.__file__ == str(tmp_path / "mine.py"), "data beside it are found"
    assert inspect.getsource(mine.g) == "def g(): 1 / 0\n", "what torch.jit.script would compile"
    with pytest.raises(ZeroDivisionError) as raised:
        mine.g()
    assert traceback.extract_tb(raised.value.__traceback__)[-1].line == "def g(): 1 / 0"
    assert not (tmp_path / "__pycache__").exists()


def test_a_later_snapshot_replaces_an_earlier_one_and_its_imports(write, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    write({"mine.py": "from helper import SIZE", "helper.py": "SIZE = 1"})
    assert importlib.import_module("mine").SIZE == 1  # by Python's finders, as in a notebook
    write({"helper.py": "SIZE = 2"})
    use_snapshot(taken(tmp_path))
    assert importlib.import_module("mine").SIZE == 2
    write({"helper.py": "SIZE = 3"})
    use_snapshot(taken(tmp_path))
    assert importlib.import_module("mine").SIZE == 3, "though mine.py itself is as it was"
    same = importlib.import_module("mine")
    use_snapshot(taken(tmp_path))
    assert importlib.import_module("mine") is same
    assert sum(isinstance(finder, SnapshotFinder) for finder in sys.meta_path) == 1


@pytest.mark.parametrize("on_path", [False, True])
def test_imports_missing_from_the_snapshot_raise_an_error(write, tmp_path, monkeypatch, on_path):
    if on_path:
        monkeypatch.syspath_prepend(tmp_path)
    write({"mine.py": 'def f(name):\n    try: return __import__(name)\n    except ImportError: return "none"'})
    write({"dynamic.py": "SIZE = 1"})
    finder = use_snapshot(taken(tmp_path))
    mine = importlib.import_module("mine")
    with pytest.raises(UserError, match=r"dynamic\.py: imported only now(.|\n)*\"import dynamic\""):
        mine.f("dynamic")
    assert mine.f("no_such_module_at_all") == "none"
    with finder.recording():
        assert mine.f("dynamic").SIZE == 1
    assert names(finder.snapshot) == ["dynamic", "mine"]
    write({"dynamic.py": "SIZE = 2"})
    del sys.modules["dynamic"]
    assert mine.f("dynamic").SIZE == 1


def test_user_files_never_shadow_installed_packages(write, tmp_path, monkeypatch):
    write({"mine.py": "", "colorsys.py": "raise ImportError", "threadpoolctl.py": "raise ImportError"})
    monkeypatch.syspath_prepend(tmp_path)
    use_snapshot(taken(tmp_path))
    for name in ("colorsys", "threadpoolctl"):  # names of a standard and of an installed module
        monkeypatch.delitem(sys.modules, name, raising=False)
        assert str(tmp_path) not in importlib.import_module(name).__file__


@pytest.mark.parametrize("name", ["statistics", "pandas", "sensitivity"])
def test_user_modules_named_like_installed_ones_are_rejected(write, tmp_path, name):
    write({"mine.py": f"import {name}", f"{name}.py": ""})
    with pytest.raises(UserError, match=rf"mine\.py:1: .*{name}\.py has the name of an installed module, '{name}'"):
        taken(tmp_path)


def test_a_compiled_module_is_refused(write, tmp_path):
    write({"mine.py": "import fast", f"fast{importlib.machinery.EXTENSION_SUFFIXES[0]}": ""})
    with pytest.raises(UserError, match=r"mine\.py:1: .*fast.* is compiled(.|\n)*Install it"):
        taken(tmp_path)


def test_modules_elsewhere_on_the_path_are_stored_with_their_imports(write, tmp_path, monkeypatch):
    write({"library/problems/__init__.py": "", "library/problems/data.py": "from problems.parts import x"})
    write({"library/problems/parts.py": "", "study/mine.toml": ""})
    monkeypatch.syspath_prepend(tmp_path / "library")
    snapshot = taken(tmp_path / "study", "problems.data:f")
    assert names(snapshot) == ["problems", "problems.data", "problems.parts"]
    assert list(snapshot.files) == ["problems.py", "problems.data.py", "problems.parts.py"]


@pytest.mark.parametrize("path", ["no_such_module:f", "no_such.module:f", "json.absent:f", "sys:f", "__main__:f"])
def test_modules_without_a_source_file_are_rejected(path, tmp_path):
    with pytest.raises(UserError, match=r"problem\.model: module '.*' is not found\n  Put it next to the study file"):
        take_snapshot(ProblemSpec(model=path), str(tmp_path))


def test_an_installed_module_is_known_by_its_content(tmp_path):
    snapshot = taken(tmp_path, "json.decoder:f")
    assert snapshot.modules == ()
    assert len(snapshot.hash) == 16
    assert snapshot.hash == taken(tmp_path / "elsewhere", "json.decoder:f").hash


def test_unparsable_modules_are_kept_so_that_importing_reports_them(write, tmp_path):
    write({"mine.py": "def (", "broken/__init__.py": "import no_such_module", "broken/data.py": ""})
    assert names(taken(tmp_path)) == ["mine"]
    assert names(taken(tmp_path, "broken.data:f")) == ["broken", "broken.data"]


def test_session_code_is_stored_with_the_modules_it_imports(write, tmp_path, monkeypatch):
    elsewhere = tmp_path / "elsewhere"
    monkeypatch.syspath_prepend(elsewhere)
    write({"beside/near.py": "SIZE = 1", "elsewhere/far.py": "import further\nSIZE = 2", "elsewhere/further.py": ""})
    code = "import json, near\nfrom far import SIZE\ndef f(): return near.SIZE, SIZE\n"
    beside, spec = tmp_path / "beside", ProblemSpec(dataset="study_code:f")
    snapshot = take_snapshot(spec, str(beside), code=code)
    assert names(snapshot) == ["far", "further", "near", "study_code"]
    assert snapshot.files["study_code.py"].source.decode() == code
    use_snapshot(pickle.loads(pickle.dumps(snapshot)))
    assert importlib.import_module("study_code").f() == (1, 2)
    assert take_snapshot(spec, str(beside), code=code + "# changed").hash != snapshot.hash


def test_session_code_is_equivalent_to_a_file(write, tmp_path):
    write({"near.py": "SIZE = 1", "study_code.py": "import near\ndef f(): return near.SIZE\n"})
    spec, code = ProblemSpec(dataset="study_code:f"), (tmp_path / "study_code.py").read_text()
    assert take_snapshot(spec, str(tmp_path), code=code) == take_snapshot(spec, str(tmp_path))


def test_a_session_keeps_its_own_imports(write, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    write({"mine.py": "SIZE = 1", "other.py": "SIZE = 5"})
    mine = importlib.import_module("mine")
    with own_imports_kept():
        use_snapshot(taken(tmp_path))
        again = importlib.import_module("mine")
        assert again is not mine
    assert sys.modules["mine"] is mine
    assert importlib.import_module("other").SIZE == 5, "which the snapshot lacks"
    assert not any(isinstance(finder, SnapshotFinder) for finder in sys.meta_path)
