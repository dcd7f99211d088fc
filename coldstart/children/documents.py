"""Reading of objects that nobody vouches for: what is not of the expected kind is as if absent.

The API server checks the shape of much, not of all: a status may be written by whoever has the
right to, and messages hold what a container said.
"""

from __future__ import annotations

import unicodedata
from datetime import UTC, datetime
from typing import Any

LINE_LENGTH = 512
"""Longest line that is taken over from elsewhere."""


def value(document: Any, *path: str) -> Any:
    """What is at a path of keys; None where the path breaks off."""
    for key in path:
        if not isinstance(document, dict):
            return None
        document = document.get(key)
    return document


def text(document: Any, *path: str) -> str:
    """The string at a path; empty if there is none."""
    found = value(document, *path)
    return found if isinstance(found, str) else ""


def number(document: Any, *path: str) -> int:
    """The whole number at a path; 0 if there is none."""
    found = whole(document, *path)
    return 0 if found is None else found


def whole(document: Any, *path: str) -> int | None:
    """The whole number of 64 bits at a path, if there is one."""
    found = value(document, *path)
    if not isinstance(found, int) or isinstance(found, bool):
        return None
    return found if -(1 << 63) <= found < 1 << 63 else None


def items(document: Any, *path: str) -> list[dict[str, Any]]:
    """The mappings in the list at a path."""
    found = value(document, *path)
    return [item for item in found if isinstance(item, dict)] if isinstance(found, list) else []


def time(document: Any, *path: str) -> datetime | None:
    """The time at a path, in UTC where it names no zone; None if there is none."""
    try:
        found = datetime.fromisoformat(text(document, *path))
    except ValueError:
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def condition(document: Any, type_: str) -> dict[str, Any] | None:
    """The condition of a type in a status; never by its place."""
    conditions = items(document, "status", "conditions")
    return next((item for item in conditions if item.get("type") == type_), None)


def line(words: str, limit: int = LINE_LENGTH) -> str:
    """Foreign text as one line of printable characters, at most `limit` of them."""
    head = words[: 4 * limit]
    kept = "".join(" " if unicodedata.category(char)[0] == "C" else char for char in head)
    joined = " ".join(kept.split())
    return joined if len(joined) <= limit else joined[: limit - 1] + "…"
