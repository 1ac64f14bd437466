"""A page that doesn't belong to one study."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from dashboards.address import Address


@dataclass(frozen=True, kw_only=True)
class TopPage:
    """Content of a page, and a version that changes when the content should be rebuilt."""

    content: Callable[[Address], Any]
    version: Callable[[Address], str]
