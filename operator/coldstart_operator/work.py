"""A queue of keys to work on: one worker per key, coalescing, backoff, timers; knows no runs.

The semantics are those of controller-runtime's work queue: a key that is added while it waits is
there once; one that is added while it is worked on is worked on again afterwards.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass, field
from time import monotonic
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)

IDLE_POLL = 0.02
"""Seconds between two looks whether nothing is left to do."""

logger = logging.getLogger(__name__)


@dataclass
class WorkQueue(Generic[Key]):
    """Keys that wait, keys that are worked on, keys that come back later.

    `handle` works on a key; it returns after how many seconds the key is to come back, None for
    never, and raises to have it come back after a wait that doubles with each failure, and is no
    shorter than an error's `retry_after`.
    `failed` is told of what it raised.
    """

    handle: Callable[[Key], Awaitable[float | None]]
    failed: Callable[[Key, Exception, int], Awaitable[None]]
    backoff: float = 0.5
    max_backoff: float = 120.0
    _waiting: asyncio.Queue[Key] = field(default_factory=asyncio.Queue)
    _queued: set[Key] = field(default_factory=set)
    _active: dict[Key, float] = field(default_factory=dict)
    _timers: dict[Key, asyncio.TimerHandle] = field(default_factory=dict)
    _failures: dict[Key, int] = field(default_factory=dict)
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)

    def add(self, key: Key) -> None:
        """Have a key worked on as soon as a worker is free."""
        if key in self._queued:
            return
        self._queued.add(key)
        if key not in self._active:
            self._waiting.put_nowait(key)

    def add_after(self, key: Key, seconds: float) -> None:
        """Have a key worked on in so many seconds, or earlier if a timer for it ends earlier."""
        if seconds <= 0:
            self.add(key)
            return
        loop = asyncio.get_running_loop()
        timer = self._timers.get(key)
        if timer is not None:
            if timer.when() <= loop.time() + seconds:
                return
            timer.cancel()
        self._timers[key] = loop.call_later(seconds, self._ring, key)

    def forget(self, key: Key) -> None:
        """Drop a key's timer and its failures."""
        self._failures.pop(key, None)
        timer = self._timers.pop(key, None)
        if timer is not None:
            timer.cancel()

    def start(self, workers: int) -> None:
        """Start so many workers; what was added before waits for them."""
        self._tasks += [asyncio.create_task(self._work()) for _ in range(workers)]

    async def stop(self) -> None:
        """End the workers, in the middle of what they do."""
        for key in list(self._timers):
            self.forget(key)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()

    async def idle(self, seconds: float) -> bool:
        """Wait until no key waits for a worker and none is worked on, but not longer than this.

        Returns:
            Whether it came to that.
        """
        end = monotonic() + seconds
        while self._queued or self._active:
            if monotonic() > end:
                return False
            await asyncio.sleep(IDLE_POLL)
        return True

    @property
    def depth(self) -> int:
        """Keys that wait for a worker."""
        return self._waiting.qsize()

    @property
    def oldest(self) -> float:
        """For how many seconds the slowest worker has been at its key; 0 when all are free."""
        return monotonic() - min(self._active.values()) if self._active else 0.0

    def _ring(self, key: Key) -> None:
        self._timers.pop(key, None)
        self.add(key)

    async def _work(self) -> None:
        while True:
            key = await self._waiting.get()
            self._queued.discard(key)
            self._active[key] = monotonic()
            try:
                await self._turn(key)
            finally:
                del self._active[key]
                if key in self._queued:
                    self._waiting.put_nowait(key)

    async def _turn(self, key: Key) -> None:
        timer = self._timers.pop(key, None)
        if timer is not None:
            timer.cancel()
        try:
            after = await self.handle(key)
        except Exception as error:  # noqa: BLE001 - the boundary: one bad key must not end a worker
            number = self._failures[key] = self._failures.get(key, 0) + 1
            wait = max(self.backoff * 2.0 ** min(number - 1, 30), _asked(error))
            self.add_after(key, min(wait, self.max_backoff))
            await self._tell(key, error, number)
            return
        self._failures.pop(key, None)
        if after is not None:
            self.add_after(key, after)

    async def _tell(self, key: Key, error: Exception, number: int) -> None:
        try:
            await self.failed(key, error, number)
        except Exception:  # as above; the key comes back in any case
            logger.exception("could not tell of a failure")


def _asked(error: Exception) -> float:
    """The seconds that an error asks for; 0 for none."""
    asked = getattr(error, "retry_after", 0.0)
    return float(asked) if isinstance(asked, (int, float)) else 0.0
