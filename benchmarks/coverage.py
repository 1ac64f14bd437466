"""How often intervals hold what they are intervals of, and how often claims are false: studies with a known truth.

    python benchmarks/coverage.py [--studies 2000] [--only importance] [--record]

Every study is made up of a truth and noise, goes through the package's own analysis, and counts as a hit where the
interval holds the truth. Goal: 92% to 97.5% of the studies for intervals of 95%, false claims in at most 5%. With
2,000 studies a share of 95% is known to +-1 point, one of 5% too (two standard errors).
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from sensitivity.analysis.critical import compute_critical_batch_size
from sensitivity.analysis.estimates import Estimate, Floats
from sensitivity.analysis.importance import Importance, compute_importance
from sensitivity.analysis.nested import nested_interval, resample_winners
from sensitivity.analysis.paired import fewest_seeds
from sensitivity.analysis.rates import compute_rates
from sensitivity.analysis.scaling import ScalingCurve
from sensitivity.analysis.success import newcombe_interval
from sensitivity.analysis.tuning import compute_tuning
from sensitivity.analysis.verdict_scaling import compare_sizes, size_ratio
from sensitivity.analysis.winners import SeedTable, Winner, find_winner

RECORD = Path(__file__).parent / "results" / "coverage.md"
_MARGIN = math.log(1.25)
"""The default of a study file for the ratio of critical batch sizes."""


@dataclass(frozen=True)
class Measured:
    """A share of studies; NaN hits are studies without an interval."""

    what: str
    of: str
    hits: Floats
    goal: str

    def row(self) -> str:
        """Return the row of a table."""
        known = self.hits[~np.isnan(self.hits)]
        without = 1 - len(known) / len(self.hits)
        found = "–"
        if len(known):
            share = float(known.mean())
            found = f"{share:.1%} ± {2 * math.sqrt(share * (1 - share) / len(known)):.1%}"
        return f"| {self.what} | {self.of} | {found} | {without:.1%} | {self.goal} |"


COVER, CLAIM = "92–97.5%", "≤ 5%"


def _holds(estimate: Estimate, truth: float) -> float:
    if estimate.interval is None:
        return math.nan
    low, high = estimate.interval
    return float(low <= truth <= high)


# Critical batch sizes, their ratio, and the claims on it.


@dataclass(frozen=True)
class Ladder:
    """Batch sizes, and at each the configurations `spread` apart in log S, of which the first is the best."""

    name: str
    batch_sizes: Floats
    size: float
    cells: Sequence[int]
    spread: float
    noise: float


_NINE: Floats = 2.0 ** np.arange(6, 15, dtype=np.float64)
_THREE: Floats = np.array([32.0, 128.0, 512.0])
_FALLING = [16, 11, 8, 6, 4, 3, 2, 1, 1]
LADDERS = (
    Ladder("9 batch sizes, one cell", _NINE, 2000.0, [1] * 9, 0.0, 0.1),
    Ladder("9 batch sizes, ties from 16 to 1", _NINE, 2000.0, _FALLING, 0.0, 0.1),
    Ladder("9 batch sizes, 16 near-ties 5% apart", _NINE, 2000.0, [16] * 9, 0.05, 0.1),
    Ladder("9 batch sizes, 16 ties", _NINE, 2000.0, [16] * 9, 0.0, 0.06),
    Ladder("3 batch sizes, 16 near-ties 2% apart", _THREE, 100.0, [16] * 3, 0.02, 0.03),
)


def _arm(name: str, ladder: Ladder, size: float, seeds: int, rng: np.random.Generator) -> ScalingCurve:
    """Return the curve of an optimizer, as ``scaling.compute_scaling`` makes it of a study that reaches its target."""
    tables, winners = [], []
    for batch, cells in zip(ladder.batch_sizes, ladder.cells, strict=True):
        level = math.log(100 * (1 + size / batch)) + ladder.spread * np.arange(cells)
        times = np.exp(level + ladder.noise * rng.standard_normal((seeds, cells)))
        names = tuple(str(k) for k in range(cells))
        reached = np.ones(times.shape, dtype=bool)
        tables.append(SeedTable(name, int(batch), tuple(range(seeds)), names, times, times, reached))
        winners.append(find_winner(tables[-1]))
    logs = np.stack([np.log(winner.time) for winner in winners], axis=1)
    resampled = resample_winners(tables)
    first: Winner = winners[0]
    critical = compute_critical_batch_size(
        logs,
        ladder.batch_sizes,
        np.zeros(len(winners), dtype=bool),
        widen=first.widen,
        nested=nested_interval(tables, resampled),
    )
    return ScalingCurve(
        optimizer=name,
        unit="steps",
        points=(),
        critical=critical,
        seeds=first.seeds,
        log_times=logs,
        batch_sizes=tuple(int(batch) for batch in ladder.batch_sizes),
        widen=first.widen,
        widen_equivalence=first.widen_equivalence,
        resampled=resampled,
        study_seeds=tables[0].seeds,
        warnings=(),
    )


def scaling(studies: int) -> Iterator[Measured]:
    """Yield coverage of Bc and of the ratio of two, and false claims on it."""
    for ladder in LADDERS:
        for seeds in (3, 5, 11, 20):
            of = f"{ladder.name}, {100 * ladder.noise:.0f}% noise, {seeds} seeds"
            rng = np.random.default_rng(seeds)
            found: dict[str, list[float]] = {}
            for ratio in (1.25, 0.8, 1.0, 3.0):
                for _ in range(studies // 2):
                    pair = [ladder.size * ratio**0.5, ladder.size * ratio**-0.5]
                    one, other = (_arm(name, ladder, s, seeds, rng) for name, s in zip("ab", pair, strict=True))
                    compared = compare_sizes(one, other, _MARGIN)
                    if compared is None or one.critical is None:
                        raise ValueError("every batch size is reached")
                    kind = {1.0: "equal", 3.0: "triple"}.get(ratio, "margin")
                    found.setdefault(f"{kind} equivalent", []).append(compared.answer == "equivalent")
                    found.setdefault(f"{kind} told", []).append(compared.answer in ("better", "worse"))
                    found.setdefault("ratio", []).append(_holds(size_ratio(one, other), ratio))
                    found.setdefault("size", []).append(_holds(one.critical.size, pair[0]))
            hits = {name: np.array(values, dtype=float) for name, values in found.items()}
            yield Measured("critical batch size", of, hits["size"], COVER)
            yield Measured("ratio of critical batch sizes", of, hits["ratio"], COVER)
            yield Measured("“equivalent” of sizes at the margin", of, hits["margin equivalent"], CLAIM)
            yield Measured("“equivalent” of equal sizes (power)", of, hits["equal equivalent"], "–")
            if len(one.seeds) >= fewest_seeds():
                yield Measured("“better” or “worse” of equal sizes", of, hits["equal told"], CLAIM)
                yield Measured("“better” or “worse” of threefold sizes (power)", of, hits["triple told"], "–")


# Success rates.


def differences(studies: int) -> Iterator[Measured]:
    """Yield coverage of the difference of success rates between draws, each of several seeds."""
    for draws in (10, 30, 100):
        for seeds in (1, 3):
            for one, other in ((0.5, 0.2), (0.8, 0.8), (0.1, 0.05)):
                rng = np.random.default_rng(draws)
                rates = []
                for true in (one, other):
                    chance = rng.beta(0.6 * true, 0.6 * (1 - true), (studies, draws, 1))  # most succeed always or never
                    met = rng.random((studies, draws, seeds)) < chance
                    cells, numbers = np.repeat(np.arange(draws), seeds), np.tile(np.arange(seeds), draws)
                    runs = pd.DataFrame({"cell_id": cells, "seed": numbers, "status": "completed"})
                    rates.append(compute_rates(runs, met.reshape(studies, -1).T, drawn=True))
                low, high = newcombe_interval(*rates)
                hits = ((low <= one - other) & (one - other <= high)).astype(float)
                of = f"{one:.0%} less {other:.0%}, {draws} draws of {seeds} seed{'s' * (seeds > 1)}"
                yield Measured("difference of success rates (Newcombe)", of, hits, COVER)


# Scores over configurations: a study a batch size, which analyses treat one at a time.


def _tables(scores: Floats, settings: Mapping[str, Floats]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return runs and curves of `scores` [studies, seeds, configurations]."""
    studies, seeds, cells = (grid.ravel() for grid in np.indices(scores.shape))
    trial = np.arange(scores.size).astype(str)
    runs = pd.DataFrame(
        {
            "trial_id": trial,
            "cell_id": [f"{study}-{cell}" for study, cell in zip(studies, cells, strict=True)],
            "optimizer": "a",
            "batch_size": studies + 1,
            "seed": seeds,
            **{f"param.{name}": values[cells] for name, values in settings.items()},
            "status": "completed",
            "train_loss": scores.ravel(),
            "initial_train_loss": 10.0,
        }
    )
    return runs, pd.DataFrame({"trial_id": trial[:0], "step": [], "train_loss": []})


