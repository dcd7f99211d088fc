"""Time that passes when somebody waits, for the operator and the API server on one event loop.

Whoever works takes no time; when all wait, the clock jumps to the earliest of them. So days pass
in seconds, and the same steps end the same each time. Threads and sockets know no such time.
"""

from __future__ import annotations

import asyncio
import selectors
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

EPOCH = datetime(2030, 1, 1, tzinfo=UTC)
"""When it is 0."""

BUSY = 20_000
"""Turns of the loop without time passing from which on something is turning for ever."""


class Clock:
    """What time it is."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.turns = 0

    def monotonic(self) -> float:
        """`time.monotonic`."""
        return self.seconds

    def now(self) -> datetime:
        """`datetime.now(UTC)`."""
        return EPOCH + timedelta(seconds=self.seconds)


CLOCK = Clock()
"""The one clock; each loop sets it back to 0."""


class _Dates(type):
    def __instancecheck__(cls, thing: object) -> bool:
        return isinstance(thing, datetime)


class _Datetime(datetime, metaclass=_Dates):
    """`datetime` in a module that asks it for the time; what it makes are ordinary ones."""

    @classmethod
    def now(cls, tz=None):  # noqa: ARG003 - everybody here asks for UTC
        return CLOCK.now()

    @classmethod
    def fromisoformat(cls, text):
        return datetime.fromisoformat(text)


class _Selector(selectors.SelectSelector):
    """Waits for nothing but the time."""

    def select(self, timeout=None):
        if timeout is None:
            raise AssertionError("everybody waits, and nobody for the time")
        if timeout > 0:
            CLOCK.seconds += timeout
            CLOCK.turns = 0
        CLOCK.turns += 1
        if CLOCK.turns > BUSY:
            raise AssertionError(f"{BUSY} turns of the loop without waiting once")
        return []


class Loop(asyncio.SelectorEventLoop):
    """An event loop with that clock."""

    def __init__(self) -> None:
        super().__init__(_Selector())
        CLOCK.seconds, CLOCK.turns = 0.0, 0

    def time(self) -> float:
        return CLOCK.seconds

    def call_at(self, when, callback, *args, context=None):
        # Who waits for less than a float can hold would wait again and again for no time.
        when = max(when, CLOCK.seconds + 1e-6)
        return super().call_at(when, callback, *args, context=context)


@contextmanager
def virtual_time(*packages: str) -> Iterator[None]:
    """Have every module of these packages that is loaded ask the clock for the time."""
    found = {"monotonic": (time.monotonic, CLOCK.monotonic), "datetime": (datetime, _Datetime)}
    changed = []
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] not in packages:
            continue
        for key, (real, virtual) in found.items():
            if vars(module).get(key) is real:
                setattr(module, key, virtual)
                changed.append((module, key, real))
    try:
        yield
    finally:
        for module, key, real in changed:
            setattr(module, key, real)
