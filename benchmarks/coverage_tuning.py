"""How often verdicts on sensitivity are false, and intervals of the price of tuning cover: studies with a known truth.

    python benchmarks/coverage_tuning.py [--studies 400] [--only looks] [--record]

A draw of a setting and a seed works where a normal variable lies below a quantile, so the share that works is exact.
The variable is a sum of what the setting decides for all batch sizes, what the two optimizers share by their common
quantile, what the seed decides for all of its draws, and noise. Every study goes through the package's own verdict.
Goals: intervals of 95% hold the truth in 92% to 97.5% of the studies or are refused, false claims in at most 5% (the
one-sided 95% bound at most 7%); power is shown beside them.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.special import betaincinv, ndtri

from sensitivity.analysis.betting import wealth
from sensitivity.analysis.draws import Draws, compute_draws
from sensitivity.analysis.estimates import Estimate, Floats
from sensitivity.analysis.price import compute_price_ratios, compute_prices
from sensitivity.analysis.ratios import Moments
from sensitivity.analysis.verdict import Verdict
from sensitivity.analysis.verdict_sensitivity import compute_sensitivity_verdict
from sensitivity.study.arms import KFACArm, SGDArm
from sensitivity.study.designs import configurations

RECORD = Path(__file__).parent / "results" / "coverage_tuning.md"
MARGIN, BATCHES = 1.5, 3
COVER, CLAIM, POWER = "92–97.5%", "≤ 5%", "–"


@dataclass(frozen=True)
class Measured:
    """A share of studies; NaN are studies that were refused."""

    what: str
    of: str
    hits: Floats
    goal: str

    def row(self) -> str:
        """Return the row of a table."""
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
    """Draws of two optimizers."""

    name: str
    p: float
    """Share that works of the optimizer that works more often."""
    seeds: int = 48
    samples: tuple[int, int] = (4, 4)
    """A seed, of each optimizer."""
    crossed: bool = False
    """Whether the same configurations run with every seed."""
    shared: float = 0.3
    """Part of the variance that the common quantile makes."""
    of_seed: float = 0.0
    """Part of the variance that a seed decides for all of its draws."""


WORLDS = (
    *(World(f"p = {p:g}, 48 seeds of 4 draws", p) for p in (0.6, 0.24, 0.07, 0.035)),
    World("p = 0.24, 96 seeds of 8 draws", 0.24, seeds=96, samples=(8, 8)),
    World("p = 0.07, 96 seeds of 8 draws", 0.07, seeds=96, samples=(8, 8)),
    World("p = 0.24, 8 seeds of 24 draws", 0.24, seeds=8, samples=(24, 24)),
    World("p = 0.24, 48 seeds, 16 draws against 2", 0.24, samples=(16, 2)),
    World("p = 0.24, a tenth of the variance is the seed's", 0.24, of_seed=0.1),
    World("p = 0.24, 128 configurations crossed with 3 seeds", 0.24, seeds=3, samples=(128, 128), crossed=True),
)


def successes(world: World, p: tuple[float, float], rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Return what each optimizer's draws come to in one study: [seeds, draws, batches], 1 where they work."""
    most = max(world.samples)
    common = rng.standard_normal((1 if world.crossed else world.seeds, most, 1))
    seed = rng.standard_normal((world.seeds, 1, 1))
    found = []
    for share, count in zip(p, world.samples, strict=True):
        shape = (1 if world.crossed else world.seeds, count, 1)
        own = math.sqrt(world.shared) * common[:, :count] + math.sqrt(1 - world.shared) * rng.standard_normal(shape)
        noise = rng.standard_normal((world.seeds, count, BATCHES))
        rest = 1 - world.of_seed
        value = math.sqrt(world.of_seed) * seed + math.sqrt(0.8 * rest) * own + math.sqrt(0.2 * rest) * noise
        found.append((value < ndtri(share)).astype(float))
    return found[0], found[1]


def draws_of(optimizer: str, works: Floats, rng: np.random.Generator, *, crossed: bool) -> Draws:
    """Return what ``compute_draws`` makes of such runs; `works` is [seeds, draws, batches]. Costs vary by a fifth."""
    share = works.mean(axis=0) if crossed else works.mean(axis=1)
    cost = np.exp(0.2 * rng.standard_normal(share.shape))
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
        warnings=(),
        refused=None,
        unjudged=None,
    )


