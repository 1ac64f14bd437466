"""Addresses: the page, its study, the view of the study, and what is selected.

Anyone can write an address, so nothing in it is trusted: invalid values are dropped here, and values that a study
doesn't have are dropped by ``fit``, which reports them. ``search_of`` writes an address; reading it back gives the same
one.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, TypeVar
from urllib.parse import parse_qs, quote, unquote, urlencode

import pandas as pd

from dashboards.listing import Listing, listing_pairs, parse_listing
from sensitivity.analysis.remedies import Edit
from sensitivity.analysis.study_results import StudyResults
from sensitivity.analysis.view import Narrowed, Target, View
from sensitivity.figures import catalogue
from sensitivity.figures.labels import capitalized
from sensitivity.study.metrics import METRICS, is_metric, named
from sensitivity.study.spec import StudySpec

T = TypeVar("T")

MAX_CHARACTERS = 8_000
"""Longest address that is read."""
_MAX_ITEMS = 64

Slot = Literal["a", "b"]

_METRIC = re.compile(r"[a-z]\w{0,99}", re.ASCII)
_NAME = re.compile(r"[^/\\\x00-\x1f]{1,255}")
_ID = re.compile(r"[0-9a-f]{16}")
_PARAMETER = re.compile(r"[^:\x00-\x1f]{1,100}")
_FIELD = re.compile(r"[A-Za-z0-9._-]{1,64}(/[A-Za-z0-9._-]{1,64}){0,4}")
_TOML = re.compile(r"[^\x00-\x1f\x7f]{0,1000}")
_OPTION = re.compile(r"[a-z][a-z0-9_]{0,39}")
_OWN = (
    "metric", "within", "optimizer", "batch", "target", "box", "click", "cell", "beside", "run", "study", "token",
    "where", "sort", "column", "chosen", "set",
)  # fmt: skip
"""Names with a meaning of their own, not options of an exhibit."""


@dataclass(frozen=True, kw_only=True)
class Address:
    """Parsed address of a page."""

    page: str = "studies"
    study: str | None = None
    view: View = field(default_factory=View)
    """View of the study."""
    options: Mapping[str, str] = field(default_factory=dict)
    """Name of an option of exhibits -> key of its value, if that isn't the first."""
    slot: Slot = "a"
    """Which of the two cells the next click sets."""
    cell_a: str | None = None
    cell_b: str | None = None
    run: str | None = None
    listing: Listing = field(default_factory=Listing)
    """State of the table of runs."""
    others: tuple[str, ...] = ()
    """Studies to compare, or the study whose file a new study starts from."""
    edits: tuple[Edit, ...] = ()
    """Changes that a new study makes to the file it starts from."""
    unread: tuple[str, ...] = ()
    """A sentence on each value that was invalid."""

    def under(self, **changes: object) -> Address:
        """Return the address with changed fields of its view."""
        return replace(self, view=replace(self.view, **changes))  # type: ignore[arg-type]


def parse(pathname: str | None, search: str | None) -> Address:
    """Parse an address; invalid values are dropped."""
    page, study = _place(pathname or "/")
    if len(search or "") > MAX_CHARACTERS:
        return Address(page=page, study=study)
    try:
        given = parse_qs((search or "").removeprefix("?"), max_num_fields=200)
    except ValueError:
        return Address(page=page, study=study)
    one = {name: values[0] for name, values in given.items()}
    sizes = (_integer(text) for text in given.get("batch", [])[:_MAX_ITEMS])
    sides = (_narrowed(text) for text in given.get("box", [])[:_MAX_ITEMS])
    view = View(
        metric=one["metric"] if _METRIC.fullmatch(one.get("metric", "")) else None,
        tolerance=_percent(one.get("within")),
        optimizers=_names(given.get("optimizer", [])),
        batch_sizes=tuple(sorted({size for size in sizes if size is not None})),
        target=parse_target(one.get("target")),
        box=tuple(sorted({(n.optimizer, n.parameter): n for n in sides if n is not None}.values())),
    )
    return Address(
        page=page,
        study=study,
        view=view,
        options=_options(one),
        slot="b" if one.get("click") == "b" else "a",
        cell_a=_id(one.get("cell")),
        cell_b=_id(one.get("beside")),
        run=_id(one.get("run")),
        listing=parse_listing(given),
        others=_names(given.get("study", [])),
        edits=tuple(edit for text in given.get("set", [])[:_MAX_ITEMS] if (edit := _edit(text)) is not None),
        unread=_unread(given),
    )


