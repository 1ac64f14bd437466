"""Verdict on which of two optimizers is less sensitive to its hyperparameters: that with the lower price of tuning.

The candidate is better if the interval of the ratio of expected trials (``price``), at 1 - `alpha`, lies below
1 / margin, worse if it lies above the margin, and equivalent if it lies between, for the planned number of seeds.
``Verdict.anytime`` contains e-values, which are valid for any stopping time (``betting``).

Only independent draws allow a test. A grid allows a description; adaptive searches and runs cut short by pruning allow
no claim (docs/statistics.md, sections 3 and 8).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import pandas as pd
from scipy.special import ndtri, stdtrit

from sensitivity.analysis.betting import Anytime, bet
from sensitivity.analysis.draws import FEWEST_BLOCKS, Draws
from sensitivity.analysis.estimates import Caution, Estimate
from sensitivity.analysis.intervals import exponential
from sensitivity.analysis.names import at_batch_size, optimizer_name, parameter_name
from sensitivity.analysis.outcomes import OBSERVED
from sensitivity.analysis.paired import ALPHA, Answer, PairedComparison, decide, holm
from sensitivity.analysis.price import Pair, TuningPrice, compute_price_ratios, compute_prices, pair_draws, trials_ratio
from sensitivity.analysis.remedies import Edit, Remedy
from sensitivity.analysis.verdict import Margins, Verdict, priced_runs, unfinished
from sensitivity.study.section import CONFIRMATION_SEEDS

SEEDS, SAMPLES = 48, 4
"""Recommended design if settings weren't drawn: 192 draws per batch size."""
_POWER = 0.8
_MOST = 100_000


def compute_sensitivity_verdict(
    runs: pd.DataFrame,
    draws: Sequence[Draws],
    candidate: str,
    reference: str,
    *,
    margins: Margins | None = None,
    clipped: Collection[Caution] = (),
    alpha: float = ALPHA,
) -> Verdict:
    """Return the verdict on whether `candidate` is less sensitive than `reference`.

    Args:
        runs: runs that the prices of remedies are based on; confirmation runs are ignored.
        draws: draws of both optimizers, from ``draws.compute_draws``.
        candidate: optimizer that the answer is about.
        reference: optimizer that it is compared with.
        margins: equivalence margins.
        clipped: refusals of ``clipping``, because an active KL clip makes an optimizer look robust.
        alpha: two-sided level of the claim and of the tests of equivalence; intervals are at 1 - `alpha`.
    """
    margin = (margins or Margins()).tuning_ratio
    priced = priced_runs(runs[runs["seed"] < CONFIRMATION_SEEDS], candidate, reference)
    by_name = {own.optimizer: own for own in draws}
    one, other = by_name[candidate], by_name[reference]
    blocks, remedies = unfinished(priced)
    blocks += list(clipped)
    if clipped:
        text = "Declare an optimizer without kl_clip (the default), and compare it."
        remedies.append(Remedy(code="unclip", text=text))
    undrawn = {own.optimizer: why for own in (one, other) if (why := own.refused or own.unjudged)}
    blocks += undrawn.values()
    sizes = [size for size in one.batch_sizes if size in other.batch_sizes]
    primary: PairedComparison | None = None
    by_batch: tuple[PairedComparison, ...] = ()
    anytime: Anytime | None = None
    effect = Estimate(value=math.nan)
    if undrawn:
        remedies.append(_redrawn(priced, undrawn, len(sizes)))
    elif not sizes:
        blocks.append(Caution(code="unpaired", text="The two have no batch size in common."))
    else:
        pair = pair_draws(one, other)
        for own in (one, other):
            found, fixes = _without_success(own, sizes)
            blocks, remedies = blocks + found, remedies + fixes
        if pair.n < FEWEST_BLOCKS:
            text = (
                f"{pair.n:,} {pair.of} are in common. Each, with all its draws, is one observation of both optimizers,"
                f" and a test needs at least {FEWEST_BLOCKS} observations."
            )
            blocks.append(Caution(code="few-seeds", text=text))
            remedies.append(_redrawn(priced, {"few": blocks[-1]}, len(sizes)))
        else:
            effect = trials_ratio(pair, 1 - alpha)
            primary = _compare(pair, one, other, None, margin, alpha)
            anytime = bet(pair.success[0][: pair.n], pair.success[1][: pair.n], margin, pair.of)
            raw = [_compare(pair_draws(one, other, size), one, other, size, margin, alpha) for size in sizes]
            by_batch = tuple(_adjusted(c, p, alpha) for c, p in zip(raw, holm([c.p for c in raw]), strict=True))
            if math.isnan(primary.p) and effect.known:
                text = "Every block of draws has the same success rates, so there is no scatter to test against."
                blocks.append(Caution(code="no-scatter", text=text))
            if primary.answer == "undetermined" and not math.isnan(primary.p):
                remedies.append(_more(primary, pair, priced, margin, alpha))
    prices = {
        price.optimizer: price for price in compute_prices((one, other))
    }  # the last price of each is over all sizes
    answer: Answer = "undetermined" if blocks or primary is None else primary.answer
    reasons = [*blocks, *_price_in_words(one, other, prices)]
    if primary is not None and not math.isnan(primary.p):
        reasons += [_finding(primary, effect, margin), *_beside_trials(one, other, by_batch, answer, alpha)]
    return Verdict(
        question="sensitivity",
        candidate=candidate,
        reference=reference,
        answer=answer,
        effect=effect,
        primary=primary,
        by_batch=by_batch,
        reasons=(*reasons, *_anytime(anytime, alpha), *_remarks(one, other)),
        blocks=tuple(blocks),
        remedies=tuple(remedies),
        alpha=alpha,
        anytime=anytime,
    )


