"""Inputs that somebody would send who means no good, made of good ones; no parser is known here.

`mutated` takes any `random.Random`: a seeded one for a benchmark, one of hypothesis' for a test
that is to shrink.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from typing import Any

DEEP = 300

WORDS: tuple[str, ...] = (
    "",
    " ",
    "\0",
    "\n",
    "a" * 3000,
    "é" * 300,
    "../" * 12 + "etc/passwd",
    "/etc/passwd",
    "a/../../b",
    "~root/x",
    "file:///etc/passwd",
    "http://127.0.0.1:1/x",
    "data:image/png;base64,AAAA",
    "\x1b[2J\x1b]0;x\x07",
    "\u202e\u2028\u2029",
    "\ufeff",
    "\ud800",
    "\U0001f600",
    "None",
    "nan",
    "1e999",
    "-1",
    "9" * 40,
    "0x10",
    "१२३",
    "²",
    "</script><script>alert(1)</script>",
    "{{7*7}}",
    "${x}",
    "%s%n",
    "[bold]x[/bold]",
    "<|im_end|>",
    "<image>",
    r"\boxed{",
    r"9^{9^{9^9}}",
    r"\frac{1}{",
    "(" * 60,
    r"\{a, " * 30,
    "__proto__",
    "__class__",
)

NUMBERS: tuple[Any, ...] = (
    *(0, 1, -1, 2**31, 2**53 + 1, 2**63 - 1, 2**63, -(2**63) - 1, 2**64, 10**30),
    *(0.5, -0.0, 1e-320, 1e16, 1e308, 1.7976931348623157e308),
    *(float("nan"), float("inf"), float("-inf")),
)

_BYTES = (b"", b"\0", b"\xff", b"\xed\xa0\x80", b"\r\n", b'"', b"{", b"[", b"]", b"}", b"\\")


def nested(depth: int, kind: str) -> Any:
    """Lists in lists, or mappings in mappings."""
    found: Any = 1
    for _ in range(depth):
        found = [found] if kind == "list" else {"a": found}
    return found


def value(chance: random.Random) -> Any:
    """Any value that JSON can write, or that Python writes as JSON."""
    match chance.randrange(8):
        case 0 | 1:
            return chance.choice(WORDS)
        case 2 | 3:
            return chance.choice(NUMBERS)
        case 4:
            return chance.choice([None, True, False, [], {}, [None], {"": None}])
        case 5:
            return [value(chance) for _ in range(chance.randrange(4))]
        case 6:
            return {chance.choice(WORDS): value(chance) for _ in range(chance.randrange(3))}
    return nested(chance.choice([20, 90, DEEP]), chance.choice(["list", "map"]))


def mutated(chance: random.Random, seeds: Sequence[bytes], form: str) -> bytes:
    """One of the seeds, changed in a place or a few.

    Args:
        chance: decides.
        seeds: good inputs.
        form: `json`, `lines` (a JSON value in each), `text` or `bytes`.
    """
    data = chance.choice(seeds)
    for _ in range(1 + chance.randrange(3)):
        if form == "json" and chance.random() < 0.85:
            data = _json(chance, data)
        elif form == "lines" and chance.random() < 0.9:
            data = _line(chance, data)
        elif form == "text" and chance.random() < 0.8:
            data = _text(chance, data, seeds)
        else:
            data = _bytes(chance, data, seeds)
    return data


def written(document: Any, *, ascii_only: bool = True) -> bytes:
    """A document as JSON; half a character as an escape."""
    return json.dumps(document, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")


def _line(chance: random.Random, data: bytes) -> bytes:
    lines = data.split(b"\n")
    at = chance.randrange(len(lines))
    match chance.randrange(8):
        case 0:
            lines.insert(at, lines[chance.randrange(len(lines))])
        case 1:
            lines[at] = lines[at][: chance.randrange(len(lines[at]) + 1)]
        case 2:
            lines[at] = written(value(chance))
        case _:
            lines[at] = _json(chance, lines[at])
    return b"\n".join(lines)


def _json(chance: random.Random, data: bytes) -> bytes:
    """JSON with a value, a key, or the place of a value changed."""
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        return _bytes(chance, data, [data])
    places = list(_places(document, ()))
    if len(places) == 1 or chance.random() < 0.02:
        return written(value(chance))
    path = chance.choice(places[1:])
    _change(chance, _at(document, path[:-1]), path[-1], _at(document, chance.choice(places)))
    return written(document, ascii_only=chance.random() < 0.7)


def _at(document: Any, path: Sequence[Any]) -> Any:
    for key in path:
        document = document[key]
    return document


def _change(chance: random.Random, holder: Any, key: Any, other: Any) -> None:
    """Change what is at a key of a mapping or a list; `other` is from elsewhere in the document."""
    match chance.randrange(10):
        case 0 if isinstance(holder, dict):
            del holder[key]
        case 1 if isinstance(holder, dict):
            holder[chance.choice(WORDS)] = holder.pop(key)
        case 2 if isinstance(holder, list):
            holder.extend([holder[key]] * chance.choice([1, 3, 200]))
        case 3:
            holder[key] = [holder[key]] if chance.random() < 0.5 else {"a": holder[key]}
        case 4:
            holder[key] = json.loads(json.dumps(other))
        case 5 if isinstance(holder[key], str):
            text = holder[key].encode("utf-8", "replace")
            holder[key] = _text(chance, text, ()).decode(errors="replace")
        case _:
            holder[key] = value(chance)


def _places(document: Any, path: tuple[Any, ...]) -> Any:
    yield path
    if len(path) > 30 or not isinstance(document, (dict, list)):
        return
    items = document.items() if isinstance(document, dict) else enumerate(document)
    for key, item in list(items):
        yield from _places(item, (*path, key))


def _text(chance: random.Random, data: bytes, seeds: Sequence[bytes]) -> bytes:
    """A text with a word put in, taken out, doubled, or another's end."""
    text = data.decode("utf-8", "replace")
    begin = chance.randrange(len(text) + 1)
    end = min(len(text), begin + chance.choice([0, 1, 3, 20]))
    match chance.randrange(6):
        case 0:
            text = text[:begin] + chance.choice(WORDS) + text[end:]
        case 1:
            text = text[:begin] + text[end:]
        case 2:
            text = text[:begin] + text[begin:end] * chance.choice([2, 10, 200]) + text[end:]
        case 3:
            text = text[:begin] + str(chance.choice(NUMBERS)) + text[end:]
        case 4 if seeds:
            text = text[:begin] + chance.choice(seeds).decode("utf-8", "replace")[begin:]
        case _:
            signs = [*"{}[]()\\^_$,.;:=<>|!'\"#&%+-*/~`@?0123456789 \t\n", "\u2063", "\u017f", "٣"]
            some = "".join(chance.choice(signs) for _ in range(chance.randrange(1, 6)))
            text = text[:begin] + some + text[end:]
    return text.encode("utf-8", "replace")


def _bytes(chance: random.Random, data: bytes, seeds: Sequence[bytes]) -> bytes:
    """Bytes flipped, put in, taken out, repeated, cut, or another's end."""
    begin = chance.randrange(len(data) + 1)
    end = min(len(data), begin + chance.choice([1, 2, 4, 16, 64]))
    head, middle, tail = data[:begin], data[begin:end], data[end:]
    match chance.randrange(7):
        case 0 if middle:
            middle = bytes([middle[0] ^ (1 << chance.randrange(8))]) + middle[1:]
        case 1:
            middle = chance.choice(_BYTES) + middle
        case 2:
            middle = b""
        case 3:
            middle *= chance.choice([2, 5, 50])
        case 4:
            middle = tail = b""
        case 5:
            middle, tail = b"", chance.choice(seeds)[begin:]
        case _:
            middle = bytes(chance.randrange(256) for _ in middle)
    return head + middle + tail
