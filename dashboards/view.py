"""What the address says: a page, the study it is of, the filters, and what is selected.

An address is written by anyone, so nothing of it is believed: values that can't be are left out here, and names that a
study doesn't have are left out by ``fit``, which says so. ``search_of`` writes the address of a view; reading it back
gives the same view.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal, TypeVar, get_args
from urllib.parse import parse_qs, quote, unquote, urlencode

from sensitivity.analysis.times import UNITS, TimeUnit
from sensitivity.study.metrics import METRICS, MetricName
from sensitivity.study.spec import StudySpec

T = TypeVar("T")

MOST_CHARACTERS = 8_000
"""Of an address; longer ones are not read."""
_MOST_ITEMS = 64

Surface = Literal["contours", "difference", "3d"]
SURFACES: tuple[Surface, ...] = get_args(Surface)
Slot = Literal["a", "b"]

_NAME = re.compile(r"[^/\\\x00-\x1f]{1,255}")
_ID = re.compile(r"[0-9a-f]{16}")
_HYPERPARAMETERS = re.compile(r"[A-Za-z_]\w{0,39}")


@dataclass(frozen=True, order=True)
class Narrowed:
    """A side of an optimizer's prior box, narrowed: `low` <= parameter <= `high`."""

    optimizer: str
    parameter: str
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class View:
    """A page as it is seen."""

    page: str = "studies"
    study: str | None = None
    metric: MetricName | None = None
    """None is the study's most telling one, as None and () are below."""
    tolerance: float | None = None
    """Percentage points of accuracy, or percent of the untrained network's loss."""
    optimizers: tuple[str, ...] = ()
    batch_sizes: tuple[int, ...] = ()
    target: tuple[MetricName, float] | None = None
    unit: TimeUnit = "steps"
    box: tuple[Narrowed, ...] = ()
    surface: Surface = "contours"
    slot: Slot = "a"
    """Which of the two cells a click chooses."""
    cell_a: str | None = None
    cell_b: str | None = None
    run: str | None = None
    others: tuple[str, ...] = ()
    """Studies to compare."""

    @property
    def filters(self) -> tuple[object, ...]:
        """What decides which runs are looked at."""
        return self.optimizers, self.batch_sizes, self.box


def parse(pathname: str | None, search: str | None) -> View:
    """Return the view of an address; whatever can't be is left out."""
    page, study = _place(pathname or "/")
    if len(search or "") > MOST_CHARACTERS:
        return View(page=page, study=study)
    try:
        given = parse_qs((search or "").removeprefix("?"), max_num_fields=200)
    except ValueError:
        return View(page=page, study=study)
    one = {name: values[0] for name, values in given.items()}
    sizes = (_integer(text) for text in given.get("batch", [])[:_MOST_ITEMS])
    sides = (_narrowed(text) for text in given.get("box", [])[:_MOST_ITEMS])
    return View(
        page=page,
        study=study,
        metric=METRICS[one["metric"]].name if one.get("metric") in METRICS else None,
        tolerance=_percent(one.get("within")),
        optimizers=_names(given.get("optimizer", [])),
        batch_sizes=tuple(sorted({size for size in sizes if size is not None})),
        target=parse_target(one.get("target")),
        unit=next((unit for unit in UNITS if unit == one.get("unit")), "steps"),
        box=tuple(sorted({(n.optimizer, n.parameter): n for n in sides if n is not None}.values())),
        surface=next((surface for surface in SURFACES if surface == one.get("surface")), "contours"),
        slot="b" if one.get("click") == "b" else "a",
        cell_a=_id(one.get("cell")),
        cell_b=_id(one.get("beside")),
        run=_id(one.get("run")),
        others=_names(given.get("study", [])),
    )


