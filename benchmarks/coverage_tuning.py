"""Rate of false verdicts on sensitivity, and coverage of the price of tuning, from studies with a known truth.

    python benchmarks/coverage_tuning.py [--studies 400] [--only looks] [--record]

A run of a sampled setting with a seed works if a normal variable lies below a quantile, so the share that works is
known exactly. The variable is a sum of a part of the setting for all batch sizes, a part that the two optimizers share
through their common quantile, a part of the seed for all of its draws, and noise.

Goals: 95% intervals contain the truth in 92% to 97.5% of the studies or are refused, false claims in at most 5% (the
one-sided 95% bound at most 7%); power is reported with them.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import betaincinv, ndtri, stdtrit

from sensitivity.analysis.betting import wealth
from sensitivity.analysis.draws import Draws, compute_draws
from sensitivity.analysis.estimates import Estimate, Floats
from sensitivity.analysis.price import compute_prices
from sensitivity.analysis.ratios import Moments, log_ratio_jackknife
from sensitivity.analysis.verdict_sensitivity import compute_sensitivity_verdict
from sensitivity.optimizers.kinds.kfac import KFACArm
from sensitivity.optimizers.kinds.sgd import SGDArm
from sensitivity.study.designs import configurations

RECORD = Path(__file__).parent / "results" / "coverage_tuning.md"
MARGIN, BATCHES = 1.5, 3
_CHECKED = 10
"""Studies of each row whose answer is compared with the package's own verdict."""
_POOL = 6_000
"""Seeds of the design from which studies are sampled."""
_SHARES = 400
"""Studies for which the interval of the share that works is checked."""
Texts = NDArray[np.str_]
COVER, CLAIM, POWER = "92–97.5%", "≤ 5%", "–"


@dataclass(frozen=True)
class Measured:
    """A share of studies; NaN for studies that were refused."""

    what: str
    of: str
    hits: Floats
    goal: str

    def row(self) -> str:
        """Return a table row."""
        known = self.hits[~np.isnan(self.hits)]
        refused = 1 - len(known) / len(self.hits)
        if not len(known):
            return f"| {self.what} | {self.of} | – | – | {refused:.1%} | {self.goal} |"
        k, n = int(known.sum()), len(known)
        bound = 1.0 if k == n else float(betaincinv(k + 1, n - k, 0.95))
        share = f"{k / n:.1%} ± {2 * math.sqrt(k / n * (1 - k / n) / n):.1%}"
        return f"| {self.what} | {self.of} | {share} | {bound:.1%} | {refused:.1%} | {self.goal} |"


@dataclass(frozen=True)
class World:
    """Simulated runs of two optimizers."""

    name: str
    p: float
    """Success probability of the optimizer that works more often."""
    seeds: int = 48
    samples: tuple[int, int] = (4, 4)
    """Draws per seed, of each optimizer."""
    crossed: bool = False
    """Whether the same configurations are run with every seed."""
    shared: float = 0.3
    """Share of the variance due to the common quantile."""
    of_seed: float = 0.0
    """Share of the variance due to the seed, for all of its draws."""


WORLDS = (
    *(World(f"p = {p:g}, 48 seeds of 4 draws", p) for p in (0.6, 0.24, 0.07, 0.035)),
    World("p = 0.24, 96 seeds of 8 draws", 0.24, seeds=96, samples=(8, 8)),
    World("p = 0.07, 96 seeds of 8 draws", 0.07, seeds=96, samples=(8, 8)),
    World("p = 0.24, 8 seeds of 24 draws", 0.24, seeds=8, samples=(24, 24)),
    World("p = 0.24, 48 seeds, 16 draws against 2", 0.24, samples=(16, 2)),
    World("p = 0.24, a tenth of the variance is the seed's", 0.24, of_seed=0.1),
    World(
        "p = 0.24, 128 configurations crossed with 3 seeds", 0.24, seeds=3, samples=(128, 128), crossed=True, shared=0.0
    ),
)


