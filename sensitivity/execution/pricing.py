"""The remaining runs of a study, and their price on this machine."""

from __future__ import annotations

from dataclasses import dataclass, replace

from sensitivity.execution.costs import Price, measure_here, pack_sizes, price, samples
from sensitivity.execution.prepare import Plan, available_workers, with_recorded, with_search_seconds
from sensitivity.execution.searches import recorded_trials, search_seconds
from sensitivity.optimizers.contract import RULES, HasRemark
from sensitivity.store.counting import finished_trials
from sensitivity.store.directory import Place
from sensitivity.store.manifest import MANIFEST, read_manifest, refuse_other_study
from sensitivity.store.reader import read_plan, read_runs
from sensitivity.study.arms import Arm, declared_kind
from sensitivity.study.words import count, duration


@dataclass(frozen=True, kw_only=True)
class PricedPlan:
    """A checked plan with its price."""

    plan: Plan
    price: Price
    packs: int
    """In which the missing runs would be trained."""

    def sentences(self) -> str:
        """Describe the remaining work and its longest duration."""
        todo, planned = (sum(getattr(line, name) for line in self.price.lines) for name in ("missing", "planned"))
        estimated = any(line.estimated for line in self.price.lines)
        how_many = f"About {todo}" if estimated else f"{todo} of {planned}"
        remarks = {name: _remark(arm) for name, arm in self.plan.spec.optimizers.items()}
        notes = [f"{name}: {remark}." for name, remark in remarks.items() if remark]
        said = (
            f"{how_many} runs to do{'' if estimated else ', in ' + count(self.packs, 'pack')}.\n"
            f"About {duration(self.price.device_seconds)} of device time, less where runs diverge:"
            f" {duration(self.price.wall_seconds)} with {self.price.workers} workers, Ray's start aside. ms/step is a"
            " trial's share of its pack's step, gain what the pack saves of it; memory is a pack's."
        )
        if caution := self.plan.spec.choice_caution():
            notes.append(caution)
        if self.plan.problem.dataset.is_stand_in:
            name = self.plan.spec.required_problem.dataset
            notes.append(f"{name} is not on this machine yet: priced with as many images of its size.")
        return "\n".join([said, *_token_words(self.plan.problem.terms_per_example, self.price), *notes])


def _token_words(length: int, price: Price) -> list[str]:
    """Return in words how many tokens a run trains on, where examples are sequences of so many."""
    if length == 1:
        return []
    counts = {line.batch_size: line.cost.steps * line.batch_size * length for line in price.lines}
    each = ", ".join(f"{count:,} at batch size {size}" for size, count in counts.items())
    return [f"Examples are sequences of {length} tokens: a run trains on {each}."]


def _remark(arm: Arm) -> str:
    """Return the remark on an optimizer in a plan."""
    rule = RULES[declared_kind(arm.kind)]
    return rule.remark(arm.settings()) if isinstance(rule, HasRemark) else ""


def price_plan(plan: Plan, directory: Place, *, workers: int | None) -> PricedPlan:
    """Time the steps of a plan briefly, and price the runs that `directory` lacks.

    Args:
        plan: of a study.
        directory: where it would be kept.
        workers: packs at a time; None takes one for each core.

    Raises:
        UserError: the directory holds another study, or what is measured can't be trained here.
    """
    at_once = workers or available_workers(plan.spec.execution.threads)
    finished = frozenset[str]()
    if directory.exists(MANIFEST):
        if not plan.problem.dataset.is_stand_in:  # whose arrays are others
            refuse_other_study(directory, read_manifest(directory), plan.spec, plan.source, plan.origin)
        finished = finished_trials(directory)
        plan = with_recorded(plan, recorded_trials(read_plan(directory), plan.spec, plan.source))
        plan = with_search_seconds(plan, search_seconds(read_runs(directory).runs))
    costs = measure_here(plan, samples(plan, finished=finished), workers=at_once)
    packs = replace(plan, trials=plan.expected).packs(pack_sizes(costs), finished=finished, workers=at_once)
    return PricedPlan(plan=plan, price=price(plan, costs, finished=finished, workers=at_once), packs=len(packs))
