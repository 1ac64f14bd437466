"""Answers kept by key, the least recently used dropped; each is computed once, however many ask for it at a time."""

from __future__ import annotations

import functools
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from typing import Any, Concatenate, ParamSpec, TypeVar

P = ParamSpec("P")
S = TypeVar("S")
T = TypeVar("T")
_MOST_ANSWERS = 64
"""Of one set of filtered runs."""


class Memo:
    """At most `size` results, shared by the threads of a server."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._kept: OrderedDict[Hashable, Future[Any]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable, compute: Callable[[], T]) -> T:
        """Return the result of `key`, computing it if it isn't kept; a failure is raised and not kept."""
        with self._lock:
            future = self._kept.get(key)
            if mine := future is None:
                future = self._kept[key] = Future()
            self._kept.move_to_end(key)
            while len(self._kept) > self._size:
                self._kept.popitem(last=False)
        assert future is not None
        if mine:
            try:
                future.set_result(compute())
            except BaseException as error:
                with self._lock:
                    self._kept.pop(key, None)
                future.set_exception(error)
                raise
        result: T = future.result()
        return result

    def drop(self, matches: Callable[[Hashable], bool]) -> None:
        """Forget the results whose key `matches`."""
        with self._lock:
            for key in [key for key in self._kept if matches(key)]:
                del self._kept[key]


def kept(
    *depends: str,
) -> Callable[[Callable[Concatenate[S, P], T]], Callable[Concatenate[S, P], T]]:
    """Keep what a method of an object with a ``memo`` and a ``view`` returns.

    It is kept for each value of its arguments, of the view's filters, and of the properties that `depends` names.
    """

    def decorate(compute: Callable[Concatenate[S, P], T]) -> Callable[Concatenate[S, P], T]:
        def answer(self: S, /, *args: P.args, **kwargs: P.kwargs) -> T:
            results: Any = self
            of = tuple(getattr(results, name) for name in depends)
            key = (compute.__name__, args, tuple(sorted(kwargs.items())), of)
            answers: Memo = results.memo.get(results.view.filters, lambda: Memo(_MOST_ANSWERS))
            return answers.get(key, lambda: compute(self, *args, **kwargs))

        functools.update_wrapper(answer, compute)
        return answer

    return decorate