def successes(world: World, ratio: float, studies: int, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Return the results of each optimizer's draws: [studies, seeds, draws, batches], 1 for a success."""
    drawn = 1 if world.crossed else world.seeds
    common = rng.standard_normal((studies, drawn, max(world.samples), 1))
    seed = rng.standard_normal((studies, world.seeds, 1, 1))
    found = []
    for share, count in zip((world.p, world.p / ratio), world.samples, strict=True):
        fresh = rng.standard_normal((studies, drawn, count, 1))
        own = math.sqrt(world.shared) * common[:, :, :count] + math.sqrt(1 - world.shared) * fresh
        noise = rng.standard_normal((studies, world.seeds, count, BATCHES))
        rest = 1 - world.of_seed
        value = math.sqrt(world.of_seed) * seed + math.sqrt(0.8 * rest) * own + math.sqrt(0.2 * rest) * noise
        found.append((value < ndtri(share)).astype(float))
    return found[0], found[1]


def draws_of(optimizer: str, works: Floats, *, crossed: bool) -> Draws:
    """Return the result of ``compute_draws`` for such runs; `works` is [seeds, draws, batches]."""
    share = works.mean(axis=0) if crossed else works.mean(axis=1)
    cost = np.ones_like(share)
    count = works.shape[0] * works.shape[1]
    return Draws(
        optimizer=optimizer,
        design="drawn",
        prior="a box",
        batch_sizes=(32, 128, 512),
        of="configurations" if crossed else "seeds",
        blocks=tuple(range(len(share))),
        success=share,
        flops=cost,
        seconds=cost,
        count=(count,) * BATCHES,
        reached=tuple(int(n) for n in works.sum(axis=(0, 1))),
        touches=(),
        at_touches=(),
        warnings=(),
        refused=None,
        unjudged=None,
    )


_RUNS = pd.DataFrame(
    {
        "optimizer": ["a", "b"],
        "seed": 0,
        "status": "completed",
        "train_seconds": 1.0,
        "eval_seconds": 0.0,
        "cell_id": ["a", "b"],
    }
)


def _holds(estimate: Estimate, truth: float) -> float:
    if not estimate.known or estimate.interval is None:
        return math.nan
    low, high = estimate.interval
    return float(low <= truth <= high)


def _claims(answers: Texts, *which: str) -> Floats:
    return np.isin(answers, which).astype(float)


def answers_of(a: Floats, b: Floats, *, crossed: bool) -> tuple[Texts, Floats, Floats]:
    """Return the answers of all studies at once, and the intervals of the ratio of shares, from means of blocks.

    The steps are those of ``compute_sensitivity_verdict``; `planned` compares the two.
    """
    moments = Moments.separate(a, b) if crossed else Moments.paired(a, b)
    more, less = moments.p_above(MARGIN), moments.p_below(1 / MARGIN)
    seen = (moments.one > 0) & (moments.other > 0)
    answers = np.full(len(a), "undetermined")
    answers[seen & (np.maximum(1 - more, 1 - less) <= 0.025)] = "equivalent"
    answers[seen & (more <= 0.025)] = "better"
    answers[seen & (less <= 0.025)] = "worse"
    low, high = moments.interval(0.95)
    return answers, np.where(seen, low, np.nan), np.where(seen, high, np.nan)


def planned(studies: int) -> Iterator[Measured]:
    """Yield verdicts at the planned number of seeds."""
    for place, world in enumerate(WORLDS):
        for ratio in (1.0, MARGIN, 2.0, 3.0):
            rng = np.random.default_rng([place, round(10 * ratio)])
            works = successes(world, ratio, studies, rng)
            a, b = (w.mean(axis=(1, 3)) if world.crossed else w.mean(axis=(2, 3)) for w in works)
            costs = [np.exp(0.2 * rng.standard_normal(share.shape)) for share in (a, b)]
            answers, low, high = answers_of(a, b, crossed=world.crossed)
            shares = []
            for study in range(_CHECKED):
                both = [draws_of(n, w[study], crossed=world.crossed) for n, w in zip("ab", works, strict=True)]
                verdict = compute_sensitivity_verdict(_RUNS, both, "a", "b")
                if verdict.answer != answers[study]:
                    raise RuntimeError(f"{world.name}, study {study}: {verdict.answer}, at once {answers[study]}")
                shares.append(_holds(compute_prices(both[:1])[-1].success, world.p))
            of = f"{world.name}, ratio {ratio:g}"
            if ratio == 1.0:
                for study in range(_CHECKED, _SHARES):
                    own = draws_of("a", works[0][study], crossed=world.crossed)
                    shares.append(_holds(compute_prices([own])[-1].success, world.p))
                yield Measured("share that works (interval)", world.name, np.array(shares), COVER)
            held = ((low <= ratio) & (ratio <= high)).astype(float)
            yield Measured("ratio of expected trials (interval)", of, np.where(np.isnan(low), np.nan, held), COVER)
            yield Measured("ratio of expected costs (interval)", of, _costs_hold(a, b, costs, ratio, world), COVER)
            if ratio == 1.0:
                yield Measured("“better” or “worse” of equals", of, _claims(answers, "better", "worse"), CLAIM)
                yield Measured("“equivalent” of equals (power)", of, _claims(answers, "equivalent"), POWER)
            elif ratio == MARGIN:
                yield Measured("“better” or “worse” at the margin", of, _claims(answers, "better", "worse"), CLAIM)
                yield Measured("“equivalent” at the margin", of, _claims(answers, "equivalent"), CLAIM)
            else:
                false = _claims(answers, "worse", "equivalent")
                yield Measured("“worse” or “equivalent” of a better one", of, false, CLAIM)
                yield Measured("“better” of a better one (power)", of, _claims(answers, "better"), POWER)


def _costs_hold(a: Floats, b: Floats, costs: list[Floats], ratio: float, world: World) -> Floats:
    """Return whether the intervals of the ratio of expected costs contain it, computed as in ``price``."""
    if world.crossed:
        halves = [
            log_ratio_jackknife(np.stack(pair, axis=1), np.array([-1.0, 1.0]))
            for pair in zip((a, b), costs, strict=True)
        ]
        value, error = halves[0][0] - halves[1][0], np.hypot(halves[0][1], halves[1][1])
    else:
        value, error = log_ratio_jackknife(np.stack([a, b, *costs], axis=1), np.array([-1.0, 1.0, 1.0, -1.0]))
    half = stdtrit(min(a.shape[1], b.shape[1]) - 1, 0.975) * error
    held = (np.abs(value + math.log(ratio)) <= half).astype(float)
    return np.where(np.isfinite(value), held, np.nan)


def looks(studies: int) -> Iterator[Measured]:
    """Yield results of studies that are looked at after every seed, up to 400, and stop at the first claim."""
    for p in (0.24, 0.07, 0.035):
        for ratio in (1.0, MARGIN, 3.0):
            rng = np.random.default_rng([round(1000 * p), round(10 * ratio)])
            world = World("", p, seeds=400)
            a, b = (works.mean(axis=(2, 3)) for works in successes(world, ratio, studies, rng))
            ever = {
                "better": wealth(a, b, MARGIN, above=True).max(axis=1) >= 40,
                "worse": wealth(a, b, 1 / MARGIN, above=False).max(axis=1) >= 40,
                "equivalent": (wealth(a, b, MARGIN, above=False).max(axis=1) >= 20)
                & (wealth(a, b, 1 / MARGIN, above=True).max(axis=1) >= 20),
            }
            peeked = np.zeros(studies)
            for n in range(8, 401, 8):
                moments = Moments.paired(a[:, :n], b[:, :n])
                claims = (moments.p_above(MARGIN) <= 0.025) | (moments.p_below(1 / MARGIN) <= 0.025)
                peeked = np.maximum(peeked, np.nan_to_num(claims.astype(float)))
            of = f"p = {p:g}, ratio {ratio:g}, a look at every seed up to 400 of 4 draws"
            if ratio == 1.0:
                false = (ever["better"] | ever["worse"]).astype(float)
                yield Measured("“better” or “worse” of equals, bets", of, false, CLAIM)
                yield Measured("“equivalent” of equals, bets (power)", of, ever["equivalent"].astype(float), POWER)
            elif ratio == MARGIN:
                any_claim = (ever["better"] | ever["worse"] | ever["equivalent"]).astype(float)
                yield Measured("any claim at the margin, bets", of, any_claim, CLAIM)
                yield Measured("“better” at the margin, the planned test every 8 seeds", of, peeked, POWER)
            else:
                yield Measured("“better” of a better one, bets (power)", of, ever["better"].astype(float), POWER)


def boxes(studies: int) -> Iterator[Measured]:
    """Yield results for settings sampled by the package's own designs, from boxes of different dimension and width.

    The seeds of a study are sampled from those of one large design, in which each setting either works or doesn't.
    """
    sgd = {"kind": "sgd", "design": "sobol", "samples": 4, "lr": {"log": [1e-4, 1.0]}}
    kfac = {**sgd, "kind": "kfac", "damping": {"log": [1e-4, 1.0]}}
    wide = {**kfac, "damping": {"log": [1e-9, 1e6]}}
    for name, arm, half, truth, goal in (
        ("1.4 × 1.4 of 4 × 4 decades against 1 of 4", kfac, (0.7, 0.7), 0.1225 / 0.25, "worse"),
        ("an inert hyperparameter", kfac, (0.5, math.inf), 1.0, "equivalent"),
        ("an inert hyperparameter of 15 decades", wide, (0.5, math.inf), 1.0, "equivalent"),
    ):
        # With the same design seed, the inert cases would be equal draw by draw.
        one = _works(KFACArm.model_validate(arm), half)
        other = _works(SGDArm.model_validate({**sgd, "design_seed": 0 if goal == "worse" else 1}), (0.5,))
        for seeds in (48, 192):
            rng = np.random.default_rng(seeds)
            chosen = np.argsort(rng.random((studies, len(one))), axis=1)[:, :seeds]
            answers, low, high = answers_of(one[chosen], other[chosen], crossed=False)
            of = f"{name}, {seeds} seeds of 4 draws"
            others = {"better", "worse", "equivalent"} - {goal}
            held = ((low <= truth) & (truth <= high)).astype(float)
            yield Measured("ratio of expected trials (interval)", of, held, COVER)
            yield Measured("claims that are false", of, _claims(answers, *others), CLAIM)
            yield Measured(f"“{goal}” (power)", of, _claims(answers, goal), POWER)


def _works(arm: KFACArm | SGDArm, half: tuple[float, ...]) -> Floats:
    """Return the share of each seed's draws within `half` decades from the middle of their box: [seeds]."""
    varying = [name for name, axis in arm.axes().items() if axis.varies]
    middle = [np.log10(arm.axes()[name].bounds()).mean() for name in varying]
    found = []
    for seed in range(_POOL):
        at = np.log10([[dict(setting)[name] for name in varying] for setting in configurations(arm, seed)])
        found.append((np.abs(at - middle) < half).all(axis=1).mean())
    return np.array(found)


def _runs(rows: list[tuple[str, int, bool, float, float]]) -> tuple[pd.DataFrame, pd.DataFrame]:
    runs = pd.DataFrame(rows, columns=["optimizer", "seed", "works", "param.lr", "param.damping"])
    names = [f"{k}" for k in range(len(runs))]
    runs = runs.assign(
        trial_id=names, cell_id=names, batch_size=32, status="completed", train_seconds=1.0, eval_seconds=0.0, flops=1.0
    )
    return runs, runs.assign(outcome=np.where(runs["works"], "reached", "censored"))


def undrawn(studies: int) -> Iterator[Measured]:
    """Yield results where settings were not sampled, or not all run to the end: nothing may be claimed."""
    for name, points, designs, stopped in (
        ("grids of 4 and 8 points over the same region", (4, 8), ("grid", "grid"), False),
        ("a search (TPE) against a grid", (8, 8), ("tpe", "grid"), False),
        ("draws, one arm pruned", (8, 8), ("random", "random"), True),
    ):
        verdicts = []
        for study in range(studies):
            rng = np.random.default_rng([7, study])
            rows = []
            for arm, count, design in zip("ab", points, designs, strict=True):
                for seed in range(12):
                    lrs = np.linspace(-2, 2, count) if design == "grid" else rng.uniform(-2, 2, count)
                    rows += [(arm, seed, abs(x - 0.3) < 1 + 0.05 * rng.standard_normal(), 10**x, 1.0) for x in lrs]
            runs, times = _runs(rows)
            if stopped:
                runs.loc[(runs["optimizer"] == "b") & ~runs["works"], "status"] = "stopped"
            named = dict(zip("ab", designs, strict=True))
            verdicts.append(compute_sensitivity_verdict(runs, compute_draws(runs, times, designs=named), "a", "b"))
        hits = np.array([1.0 if v.answer != "undetermined" else math.nan for v in verdicts])
        yield Measured("any claim", name, hits, "refused")


NOTES = """\
* The test is Student's t over seeds (Fieller's for a ratio of means); each seed with all its draws, for both optimizers
  and all batch sizes, is one observation, so no model of their dependence is needed.
* A claim needs the interval beyond the margin of 1.5, so with 192 draws per batch size a true ratio of 2 is claimed in
  most studies only if most settings work.
* Shares that work are checked for the first 400 studies of a row. If shares are skewed (16 draws against 2 per seed),
  "better" is claimed at the margin in 5.4% of studies; its 95% bound is below 7%. "Equivalent" needs the whole interval
  within the margin, and is claimed at the margin in fewer studies than "better".
* Bets are valid at any stop, for any shares. They need several times the draws of the planned test if few settings
  work. The planned test, repeated at every eighth seed until it claims, does not keep its level.
* For grids, searches and pruned runs nothing is claimed."""

SIMULATIONS = {"planned": planned, "looks": looks, "boxes": boxes, "undrawn": undrawn}


def main() -> None:
    """Simulate, print the table, and record it on request."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=400)
    parser.add_argument("--only", choices=tuple(SIMULATIONS), nargs="+", default=tuple(SIMULATIONS))
    parser.add_argument("--record", action="store_true")
    arguments = parser.parse_args()
    start = time.perf_counter()
    lines = [
        "| what | of studies with | share of studies | 95% bound | refused | goal |",
        "| --- | --- | ---: | ---: | ---: | ---: |",
    ]
    for name in arguments.only:
        for measured in SIMULATIONS[name](arguments.studies):
            lines.append(measured.row())
            print(lines[-1], flush=True)
    took = f"{arguments.studies:,} studies a row; {(time.perf_counter() - start) / 60:.0f} minutes"
    about = f"`python benchmarks/coverage_tuning.py --studies {arguments.studies}`; {took}. ± is two standard errors."
    if arguments.record:
        RECORD.write_text("\n".join(["# coverage_tuning", "", about, "", NOTES, "", *lines, ""]), encoding="utf-8")


if __name__ == "__main__":
    main()
