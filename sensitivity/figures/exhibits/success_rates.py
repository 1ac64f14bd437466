"""Success rates in all their forms: contours, a surface, and the difference of two optimizers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import plotly.graph_objects as go

from sensitivity.analysis.study_results import StudyResults
from sensitivity.analysis.success import SuccessDifference, SuccessSurface
from sensitivity.figures.data import Data
from sensitivity.figures.exhibit import Exhibit, Option
from sensitivity.figures.exhibits.success import (
    draw_success,
    draw_success_3d,
    draw_success_difference,
    drawable,
)
from sensitivity.figures.nothing import nothing, refusals
from sensitivity.figures.theme import Theme


def success_data(surfaces: Sequence[SuccessSurface]) -> Data:
    """Return success rates over batch size and target."""
    return Data(
        columns=(
            "optimizer", "batch_size", "metric", "target", "rate", "low", "high", "configurations", "runs", "planned",
        ),
        rows=[
            (
                s.optimizer, s.batch_sizes[b], s.metric, s.targets[t], float(s.rate[b, t]), float(s.low[b, t]),
                float(s.high[b, t]), s.configurations[b], s.runs[b], s.planned[b],
            )
            for s in surfaces
            if s.refused is None
            for b in range(len(s.batch_sizes))
            for t in range(len(s.targets))
        ],
    )  # fmt: skip


def difference_data(difference: SuccessDifference) -> Data:
    """Return differences of success rates."""
    arrays = (difference.difference, difference.low, difference.high)
    return Data(
        columns=("candidate", "reference", "batch_size", "metric", "target", "difference", "low", "high"),
        rows=[
            (
                difference.candidate, difference.reference, size, difference.metric, target,
                *(float(array[b, t]) for array in arrays),
            )
            for b, size in enumerate(difference.batch_sizes)
            for t, target in enumerate(difference.targets)
        ],
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class SuccessRates:
    """Success rates in one of their forms."""

    surfaces: tuple[SuccessSurface, ...]
    form: str
    difference: SuccessDifference | None
    """Difference of the first pair."""


FORMS = {"contours": "contours", "surface": "3-D surface", "difference": "difference"}


def compute_success_rates(results: StudyResults, form: str) -> SuccessRates:
    """Return the success rates of a study.

    Raises:
        NothingToShowError: there are none, or no pair to compare.
    """
    surfaces = results.success
    drawable(surfaces)
    difference = results.success_difference(results.pairs[0]) if results.pairs else None
    if form == "difference" and (difference is None or refusals(surface.refused for surface in surfaces)):
        raise nothing([s.refused for s in surfaces], "A difference needs two optimizers with a batch size in common.")
    return SuccessRates(surfaces=surfaces, form=form, difference=difference)


def draw_success_rates(rates: SuccessRates, theme: Theme) -> go.Figure:
    """Draw success rates in their form.

    Raises:
        NothingToShowError: there are too few results for that form.
    """
    if rates.form == "difference" and rates.difference is not None:
        return draw_success_difference(rates.difference, rates.surfaces, theme=theme)
    draw = draw_success_3d if rates.form == "surface" else draw_success
    return draw(rates.surfaces, theme=theme)


SUCCESS = Exhibit(
    in_paper=True,
    name="success",
    section="success",
    title="Success rate over batch size and target",
    compute=compute_success_rates,
    draw=draw_success_rates,
    data=lambda rates: (
        difference_data(rates.difference)
        if rates.form == "difference" and rates.difference is not None
        else success_data(rates.surfaces)
    ),
    notes=lambda rates: (
        *refusals(surface.refused for surface in rates.surfaces),
        *(caution.text for surface in rates.surfaces for caution in surface.warnings),
    ),
    options=(Option(name="form", label="Success rate as", values=lambda _: FORMS),),
    depends=("filters", "metric"),
)