def _compare(
    pair: Pair, one: Draws, other: Draws, batch_size: int | None, margin: float, alpha: float
) -> PairedComparison:
    """Compare the expected trials of two optimizers over blocks: log ratio, candidate over reference."""
    moments, ratio = pair.moments, trials_ratio(pair, 1 - alpha)
    a, b = float(moments.one), float(moments.other)
    more, less = float(moments.p_above(margin)), float(moments.p_below(1 / margin))
    succeeded = a > 0 and b > 0
    tested = succeeded and not math.isnan(more)
    equal = max(1 - more, 1 - less) if tested else math.nan
    beyond = min(1.0, 2 * min(more, less)) if tested else math.nan
    # First-order contribution of each block to the log ratio; the mean of the contributions is the log ratio.
    own = [math.log(b / a)] * pair.n if succeeded else []
    if succeeded and pair.paired:
        own = [float(x) for x in math.log(b / a) + pair.success[1] / b - pair.success[0] / a]
    low, high = ratio.interval or (0.0, math.inf)
    ends = (math.log(low) if low > 0 else -math.inf, math.log(high) if high < math.inf else math.inf)
    return PairedComparison(
        candidate=one.optimizer,
        reference=other.optimizer,
        label="log expected trials" + ("" if batch_size is None else f" at batch size {batch_size:,}"),
        batch_size=batch_size,
        seeds=pair.blocks[: len(own)],
        differences=tuple(own),
        effect=Estimate(
            value=math.log(ratio.value) if succeeded else math.nan,
            interval=ends,
            n=pair.n,
            of=pair.of,
            covers=ratio.covers,
        ),
        p=beyond,
        p_holm=math.nan,
        margin=math.log(margin),
        p_equivalence=equal,
        answer=decide(beyond, equal, more < less, alpha),
    )


def _adjusted(comparison: PairedComparison, p: float, alpha: float) -> PairedComparison:
    kept = comparison.answer in ("equivalent", "undetermined") or p <= alpha
    return replace(comparison, p_holm=p, answer=comparison.answer if kept else "undetermined")


