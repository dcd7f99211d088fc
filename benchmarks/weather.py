"""Faults of an API server at random: of requests, of watch streams, restarts; knows no operator.

What a real API server and the network before it do once in a while, here happens all the time.
The same seed draws the same faults; what they hit depends on who asks for what, and when.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from apiserver import faults
from apiserver.faults import Fault, StreamFault
from apiserver.server import ApiServer

PATCH = ("patch", "reasoningruns/status")
WRITES = (PATCH, ("create", "pytorchjobs"), ("delete", "pytorchjobs"), ("create", "events"))
READS = (
    ("list", "pods"),
    ("list", "reasoningruns"),
    ("list", "pytorchjobs"),
    ("get", "reasoningruns"),
    ("watch", "reasoningruns"),
    ("watch", "pytorchjobs"),
)
STREAMS = ("reasoningruns", "pytorchjobs")

PATIENCE = 20.0
"""Seconds after which a fault that has met nothing is taken back."""

TIMEOUT = 35.0
"""Seconds that an answer takes which nobody waits for: longer than the operator does."""

AWAY = 4.0
"""Seconds for which the server is away at most when it restarts."""

Made = list[Fault | StreamFault]


@dataclass(frozen=True)
class Climate:
    """Seconds between two faults of a sort, on average."""

    requests: float
    streams: float
    silences: float
    """Streams that stay open and tell nothing more."""
    gone: float
    """Streams that end with 410, their history forgotten."""
    restarts: float
    timeouts: float
    """Answers that come too late, though what was asked for was done."""


@dataclass
class Weather:
    """Puts faults in force and takes them back; what they have hit is counted by sort."""

    server: ApiServer
    climate: Climate
    dice: random.Random
    hits: Counter[str] = field(default_factory=Counter)
    _made: list[tuple[float, str, Fault | StreamFault]] = field(default_factory=list)
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)
    _up: asyncio.Event = field(default_factory=asyncio.Event)
    """Set while the server is there."""

    def start(self) -> None:
        """Begin."""
        self._up.set()
        sorts: tuple[tuple[float, Callable[[], tuple[str, Made]]], ...] = (
            (self.climate.requests, self._request),
            (self.climate.streams, self._stream),
            (self.climate.silences, self._silence),
            (self.climate.gone, self._gone),
            (self.climate.timeouts, self._timeout),
        )
        self._tasks = [asyncio.create_task(self._now_and_then(*sort)) for sort in sorts]
        self._tasks.append(asyncio.create_task(self._restarts()))

    async def stop(self) -> None:
        """All is well from here on; streams that are silent stay so until they are opened anew."""
        await self._up.wait()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._take_back(all_of_them=True)
        self.server.faults.clear()

    def failures(self) -> list[BaseException]:
        """What ended a task of ours before its time; there should be nothing."""
        ended = (task for task in self._tasks if task.done() and not task.cancelled())
        return [error for task in ended if (error := task.exception())]

    async def _now_and_then(self, seconds: float, make: Callable[[], tuple[str, Made]]) -> None:
        while True:
            await asyncio.sleep(self.dice.expovariate(1 / seconds))
            self._take_back()
            sort, made = make()
            for fault in made:
                self.server.faults.add(fault)
                self._made.append((asyncio.get_running_loop().time(), sort, fault))

    def _take_back(self, *, all_of_them: bool = False) -> None:
        """Remove the faults that are spent or have waited too long."""
        now, kept = asyncio.get_running_loop().time(), []
        for made, sort, fault in self._made:
            spent = fault.times is not None and fault.hits >= fault.times
            held = isinstance(fault, StreamFault) and fault.held is not None
            if not all_of_them and not (spent and not held) and now - made < PATIENCE:
                kept.append((made, sort, fault))
                continue
            self.hits[sort] += fault.hits
            if isinstance(fault, StreamFault):
                self.server.faults.streams.remove(fault)
            else:
                self.server.faults.requests.remove(fault)
        self._made = kept

    def _request(self) -> tuple[str, Made]:
        dice = self.dice
        times, after = dice.choice((1, 1, 2, 4)), dice.choice((True, False))
        writes = dice.random() < 0.7  # noqa: PLR2004
        verb, resource = dice.choice(WRITES if writes else READS)
        match dice.choice(("409", "429", "500", "503", "drop", "late")):
            case "409":
                verb, resource = PATCH
                return "409", [faults.answer(verb, resource, 409, times=times)]
            case "429":
                wait = {"Retry-After": "1"}
                return "429", [faults.answer(verb, resource, 429, times=times, headers=wait)]
            case "500":
                after = after and writes
                word = "500 after commit" if after else "500"
                return word, [faults.answer(verb, resource, 500, times=times, after=after)]
            case "503":
                return "503", [faults.answer(verb, resource, 503, times=times)]
            case "drop":
                after = after and writes
                word = "connection lost after commit" if after else "connection lost"
                return word, [faults.drop(verb, resource, after=after, times=times)]
        seconds = dice.uniform(0.1, 3.0)
        return "slow answer", [faults.delay(verb, resource, seconds, times=times, after=after)]

    def _timeout(self) -> tuple[str, Made]:
        verb, resource = self.dice.choice(WRITES[:3])
        fault = faults.delay(verb, resource, TIMEOUT, times=1, after=True)
        return "time-out after commit", [fault]

    def _stream(self) -> tuple[str, Made]:
        dice = self.dice
        word, make = dice.choice(
            (
                ("event dropped", faults.hide),
                ("event twice", faults.duplicate),
                ("events swapped", faults.swap),
                ("stream cut", faults.cut),
            )
        )
        times = 1 if make is faults.cut else dice.randint(1, 3)
        nth = dice.randint(1, 5)
        return word, [make(dice.choice(STREAMS), nth=nth, times=times)]

    def _silence(self) -> tuple[str, Made]:
        return "stream silent", [faults.silence(self.dice.choice(STREAMS), times=1)]

    def _gone(self) -> tuple[str, Made]:
        """The stream ends, and where it ended is forgotten: whoever watched has to list anew."""
        return "410", [faults.error(self.dice.choice(STREAMS), 410, times=1)]

    async def _restarts(self) -> None:
        while True:
            await asyncio.sleep(self.dice.expovariate(1 / self.climate.restarts))
            forgets = self.dice.choice((True, False))
            self._up.clear()
            await self.server.restart(self.dice.uniform(0.1, AWAY))
            self._up.set()
            if forgets:
                self.server.store.compact()
            self.hits["API server restarted"] += 1
