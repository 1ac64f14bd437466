"""The procedure as a generator of steps: scout, search, candidates, freeze, judge.

Runs that were used for a choice are never used for judging: each phase has its own range of seeds, and results of
judging runs affect only the number of further ones. Every step treats all arms equally, with the same number of runs
and the same seeds.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence

from sensitivity.analysis.names import optimizer_name
from sensitivity.settling import judge_scaling, judge_sensitivity
from sensitivity.settling.frontier import Frontier, KnownRuns, Steps
from sensitivity.settling.progress import Progress, StoppedError
from sensitivity.settling.sentences import answer_sentence, never_reached, number
from sensitivity.study.amendments import (
    PHASE_OF,
    Answer,
    Claim,
    Declaration,
    Direction,
    Freeze,
    FrozenClaim,
    Observation,
    Point,
    SettledAnswer,
    Settlement,
    Step,
    Stop,
)
from sensitivity.study.primary import Question

Settles = Generator[Step, Sequence[Observation] | Stop, Settlement]


def settle(declaration: Declaration, known: KnownRuns = ()) -> Settles:
    """Yield the steps of a settlement; send back the observations of each step's runs, in order, or ``Stop``.

    The freeze is a step without runs; send an empty sequence once it has been persisted.

    Args:
        declaration: claims, error rates, boxes and limits, fixed before the first run.
        known: observations of the study's own design for the declaration's target. If there are enough for every arm
            and batch size, they replace the scouting runs. They are never used for judging.
    """
    progress = Progress(declaration)
    progress.count([point for point, _ in known], [observation for _, observation in known])
    stopped = ""
    try:
        yield from _steps(progress, known)
    except StoppedError as error:
        stopped = str(error)
    return Settlement(
        declaration=declaration.hash,
        freeze="" if progress.freeze is None else progress.freeze.hash,
        answers=tuple(_answer(progress, claim, stopped) for claim in declaration.claims),
        stopped=stopped,
        runs=progress.runs,
        grid_runs=declaration.grid_runs,
        shown=progress.shown,
    )


def _steps(progress: Progress, known: KnownRuns) -> Steps:
    declaration = progress.declaration
    scaling = [claim for claim in declaration.claims if claim.question == "scaling"]
    compared = {name for claim in scaling for name in (claim.candidate, claim.reference)}
    frontier = Frontier(progress, [arm.name for arm in declaration.arms if arm.name in compared])
    if scaling:
        yield from frontier.find(known)
        yield from frontier.choose()
        for claim in scaling:
            _block(progress, frontier, claim)
    yield from _freeze(progress, frontier)
    order: list[Question] = list(dict.fromkeys(claim.question for claim in declaration.claims))
    for question in order:
        yield from (_judge_scaling(progress, frontier) if question == "scaling" else _judge_sensitivity(progress))


def _block(progress: Progress, frontier: Frontier, claim: Claim) -> None:
    for name in (claim.candidate, claim.reference):
        if name in frontier.problems and claim not in progress.blocked:
            progress.blocked[claim] = f"the frontier of {optimizer_name(name)} was not found: {frontier.problems[name]}"


def _freeze(progress: Progress, frontier: Frontier) -> Steps:
    """Fix the winners, tests and seeds before any judging run."""
    declaration, looks = progress.declaration, progress.declaration.looks
    frozen, seeds = [], []
    for claim in declaration.claims:
        scaling = claim.question == "scaling"
        frozen.append(
            FrozenClaim(
                claim=claim,
                blocked=progress.blocked.get(claim, ""),
                levels=judge_scaling.levels(claim, looks) if scaling else (),
                thresholds=None if scaling else (2 / claim.alpha, 1 / claim.alpha),
            )
        )
    if declaration.asks("scaling"):
        first = progress.seed("judge_scaling", 0)
        seeds.append((PHASE_OF["judge_scaling"], first, first + looks[-1] - 1))
    if declaration.asks("sensitivity"):
        first = progress.seed("judge_sensitivity", 0)
        last = first + declaration.most_blocks * len(declaration.batch_sizes) - 1
        seeds.append((PHASE_OF["judge_sensitivity"], first, last))
    freeze = Freeze(
        declaration=declaration.hash,
        winners=tuple(winner for winners in frontier.winners.values() for winner in winners),
        boxes=tuple(search.box.record() for search in frontier.searches.values()),
        claims=tuple(frozen),
        looks=looks if declaration.asks("scaling") else (),
        judging_seeds=tuple(seeds),
    )
    why = "Fix the winners, the looks, the error rates and the judging seeds before any of these seeds runs."
    yield from progress.request("freeze", why, (), freeze=freeze)
    progress.freeze = freeze
    progress.record_result("Nothing that was run so far judges.")


def _open(progress: Progress, question: Question) -> list[Claim]:
    """Return the claims on a question that have no answer yet."""
    settled = ("better", "worse", "equivalent", "blocked")
    return [
        claim
        for claim in progress.declaration.claims
        if claim.question == question
        and claim not in progress.blocked
        and not (claim in progress.answers and progress.answers[claim].answer in settled)
    ]


def _judge_scaling(progress: Progress, frontier: Frontier) -> Steps:
    declaration = progress.declaration
    sizes = declaration.batch_sizes
    judged = {name: judge_scaling.Judged({size: [] for size in sizes}) for name in frontier.winners}
    done = 0
    for place, n in enumerate(declaration.looks):
        claims = _open(progress, "scaling")
        if not claims:
            return
        arms = [name for name in judged if any(name in (c.candidate, c.reference) for c in claims)]
        at = judge_scaling.judged_sizes(sizes, first=place == 0)
        points = [
            Point(
                arm=name,
                batch_size=winner.batch_size,
                hyperparameters=winner.hyperparameters,
                seed=progress.seed("judge_scaling", seed),
                phase="judge_scaling",
            )
            for seed in range(done, n)
            for name in arms
            for winner in frontier.winners[name]
            if winner.batch_size in at
        ]
        progress.next_look_runs |= dict.fromkeys(claims, len(points))
        why = (
            f"Look {place + 1} of {len(declaration.looks)} at the scaling question: {n - done} fresh seeds of each"
            f" winner, {n} in all."
        )
        observations = yield from progress.request("judge_scaling", why, points)
        for point, observation in zip(points, observations, strict=True):
            judged[point.arm].runs[point.batch_size].append(observation)
        done = n
        texts, facts = [], {}
        for claim in claims:
            found = judge_scaling.look(
                claim,
                judged[claim.candidate],
                judged[claim.reference],
                sizes,
                _regrets(frontier, claim),
                judge_scaling.levels(claim, declaration.looks)[place],
            )
            last = place + 1 == len(declaration.looks)
            following = None if last else 4 * (declaration.looks[place + 1] - n)
            progress.answers[claim] = _scaling_answer(progress, claim, found, place + 1, following)
            facts[f"{claim.candidate} against {claim.reference}"] = found.facts()
            texts.append(
                f"{optimizer_name(claim.candidate)} against {optimizer_name(claim.reference)}: ratio"
                f" {number(_exp(found.log_ratio))},"
                f" {number(_exp(found.interval[0]))} to {number(_exp(found.interval[1]))}: {found.answer}"
            )
        progress.record_result("; ".join(texts) + ".", facts)


def _regrets(frontier: Frontier, claim: Claim) -> tuple[dict[int, float], dict[int, float]]:
    one, other = (
        {winner.batch_size: winner.regret for winner in frontier.winners[name]}
        for name in (claim.candidate, claim.reference)
    )
    return one, other


def _exp(log: float) -> float | None:
    return math.exp(log) if abs(log) < 50 else None


def _scaling_answer(
    progress: Progress, claim: Claim, found: judge_scaling.Look, looks: int, next_runs: int | None
) -> Answer:
    reason = found.reason
    if found.answer == "undetermined":
        reason = f"{found.seeds} judging seeds leave it open" + (", and no look is left" if next_runs is None else "")
    estimate, low, high = (_exp(log) for log in (found.log_ratio, *found.interval))
    return _make_answer(
        progress,
        claim,
        found.answer,
        basis=f"{found.seeds} judging seeds",
        reason=reason,
        direction=found.direction,
        estimate=estimate,
        ends=(0.0 if low is None and found.interval[0] < 0 else low, high),
        looks=looks,
        observations=found.seeds,
        next_runs=next_runs if found.answer == "undetermined" else None,
    )


def _judge_sensitivity(progress: Progress) -> Steps:
    declaration = progress.declaration
    sizes, first = declaration.batch_sizes, progress.seed("judge_sensitivity", 0)
    draws = {arm.name: judge_sensitivity.Draws() for arm in declaration.arms}
    done, looks = 0, 0
    while claims := _open(progress, "sensitivity"):
        count = judge_sensitivity.next_blocks(done, declaration.most_blocks)
        if count <= 0:
            return
        arms = [arm for arm in declaration.arms if any(arm.name in (c.candidate, c.reference) for c in claims)]
        points = [
            point
            for block in range(done, done + count)
            for point in judge_sensitivity.block_points(arms, sizes, block, first)
        ]
        progress.next_look_runs |= dict.fromkeys(claims, len(points))
        why = (
            f"Bet on the sensitivity question: {count} blocks of draws from the declared priors, {done + count} in all."
        )
        observations = yield from progress.request("judge_sensitivity", why, points)
        rows = iter(observations)
        for _ in range(count):
            block = [[next(rows) for _ in arms] for _ in sizes]
            for place, arm in enumerate(arms):
                draws[arm.name].rows.append([row[place] for row in block])
        done, looks = done + count, looks + 1
        following = 2 * len(sizes) * judge_sensitivity.next_blocks(done, declaration.most_blocks)
        texts, facts = [], {}
        for claim in claims:
            pair = draws[claim.candidate], draws[claim.reference]
            found = judge_sensitivity.wager(claim, *pair)
            answer = _sensitivity_answer(progress, claim, found, pair, looks, following or None)
            if answer.answer == "undetermined" and (reason := judge_sensitivity.futility(*pair)):
                answer = _make_answer(progress, claim, "blocked", reason=reason, looks=looks, observations=done)
            progress.answers[claim] = answer
            facts[f"{claim.candidate} against {claim.reference}"] = found.facts()
            one, other = found.shares
            texts.append(
                f"{one:.1%} of the draws of {optimizer_name(claim.candidate)} and {other:.1%} of those of"
                f" {optimizer_name(claim.reference)} work:"
                f" {progress.answers[claim].answer}"
            )
        progress.record_result("; ".join(texts) + ".", facts)


def _sensitivity_answer(
    progress: Progress,
    claim: Claim,
    found: judge_sensitivity.Wager,
    pair: tuple[judge_sensitivity.Draws, judge_sensitivity.Draws],
    looks: int,
    next_runs: int | None,
) -> Answer:
    answer: SettledAnswer = found.anytime.answer(claim.alpha)
    blocks = found.anytime.blocks
    one, other = found.shares
    low, high = judge_sensitivity.trials_bounds(claim, *pair)
    reason = f"{blocks} blocks of draws leave it open" + (", and no more are planned" if next_runs is None else "")
    return _make_answer(
        progress,
        claim,
        answer,
        basis=f"{blocks} blocks of draws from the declared priors",
        reason=reason if answer == "undetermined" else "",
        direction=found.anytime.direction(claim.alpha),
        estimate=other / one if one > 0 and other > 0 else None,
        ends=(low, high if math.isfinite(high) else None),
        looks=looks,
        observations=blocks,
        next_runs=next_runs if answer == "undetermined" else None,
    )


def _make_answer(
    progress: Progress,
    claim: Claim,
    answer: SettledAnswer,
    *,
    basis: str = "",
    reason: str,
    direction: Direction = "undetermined",
    estimate: float | None = None,
    ends: tuple[float | None, float | None] = (None, None),
    looks: int = 0,
    observations: int = 0,
    next_runs: int | None = None,
) -> Answer:
    level = 1 - claim.alpha
    text = answer_sentence(
        claim,
        answer,
        estimate=estimate,
        ends=ends,
        level=level,
        direction=direction,
        basis=basis,
        reason=reason,
        next_runs=next_runs,
    )
    return Answer(
        claim=claim,
        answer=answer,
        says=text,
        reason=reason,
        direction=direction,
        estimate=estimate,
        low=ends[0],
        high=ends[1],
        level=level,
        looks=looks,
        observations=observations,
        next_look_runs=next_runs,
    )


def _answer(progress: Progress, claim: Claim, stopped: str) -> Answer:
    """Return the final answer of a claim: that of its last look, or one with the reason why there was no look."""
    found = progress.answers.get(claim)
    if found is not None:
        return found
    if claim in progress.blocked:
        return _make_answer(progress, claim, "blocked", reason=progress.blocked[claim])
    before = "before anything was judged" if progress.freeze is None else "before its first look"
    never = never_reached(progress.tried, (claim.candidate, claim.reference))
    reason = f"{stopped}, {before}" + (f". {never}" if never else "")
    return _make_answer(progress, claim, "undetermined", reason=reason, next_runs=progress.next_look_runs.get(claim))
