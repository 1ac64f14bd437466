"""How far an optimizer scales with batch size, and how sensitive it is to its hyperparameters.

    import sensitivity

    study = sensitivity.run("quickstart")        # or sensitivity.open("studies/quickstart")
    print(study.verdict())
    study.figure("robustness", optimizer="kfac")

`open` reads a study directory. `plan` prices a study, `run` runs it, and `settle` runs only what its questions need;
each takes a study file, its fields as a dictionary, or a `Study` made in Python. `shutdown` stops the Ray that they
keep running. `import_runs`, `record` and `trials` create study directories from runs that are trained elsewhere. A
mistake of the user raises `UserError`. These names, and the attributes of the objects that they return, are stable
(docs/python.md). The subpackages are not:

    study file -> ``study`` (nouns, plan) -> ``execution`` (Ray) -> ``training`` (packs, ``kfac``)
        -> ``store`` (study directory) -> ``analysis`` -> ``figures`` -> ``report``, ``face``, dashboards

* ``kfac``: the K-FAC optimizer, usable on its own with any PyTorch model.
* ``study``: study files, designs, trials, packs, statuses, provenance.
* ``training``: problems, schedules and the training loop over a pack of trials.
* ``store``: the study directory, append-only Parquet read as tidy tables.
* ``execution``: the only subpackage that imports Ray.
* ``analysis``: tables to numbers with intervals.
* ``figures``: numbers to Plotly figures.
* ``importing``: converts runs made elsewhere to study directories.
* ``report``, ``cli``, ``face``: the static HTML report; the commands; the Python interface.

Importing this module imports none of them: each name is loaded when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sensitivity.face.importing import import_runs
    from sensitivity.face.opened import OpenedStudy, Verdict
    from sensitivity.face.opened import open_study as open  # noqa: A004
    from sensitivity.face.priced import StudyPrice
    from sensitivity.face.recording import record, trials
    from sensitivity.face.running import plan, run, settle, shutdown
    from sensitivity.study.errors import UserError
    from sensitivity.study.spec import StudySpec as Study

_HOMES = {
    "OpenedStudy": "face.opened:OpenedStudy",
    "Study": "study.spec:StudySpec",
    "StudyPrice": "face.priced:StudyPrice",
    "UserError": "study.errors:UserError",
    "Verdict": "face.opened:Verdict",
    "import_runs": "face.importing:import_runs",
    "open": "face.opened:open_study",
    "plan": "face.running:plan",
    "record": "face.recording:record",
    "run": "face.running:run",
    "settle": "face.running:settle",
    "shutdown": "face.running:shutdown",
    "trials": "face.recording:trials",
}
"""Module and name of each public name."""

__all__ = [
    "OpenedStudy",
    "Study",
    "StudyPrice",
    "UserError",
    "Verdict",
    "import_runs",
    "open",
    "plan",
    "record",
    "run",
    "settle",
    "shutdown",
    "trials",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, own = _HOMES[name].partition(":")
    value = getattr(importlib.import_module(f"{__name__}.{module}"), own)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*globals(), *__all__]
