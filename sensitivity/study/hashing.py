"""Hashes of JSON-like content."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any


def content_hash(content: Mapping[str, Any]) -> str:
    """Return 16 hex digits that identify JSON-like content, independent of key order."""
    return text_hash(canonical_json(content))


def canonical_json(content: Mapping[str, Any]) -> str:
    """Return JSON-like content as text, with sorted keys."""
    return json.dumps(content, sort_keys=True, separators=(",", ":"))


def text_hash(text: str) -> str:
    """Return 16 hex digits that identify a text; `content_hash` is that of the canonical JSON."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]