def fit(view: View, spec: StudySpec) -> tuple[View, tuple[str, ...]]:
    """Return the view with what `spec` has, and a sentence on each thing that it doesn't have."""
    missing: list[str] = []

    def known(values: Iterable[T], allowed: Iterable[T], what: str) -> tuple[T, ...]:
        there, given = set(allowed), tuple(values)
        missing.extend(f"This study has no {what} {value}." for value in given if value not in there)
        return tuple(value for value in given if value in there)

    metric = known([view.metric] if view.metric else [], spec.problem.metrics(), "metric")
    target = view.target if view.target and view.target[0] in spec.problem.metrics() else None
    if view.target and target is None:
        missing.append(f"This study has no metric {view.target[0]}.")
    box = []
    for side in view.box:
        arm = spec.optimizers.get(side.optimizer)
        axis = arm.axes().get(side.parameter) if arm else None
        if axis is None or not axis.varies:
            missing.append(f"This study does not vary {side.parameter} of {side.optimizer}.")
        else:
            box.append(side)
    fitted = replace(
        view,
        metric=metric[0] if metric else None,
        optimizers=known(view.optimizers, spec.optimizers, "optimizer"),
        batch_sizes=known(view.batch_sizes, spec.batch_sizes, "batch size"),
        target=target,
        box=tuple(box),
    )
    return fitted, tuple(missing)


def parse_target(text: str | None) -> tuple[MetricName, float] | None:
    """Return the metric and the level that a target's text names; None where there can't be any."""
    name, _, level = (text or "").partition(":")
    value = _number(level)
    if name not in METRICS or value is None or value <= 0 or (METRICS[name].is_fraction and value > 1):
        return None
    return METRICS[name].name, value


def search_of(view: View) -> str:
    """Return what follows the path in the address of `view`; defaults are left out."""
    sides = (f"{n.optimizer}:{n.parameter}:{n.low:.6g}:{n.high:.6g}" for n in view.box)
    pairs: list[tuple[str, object]] = [
        ("metric", view.metric),
        ("within", None if view.tolerance is None else f"{view.tolerance:.6g}"),
        *(("optimizer", name) for name in view.optimizers),
        *(("batch", size) for size in view.batch_sizes),
        ("target", None if view.target is None else f"{view.target[0]}:{view.target[1]:.6g}"),
        ("unit", None if view.unit == "steps" else view.unit),
        *(("box", side) for side in sides),
        ("surface", None if view.surface == "contours" else view.surface),
        ("click", None if view.slot == "a" else view.slot),
        ("cell", view.cell_a),
        ("beside", view.cell_b),
        ("run", view.run),
        *(("study", name) for name in view.others),
    ]
    text = urlencode([(name, value) for name, value in pairs if value is not None])
    return f"?{text}" if text else ""


def path_of(view: View) -> str:
    """Return the path of `view`, before any prefix of the server's."""
    if view.study is not None:
        return f"/study/{quote(view.study, safe='')}/{view.page}"
    return "/" if view.page == "studies" else f"/{view.page}"


def _place(pathname: str) -> tuple[str, str | None]:
    if len(pathname) > MOST_CHARACTERS:
        return "missing", None
    parts = [unquote(part) for part in pathname.strip("/").split("/")]
    match parts:
        case [""]:
            return "studies", None
        case ["study", study] if _NAME.fullmatch(study):
            return "overview", study
        case ["study", study, page] if _NAME.fullmatch(study) and re.fullmatch(r"[a-z]{1,20}", page):
            return page, study
        case [page] if re.fullmatch(r"[a-z]{1,20}", page):
            return page, None
    return "missing", None


def _names(values: list[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(value for value in values[:_MOST_ITEMS] if _NAME.fullmatch(value)))


def _id(text: str | None) -> str | None:
    return text if text and _ID.fullmatch(text) else None


def _integer(text: str) -> int | None:
    return int(text) if re.fullmatch(r"[1-9][0-9]{0,11}", text) else None


def _number(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _percent(text: str | None) -> float | None:
    value = _number(text)
    return value if value is not None and 0 <= value <= 100 else None


def _narrowed(text: str) -> Narrowed | None:
    parts = text.rsplit(":", 3)
    if len(parts) != 4 or not _NAME.fullmatch(parts[0]) or not _HYPERPARAMETERS.fullmatch(parts[1]):
        return None
    low, high = _number(parts[2]), _number(parts[3])
    return None if low is None or high is None or low > high else Narrowed(parts[0], parts[1], low, high)
