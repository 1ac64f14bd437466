"""Source text of functions and classes defined in a notebook cell, a script, or at the prompt.

Sources are found through ``linecache``: IPython registers each cell when it runs, and a script is read from its file.
The source is compiled and compared with the code in memory, so that a script that was modified after it started is
never mistaken for the running code.
"""

from __future__ import annotations
import __future__

import ast
import inspect
import linecache
import symtable
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from types import CodeType, FunctionType, ModuleType
from typing import Any

_POSTPONED = __future__.annotations.compiler_flag
_CELLS = ("<ipython-input", "ipykernel_")
"""Substrings of the file names that IPython gives to cells."""

_Statement = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


@dataclass(frozen=True, kw_only=True)
class Definition:
    """A ``def`` or ``class`` statement at the top level of a module."""

    text: str
    """Source including decorators, without indentation."""
    namespace: dict[str, Any]
    """Globals of the defining module."""
    file: str
    """File name in ``linecache``."""
    postponed: bool
    """Whether annotations are not evaluated (``from __future__ import annotations``)."""

    def global_names(self) -> set[str]:
        """Return the global and built-in names that it uses."""
        module = symtable.symtable(self.text, "definition", "exec")
        names = {symbol.get_name() for symbol in module.get_symbols() if symbol.is_referenced()}
        waiting = module.get_children()
        while waiting:
            table = waiting.pop()
            names |= {symbol.get_name() for symbol in table.get_symbols() if symbol.is_global()}
            waiting += table.get_children()
        return names

    def submodules(self, name: str, module: ModuleType) -> set[str]:
        """Return the submodules that are used as attributes of `name`, such as ``scipy.stats``."""
        found = set()
        for node in ast.walk(ast.parse(self.text)):
            parts: list[str] = []
            reached: ast.AST = node
            while isinstance(reached, ast.Attribute):
                parts.insert(0, reached.attr)
                reached = reached.value
            if isinstance(reached, ast.Name) and reached.id == name:
                path = module.__name__
                for part in parts:
                    path = f"{path}.{part}"
                    if path not in sys.modules:
                        break
                    found.add(path)
        return found

    def import_statement(self, name: str, value: Any) -> str | None:
        """Return the import statement of this file, or of a cell, that binds `name` to this value; None without one."""
        for file in (self.file, *(file for file in list(linecache.cache) if _is_cell(file))):
            for node in _top_level(file):
                if not isinstance(node, ast.ImportFrom) or node.level:
                    continue
                for alias in node.names:
                    given = getattr(sys.modules.get(node.module or ""), alias.name, None)
                    if (alias.asname or alias.name) == name and given is value:
                        return ast.unparse(ast.ImportFrom(module=node.module, names=[alias], level=0))
        return None


def find_definition(value: Any) -> Definition | str:
    """Return the statement that defined a function or class, or the reason why it is unavailable."""
    functions = list(_functions(inspect.unwrap(value)))
    for function in functions:
        code = function.__code__
        node = next((node for node in _definitions(code.co_filename) if _holds(node, code, value)), None)
        if node is None:
            continue
        whole = "".join(linecache.getlines(code.co_filename))
        lines = whole.splitlines(keepends=True)[_first_line(node) - 1 : node.end_lineno]
        text = textwrap.dedent("".join(lines)).rstrip() + "\n"
        if ast.dump(ast.parse(text).body[0]) != ast.dump(node):
            return "it contains a multi-line string whose indentation would change; define it at the top level"
        flags = code.co_flags & _POSTPONED
        # Calls of names imported in the same source compile differently, and IPython compiles statements separately.
        compiled = [compile(each, "source", "exec", flags=flags, dont_inherit=True) for each in (text, whole)]
        if not any(_is_same(code, each) for known in compiled for each in _codes(known)):
            return f"{code.co_filename} has changed since it was defined; run it again"
        return Definition(text=text, namespace=function.__globals__, file=code.co_filename, postponed=bool(flags))
    if not functions:
        return "it defines no function itself, so its source can't be found"
    return f"its source is not found at the top level of {functions[0].__code__.co_filename}"


def _functions(value: Any) -> Iterator[FunctionType]:
    """Yield a function, or the functions that are defined in the body of a class."""
    if isinstance(value, FunctionType):
        yield value
    elif isinstance(value, type):
        for member in vars(value).values():
            for each in (getattr(member, name, None) for name in ("fget", "__func__")):
                if isinstance(each, FunctionType):
                    yield each
            if isinstance(inner := inspect.unwrap(member) if callable(member) else None, FunctionType):
                yield inner


def _definitions(file: str) -> Iterator[_Statement]:
    for node in _top_level(file):
        if isinstance(node, _Statement):
            yield node


def _top_level(file: str) -> Iterator[ast.stmt]:
    """Yield a module's statements, including those in blocks such as ``if`` and ``try``."""
    linecache.checkcache(file)
    try:
        waiting: list[ast.AST] = [ast.parse("".join(linecache.getlines(file)))]
    except SyntaxError:
        return
    while waiting:
        for node in ast.iter_child_nodes(waiting.pop(0)):
            if isinstance(node, ast.stmt):
                yield node
            if isinstance(node, (ast.stmt, ast.ExceptHandler)) and not isinstance(node, _Statement):
                waiting.append(node)


def _holds(node: _Statement, code: CodeType, value: Any) -> bool:
    """Whether a statement defined `value` and contains `code`."""
    if isinstance(node, ast.ClassDef) != isinstance(value, type) or node.name != _name(value):
        return False
    if isinstance(node, ast.ClassDef):
        return node.lineno <= code.co_firstlineno <= (node.end_lineno or 0)
    return code.co_firstlineno == _first_line(node)


def _name(value: Any) -> str:
    return str(getattr(inspect.unwrap(value), "__name__", ""))


def _first_line(node: _Statement) -> int:
    return min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])


def _codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)


def _is_same(one: CodeType, other: CodeType) -> bool:
    """Whether two code objects are equal apart from line numbers."""
    mine, yours = (
        [
            (c.co_name, c.co_code, c.co_names, c.co_varnames, [k for k in c.co_consts if not isinstance(k, CodeType)])
            for c in _codes(code)
        ]
        for code in (one, other)
    )
    return mine == yours


def _is_cell(file: str) -> bool:
    return any(part in file for part in _CELLS)