def fit(address: Address, spec: StudySpec) -> tuple[Address, tuple[str, ...]]:
    """Return the address with the values that `spec` has, and a sentence on each value that it doesn't have."""
    missing = list(address.unread)

    def known(values: Iterable[T], allowed: Iterable[T], what: str) -> tuple[T, ...]:
        there, given = set(allowed), tuple(values)
        missing.extend(f"This study has no {what} {value}." for value in given if value not in there)
        return tuple(value for value in given if value in there)

    view = address.view
    metric = known([view.metric] if view.metric else [], spec.measured(), "metric")
    target = view.target
    if target is not None and (metric_of := named(target[0], spec.measured())) is None:
        missing.append(f"This study has no metric {target[0]}.")
        target = None
    elif target is not None and metric_of is not None and metric_of.target_mistake(target[1]) is not None:
        missing.append(f"{capitalized(metric_of.label)} can't be {target[1]:g}.")
        target = None
    box = []
    for side in view.box:
        axis = spec.axes.get(side.optimizer, {}).get(side.parameter)
        if axis is None or not axis.varies:
            missing.append(f"This study does not vary {side.parameter} of {side.optimizer}.")
        else:
            box.append(side)
    fitted = address.under(
        metric=metric[0] if metric else None,
        optimizers=known(view.optimizers, spec.optimizers, "optimizer"),
        batch_sizes=known(view.batch_sizes, spec.batch_sizes, "batch size"),
        target=target,
        box=tuple(box),
    )
    return replace(fitted, unread=()), tuple(missing)


def fit_options(address: Address, results: StudyResults) -> tuple[Address, tuple[str, ...]]:
    """Return the address with the options that exhibits have, and a sentence on each of the others."""
    kept, missing = {}, []
    for name, key in address.options.items():
        found = [o for e in catalogue.EXHIBITS for o in e.options if o.name == name and not (o.together or o.of_view)]
        if not found:
            missing.append(f"No figure has an option {name}.")
        elif any(key in option.values(results) for option in found):
            kept[name] = key
        else:
            missing.append(f"{found[0].label}: {key} is not among the choices of this study.")
    return replace(address, options=kept), tuple(missing)


def fit_listing(address: Address, runs: pd.DataFrame) -> tuple[Address, tuple[str, ...]]:
    """Return the address with the columns and runs that the table has, and a sentence on each of the others."""
    listing = address.listing
    if listing == Listing():
        return address, ()
    names = set(runs.columns)
    asked = dict.fromkeys((*(w.column for w in listing.where), *(name for name, _ in listing.sort), *listing.columns))
    ids = set(runs["trial_id"]) if listing.chosen else set()
    fitted = Listing(
        where=tuple(one for one in listing.where if one.column in names),
        sort=tuple(one for one in listing.sort if one[0] in names),
        columns=tuple(name for name in listing.columns if name in names),
        chosen=tuple(run for run in listing.chosen if run in ids),
    )
    missing = (
        *(f"The table of runs has no column {name}." for name in asked if name not in names),
        *(f"This study has no run {run}." for run in listing.chosen if run not in ids),
    )
    return replace(address, listing=fitted), missing


def parse_target(text: str | None) -> Target | None:
    """Return the metric and level of a target in text form, or None if it is invalid."""
    name, _, level = (text or "").partition(":")
    value = _number(level)
    if value is None or not _METRIC.fullmatch(name):
        return None
    if is_metric(name) and METRICS[name].target_mistake(value) is not None:
        return None
    return name, value


def target_text(target: Target) -> str:
    """Return the text that `parse_target` reads."""
    return f"{target[0]}:{target[1]:.6g}"


