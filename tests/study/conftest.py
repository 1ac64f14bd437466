import ast
import copy
import itertools
import linecache
import textwrap

import pytest

MINIMAL = {
    "name": "tiny",
    "batch_sizes": [32, 128],
    "seeds": 2,
    "budget": {"epochs": 2},
    "optimizers": {
        "sgd": {"kind": "sgd", "lr": {"log": [0.01, 1.0], "points": 3}, "momentum": [0.0, 0.9]},
        "kfac": {"kind": "kfac", "lr": [0.1, 1.0], "damping": 0.1},
    },
}


@pytest.fixture
def minimal():
    """A small valid study as parsed TOML, which tests may modify."""
    return copy.deepcopy(MINIMAL)


_CELLS = itertools.count()


@pytest.fixture(scope="session")
def run_cell():
    """Run a cell like IPython, in a new or given session, compiling each statement separately."""

    def run(source, namespace=None):
        namespace = {"__name__": "__main__"} if namespace is None else namespace
        source, name = textwrap.dedent(source), f"<ipython-input-{next(_CELLS)}>"
        linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
        for statement in ast.parse(source).body:
            exec(compile(ast.Module([statement], []), name, "exec", dont_inherit=True), namespace)
        return namespace

    return run
