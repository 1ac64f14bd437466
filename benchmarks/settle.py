"""Accuracy and cost of `settle`: simulated studies with a known truth go through the product's code.

    python benchmarks/settle.py [--studies 400] [--only "noise .1"] [--jobs 1] [--record]
    python benchmarks/settle.py --adastop | --problems

A study consists of a world (``settle_worlds``), a declaration, and the procedure from its first step to its last. A
claim is false if the truth contradicts it when the study stops. Claims are made at looks only, so this covers any
moment. The interval of every look is compared with the truth. "grid" is what the procedure replaces: 8 x 8 settings
with 12 seeds each at every batch size and optimizer; the fastest setting is judged on 12 fresh seeds by the same rule
at one look.

`--problems` trains two real problems (``settle_problems``). `--adastop` compares two settings at one batch size by
AdaStop (Mathieu et al. 2023, arXiv 2306.10882; pip install adastop), which tests whether two means differ, and by the
looks of `settle` with a margin of 0.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import beta
from settle_worlds import Arm, QuadraticWorld, Study, World, excess, success_ratio

from sensitivity.analysis.intervals import t_half_width
from sensitivity.analysis.looks import planned_share
from sensitivity.settling import settle
from sensitivity.settling.declaring import LOOKS
from sensitivity.settling.judge_scaling import Judged, look
from sensitivity.study.amendments import Claim, Settlement
from sensitivity.study.primary import Question

RECORD = Path(__file__).parent / "results" / "settle.md"
GRID, SEEDS = 8, 12
FLAT, STEEP = Arm(bend=0.3), Arm(bend=1.5, cliff=0.8)
"""An optimizer that works nearly everywhere, and one with a narrow bowl that ends at a cliff."""
BOTH: tuple[Question, ...] = ("scaling", "sensitivity")
CLAIMS = ("better", "worse", "equivalent")


def _pair(ratio: float, a: Arm = FLAT, b: Arm = STEEP) -> tuple[Arm, Arm]:
    return replace(a, size=ratio * b.size), b


def _draws(p: float, q: float) -> tuple[Arm, Arm]:
    return Arm(works=p, dimensions=0), Arm(works=q, dimensions=0)


_CHANCE = {"a": replace(FLAT, diverges=0.03), "b": replace(STEEP, diverges=0.03)}
_SKEWED = {"a": Arm(bend=0.6, skew=1.5), "b": Arm(bend=1.5, skew=2.0)}
_OFF = {"a": Arm(bend=0.6, optimum=1.8), "b": Arm(bend=1.5, optimum=-2.8)}
_UNLIKE = {"a": Arm(bend=0.6, dimensions=1), "b": Arm(bend=0.8, dimensions=3)}
_BENT = {"a": Arm(bend=0.6, bent=0.5), "b": Arm(bend=1.5, bent=-0.5)}
_SAME = Arm(bend=0.6)
_WALLED = {"a": Arm(bend=1.0, ridge=30.0, cliff=0.2), "b": Arm(bend=1.5, ridge=30.0, cliff=0.2)}
EIGHT = (16, 32, 64, 128, 256, 512, 1024, 2048)

WORLDS = (
    World(name="noise .1, identical arms", arms=(_SAME, _SAME)),
    World(name="noise .1, ratio 1", arms=_pair(1)),
    World(name="noise .1, ratio 1.5", arms=_pair(1.5)),
    World(name="noise .1, ratio 2", arms=_pair(2)),
    World(name="noise .1, just inside the margin (1.2)", arms=_pair(1.2)),
    World(name="noise .1, just outside the margin (1.3)", arms=_pair(1.3)),
    World(name="noise .1, at the margin (1.25), ridge", arms=_pair(1.25, Arm(bend=1.0, ridge=10.0))),
    World(name="noise .1, ratio 1, flat ridge", arms=_pair(1, Arm(bend=1.0, ridge=1e6))),
    World(name="noise .1, ratio 1.5, flat ridge", arms=_pair(1.5, Arm(bend=1.0, ridge=1e6))),
    World(name="noise .25, ratio 2, ridges that end at a cliff", arms=_pair(2, **_WALLED), noise=0.25),
    World(name="noise .05, ratio 1", arms=_pair(1), noise=0.05),
    World(name="noise .05, ratio 1.5", arms=_pair(1.5), noise=0.05),
    World(name="noise .2, ratio 1", arms=_pair(1), noise=0.2),
    World(name="noise .2, ratio 1.5", arms=_pair(1.5), noise=0.2),
    World(name="noise .2, ratio 1, 80% of it shared by seed", arms=_pair(1), noise=0.2, shared=0.8),
    World(name="noise .2, ratio 1.5, t3 tails", arms=_pair(1.5), noise=0.2, tails="t3"),
    World(name="noise .1, ratio 1.3, skewed noise", arms=_pair(1.3), tails="skewed"),
    World(name="noise .1, ratio 1, 1-D against 3-D", arms=_pair(1, **_UNLIKE)),
    World(name="noise .1, ratio 1, boxes off by a decade", arms=_pair(1, **_OFF)),
    World(name="noise .1, ratio 1, skewed bowls", arms=_pair(1, **_SKEWED)),
    World(name="noise .1, ratio 1, budget 2 S, no metric", arms=_pair(1), budget=2.0, metric=False),
    World(name="noise .1, ratio 1, 3% of runs diverge", arms=_pair(1, **_CHANCE)),
    World(name="noise .1, ratio 1, 8 batch sizes", arms=_pair(1), batch_sizes=EIGHT),
    World(name="noise .1, ratio 1.5, 5 batch sizes, bent", arms=_pair(1.5, **_BENT), batch_sizes=(*EIGHT[::2], 4096)),
    World(name="noise .1, optimum beyond the limit", arms=_pair(1, Arm(bend=0.6, optimum=4.5))),
    QuadraticWorld(name="the noisy quadratic, Newton against SGD"),
    World(name="both questions, ratio 1.5", arms=_pair(1.5), budget=2.0, questions=BOTH),
    World(name="both questions, identical arms", arms=(_SAME, _SAME), budget=2.0, questions=BOTH),
    World(name="works .24 = .24", arms=_draws(0.24, 0.24), ratio=1.0, noise=0.0, questions=("sensitivity",)),
    World(name="works .72, .24", arms=_draws(0.72, 0.24), ratio=3.0, noise=0.0, questions=("sensitivity",)),
    World(name="works .48, .24", arms=_draws(0.48, 0.24), ratio=2.0, noise=0.0, questions=("sensitivity",)),
    World(name="works .35, .24 (inside)", arms=_draws(0.35, 0.24), ratio=0.35 / 0.24, questions=("sensitivity",)),
    World(name="works .37, .24 (outside)", arms=_draws(0.37, 0.24), ratio=0.37 / 0.24, questions=("sensitivity",)),
    World(name="works .108, .07 (outside)", arms=_draws(0.108, 0.07), ratio=0.108 / 0.07, questions=("sensitivity",)),
)
GRIDDED = (
    "noise .1, ratio 1",
    "noise .1, ratio 1.5",
    "noise .1, ratio 2",
    "noise .05, ratio 1",
    "noise .05, ratio 1.5",
)


@dataclass
class Tally:
    """Results of the studies of a world, for one question."""

    answers: Counter[str] = field(default_factory=Counter)
    false: int = 0
    at_margin: int = 0
    """Number of "equivalent" answers where the truth is the margin itself, which counts as within it."""
    wrong_direction: int = 0
    covered: list[float] = field(default_factory=list)
    """For each study, the share of its looks with an interval that contains the truth."""
    runs: list[int] = field(default_factory=list)


def truth(world: World, question: str) -> tuple[float, float]:
    """Return the log ratio, which is large for "better", and the log margin."""
    if question == "scaling":
        return world.log_ratio, math.log(world.margins[0])
    return math.log(success_ratio(world)), math.log(world.margins[1])


Shown = dict[str, list[dict[str, Any]]]
"""Question -> facts of each look."""


def simulate(world: World, replicate: int) -> tuple[Settlement, Shown]:
    """Settle one study; return its settlement, and the facts of each look by question."""
    study = world.study(np.random.default_rng([replicate, 1]))
    shown: Shown = {question: [] for question in world.questions}
    procedure = settle(world.declaration(f"study-{replicate}"))
    step = next(procedure)
    while True:
        phase = step.phase
        try:
            step = procedure.send(study.observe(step.points))
            found = step.shown
        except StopIteration as end:
            found = end.value.shown
            if found is not None and phase.startswith("judge"):
                shown[phase.removeprefix("judge_")].append(found.facts["a against b"])
            return end.value, shown
        if found is not None and phase.startswith("judge"):
            shown[phase.removeprefix("judge_")].append(found.facts["a against b"])


def is_false(answer: str, log_ratio: float, margin: float) -> bool:
    """Return whether an answer contradicts the truth; the margin itself counts as within the margin."""
    if answer == "equivalent":
        return abs(log_ratio) > margin + 1e-9
    return (answer == "better" and log_ratio <= margin + 1e-9) or (answer == "worse" and log_ratio >= -margin - 1e-9)


def measure(world: World, studies: int) -> tuple[dict[Question, Tally], list[Settlement]]:
    """Settle `studies` studies of a world."""
    tallies, ends = {question: Tally() for question in world.questions}, []
    truths = {question: truth(world, question) for question in world.questions}
    for replicate in range(studies):
        end, shown = simulate(world, replicate)
        ends.append(end)
        for answer in end.answers:
            question = answer.claim.question
            tally, (log_ratio, margin) = tallies[question], truths[question]
            tally.answers[answer.answer] += 1
            tally.false += is_false(answer.answer, log_ratio, margin)
            tally.at_margin += answer.answer == "equivalent" and abs(abs(log_ratio) - margin) < 1e-9
            tally.wrong_direction += (answer.direction == "better" and log_ratio <= 1e-9) or (
                answer.direction == "worse" and log_ratio >= -1e-9
            )
            tally.runs.append(end.total_runs)
            if question == "scaling":
                held = [_holds(one["interval"], math.exp(log_ratio)) for one in shown[question]]
                tally.covered += [float(np.mean(held))] if held else []
            elif answer.observations:  # expected trials: the opposite direction
                tally.covered.append(_holds((answer.low, answer.high), math.exp(-log_ratio)))
    return tallies, ends


def _holds(interval: Iterable[float | None], value: float) -> float:
    low, high = interval
    return float((low is None or low <= value) and (high is None or value <= high))


def bound(count: int, of: int) -> float:
    """Return the one-sided 95% upper bound of a share (Clopper and Pearson 1934)."""
    return 1.0 if count == of else float(beta.ppf(0.95, count + 1, of - count))


def grid_answer(world: World, replicate: int) -> str:
    """Return the answer of the full grid with fresh judging seeds for a study."""
    rng = np.random.default_rng([replicate, 2])
    study = Study(world, rng)
    judged, claim = {}, Claim(question="scaling", candidate="a", reference="b", margin=world.margins[0], alpha=0.05)
    for name, arm in zip("ab", world.arms, strict=True):
        axis = np.linspace(-arm.half_width, arm.half_width, GRID)
        cells = np.array(np.meshgrid(*[axis] * arm.dimensions)).reshape(arm.dimensions, -1).T
        runs = {}
        for k, size in enumerate(world.batch_sizes):
            z = cells - world.optima(arm)[k]
            level = world.level(arm)[k] + excess(arm, z)
            means = level + world.noise * rng.standard_normal((SEEDS, len(z))).mean(axis=0)
            alive = (z[:, 0] <= arm.cliff) & (level <= math.log(world.caps[k]))
            best = int(np.where(alive, means, np.inf).argmin())
            if np.isclose(np.abs(cells[best]), arm.half_width).any():
                return "blocked"
            log_t = level[best] + world.noise * rng.standard_normal(SEEDS)
            runs[size] = [study.observation(float(t), False, math.log(world.caps[k])) for t in log_t]
        judged[name] = Judged(runs)
    none = dict.fromkeys(world.batch_sizes, 0.0)
    return look(claim, judged["a"], judged["b"], world.batch_sizes, (none, none), (0.025, 0.05)).answer


def rows(worlds: Sequence[World], studies: int, jobs: int) -> Iterable[str]:
    """Yield a table row for each world and question, computed in `jobs` processes."""
    with multiprocessing.Pool(jobs) as pool:
        for lines in pool.imap(partial(world_rows, studies=studies), worlds):
            yield from lines


def world_rows(world: World, studies: int) -> list[str]:
    """Return the table rows of a world, one per question."""
    tallies, ends = measure(world, studies)
    compared, found = "–", []
    if world.name in GRIDDED:
        pairs = [(e.answers[0].answer, grid_answer(world, k)) for k, e in enumerate(ends)]
        both = [one == other for one, other in pairs if one in CLAIMS and other in CLAIMS]
        share = sum(other in CLAIMS for _, other in pairs) / len(pairs)
        compared = f"settles {share:.0%}; same answer in {sum(both)} of {len(both)}"
    for question, tally in tallies.items():
        settled = sum(tally.answers[name] for name in CLAIMS) / studies
        said = ", ".join(f"{name} {100 * count / studies:.3g}" for name, count in tally.answers.most_common())
        median = float(np.median(tally.runs))
        grid = 2 * GRID**2 * SEEDS * len(world.batch_sizes)
        cover = f"{np.mean(tally.covered):.1%}" if tally.covered else "–"
        inside = f" (+ {tally.at_margin / studies:.1%} equivalent)" if tally.at_margin else ""
        found.append(
            f"| {world.name} | {question} | {settled:.1%} | {said} | {tally.false / studies:.1%}{inside} |"
            f" {bound(tally.false, studies):.1%} | {tally.wrong_direction / studies:.1%} | {cover} |"
            f" {median:,.0f} | {grid / median:.1f} | {compared} |"
        )
    return found


HEAD = (
    "| world | question | settled | answers, % | false claims | 95% bound | wrong direction | intervals that hold |"
    " runs, median | × fewer than the grid | the grid |\n| --- | --- | ---: | --- | ---: | ---: | ---: | ---: | ---: |"
    " ---: | --- |"
)


Draw = Callable[[int], tuple[list[float], list[float]]]
"""Returns log T of the given number of fresh runs of two settings, by seed."""


def _drawing(replicate: int, gap: float, shared: float) -> Draw:
    rng = np.random.default_rng([replicate, 3])

    def draw(n: int) -> tuple[list[float], list[float]]:
        common = math.sqrt(shared) * rng.standard_normal(n)
        own = math.sqrt(1 - shared) * rng.standard_normal((2, n))
        a, b = 0.1 * (own + common)
        return (a + gap).tolist(), b.tolist()

    return draw


def _adastop(draw: Draw) -> tuple[bool, int]:
    """Return whether AdaStop claims a difference, and the number of runs it takes."""
    from adastop import MultipleAgentsComparator  # needed only here

    comparator = MultipleAgentsComparator(n=6, K=6, B=2_000, alpha=0.05, seed=0)
    values = {"a": np.empty(0), "b": np.empty(0)}
    while not comparator.is_finished:
        for name, more in zip(values, draw(6), strict=True):
            values[name] = np.append(values[name], more)
        comparator.partial_compare(values, verbose=False)
    return next(iter(comparator.decisions.values())) in ("larger", "smaller"), 2 * len(values["a"])


def _looks(draw: Draw) -> tuple[bool, int]:
    """Return whether the looks of `settle` claim a difference, and the number of runs they take."""
    differences = np.empty(0)
    looks = LOOKS[: LOOKS.index(32) + 1]
    for n in looks:
        one, other = draw(n - len(differences))
        differences = np.append(differences, np.array(one) - np.array(other))
        half = float(t_half_width(differences.std(ddof=1), n, 1 - 0.05 * planned_share(n, looks)))
        if abs(differences.mean()) > half:
            return True, 2 * n
    return False, 2 * looks[-1]


def adastop_rows(studies: int) -> Iterable[str]:
    """Yield table rows of AdaStop and of our looks, for two settings at one batch size whose log T differ by a gap."""
    for gap, shared in ((0.0, 0.0), (0.0, 0.8), (0.05, 0.0), (0.1, 0.0), (0.1, 0.8), (0.2, 0.0)):
        for name, method in (("AdaStop", _adastop), ("looks of `settle`", _looks)):
            results = [method(_drawing(replicate, gap, shared)) for replicate in range(studies)]
            share = float(np.mean([one for one, _ in results]))
            runs = float(np.mean([count for _, count in results]))
            yield f"| {gap:g} | {shared:.0%} | {name} | {share:.1%} | {runs:.0f} |"


def main() -> None:
    """Print the table, and record it on request."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=400)
    parser.add_argument("--only", nargs="*", default=[], help="worlds whose names contain one of these")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--adastop", action="store_true")
    parser.add_argument("--problems", action="store_true")
    parser.add_argument("--record", action="store_true")
    given = parser.parse_args()
    began, lines = time.perf_counter(), []
    for line in _lines(given):
        print(line, flush=True)
        lines.append(line)
    if given.record:
        minutes = (time.perf_counter() - began) / 60
        said = f"`python benchmarks/settle.py --studies {given.studies}`; so many studies a row; {minutes:.0f} minutes."
        RECORD.write_text("\n".join(["# settle", "", said, "", *lines, ""]))


def _lines(given: argparse.Namespace) -> Iterator[str]:
    """Yield the lines of the requested table."""
    if given.problems:
        import settle_problems  # imports torch

        yield settle_problems.HEAD
        yield from settle_problems.rows()
    elif given.adastop:
        yield "| gap of log T | noise shared by seed | method | claims a difference | runs, mean |"
        yield "| ---: | ---: | --- | ---: | ---: |"
        yield from adastop_rows(given.studies)
    else:
        yield HEAD
        chosen = [w for w in WORLDS if not given.only or any(part in w.name for part in given.only)]
        yield from rows(chosen, given.studies, given.jobs)


if __name__ == "__main__":
    main()
