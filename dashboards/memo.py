"""Results kept by key, the least recently used dropped; each is computed once, however many ask for it at a time."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")


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
