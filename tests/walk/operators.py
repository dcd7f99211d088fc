"""One operator process that can be killed at any moment, without the process, kopf and sockets."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

import aiohttp
from walk.wire import Watch, Wire

from coldstart_operator.cluster import RUNS, Cluster
from coldstart_operator.controller import Controller
from coldstart_operator.settings import Settings


class _Deaf:
    """In place of the session that pods are asked with: none of them answers."""

    def get(self, url: str, **_: Any) -> Any:
        raise aiohttp.ClientConnectionError(url)


class Operator:
    """What `operate` puts together, less its pages: a controller and what tells it of events."""

    def __init__(self, server: Any, name: str) -> None:
        self.name = name
        self.wire = Wire(server, name)
        self.controller = Controller(Cluster(self.wire), _Deaf(), Settings(), more=lambda: None)
        self.watches = {
            plural: Watch(self.wire, kind, self._listener(plural))
            for plural, kind in self.controller.kinds.items()
        }
        self._tasks: list[asyncio.Task[None]] = []
        self._do(self._work())

    @property
    def dead(self) -> bool:
        """Whether it was killed."""
        return self.wire.dead

    def kill(self) -> None:
        """End it now, as SIGKILL would."""
        if self.dead:
            return
        self.wire.dead = True
        for task in self._tasks:
            task.cancel()
        self._do(self.controller.stop())

    def _listener(self, plural: str) -> Any:
        if plural == RUNS.plural:
            return self.controller.run_event
        return partial(self.controller.child_event, plural)

    async def _work(self) -> None:
        await self.controller.start()
        for watch in self.watches.values():
            self._do(watch.follow())

    def _do(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        task.add_done_callback(_raise)
        self._tasks.append(task)


def _raise(task: asyncio.Task[None]) -> None:
    """Have the loop hear of what has ended by a mistake."""
    if not task.cancelled():
        task.result()