def _finding(primary: PairedComparison, effect: Estimate, margin: float) -> Caution:
    n = f"n = {effect.n} {effect.of}"
    if primary.answer == "equivalent":
        text = f"Expected trials are within a factor of {margin:.3g}: p = {primary.p_equivalence:.2g}, {n}."
        return Caution(code="equivalence", text=text)
    text = f"Test that expected trials differ by more than a factor of {margin:.3g}: p = {primary.p:.2g}, {n}."
    low, high = effect.interval or (0.0, math.inf)
    if primary.answer == "undetermined" and (low > 1 or high < 1):
        more = primary.candidate if low > 1 else primary.reference
        text += f" {optimizer_name(more)} takes more trials, but possibly by less than that factor."
    return Caution(code="test", text=text)


def _beside_trials(
    one: Draws, other: Draws, by_batch: Sequence[PairedComparison], answer: Answer, alpha: float
) -> list[Caution]:
    """Return remarks on single batch sizes whose answer differs from that of the mean, and on device time."""
    names = optimizer_name(one.optimizer), optimizer_name(other.optimizer)
    found = []
    for at in by_batch:
        if at.answer in ("better", "worse") and at.answer != answer and at.effect.interval is not None:
            low, high = (exponential(end) for end in at.effect.interval)
            text = (
                f"The answer is for the mean over batch sizes. At batch size {at.batch_size:,} alone {names[0]} takes"
                f" {exponential(at.effect.value):.3g} [{low:.3g}, {high:.3g}] times as many trials as {names[1]}, a"
                " difference beyond the margin (exploratory)."
            )
            found.append(Caution(code="batch-size", text=text))
    seconds = compute_price_ratios(one, other, 1 - alpha)[-1].seconds
    if seconds.known and seconds.interval is not None:
        low, high = seconds.interval
        text = (
            f"Trials differ in cost: until a setting works, {names[0]} takes {seconds.value:.3g} [{low:.3g},"
            f" {high:.3g}] times the device time of {names[1]} (a description, on the machine of these runs)."
        )
        found.append(Caution(code="device-time", text=text))
    return found


def _anytime(found: Anytime | None, alpha: float) -> list[Caution]:
    """Return the claim of the e-values, which is valid for any number of looks and extensions, if there is one."""
    if found is None:
        return []
    answer, direction = found.answer(alpha), found.direction(alpha)
    if answer != "undetermined":
        text = f"E-values of paired draws, valid for any number of looks, claim: {answer}."
    elif direction != "undetermined":
        text = (
            f"E-values of paired draws, valid for any number of looks, claim the direction: {direction}, by an amount"
            " that may be within the margin."
        )
    else:
        return []
    return [Caution(code="anytime", text=text)]


def _without_success(own: Draws, sizes: Sequence[int]) -> tuple[list[Caution], list[Remedy]]:
    """Return the caution and the remedy for an optimizer without a successful draw at any of `sizes`."""
    at = [own.batch_sizes.index(size) for size in sizes]
    if any(own.reached[place] for place in at):
        return [], []
    name = optimizer_name(own.optimizer)
    text = (
        f"{name}: none of {sum(own.count[place] for place in at):,} draws reaches the target, so the price of"
        " its tuning has no upper bound."
    )
    fix = f"Choose a longer budget, an easier target, or for {name} a box around settings that are known to succeed."
    return [Caution(code="no-success", text=text)], [Remedy(code="budget", text=fix)]


def _mean_seconds(priced: pd.DataFrame, optimizer: str) -> float:
    own = priced[(priced["optimizer"] == optimizer) & priced["status"].isin(OBSERVED)]
    return float(own["seconds"].mean()) if len(own) else math.nan


def _priced(code: str, text: str, runs: dict[str, int], priced: pd.DataFrame) -> Remedy:
    seconds = sum(count * _mean_seconds(priced, name) for name, count in runs.items())
    return Remedy(code=code, text=text, runs=sum(runs.values()), device_seconds=seconds)


