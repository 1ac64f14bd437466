"""First phases of a settlement: scouting and searching all arms in lockstep, and choosing the winners."""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping, Sequence

import numpy as np

from sensitivity.analysis.estimates import Floats
from sensitivity.analysis.names import optimizer_name
from sensitivity.settling.boxes import Box
from sensitivity.settling.candidates import SEEDS, Candidate, budget_blocks, choose, contradicted
from sensitivity.settling.progress import Progress
from sensitivity.settling.search import MAX_ROUNDS, SUFFICIENT_REGRET, ArmSearch, percent, round_size, scout_size
from sensitivity.settling.sentences import listed, misses_in_words
from sensitivity.study.amendments import Hyperparameters, Observation, Phase, Point, Step, Stop, Winner
from sensitivity.study.seed_ranges import purpose

Steps = Generator[Step, Sequence[Observation] | Stop, None]
KnownRuns = Sequence[tuple[Point, Observation]]


class Frontier:
    """The searches of the arms that the scaling question compares, and their winners."""

    def __init__(self, progress: Progress, arms: Sequence[str]) -> None:
        self.progress = progress
        self.batch_sizes = progress.declaration.batch_sizes
        self.searches = {
            name: ArmSearch(Box.declared(progress.declaration.arm(name)), len(self.batch_sizes)) for name in arms
        }
        self.winners: dict[str, tuple[Winner, ...]] = {}
        self.problems: dict[str, str] = {}
        """Reason why an arm has no winners, by the arm's name."""
        self._dimensions = max((s.box.dimensions for s in self.searches.values()), default=0)
        self._seeds: dict[Phase, int] = {}
        self._round = 0

    def find(self, known: KnownRuns) -> Steps:
        """Scout and search until the frontier of every arm is found, or no rounds are left."""
        if not self._scout_with_known_runs(known):
            yield from self._scout()
        for search in self.searches.values():
            if search.box.open_levels:
                search.choose_levels()
            if not search.trivial:
                search.analyse()
        while self._round < MAX_ROUNDS and not all(search.done() for search in self.searches.values()):
            yield from self._search_round()
        self.problems = {name: problem for name, search in self.searches.items() if (problem := search.problem())}

    def _scout_with_known_runs(self, known: KnownRuns) -> bool:
        """Use runs of the study's own design for scouting, if there are enough of every arm at every batch size.

        Every arm uses the same number of runs at every batch size; larger sets are subsampled with the declaration's
        random numbers. Returns whether the runs were used.
        """
        need = scout_size(self._dimensions)
        pools: dict[tuple[str, int], list[tuple[Point, Observation]]] = {
            (name, size): []
            for name, search in self.searches.items()
            if self._needs_scouting(search)
            for size in self.batch_sizes
        }
        for point, observation in known:
            own = purpose(point.seed) == "design" and observation.outcome != "failed"
            if own and (point.arm, point.batch_size) in pools:
                pools[point.arm, point.batch_size].append((point, observation))
        count = min((len(pool) for pool in pools.values()), default=0)
        if count < need:
            return False
        for (name, size), pool in pools.items():
            pool.sort(key=lambda one: (one[0].hyperparameters, one[0].seed))
            order = np.argsort(self.progress.hypercube(["known"], len(pool), 0)[:, 0], kind="stable")
            for place in order[: min(count, 4 * need)]:
                point, observation = pool[int(place)]
                self.searches[name].observe(point.hyperparameters, self.batch_sizes.index(size), observation)
        return True

    def _needs_scouting(self, search: ArmSearch) -> bool:
        return not search.trivial or bool(search.box.open_levels)

    def _scout(self) -> Steps:
        points, count = [], scout_size(self._dimensions)
        for k, size in enumerate(self.batch_sizes):
            seeds = self._next_seeds("scout", count)
            for name, search in self.searches.items():
                if not self._needs_scouting(search):
                    continue
                sides = [side.name for side in search.box.arm.sides if side.searched or side.axis.varies]
                unit = self.progress.hypercube(sides, count, 0, k)
                for row, seed in zip(unit, seeds, strict=True):
                    at = dict(zip(sides, row, strict=True))
                    x = search.box.low + np.array([at[s.name] for s in search.box.sides]) * search.box.width
                    levels = {s.name: s.axis.quantile(at[s.name]) for s in search.box.open_levels}
                    points.append(self._point(name, size, search.box.configuration(x, levels), seed, "scout"))
        if not points:
            return
        why = f"Scout the declared boxes with {count} settings of every optimizer at every batch size, one seed each."
        observations = yield from self.progress.request("scout", why, points)
        self._observe(points, observations)
        self.progress.record_result(
            self._reached(points, observations), {"reached": self._reached_counts(points, observations)}
        )

    def _search_round(self) -> Steps:
        self._round += 1
        points, moves, count = [], {}, round_size(self._dimensions)
        proposed: dict[str, list[Floats]] = {}
        for name, search in self.searches.items():
            if not search.trivial:
                sides = [side.name for side in search.box.sides]
                unit = [self.progress.hypercube(sides, count, self._round, k) for k in range(len(self.batch_sizes))]
                moves[name], proposed[name] = search.propose(unit)
        for k, size in enumerate(self.batch_sizes):
            seeds = self._next_seeds("search", count)
            for name, at in proposed.items():
                box = self.searches[name].box
                points += [
                    self._point(name, size, box.configuration(x), seed, "search")
                    for x, seed in zip(at[k], seeds, strict=True)
                ]
        words = {
            "scout": "scout again, as too few runs reached the target,",
            "extend": "extend the box, as its fastest setting lies at a side,",
            "refine": "refine around the fastest setting",
        }
        texts = listed([f"{words[move]} of {optimizer_name(name)}" for name, move in moves.items()])
        why = f"Round {self._round}: {texts}, with {count} runs of each at every batch size.".replace(",,", ",")
        facts = {"moves": moves, "boxes": [self.searches[n].box.record().model_dump(mode="json") for n in moves]}
        observations = yield from self.progress.request("search", why, points, facts)
        self._observe(points, observations)
        for name in moves:
            self.searches[name].analyse()
        self._show_round(moves)

    def _show_round(self, moves: Mapping[str, str]) -> None:
        texts, facts = [], {}
        for name in moves:
            search, found = self.searches[name], self.searches[name].found
            assert found is not None
            worst = float(found.regret.max())
            optima = [dict(search.box.configuration(x)) for x in found.optimum]
            facts[name] = {
                "regret": [float(r) if np.isfinite(r) else None for r in found.regret],
                "optimum": optima,
                "noise": None if found.response is None else found.response.noise,
                "at_edge": found.extend,
                "extensions": list(search.extensions),
            }
            if found.response is None or not np.isfinite(worst):
                text = "too few runs reach the target"
            else:
                text = f"its fastest settings are known to within {percent(worst)} of their steps"
                text += ", and lie at a side" if found.extend else ""
            texts.append(f"{optimizer_name(name)}: {text}")
        done = all(self.searches[name].done() for name in moves)
        end = f" No arm needs another round ({100 * SUFFICIENT_REGRET:g}% is enough)." if done else ""
        self.progress.record_result("; ".join(texts) + "." + end, facts)

    def choose(self) -> Steps:
        """Choose the winners from runs of the optima on fresh seeds, and of other candidates where these contradict."""
        names = [name for name in self.searches if name not in self.problems]
        if not names:
            return
        seeds = self._next_seeds("candidates", SEEDS)
        pools: dict[tuple[str, int], list[Candidate]] = {}
        for name in names:
            for k in range(len(self.batch_sizes)):
                pools[name, k] = [self._optimum(name, k)]
        why = f"Does the fastest setting hold, of each optimizer at each batch size, on {SEEDS} fresh seeds?"
        yield from self._run_candidates(why, pools, dict.fromkeys(pools, 0), seeds)
        contradicted_sizes = sorted({k for (name, k), pool in pools.items() if self._is_contradicted(name, k, pool[0])})
        self._show_candidates(pools, contradicted_sizes)
        if contradicted_sizes:
            added: dict[tuple[str, int], int] = {}
            for (name, k), pool in pools.items():
                others = self._observed(name, k) if k in contradicted_sizes else []
                if others:
                    added[name, k] = len(pool)
                    pool += others
            sizes = listed([f"{self.batch_sizes[k]:,}" for k in contradicted_sizes])
            why = f"At batch size {sizes} a fastest setting did not do as predicted: run the best two observed."
            if added:
                yield from self._run_candidates(why, pools, added, seeds)
        self._freeze_winners(pools)
        if contradicted_sizes:
            self._show_candidates(pools, [])

    def _run_candidates(
        self,
        why: str,
        pools: dict[tuple[str, int], list[Candidate]],
        since: Mapping[tuple[str, int], int],
        seeds: Sequence[int],
    ) -> Steps:
        points = [
            self._point(name, self.batch_sizes[k], candidate.hyperparameters, seed, "candidates")
            for (name, k), first in since.items()
            for candidate in pools[name, k][first:]
            for seed in seeds
        ]
        observations = list((yield from self.progress.request("candidates", why, points)))
        for (name, k), first in since.items():
            for place in range(first, len(pools[name, k])):
                own, observations = observations[:SEEDS], observations[SEEDS:]
                old = pools[name, k][place]
                pools[name, k][place] = Candidate(
                    hyperparameters=old.hyperparameters, chosen=old.chosen, runs=tuple(own)
                )

    def _optimum(self, name: str, k: int) -> Candidate:
        search = self.searches[name]
        if search.trivial:
            return Candidate(hyperparameters=search.box.configuration(np.zeros(0)), chosen="only")
        assert search.found is not None
        return Candidate(hyperparameters=search.box.configuration(search.found.optimum[k]), chosen="model")

    def _observed(self, name: str, k: int) -> list[Candidate]:
        best = self.searches[name].best_observed(k, 2)
        return [Candidate(hyperparameters=one, chosen="observed") for one in best]

    def _is_contradicted(self, name: str, k: int, candidate: Candidate) -> bool:
        search = self.searches[name]
        if search.trivial:
            return False
        predicted, noise = search.prediction(k)
        return contradicted(candidate, predicted, noise)

    def _freeze_winners(self, pools: Mapping[tuple[str, int], Sequence[Candidate]]) -> None:
        for name in {name: None for name, _ in pools}:
            search, found = self.searches[name], []
            for k, size in enumerate(self.batch_sizes):
                noise = 0.0 if search.trivial else search.prediction(k)[1]
                winner = choose(pools[name, k], noise)
                if budget_blocks(winner):
                    self.problems[name] = misses_in_words(winner.runs, "runs of its fastest setting", size)
                regret = 0.0 if search.trivial or search.found is None else float(search.found.regret[k])
                if winner.chosen == "observed":  # the surface was wrong here, so only the runs determine the precision
                    regret = max(regret, noise / math.sqrt(SEEDS))
                found.append(
                    Winner(
                        arm=name,
                        batch_size=size,
                        hyperparameters=winner.hyperparameters,
                        chosen=winner.chosen,
                        regret=regret,
                    )
                )
            if name not in self.problems:
                self.winners[name] = tuple(found)

    def _show_candidates(
        self, pools: Mapping[tuple[str, int], Sequence[Candidate]], contradicted_sizes: Sequence[int]
    ) -> None:
        facts = {
            f"{name} at {self.batch_sizes[k]}": [
                {
                    "hyperparameters": dict(one.hyperparameters),
                    "chosen": one.chosen,
                    "mean_steps": float(np.exp(one.mean)) if np.isfinite(one.mean) else None,
                    "missed": one.missed,
                }
                for one in pool
            ]
            for (name, k), pool in pools.items()
        }
        if contradicted_sizes:
            sizes = listed([f"{self.batch_sizes[k]:,}" for k in contradicted_sizes])
            says = f"At batch size {sizes} a fastest setting took longer than predicted, or missed the target."
        else:
            kept = sum(winner.chosen != "observed" for winners in self.winners.values() for winner in winners)
            total = sum(map(len, self.winners.values()))
            says = (
                f"The predicted fastest setting stands in {kept} of {total} cases." if total else "It holds everywhere."
            )
        self.progress.record_result(says, facts)

    def _point(self, arm: str, size: int, configuration: Hyperparameters, seed: int, phase: Phase) -> Point:
        return Point(arm=arm, batch_size=size, hyperparameters=configuration, seed=seed, phase=phase)

    def _next_seeds(self, phase: Phase, count: int) -> list[int]:
        first = self._seeds.get(phase, 0)
        self._seeds[phase] = first + count
        return [self.progress.seed(phase, place) for place in range(first, first + count)]

    def _observe(self, points: Sequence[Point], observations: Sequence[Observation]) -> None:
        for point, observation in zip(points, observations, strict=True):
            place = self.batch_sizes.index(point.batch_size)
            self.searches[point.arm].observe(point.hyperparameters, place, observation)

    def _reached_counts(self, points: Sequence[Point], observations: Sequence[Observation]) -> dict[str, list[int]]:
        counts: dict[str, list[int]] = {}
        for point, observation in zip(points, observations, strict=True):
            own = counts.setdefault(point.arm, [0, 0])
            own[0] += observation.success
            own[1] += 1
        return counts

    def _reached(self, points: Sequence[Point], observations: Sequence[Observation]) -> str:
        counts = self._reached_counts(points, observations)
        texts = [f"{hit} of {of} runs of {optimizer_name(name)}" for name, (hit, of) in counts.items()]
        return f"{listed(texts)} reached the target."
