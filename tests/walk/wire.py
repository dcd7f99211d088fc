"""The wire between one operator and the API server, without sockets: requests and watch streams.

`Wire` stands where kubernetes' `ApiClient` does, `Watch` where kopf does: it lists, then follows,
and hands on the last of the events that come for one object within a moment. Both meet the faults
of the server, and end where the operator is killed: what was sent by then still arrives.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from email.utils import format_datetime
from types import SimpleNamespace
from typing import Any

import aiohttp
from apiserver import paths
from apiserver.errors import ApiError as Refusal
from apiserver.streams import Stream
from apiserver.tampering import Cut, meet
from walk.clock import CLOCK

from coldstart_operator.cluster import ApiError, Cluster

WAY = 0.005
"""Seconds that a request takes to the server, and an answer back."""

WINDOW = 0.1
"""Seconds within which kopf takes the last event of an object for all."""

RECONNECT = 0.1
"""Seconds until kopf opens a stream again."""


class Answer:
    """A response as `Cluster` reads it."""

    def __init__(self, status: int, data: bytes) -> None:
        self.status = status
        self.headers = {"Date": format_datetime(CLOCK.now(), usegmt=True)}
        self._data = data

    async def read(self) -> bytes:
        return self._data


class Message:
    """A request as the server reads it."""

    def __init__(
        self, agent: str, method: str, path: str, query: dict[str, str], body: Any, kind: str
    ) -> None:
        self.method = method
        self.path = path
        self.rel_url = SimpleNamespace(query=query)
        self.headers = {"User-Agent": agent, "Content-Type": kind}
        self.can_read_body = body is not None
        self._data = json.dumps(body).encode() if body is not None else b""
        self.cut = False
        self.transport = SimpleNamespace(abort=self._cut, close=self._cut)

    def _cut(self) -> None:
        self.cut = True

    async def read(self) -> bytes:
        return self._data


class Wire:
    """One operator's requests."""

    def __init__(self, server: Any, agent: str) -> None:
        self.server = server
        self.agent = agent
        self.dead = False
        """The operator is no more: nothing is sent, and no answer is heard."""

    async def close(self) -> None:
        """There is nothing to close."""

    async def param_serialize(
        self, method: str, path: str, *, query_params: Any, header_params: Any, body: Any, **_: Any
    ) -> tuple[Any, ...]:
        return method, path, dict(query_params), body, header_params["Content-Type"]

    async def call_api(
        self,
        method: str,
        path: str,
        query: dict[str, str],
        body: Any,
        kind: str,
        _request_timeout: aiohttp.ClientTimeout,
    ) -> Answer:
        await self.alive()
        message = Message(self.agent, method, path, query, body, kind)
        served = asyncio.ensure_future(self._served(message))
        served.add_done_callback(lambda task: task.cancelled() or task.exception())
        async with asyncio.timeout(_request_timeout.total):
            answer = await asyncio.shield(served)
        await self.alive()
        return answer

    async def alive(self) -> None:
        """Go no further where the operator is dead."""
        if self.dead:
            await asyncio.get_running_loop().create_future()

    async def _served(self, message: Message) -> Answer:
        await asyncio.sleep(WAY)
        response = await self.server._handle(message)
        await asyncio.sleep(WAY)
        if message.cut:
            raise aiohttp.ServerDisconnectedError
        return Answer(response.status, response.body)


class Watch:
    """Tells one operator of the events of one kind."""

    def __init__(self, wire: Wire, kind: Any, tell: Any) -> None:
        self.wire = wire
        self.server = wire.server
        self.kind = kind
        self.tell = tell
        self.held = False
        """Whether what comes is kept back."""
        self._kept: deque[dict[str, Any]] = deque()
        self._last: dict[str, dict[str, Any]] = {}
        self._cluster = Cluster(wire)

    async def follow(self) -> None:
        """List and watch for ever."""
        while True:
            try:
                version = await self._list()
                while version:
                    await asyncio.sleep(RECONNECT)
                    version = await self._stream(version)
            except ApiError:
                pass
            await asyncio.sleep(RECONNECT)

    def release(self) -> None:
        """Let go what was kept back."""
        self.held = False
        while self._kept:
            self._take(self._kept.popleft())

    async def _list(self) -> str:
        version = ""
        pages = self._cluster.pages(self.kind.resource, None, **self.kind.selector)
        async for items, listed in pages:
            version = listed
            for item in items:
                self._take({"type": None, "object": {**self.kind.identity, **item}})
        return version

    async def _stream(self, version: str) -> str:
        """Watch from a version on; the version to go on from, none where all must be listed.

        Raises:
            ApiError: the server refuses the watch.
        """
        await self.wire.alive()
        path = f"/apis/{self.kind.api_version}/{self.kind.resource.plural}"
        query = {"watch": "true", "allowWatchBookmarks": "true", "resourceVersion": version}
        request = paths.describe("GET", path, query | self.kind.selector)
        request.agent = self.wire.agent
        self.server.requests.add(request)
        try:
            target = paths.resolve(request, path, self.server.registry)
            await meet(self.server.faults.hitting(request), request)
        except Refusal as error:
            raise ApiError(error.code, error.reason, error.message) from error
        except Cut:
            return version
        stream = Stream(
            self.server.objects,
            target,
            request,
            self.server.faults,
            bookmark_seconds=self.server.bookmark_seconds,
            as_table=False,
        )
        try:
            async for chunk in stream.chunks():
                for line in chunk.splitlines():
                    event = json.loads(line)
                    if event["type"] == "ERROR":
                        return ""
                    version = event["object"]["metadata"]["resourceVersion"]
                    if event["type"] != "BOOKMARK":
                        self._take(event)
        except Cut:
            pass
        finally:
            stream.stop()
        return version

    def _take(self, event: dict[str, Any]) -> None:
        if self.held:
            self._kept.append(event)
            return
        uid = event["object"]["metadata"]["uid"]
        if uid not in self._last:
            asyncio.get_running_loop().call_later(WINDOW, self._hand_on, uid)
        self._last[uid] = event

    def _hand_on(self, uid: str) -> None:
        event = self._last.pop(uid)
        if not self.wire.dead:
            self.tell(event["type"], event["object"])