def search_of(address: Address) -> str:
    """Return the query string of an address; defaults are left out."""
    view = address.view
    sides = (f"{n.optimizer}:{n.parameter}:{n.low:.6g}:{n.high:.6g}" for n in view.box)
    pairs: list[tuple[str, object]] = [
        ("metric", view.metric),
        ("within", None if view.tolerance is None else f"{view.tolerance:.6g}"),
        *(("optimizer", name) for name in view.optimizers),
        *(("batch", size) for size in view.batch_sizes),
        ("target", None if view.target is None else target_text(view.target)),
        *(("box", side) for side in sides),
        *address.options.items(),
        ("click", None if address.slot == "a" else address.slot),
        ("cell", address.cell_a),
        ("beside", address.cell_b),
        ("run", address.run),
        *listing_pairs(address.listing),
        *(("study", name) for name in address.others),
        *(("set", f"{'/'.join(path)}={value}") for path, value in address.edits),
    ]
    text = urlencode([(name, value) for name, value in pairs if value is not None])
    return f"?{text}" if text else ""


def change(before: str, after: str, *, other_blocks: bool = False) -> dict[str, str | int | bool]:
    """Return the change from one query string to another, for the page to apply (page.js).

    `other_blocks` says that the page then has other blocks. The time makes each change distinct, because a page ignores
    a value that it already has.
    """
    return {"from": before or "", "to": after, "other_blocks": other_blocks, "at": time.time_ns()}


def path_of(address: Address) -> str:
    """Return the path of an address, without the server's prefix."""
    if address.study is not None:
        return f"/study/{quote(address.study, safe='')}/{address.page}"
    return "/" if address.page == "studies" else f"/{address.page}"


def _place(pathname: str) -> tuple[str, str | None]:
    if len(pathname) > MAX_CHARACTERS:
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


def _options(one: Mapping[str, str]) -> dict[str, str]:
    own = [(name, key) for name, key in one.items() if name not in _OWN and _OPTION.fullmatch(name)]
    return {name: key for name, key in sorted(own)[:_MAX_ITEMS] if _NAME.fullmatch(key)}


def _unread(given: Mapping[str, list[str]]) -> tuple[str, ...]:
    """Return a sentence on each value that is invalid for its kind."""
    return tuple(
        sentence.format(text)
        for name, (is_valid, sentence) in _KINDS.items()
        for text in given.get(name, [])[:_MAX_ITEMS]
        if not is_valid(text)
    )


def _names(values: list[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(value for value in values[:_MAX_ITEMS] if _NAME.fullmatch(value)))


def _edit(text: str) -> Edit | None:
    path, given, value = text.partition("=")
    return (tuple(path.split("/")), value) if given and _FIELD.fullmatch(path) and _TOML.fullmatch(value) else None


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
    if len(parts) != 4 or not _NAME.fullmatch(parts[0]) or not _PARAMETER.fullmatch(parts[1]):
        return None
    low, high = _number(parts[2]), _number(parts[3])
    return None if low is None or high is None or low > high else Narrowed(parts[0], parts[1], low, high)


_KINDS: Mapping[str, tuple[Callable[[str], object], str]] = {
    "cell": (_id, "There is no cell {}."),
    "beside": (_id, "There is no cell {}."),
    "run": (_id, "There is no run {}."),
    "metric": (_METRIC.fullmatch, "There is no metric {}."),
    "target": (parse_target, "There is no target {}. A target is METRIC:VALUE, such as test_accuracy:0.9."),
    "within": (lambda text: _percent(text) is not None, "There is no tolerance {}: it is a percentage, 0 to 100."),
    "batch": (_integer, "There is no batch size {}."),
    "box": (_narrowed, "There is no range {}. A range is OPTIMIZER:PARAMETER:LOW:HIGH."),
    "set": (_edit, "There is no change {}. A change is FIELD=VALUE, such as budget/steps=200."),
}
"""For each name with checked values: whether a value is valid, and the sentence on one that isn't."""
