"""A thread-safe least-recently-used cache; concurrent requests for a key compute its value once."""

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
_MOST_RESULTS = 64
"""Cached results per set of filtered runs."""


class Memo:
    """A cache of at most `size` results, shared by the threads of a server."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._kept: OrderedDict[Hashable, Future[Any]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable, compute: Callable[[], T]) -> T:
        """Return the result of `key`, computing it if it isn't cached; exceptions are raised and not cached."""
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
        """Remove the results whose key satisfies `matches`."""
        with self._lock:
            for key in [key for key in self._kept if matches(key)]:
                del self._kept[key]


def kept(
    *depends: str,
) -> Callable[[Callable[Concatenate[S, P], T]], Callable[Concatenate[S, P], T]]:
    """Cache the results of a method of an object that has a ``memo`` and a ``view``.

    There is one result for each combination of its arguments, the filters of the view, and the values of the properties
    named in `depends`.
    """

    def decorate(compute: Callable[Concatenate[S, P], T]) -> Callable[Concatenate[S, P], T]:
        def cached(self: S, /, *args: P.args, **kwargs: P.kwargs) -> T:
            results: Any = self
            of = tuple(getattr(results, name) for name in depends)
            key = (compute.__name__, args, tuple(sorted(kwargs.items())), of)
            memo: Memo = results.memo.get(results.view.filters, lambda: Memo(_MOST_RESULTS))
            return memo.get(key, lambda: compute(self, *args, **kwargs))

        functools.update_wrapper(cached, compute)
        return cached

    return decorate
