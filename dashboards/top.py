"""A page that is not of one study."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from dashboards.address import Address


@dataclass(frozen=True, kw_only=True)
class TopPage:
    """Its content, and what changes when that should be renewed."""

    content: Callable[[Address], Any]
    version: Callable[[Address], str]
