"""The operator as it is, with a thread beside it that says what it holds; changes nothing of it.

`python benchmarks/held.py SOCKET ARGUMENTS...` is `python -m coldstart_operator ARGUMENTS...`.
Who connects to the socket gets one JSON object: how many entries there are in every container
that is an attribute of an object of the operator or of a library that it is made of, and how many
objects there are of each class. So a table that nobody has thought of is counted, too.
"""

from __future__ import annotations

import asyncio
import gc
import json
import socket
import sys
import threading
from collections import Counter, deque
from collections.abc import Iterator
from typing import Any

ROOMS = ("coldstart_operator", "coldstart", "kopf", "prometheus_client", "aiohttp", "asyncio")
"""Packages whose objects are looked into."""

SIZED = (dict, list, set, frozenset, deque)


def main() -> None:
    """Be the operator."""
    place, *rest = sys.argv[1:]
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(place)
    listener.listen()
    threading.Thread(target=_answer, args=(listener,), daemon=True).start()
    sys.argv = ["coldstart_operator", *rest]
    from coldstart_operator.__main__ import main as operator  # noqa: PLC0415 - it reads sys.argv

    operator()


def _answer(listener: socket.socket) -> None:
    while True:
        connection, _ = listener.accept()
        with connection:
            connection.sendall(json.dumps(counts()).encode())


def counts() -> dict[str, dict[str, int]]:
    """Entries by `module.Class.attribute`, objects by `module.Class`."""
    tables: Counter[str] = Counter()
    classes: Counter[str] = Counter()
    for thing in gc.get_objects():
        kind = type(thing)
        module = kind.__module__ if isinstance(kind.__module__, str) else ""  # a class may lie
        name = f"{module}.{kind.__qualname__}"
        classes[name] += 1
        if module.partition(".")[0] in ROOMS:
            for attribute, value in _attributes(thing):
                if isinstance(value, SIZED):
                    tables[f"{name}.{attribute}"] += len(value)
                elif isinstance(value, asyncio.Queue):
                    tables[f"{name}.{attribute}"] += value.qsize()
    return {"tables": dict(tables), "classes": dict(classes)}


def _attributes(thing: Any) -> Iterator[tuple[str, Any]]:
    # Another thread changes them meanwhile; a copy is made at once.
    yield from list(getattr(thing, "__dict__", {}).items())
    for kind in type(thing).__mro__:
        slots = kind.__dict__.get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if not name.startswith("__") and hasattr(thing, name):
                yield name, getattr(thing, name)


if __name__ == "__main__":
    main()
