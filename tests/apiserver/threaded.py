"""The API server in a thread of its own, for tests and programs that are not async."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from apiserver.server import ApiServer


@contextmanager
def running_server(**options: Any) -> Iterator[ApiServer]:
    """A running server; the options are those of `ApiServer`."""
    started: threading.Event = threading.Event()
    servers: list[ApiServer] = []
    failures: list[BaseException] = []
    stop: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

    async def serve() -> None:
        async with ApiServer(**options) as server:
            end = asyncio.Event()
            stop.append((asyncio.get_running_loop(), end))
            servers.append(server)
            started.set()
            await end.wait()

    def main() -> None:
        try:
            asyncio.run(serve())
        except BaseException as error:  # noqa: BLE001 - handed to the thread that waits
            failures.append(error)
        finally:
            started.set()

    thread = threading.Thread(target=main, name="apiserver", daemon=True)
    thread.start()
    started.wait(30)
    if not servers:
        raise RuntimeError("the API server did not start") from next(iter(failures), None)
    try:
        yield servers[0]
    finally:
        loop, end = stop[0]
        loop.call_soon_threadsafe(end.set)
        thread.join(10)