_RUNS = pd.DataFrame(
    {
        "optimizer": ["a", "b"],
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


def _claims(verdicts: list[Verdict], *answers: str) -> Floats:
    return np.array([float(verdict.answer in answers) for verdict in verdicts])


def planned(studies: int) -> Iterator[Measured]:
    """Verdicts at the number of seeds that was planned."""
    for place, world in enumerate(WORLDS):
        for ratio in (1.0, MARGIN, 2.0, 3.0):
            rng = np.random.default_rng([place, round(10 * ratio)])
            verdicts, p_holds, trials, costs = [], [], [], []
            for _ in range(studies):
                works = successes(world, (world.p, world.p / ratio), rng)
                both = [draws_of(n, w, rng, crossed=world.crossed) for n, w in zip("ab", works, strict=True)]
                verdicts.append(compute_sensitivity_verdict(_RUNS, both, "a", "b"))
                last = compute_price_ratios(both[0], both[1])[-1]
                trials.append(_holds(last.trials, 1 / ratio))
                costs.append(_holds(last.seconds, 1 / ratio))
                p_holds.append(_holds(compute_prices(both)[BATCHES].success, world.p))
            of = f"{world.name}, ratio {ratio:g}"
            if ratio == 1.0:
                yield Measured("share that works (interval)", world.name, np.array(p_holds), COVER)
            yield Measured("ratio of expected trials (interval)", of, np.array(trials), COVER)
            yield Measured("ratio of expected costs (interval)", of, np.array(costs), COVER)
            if ratio == 1.0:
                yield Measured("“better” or “worse” of equals", of, _claims(verdicts, "better", "worse"), CLAIM)
                yield Measured("“equivalent” of equals (power)", of, _claims(verdicts, "equivalent"), POWER)
            elif ratio == MARGIN:
                yield Measured("“better” or “worse” at the margin", of, _claims(verdicts, "better", "worse"), CLAIM)
                yield Measured("“equivalent” at the margin", of, _claims(verdicts, "equivalent"), CLAIM)
            else:
                yield Measured(
                    "“worse” or “equivalent” of a better one", of, _claims(verdicts, "worse", "equivalent"), CLAIM
                )
                yield Measured("“better” of a better one (power)", of, _claims(verdicts, "better"), POWER)


def looks(studies: int) -> Iterator[Measured]:
    """Studies that are looked at after every seed, up to 400, and stop as soon as something is claimed."""
    for p in (0.24, 0.07, 0.035):
        for ratio in (1.0, MARGIN, 3.0):
            rng = np.random.default_rng([round(1000 * p), round(10 * ratio)])
            world = World("", p, seeds=400)
            both = [successes(world, (p, p / ratio), rng) for _ in range(studies)]
            a, b = (np.stack([works[k].mean(axis=(1, 2)) for works in both]) for k in (0, 1))
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
    """Draw settings by the package's own designs, from boxes of different dimension and width."""
    sgd = {"kind": "sgd", "design": "sobol", "samples": 4, "lr": {"log": [1e-4, 1.0]}}
    kfac = {**sgd, "kind": "kfac", "damping": {"log": [1e-4, 1.0]}}
    wide = {**kfac, "damping": {"log": [1e-9, 1e6]}}
    square = (0.7, 0.7)
    for name, arm, half, truth, goal in (
        ("1.4 × 1.4 of 4 × 4 decades against 1 of 4", kfac, square, 0.25 / 0.1225, "worse"),
        ("an inert hyperparameter", kfac, (0.5, math.inf), 1.0, "equivalent"),
        ("an inert hyperparameter of 15 decades", wide, (0.5, math.inf), 1.0, "equivalent"),
    ):
        for seeds in (48, 192):
            verdicts, trials = [], []
            for study in range(studies):
                one = KFACArm.model_validate({**arm, "design_seed": study})
                other = SGDArm.model_validate({**sgd, "design_seed": study + (10**6 if truth == 1.0 else 0)})
                runs, times = _tables({"a": (one, half), "b": (other, (0.5,))}, seeds)
                both = compute_draws(runs, times, designs={"a": "sobol", "b": "sobol"})
                verdicts.append(compute_sensitivity_verdict(runs, both, "a", "b"))
                trials.append(_holds(verdicts[-1].effect, truth))
            of = f"{name}, {seeds} seeds of 4 draws"
            others = {"better", "worse", "equivalent"} - {goal}
            yield Measured("ratio of expected trials (interval)", of, np.array(trials), COVER)
            yield Measured("claims that are false", of, _claims(verdicts, *others), CLAIM)
            yield Measured(f"“{goal}” (power)", of, _claims(verdicts, goal), POWER)


def _tables(
    arms: Mapping[str, tuple[KFACArm | SGDArm, tuple[float, ...]]], seeds: int
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return runs and times of settings that work within so many decades of the middle of their box."""
    rows = []
    for name, (arm, half) in arms.items():
        varying = [parameter for parameter, axis in arm.axes().items() if axis.varies]
        middle = {parameter: np.log10(arm.axes()[parameter].bounds()).mean() for parameter in varying}
        for seed in range(seeds):
            for setting in configurations(arm, seed):
                at = dict(setting)
                away = [abs(math.log10(at[parameter]) - middle[parameter]) for parameter in varying]
                works = all(a < h for a, h in zip(away, half, strict=True))
                rows.append((name, seed, works, at["lr"], at.get("damping", math.nan)))
    return _runs(rows)


def _runs(rows: list[tuple[str, int, bool, float, float]]) -> tuple[pd.DataFrame, pd.DataFrame]:
    runs = pd.DataFrame(rows, columns=["optimizer", "seed", "works", "param.lr", "param.damping"])
    names = [f"{k}" for k in range(len(runs))]
    runs = runs.assign(
        trial_id=names, cell_id=names, batch_size=32, status="completed", train_seconds=1.0, eval_seconds=0.0, flops=1.0
    )
    return runs, runs.assign(outcome=np.where(runs["works"], "reached", "censored"))


def undrawn(studies: int) -> Iterator[Measured]:
    """Worlds whose settings were not drawn, or not all of them run to the end: nothing may be claimed."""
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
* The test is Student's t over seeds (Fieller's, of a ratio of means); each seed with all that it draws, for both
  optimizers and all batch sizes, is one observation, so whatever they share needs no model.
* A claim needs the interval beyond the margin of 1.5, so a true ratio of 2 is rarely claimed from 192 draws a batch
  size. The direction is told far more often.
* Bets hold at any stop, whatever the shares. They need several times the draws of the planned test where few settings
  work. The planned test, repeated at every eighth seed until it claims, does not hold its level.
* Of grids, searches and pruned runs nothing is claimed, whatever they show."""

SIMULATIONS = {"planned": planned, "looks": looks, "boxes": boxes, "undrawn": undrawn}


def main() -> None:
    """Simulate, print the table, and record it if asked to."""
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
