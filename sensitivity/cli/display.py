"""Output of the commands: live progress on a terminal, plain lines elsewhere, and tables."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Bar

from sensitivity.study.words import duration, size

if TYPE_CHECKING:
    from sensitivity.execution.costs import Price
    from sensitivity.execution.progress import Progress
    from sensitivity.study.whole_files import Written

_PLAIN_EVERY_S = 5.0


def plain_console(*, stderr: bool = False) -> Console:
    """Return a console that prints text verbatim: brackets and colons in a user's words are not markup."""
    return Console(stderr=stderr, markup=False, highlight=False, emoji=False)


def shown_file(written: Written) -> str:
    """Return a file's name and size."""
    return f"{written.path} ({size(written.size, 'B')})"


@contextlib.contextmanager
def shown(progress: Progress, console: Console) -> Iterator[Callable[[], None]]:
    """Show progress inside the block; yield a function to call when it has changed."""
    from sensitivity.execution.messages import progress_line  # here, so reading commands don't load it

    if console.is_terminal:
        columns = (TextColumn("{task.percentage:>3.0f}%"), BarColumn(), TextColumn("{task.description}"))
        bar = Bar(*columns, console=console)
        with bar:
            task = bar.add_task(progress_line(progress), total=1.0)
            yield lambda: bar.update(task, completed=progress.fraction, description=progress_line(progress))
        return
    last, done = float("-inf"), -1

    def line() -> None:
        nonlocal last, done
        if time.monotonic() - last >= _PLAIN_EVERY_S:
            last, done = time.monotonic(), progress.done
            console.print(progress_line(progress), soft_wrap=True)

    try:
        yield line
    finally:
        if progress.done != done:
            console.print(progress_line(progress), soft_wrap=True)


def table_lines(header: Sequence[str], rows: Sequence[Sequence[object]], text_columns: int) -> Iterator[str]:
    """Yield a table as lines of text, with text columns left-aligned; lines are never cut to the terminal's width."""
    cells = [tuple(header), *(tuple(map(str, row)) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for row in cells:
        padded = [
            text.ljust(width) if at < text_columns else text.rjust(width)
            for at, (text, width) in enumerate(zip(row, widths, strict=True))
        ]
        yield "  ".join(padded).rstrip()


def price_lines(price: Price) -> Iterator[str]:
    """Yield a plan's price as lines of a table."""
    header = ("optimizer", "batch", "to do", "steps", "FLOP/run", "ms/step", "time", "pack", "gain", "memory")
    rows = [
        (
            line.optimizer,
            line.batch_size,
            f"{'≈' if line.estimated else ''}{line.missing}/{line.planned}",
            line.cost.steps,
            size(line.cost.flops, ""),
            f"{line.cost.step_seconds * 1e3:.3g}",
            duration(line.device_seconds),
            line.pack_size,
            f"{line.cost.gain:.2f}×",
            f"{line.pack_bytes / 1e6:,.0f} MB",
        )
        for line in price.lines
    ]
    return table_lines(header, rows, 1)
