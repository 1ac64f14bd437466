"""Texts about a plan, the progress of a study and its outcome, for the terminal and for Python."""

from __future__ import annotations

from sensitivity.execution.launch import Outcome
from sensitivity.execution.prepare import Plan
from sensitivity.execution.progress import Progress
from sensitivity.study.words import count, duration

_MAX_SHOWN = 3
"""Most runs listed among those whose result differed when they were trained again."""


def extent(plan: Plan) -> str:
    """Describe the size of a study."""
    arms = plan.spec.optimizers.values()
    hours = len(plan.spec.batch_sizes) * sum(arm.device_hours or 0.0 for arm in arms if arm.open_ended)
    runs = [count(len(plan.counted), "run")] if plan.counted or not hours else []
    return ", and ".join([*runs, *([f"searches for {duration(3600 * hours)} of device time"] if hours else [])])


def progress_line(progress: Progress) -> str:
    """Describe progress in one line."""
    counts = progress.counts
    left = progress.seconds_left
    timed = progress.device_time
    parts = [
        *([progress.stage] if progress.stage else []),
        count(progress.done, "run") if progress.planned is None else f"{progress.done:,}/{progress.planned:,} runs",
        *([f"{duration(timed[0])} of {duration(timed[1])} device time"] if timed is not None else []),
        f"{counts['completed']} completed",
        f"{counts['diverged']} diverged",
        f"{counts['failed']} failed",
        *([f"{counts['interrupted']} interrupted"] if counts["interrupted"] else []),
        f"{progress.rate:.1f} runs/s",
        "time left unknown" if left is None else f"{duration(left)} left{' of this step' * bool(progress.stage)}",
    ]
    return " · ".join(parts)


def outcome_lines(outcome: Outcome) -> list[str]:
    """Describe the state of a study at the end of a command, in lines."""
    counts = ", ".join(f"{count} {status}" for status, count in outcome.statuses.items())
    lines = [f"{outcome.study}: {counts or 'no runs'}"]
    lines += [f"  {count} × {cause}" for cause, count in outcome.causes.items()]
    if outcome.determinism is not None and not outcome.interrupted:
        lines.append(f"checked: {outcome.determinism['sentence']}")
        lines += [f"  {fault}" for fault in outcome.determinism["faults"][:_MAX_SHOWN]]
    return lines
