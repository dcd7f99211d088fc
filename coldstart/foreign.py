"""JSON that somebody else may have written, with bounds on what it may hold; knows no fields.

Python's own reader raises errors of several kinds for it, and lets through what breaks whoever
works with it later: whole numbers that no float can hold, and halves of characters, which no file
can.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any, Final

MAX_DEPTH: Final = 100
"""Objects and lists in each other."""

_DIGITS: Final = 20
_HALF = re.compile(r"\\u[dD][89a-fA-F]")
"""How JSON writes halves of characters; two of them are a whole one."""

_CUT = re.compile("[\ud800-\udfff]")


def parsed(data: bytes | str) -> Any:
    """What a JSON text says, with `?` for halves of characters; numbers need not be finite.

    Raises:
        ValueError: it is not JSON, not UTF-8, nested too deeply, or holds a whole number beyond 64
            bits.
    """
    try:
        text = data if isinstance(data, str) else data.decode()
        document = json.loads(text, parse_int=_whole)
    except RecursionError as error:
        raise ValueError(f"it is nested more than {MAX_DEPTH} deep") from error
    if text.count("[") + text.count("{") > MAX_DEPTH:
        _require_shallow(document)
    return _mended(document) if _HALF.search(text) else document


def _mended(document: Any) -> Any:
    """The same with `?` for halves of characters."""
    text = json.dumps(document, ensure_ascii=False)
    return json.loads(text.encode("utf-8", "replace")) if _CUT.search(text) else document


def _whole(digits: str) -> int:
    number = int(digits) if len(digits) <= _DIGITS else 1 << 64
    if not -(1 << 63) <= number < 1 << 63:
        raise ValueError(f"a whole number of {len(digits)} digits, which 64 bits do not hold")
    return number


def _require_shallow(document: Any) -> None:
    level = [document]
    for _ in range(MAX_DEPTH):
        level = [item for outer in level for item in _items(outer)]
        if not level:
            return
    raise ValueError(f"it is nested more than {MAX_DEPTH} deep")


def _items(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()
