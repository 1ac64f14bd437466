"""All exhibits, in display order.

Report, dashboard, ``sensitivity figure`` and Python iterate over this list, so an exhibit added here appears in all.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from sensitivity.analysis.study_results import StudyResults
from sensitivity.figures.exhibit import Computed, Exhibit, computed
from sensitivity.figures.exhibits.best import BEST, BOX
from sensitivity.figures.exhibits.best_of_k import BEST_OF_K
from sensitivity.figures.exhibits.comparison import EVIDENCE, PROFILES
from sensitivity.figures.exhibits.cost import COST, TIME_SPLIT
from sensitivity.figures.exhibits.critical import CRITICAL
from sensitivity.figures.exhibits.curves import CURVES
from sensitivity.figures.exhibits.importance import IMPORTANCE, RIDGE
from sensitivity.figures.exhibits.looks import LOOKS
from sensitivity.figures.exhibits.maps import ROBUSTNESS
from sensitivity.figures.exhibits.parallel import PARALLEL
from sensitivity.figures.exhibits.planes import REACHED
from sensitivity.figures.exhibits.prices import PRICES
from sensitivity.figures.exhibits.regions import REGIONS, SENSITIVITY
from sensitivity.figures.exhibits.scaling import EFFICIENCY, SCALING
from sensitivity.figures.exhibits.scatter import SCATTER, SLICES
from sensitivity.figures.exhibits.settling import SETTLING
from sensitivity.figures.exhibits.status import CLIPPING, STATUS
from sensitivity.figures.exhibits.success_rates import SUCCESS
from sensitivity.figures.exhibits.targets import TARGETS
from sensitivity.figures.exhibits.timeline import TIMELINE
from sensitivity.study.errors import UserError
from sensitivity.study.nearest import nearest

EXHIBITS: tuple[Exhibit[Any], ...] = (
    EVIDENCE,
    LOOKS, SETTLING,
    ROBUSTNESS, BEST, BOX,
    SUCCESS, REACHED,
    SCALING, EFFICIENCY, CRITICAL, PROFILES,
    TARGETS,
    COST, TIME_SPLIT,
    PRICES, BEST_OF_K,
    REGIONS, SENSITIVITY,
    IMPORTANCE, RIDGE,
    CURVES,
    STATUS, CLIPPING, PARALLEL, SCATTER, SLICES, TIMELINE,
)  # fmt: skip


def of_section(section: str) -> tuple[Exhibit[Any], ...]:
    """Return the exhibits of a section, in order."""
    return tuple(exhibit for exhibit in EXHIBITS if exhibit.section == section)


def find(name: str) -> Exhibit[Any]:
    """Return the exhibit with this name.

    Raises:
        UserError: there is no such exhibit.
    """
    found = next((exhibit for exhibit in EXHIBITS if exhibit.name == name), None)
    if found is None:
        raise UserError(_unknown("exhibit", name, [exhibit.name for exhibit in EXHIBITS]))
    return found


def show(results: StudyResults, name: str, /, **options: str) -> Computed[Any]:
    """Compute an exhibit of a study; options that are left out take their first value.

    Raises:
        UserError: the exhibit, an option or a value of an option doesn't exist.
        NothingToShowError: there is nothing to show; the message says why.
    """
    exhibit = find(name)
    values = exhibit.values(results)
    for option, key in options.items():
        if option not in values:
            raise UserError(_unknown(f"option of {name}", option, list(values)))
        if key not in values[option]:
            raise UserError(_unknown(f"{option} of {name}", key, list(values[option])))
    return computed(exhibit, results, **options)


def _unknown(what: str, given: str, allowed: Collection[str]) -> str:
    near = nearest(given, allowed)
    meant = f"; did you mean {near!r}?" if near else ""
    return f"there is no {what} {given!r}{meant}\n  Allowed: {', '.join(allowed) or 'none'}"
