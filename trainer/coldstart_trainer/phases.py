"""How long a stage is in each phase of its work; which metric that becomes is told to the meter.

A phase is marked with `with phase("generate"):` wherever it happens. Outside a stage, and in
threads other than the stage's, the mark does nothing.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from typing import TypeVar

from coldstart.metrics import PHASES, series
from coldstart_trainer.meter import Meter

OCCASIONAL = ("checkpoint", "eval")
"""Phases outside of updates: each occurrence is one observation."""

Clock = Callable[[], float]
T = TypeVar("T")


class Stopwatch:
    """Seconds of each phase; where phases are nested, only the innermost one's clock runs."""

    def __init__(self, meter: Meter, clock: Clock = time.perf_counter) -> None:
        self._meter, self._clock = meter, clock
        self._running: list[str] = []
        self._since = 0.0
        self._seconds: dict[str, float] = {}

    def enter(self, name: str) -> None:
        """A phase begins."""
        assert name in PHASES, name
        self._charge()
        self._running.append(name)

    def leave(self) -> None:
        """The innermost phase ends."""
        self._charge()
        name = self._running.pop()
        if name in OCCASIONAL:
            self._observe(name)
            self._meter.publish()

    def lap(self) -> None:
        """An update, or a batch of responses, is done: what it took in each phase is observed."""
        self._charge()
        for name in list(self._seconds):
            self._observe(name)

    def _charge(self) -> None:
        now = self._clock()
        if self._running:
            name = self._running[-1]
            self._seconds[name] = self._seconds.get(name, 0.0) + now - self._since
        self._since = now

    def _observe(self, name: str) -> None:
        self._meter.observe(series("phase_seconds", name), self._seconds.pop(name))


_WATCH: ContextVar[Stopwatch | None] = ContextVar("stopwatch", default=None)


@contextlib.contextmanager
def recorded(meter: Meter, clock: Clock = time.perf_counter) -> Iterator[None]:
    """Let the phases of this thread count, for this meter."""
    token = _WATCH.set(Stopwatch(meter, clock))
    try:
        yield
    finally:
        _WATCH.reset(token)


@contextlib.contextmanager
def phase(name: str) -> Iterator[None]:
    """Count the time inside as a phase's."""
    watch = _WATCH.get()
    if watch is None:
        yield
        return
    watch.enter(name)
    try:
        yield
    finally:
        watch.leave()


def each(name: str, items: Iterable[T]) -> Iterator[T]:
    """The items, with the time of making each counted as a phase's."""
    iterator = iter(items)
    while True:
        with phase(name):
            try:
                item = next(iterator)
            except StopIteration:
                return
        yield item


def lap() -> None:
    """An update, or a batch of responses, is done."""
    if watch := _WATCH.get():
        watch.lap()
