"""Coverage of intervals and rate of false claims, from simulated studies with a known truth.

    python benchmarks/coverage.py [--studies 2000] [--only importance] [--processes 2] [--record]

Every study is simulated from a truth with noise and analysed by the package itself; it counts as a hit if the interval
contains the truth. Goal: hits in 92% to 97.5% of the studies for 95% intervals, false claims in at most 5%. With 2,000
studies, shares of 95% and of 5% are known to +-1 point (two standard errors).
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from scaling_worlds import MARGIN, POWERED, WORLDS, simulate

from sensitivity.analysis.estimates import Estimate, Floats
from sensitivity.analysis.importance import Importance, compute_importance
from sensitivity.analysis.rates import compute_rates
from sensitivity.analysis.success import newcombe_interval
from sensitivity.analysis.tuning import compute_tuning

RECORD = Path(__file__).parent / "results" / "coverage.md"


@dataclass(frozen=True)
class Measured:
    """A share of studies; hits are NaN for studies without an interval."""

    what: str
    of: str
    hits: Floats
    goal: str

    def row(self) -> str:
        """Return a table row."""
        known = self.hits[~np.isnan(self.hits)]
        without = 1 - len(known) / len(self.hits)
        found = "–"
        if len(known):
            share = float(known.mean())
            found = f"{share:.1%} ± {2 * math.sqrt(share * (1 - share) / len(known)):.1%}"
        return f"| {self.what} | {self.of} | {found} | {without:.1%} | {self.goal} |"


COVER, CLAIM, POWER = "92–97.5%", "≤ 5%", "≥ 80%"


def _holds(estimate: Estimate, truth: float) -> float:
    if estimate.interval is None:
        return math.nan
    low, high = estimate.interval
    return float(low <= truth <= high)


# Critical batch sizes, their ratio, and the claims on it.


def scaling(studies: int, processes: int) -> Iterator[Measured]:
    """Yield, for each world, the coverage of the ratio of critical batch sizes, false claims, and power."""
    with ProcessPoolExecutor(processes) as pool:
        for found in pool.map(partial(simulate, studies=studies), WORLDS):
            world = found.world
            yield Measured("ratio of critical batch sizes", world.name, found.covered, COVER)
            yield Measured("claims that are false", world.name, found.false, CLAIM)
            true = "better" if world.ratio > 1.5 else "worse" if world.ratio < 0.7 else "equivalent"
            if abs(math.log(world.ratio)) < 0.99 * math.log(MARGIN) or true != "equivalent":
                goal = POWER if world in POWERED else "–"
                yield Measured(f"“{true}” (power)", world.name, found.hits(true), goal)


# Success rates.


def differences(studies: int, processes: int) -> Iterator[Measured]:
    """Yield the coverage of the difference of success rates between samples, each run with several seeds."""
    for draws in (10, 30, 100):
        for seeds in (1, 3):
            for one, other in ((0.5, 0.2), (0.8, 0.8), (0.1, 0.05)):
                rng = np.random.default_rng(draws)
                rates = []
                for true in (one, other):
                    chance = rng.beta(0.6 * true, 0.6 * (1 - true), (studies, draws, 1))  # mostly 0 or 1
                    met = rng.random((studies, draws, seeds)) < chance
                    cells, numbers = np.repeat(np.arange(draws), seeds), np.tile(np.arange(seeds), draws)
                    runs = pd.DataFrame({"cell_id": cells, "seed": numbers, "status": "completed"})
                    rates.append(compute_rates(runs, met.reshape(studies, -1).T, drawn=True))
                low, high = newcombe_interval(*rates)
                hits = ((low <= one - other) & (one - other <= high)).astype(float)
                of = f"{one:.0%} less {other:.0%}, {draws} draws of {seeds} seed{'s' * (seeds > 1)}"
                yield Measured("difference of success rates (Newcombe)", of, hits, COVER)


# Scores over configurations: one study per batch size, because analyses treat batch sizes one at a time.


def _tables(scores: Floats, settings: Mapping[str, Floats]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the tables of runs and curves with `scores` [studies, seeds, configurations]."""
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
    # For u, v ~ U(-1, 1), the variance of u^2 is 4/45 and that of u 1/3. The cliff's shares are sums over a grid of
    # 4,000 x 4,000 points.
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


def importance(studies: int, processes: int) -> Iterator[Measured]:
    """Yield coverage of the shares of variance; the truth is that of the grid for grids, of the box for samples."""
    for name, (surface, shares) in _SURFACES.items():
        for noise in (0.02, 0.1):
            for seeds in (3, 5, 10):
                axis = np.linspace(-1, 1, 6)
                u, v = (grid.ravel() for grid in np.meshgrid(axis, axis, indexing="ij"))
                true = surface(u, v)
                rng = np.random.default_rng(seeds)
                # Each seed shifts all cells together, as an initialisation does, and adds noise to each run.
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
            for _ in range(max(studies // 20, 1)):  # each one fits forests
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


def tuning(studies: int, processes: int) -> Iterator[Measured]:
    """Yield the coverage of the gain of tuning over a default, for the truly best configuration."""
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


SIMULATIONS = {"scaling": scaling, "differences": differences, "importance": importance, "tuning": tuning}
_HEADER = (
    "| what | of studies with | share of studies | without an interval | goal |",
    "| --- | --- | ---: | ---: | ---: |",
)


def _record(name: str, lines: list[str]) -> None:
    """Replace the lines of a simulation in the record, keeping its notes."""
    text = RECORD.read_text(encoding="utf-8")
    start = text.index(f"## {name}\n")
    table = text.index("`python benchmarks", start)
    following = text.find("\n## ", table)
    rest = text[following:] if following >= 0 else "\n"
    RECORD.write_text(text[:table] + "\n".join(lines) + "\n" + rest, encoding="utf-8")


def main() -> None:
    """Simulate, print the tables, and record them on request."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=2000)
    parser.add_argument("--only", choices=tuple(SIMULATIONS), nargs="+", default=tuple(SIMULATIONS))
    parser.add_argument("--processes", type=int, default=1, help="processes for the simulation of scaling")
    parser.add_argument("--record", action="store_true")
    arguments = parser.parse_args()
    for name in arguments.only:
        start, lines = time.perf_counter(), list(_HEADER)
        for measured in SIMULATIONS[name](arguments.studies, arguments.processes):
            lines.append(measured.row())
            print(lines[-1], flush=True)
        took = f"{arguments.studies:,} studies; {(time.perf_counter() - start) / 60:.0f} minutes"
        about = f"`python benchmarks/coverage.py --only {name} --studies {arguments.studies}`; {took}."
        if arguments.record:
            _record(name, [about, "", *lines])


if __name__ == "__main__":
    main()
