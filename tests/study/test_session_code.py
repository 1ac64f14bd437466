"""Functions passed as objects become an import path, or a module with their source that works in a fresh process."""

import json
import subprocess
import sys

import pytest

from sensitivity.study.errors import StudyFileError
from sensitivity.study.session_code import MODULE, with_import_paths

HELPERS = """
import numpy as np, xml, xml.dom
import numpy.linalg as la
from math import tau as turn
from json import dumps
from functools import cache
from pathlib import Path
SIZES = {"train": 6, "test": [2, -1]}
PLACE = Path("data") / "x.npy"
unused = object()
"""
FUNCTIONS = """
class Base:
    scale = SIZES["train"]
    def size(self): return self.scale

class Child(Base):
    def size(self): return super().size() + offset()

def offset(unused=1):
    turns = lambda n: n * turn
    return int(turns(1)) + unused

@cache
def cached(): return [la.norm(np.ones(4)), dumps(str(PLACE)), xml.dom.Node.TEXT_NODE]

def data(size: "int" = 3):
    return [Child().size(), cached(), size, mutual(1)]

def mutual(n): return [n] if n > 2 else other(n + 1)
def other(n): return mutual(n)
"""


@pytest.fixture(params=["one cell each", "one cell"])
def names(request, run_cell):
    namespace = {"__name__": "__main__"}
    for cell in (HELPERS, FUNCTIONS) if request.param == "one cell each" else (HELPERS + FUNCTIONS,):
        run_cell(cell, namespace)
    return namespace


def test_the_session_module_works_in_a_fresh_process(names, tmp_path):
    fields, code = with_import_paths({"problem": {"dataset": names["data"], "model": names["Child"]}})
    assert fields == {"problem": {"dataset": f"{MODULE}:data", "model": f"{MODULE}:Child"}}
    (tmp_path / f"{MODULE}.py").write_text(code)
    ask = f"import {MODULE} as m, json; print(json.dumps([m.data(), m.Child().size()]))"
    found = subprocess.run([sys.executable, "-c", ask], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert json.loads(found.stdout) == [names["data"](), names["Child"]().size()]
    assert "unused =" not in code


def test_the_session_module_does_not_depend_on_the_order_of_cells(names, run_cell):
    _, code = with_import_paths({"f": names["data"], "g": names["Child"]})
    other = run_cell("x = 1")
    for cell in (HELPERS, "def mutual(n): return [n] if n > 2 else other(n + 1)", "x = 2", FUNCTIONS):
        run_cell(cell, other)
    assert with_import_paths({"g": other["Child"], "f": other["data"]})[1] == code
    assert with_import_paths({"f": other["data"], "g": other["Child"]})[1] == code


def test_a_changed_constant_or_helper_changes_the_module(names, run_cell):
    _, before = with_import_paths({"f": names["data"]})
    run_cell("SIZES = {'train': 7, 'test': []}", names)
    _, changed = with_import_paths({"f": names["data"]})
    run_cell("def other(n): return [n]", names)
    _, again = with_import_paths({"f": names["data"]})
    assert len({before, changed, again}) == 3


def test_importable_objects_are_named_by_their_path():
    assert with_import_paths({"a": json.dumps, "b": json.JSONDecodeError, "c": [1, "x"]}) == (
        {"a": "json:dumps", "b": "json.decoder:JSONDecodeError", "c": [1, "x"]},
        "",
    )


REFUSED = {
    "lambda x: x": "f: a lambda has no name",
    "outer()": "outer.inner is defined inside another function",
    "uses_array": "uses 'array', a global variable of type numpy.ndarray.*create it inside uses_array",
    "indirect": "indirect uses 'uses_array': uses_array uses 'array'",
    "array.sum": "got a builtin_function_or_method; give a function or a class",
    "uses_big": "uses 'big', a constant of 20,002 characters",
    "uses_alias": "uses 'alias', which was defined as 'plain'",
    "Empty": "Empty: it defines no function itself",
    "unknown": "unknown: its source is not found",
}


@pytest.fixture(scope="module")
def refused(run_cell):
    namespace = run_cell(
        """
        import numpy as np
        array, big = np.zeros(3), "x" * 20_000
        def plain(): pass
        alias = plain
        def outer():
            def inner(): pass
            return inner
        def uses_array(): return array
        def indirect(): return uses_array()
        def uses_big(): return big
        def uses_alias(): return alias()
        class Empty: pass
        """
    )
    exec(compile("def unknown(): pass", "<nowhere>", "exec"), namespace)
    return namespace


@pytest.mark.parametrize("given", REFUSED)
def test_unstorable_objects_are_rejected_by_name(refused, given):
    with pytest.raises(StudyFileError, match=f"study: 1 mistake\n  - f: .*{REFUSED[given].removeprefix('f: ')}"):
        with_import_paths({"f": eval(given, refused)})


def test_two_objects_of_the_same_name_are_rejected(refused, run_cell):
    old = refused["plain"]
    run_cell("def plain(): return 1\ndef calls(): return plain()", refused)
    with pytest.raises(StudyFileError, match="two different objects are named 'plain'"):
        with_import_paths({"f": refused["calls"], "g": old})


def test_scripts_modified_after_their_start_are_rejected(tmp_path):
    script, namespace = tmp_path / "script.py", {"__name__": "__main__"}
    script.write_text("def f(): return 1\n")
    exec(compile(script.read_text(), str(script), "exec"), namespace)
    assert with_import_paths({"f": namespace["f"]})[1] == "def f(): return 1\n"
    script.write_text("def f(): return 10\n")
    with pytest.raises(StudyFileError, match=r"script\.py has changed since it was defined"):
        with_import_paths({"f": namespace["f"]})


def test_annotations_stay_postponed_where_they_were(tmp_path):
    script, namespace = tmp_path / "script.py", {"__name__": "__main__"}
    script.write_text("from __future__ import annotations\nif True:\n    def f(x: NotThere): return x\n")
    exec(compile(script.read_text(), str(script), "exec"), namespace)
    _, code = with_import_paths({"f": namespace["f"]})
    exec(compile(code, "code", "exec", dont_inherit=True), found := {})
    assert found["f"](1) == 1


def test_a_text_that_indentation_is_part_of_is_not_changed(run_cell):
    cells = run_cell('if True:\n    def f():\n        return """a\n        b"""\ndef g():\n    return """a\n    b"""\n')
    with pytest.raises(StudyFileError, match="f: it contains a multi-line string whose indentation would change"):
        with_import_paths({"f": cells["f"]})
    exec(with_import_paths({"f": cells["g"]})[1], found := {})
    assert found["g"]() == cells["g"]() == "a\n    b"
