"""Which of two optimizers is less sensitive to its hyperparameters (``verdict``)."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from functools import partial

import numpy as np
import pandas as pd

from sensitivity.analysis.estimates import Caution, Estimate
from sensitivity.analysis.paired import Answer, PairedComparison, compare, holm, seeds_needed, sign_flip_p
from sensitivity.analysis.regions import RobustRegion
from sensitivity.analysis.remedies import Remedy, extend, more_seeds
from sensitivity.analysis.verdict import Margins, Verdict, conclude, priced_runs, unfinished

_SUSPECTS: dict[Answer, tuple[int, ...]] = {"better": (1,), "worse": (0,), "equivalent": (0, 1), "undetermined": ()}
"""Whose region's being a lower bound undoes an answer, candidate or reference: it may be larger than it looks."""


def compute_sensitivity_verdict(
    runs: pd.DataFrame,
    regions: Sequence[RobustRegion],
    candidate: str,
    reference: str,
    *,
    margins: Margins | None = None,
    clipped: Collection[Caution] = (),
) -> Verdict:
    """Answer whether `candidate` is less sensitive than `reference`, from their ``regions.compute_regions``.

    The regions are of one rule, the common target for preference. `clipped` are the refusals of
    ``clipping``: a KL clip that binds makes an optimizer look robust.
    """
    margin = (margins or Margins()).robust_decades
    priced = priced_runs(runs, candidate, reference)
    own = {name: {r.batch_size: r for r in regions if r.optimizer == name} for name in (candidate, reference)}
    sizes = [size for size in own[candidate] if size in own[reference]]
    pairs = [(own[candidate][size], own[reference][size]) for size in sizes]
    blocks, remedies = unfinished(priced)
    blocks += list(clipped)
    blocks += [r.decades.refused for pair in pairs for r in pair if r.decades.refused]
    if clipped:
        remedies.append(
            Remedy(code="unclip", text="Declare an optimizer without kl_clip (the default), and compare it.")
        )
    neither = [size for size, pair in zip(sizes, pairs, strict=True) if all(_empty(region) for region in pair)]
    if neither:
        where = f"batch size{'s' * (len(neither) > 1)} {', '.join(f'{size:,}' for size in neither)}"
        text = f"Neither reaches the target at {where} in any cell, so there is nothing to compare there."
        blocks.append(Caution(code="budget", text=text))
        remedies.append(Remedy(code="budget", text=f"A longer budget at {where}, or an easier target."))
    shared = sorted(set.intersection(*(set(r.seeds) for pair in pairs for r in pair))) if pairs else []
    primary: PairedComparison | None = None
    by_batch: tuple[PairedComparison, ...] = ()
    if shared:
        table = np.array([[_size(a, s) - _size(b, s) for a, b in pairs] for s in shared])
        both = partial(compare, candidate=candidate, reference=reference, margin=margin, larger_is_better=True)
        primary = both(table.mean(axis=1), shared, label="decades a dimension, mean over batch sizes")
        adjusted = holm([sign_flip_p(column) for column in table.T])
        by_batch = tuple(
            both(
                column,
                shared,
                label=f"decades a dimension at batch size {size:,}",
                batch_size=size,
                adjusted_p=p,
            )
            for size, column, p in zip(sizes, table.T, adjusted, strict=True)
        )
        for number in _SUSPECTS[primary.answer]:
            regions_of = [pair[number] for pair in pairs]
            blocks += [w for region in regions_of for w in region.decades.warnings if w.code == "region-edge"]
            edges = [edge for region in regions_of for edge in region.touches]
            remedies += extend(priced, (candidate, reference)[number], edges)
        if primary.answer == "undetermined":
            needed = seeds_needed(np.array(primary.differences), margin)
            remedies.append(more_seeds(priced, len(shared), None if needed is None else needed[1] or needed[0]))
    else:
        text = "No seed measures the robust region of both: grids are compared a seed at a time."
        blocks.append(Caution(code="unpaired", text=text))
        mend = "Declare both optimizers as grids, of several values of one hyperparameter or more, with shared seeds."
        remedies.append(Remedy(code="grid", text=mend))
    return conclude(
        "sensitivity",
        candidate,
        reference,
        primary.effect if primary else Estimate(value=math.nan),
        primary,
        by_batch,
        blocks,
        remedies,
    )


def _empty(region: RobustRegion) -> bool:
    return len(region.per_seed) > 0 and not any(region.per_seed)


def _size(region: RobustRegion, seed: int) -> float:
    return region.per_seed[region.seeds.index(seed)]