_SURFACES: dict[str, tuple[Callable[[Floats, Floats], Floats], dict[tuple[str, ...], float]]] = {
    # Of u, v ~ U(-1, 1), where u^2 has the variance 4/45 and u 1/3. The cliff's were summed on 4,000 x 4,000 points.
    "(u - v)²": (lambda u, v: (u - v) ** 2, {("lr",): 1 / 7, ("damping",): 1 / 7, ("lr", "damping"): 5 / 7}),
    "u² + v / 4": (
        lambda u, v: u**2 + v / 4,
        {("lr",): (4 / 45) / (4 / 45 + 1 / 48), ("damping",): (1 / 48) / (4 / 45 + 1 / 48), ("lr", "damping"): 0.0},
    ),
    "a valley and a cliff": (
        lambda u, v: np.where(u - v > 0.8, 1.0, np.minimum(0.3 * (u + v) ** 2, 1.0)),
        {("lr",): 0.3886, ("damping",): 0.3886, ("lr", "damping"): 0.2228},
    ),
}


def importance(studies: int) -> Iterator[Measured]:
    """Yield coverage of the shares of variance, of grids by the grid's own truth and of draws by the box's."""
    for name, (surface, shares) in _SURFACES.items():
        for noise in (0.02, 0.1):
            for seeds in (3, 5, 10):
                axis = np.linspace(-1, 1, 6)
                u, v = (grid.ravel() for grid in np.meshgrid(axis, axis, indexing="ij"))
                true = surface(u, v)
                rng = np.random.default_rng(seeds)
                # A seed shifts all cells, as an initialisation does, and each run besides.
                scatter = noise * (
                    rng.standard_normal((studies, seeds, 1)) + rng.standard_normal((studies, seeds, len(u)))
                )
                exact = _found(true[None, None], u, v, "grid")[0]
                found = _found(true + scatter, u, v, "grid")
                of = f"{name} on 6 × 6 cells, noise {noise / true.std():.0%} of the scatter, {seeds} seeds"
                for names in shares:
                    truth = exact.share_of(*names).value
                    hits = np.array([_holds(one.share_of(*names), truth) for one in found])
                    yield Measured(f"importance: {' × '.join(names)}", of, hits, COVER)
        for draws in (64, 256):
            rng = np.random.default_rng(draws)
            hits_of: dict[tuple[str, ...], list[float]] = {names: [] for names in shares}
            for _ in range(max(studies // 20, 1)):  # each takes forests
                u, v = rng.uniform(-1, 1, (2, draws))
                scatter = 0.05 * rng.standard_normal((1, 3, draws))
                (one,) = _found(surface(u, v) + scatter, u, v, "random")
                for names, truth in shares.items():
                    hits_of[names].append(_holds(one.share_of(*names), truth))
            for names, hit in hits_of.items():
                yield Measured(
                    f"importance (forest): {' × '.join(names)}",
                    f"{name}, {draws} draws of 3 seeds",
                    np.array(hit),
                    COVER,
                )


def _found(scores: Floats, u: Floats, v: Floats, design: str) -> tuple[Importance, ...]:
    runs, curves = _tables(scores + 1.0, {"lr": 10.0**u, "damping": 10.0**v})
    return compute_importance(runs, curves, "train_loss", designs={"a": design})


def tuning(studies: int) -> Iterator[Measured]:
    """Yield coverage of what tuning gains over a default, by the truly best configuration."""
    lr = np.geomspace(0.001, 1.0, 16)
    for name, risk in (
        ("16 ties", np.zeros(16)),
        ("one far ahead", np.where(np.arange(16) == 7, 0.0, 0.5)),
        ("a bowl, near-ties", 0.002 * (np.arange(16) - 7.0) ** 2),
    ):
        for seeds in (3, 5, 10, 20):
            rng = np.random.default_rng(seeds)
            scores = 1.0 + risk + 0.05 * rng.standard_normal((studies, seeds, 16))
            runs, curves = _tables(scores, {"lr": lr})
            (found,) = compute_tuning(
                runs, curves, "train_loss", defaults={"a": {"lr": float(lr[0])}}, designs={"a": "grid"}
            )
            truth = float(risk[0] - risk.min())
            hits = np.array([_holds(one.gain, truth) for one in found.tunability])
            yield Measured("gain of tuning", f"{name}, {seeds} seeds", hits, COVER)


NOTES = """\
What the numbers changed, and what they leave open:

* Shares of variance used to include the seeds' noise: Student's t over seeds held a share of .81 in 5% of studies of
  ten seeds with 23% noise, and a pair of 0 in none. Of draws, the random forest's held a share in 0% to 95%. Now noise
  is taken off, intervals are the jackknife's, and forests are extremely randomised and grown to single draws.
* "Equivalent" was claimed falsely in up to 8% of studies: with two or three seeds because they choose each other's
  winners, with more because the seeds that judge a winner don't see that it might have been another. Now the standard
  error is widened by 1.7 for the former, and winners chosen anew (nested bootstrap) have to stay within the margin for
  the latter.
* From ten seeds on the interval of a critical batch size is widened to that of winners chosen anew, and covers more
  than it claims. That of a ratio of two is not, and covers 91% or more.
* A forest sees a cliff as a slope, and takes part of a pair for main effects. Jackknife intervals of pairs held those
  of (u - v)² in all studies, of u² + v / 4 in 78% and of a cliff in none: they can't be had, and the report gives
  none."""

SIMULATIONS = {"scaling": scaling, "differences": differences, "importance": importance, "tuning": tuning}


def main() -> None:
    """Simulate, print the table, and record it if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=2000)
    parser.add_argument("--only", choices=tuple(SIMULATIONS), nargs="+", default=tuple(SIMULATIONS))
    parser.add_argument("--record", action="store_true")
    arguments = parser.parse_args()
    start = time.perf_counter()
    lines = [
        "| what | of studies with | share of studies | without an interval | goal |",
        "| --- | --- | ---: | ---: | ---: |",
    ]
    for name in arguments.only:
        for measured in SIMULATIONS[name](arguments.studies):
            lines.append(measured.row())
            print(lines[-1], flush=True)
    took = f"{arguments.studies:,} studies, of forests a twentieth; {(time.perf_counter() - start) / 60:.0f} minutes"
    about = f"`python benchmarks/coverage.py --studies {arguments.studies}`; {took}. ± is two standard errors."
    if arguments.record:
        RECORD.write_text("\n".join(["# coverage", "", about, "", NOTES, "", *lines, ""]), encoding="utf-8")


if __name__ == "__main__":
    main()
