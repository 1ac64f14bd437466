"""Writes results in threads of their own, so that a slow storage holds up neither Tune's event loop nor the workers."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from sensitivity.study.results import PackResult
from sensitivity.study.trials import Pack

_THREADS = 4
"""A pack takes five requests of an object store, one after the other."""
_MOST_UNWRITTEN = 16
"""Number of unwritten results at which further ones wait; a killed command loses these, and its packs train again."""


class ResultWriter:
    """Queue of the results of packs that are being written."""

    def __init__(self, write: Callable[[Pack, PackResult], None]) -> None:
        """Start with nothing to write; `write` is called once for each result, in another thread."""
        self._write = write
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="result-writer")
        self._unwritten: deque[tuple[Pack, PackResult, Future[None]]] = deque()
        self.failed = False
        """Whether a result could not be written."""

    def __len__(self) -> int:
        """Return the number of results that `written` has not returned yet."""
        return len(self._unwritten)

    @property
    def packs(self) -> list[Pack]:
        """Packs with a result that `written` has not returned yet."""
        return [pack for pack, _, _ in self._unwritten]

    def __contains__(self, pack: Pack) -> bool:
        """Return whether a pack has a result that `written` has not returned yet."""
        return any(pack.id == own.id for own in self.packs)

    def put(self, pack: Pack, result: PackResult) -> None:
        """Write a result soon, after some of those before it if they are many."""
        for _, _, writing in [*self._unwritten][: -_MOST_UNWRITTEN + 1]:
            writing.exception()  # waits; `written` raises it
        self._unwritten.append((pack, result, self._threads.submit(self._write, pack, result)))

    def written(self, *, wait: bool = False) -> Iterator[tuple[Pack, PackResult]]:
        """Yield results that have been written since the last call, in the order of `put`.

        With `wait`, wait for the first one that is not written yet.

        Raises:
            Exception: `write` raised it.
        """
        while self._unwritten and (wait or self._unwritten[0][2].done()):
            pack, result, writing = self._unwritten[0]
            try:
                writing.result()
            except Exception:
                self._unwritten.popleft()
                self.failed = True
                raise
            self._unwritten.popleft()
            wait = False
            yield pack, result

    def close(self) -> None:
        """End the threads once all results are written, or the begun ones if one could not be written."""
        self._threads.shutdown(cancel_futures=self.failed)