def _redrawn(priced: pd.DataFrame, undrawn: Mapping[str, Caution], batches: int) -> Remedy:
    """Return the edit of the study file that makes every seed draw settings, with the price of the runs of both."""
    fields = " and ".join(f"optimizers.{name}" for name in undrawn)
    codes = {caution.code for caution in undrawn.values()}
    edits = []
    if codes & {"grid", "adaptive", "unknown-prior"}:
        edits.append(f'design = "sobol" (without points) and samples = {SAMPLES} in {fields}')
    elif codes & {"few-seeds", "one-replicate"}:
        edits.append(f"samples = {SAMPLES} for each optimizer")
    if "pruned" in codes:
        edits.append('prune = "none"')
    runs = {str(name): SEEDS * SAMPLES * batches for name in priced["optimizer"].unique()}
    text = (
        f"Write {', '.join(edits)} and seeds = {SEEDS} into the study file, and run it: every seed then draws settings"
        f" of its own, {SEEDS * SAMPLES:,} of each optimizer at every batch size."
    )
    return _priced("draws", text, runs, priced)


def _more(primary: PairedComparison, pair: Pair, priced: pd.DataFrame, margin: float, alpha: float) -> Remedy:
    """Return the number of further blocks that would settle it, for the observed difference and for a smaller one."""
    effect = primary.effect
    low, high = effect.interval or (-math.inf, math.inf)
    t = float(stdtrit(pair.n - 1, 1 - alpha / 2))
    error = (high - low) / (2 * t)
    needed = []
    for shrink in (0.0, 1.0):
        gap = abs(abs(effect.value) - math.log(margin)) - shrink * error
        ratio = (t + float(ndtri(_POWER))) * error / gap if gap > 0 and math.isfinite(error) else math.inf
        needed.append(math.ceil(pair.n * ratio**2) if pair.n * ratio**2 < _MOST else _MOST)
    least, most = (max(n - pair.n, 1) for n in needed)
    if needed[0] >= _MOST:
        text = "No reasonable number of further seeds would settle it: the difference is about as large as the margin."
        return Remedy(code="seeds", text=text)
    per_block = priced.groupby("optimizer", sort=False).size() / pair.n
    runs = {str(name): round(float(count) * least) for name, count in per_block.items()}
    text = f"{least:,} more {pair.of} if the true difference is the observed one; " + (
        f"{most:,} if it is a standard error closer to the margin."
        if needed[1] < _MOST
        else "if it is a standard error closer to the margin, no number is enough."
    )
    edits: tuple[Edit, ...] = ((("seeds",), str(int(priced["seed"].nunique()) + least)),) if pair.of == "seeds" else ()
    return replace(_priced("seeds", text, runs, priced), edits=edits)


def _price_in_words(one: Draws, other: Draws, prices: Mapping[str, TuningPrice]) -> list[Caution]:
    """Return the expected trials until a setting succeeds for each optimizer, with its prior."""
    phrases = []
    for own in (one, other):
        price = prices.get(own.optimizer)
        if price is not None and price.success.known:
            often = (
                f"once in {price.trials.value:.3g} trials" if price.trials.known else f"never in {price.draws:,} draws"
            )
            where = "on a grid over" if own.design == "grid" else "drawn from"
            phrases.append(f"{often} of {optimizer_name(own.optimizer)} ({where} {own.prior})")
    if not phrases:
        return []
    return [Caution(code="price", text=f"A setting works {', against '.join(phrases)}.")]


def _remarks(one: Draws, other: Draws) -> list[Caution]:
    """Return remarks that don't change the answer: success at a bound of the box, batch sizes without a success."""
    found: list[Caution] = []
    for own in (one, other):
        if own.touches:
            text = (
                f"{optimizer_name(own.optimizer)}: settings at the bound of its box succeed too: {_edges(own)}."
                " Settings beyond it may succeed as well. The price is that of the declared box."
            )
            found.append(Caution(code="region-edge", text=text))
    for own in (one, other):
        found += own.warnings
        for size, count, reached in zip(own.batch_sizes, own.count, own.reached, strict=True):
            if count and not reached and any(own.reached):
                text = f"{at_batch_size(own.optimizer, size)}: none of {count:,} draws reaches the target."
                found.append(Caution(code="no-success", text=text))
    return found


def _edges(own: Draws) -> str:
    return ", ".join(
        f"{reached:,} of {count:,} at the {'smallest' if edge.side == 'low' else 'largest'}"
        f" {parameter_name(edge.parameter)}, {edge.value:.3g}"
        for edge, (reached, count) in zip(own.touches, own.at_touches, strict=True)
    )
