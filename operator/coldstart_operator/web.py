"""The pages that the operator serves: for the kubelet whether it works, for Prometheus how."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Awaitable, Callable, Mapping

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST

from coldstart_operator.metrics import exposition

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class CannotListen(OSError):
    """A port cannot be had."""


class Ports:
    """The listening sockets of a process.

    They outlive an event loop, and the servers in it: while the process begins anew, whoever asks
    waits for the next server. A port that is given as 0 stays the one that it became.
    """

    def __init__(self, host: str) -> None:
        self._host = host
        self._sockets: dict[str, socket.socket] = {}

    async def listen(
        self, name: str, port: int, app: web.Application, context: ssl.SSLContext | None = None
    ) -> web.AppRunner:
        """Serve an application; its `cleanup` ends that without waiting for slow clients.

        Raises:
            CannotListen: the port is taken, or not ours to take.
        """
        if name not in self._sockets:
            self._sockets[name] = self._bound(port)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)
        await runner.setup()
        await web.SockSite(runner, self._sockets[name].dup(), ssl_context=context).start()
        return runner

    def close(self) -> None:
        """Listen no longer."""
        while self._sockets:
            self._sockets.popitem()[1].close()

    def _bound(self, port: int) -> socket.socket:
        try:
            kind, flags = socket.SOCK_STREAM, socket.AI_PASSIVE
            family, *_, address = socket.getaddrinfo(self._host, port, type=kind, flags=flags)[0]
            return socket.create_server(address, family=family)
        except OSError as error:
            why = error.strerror or str(error)
            raise CannotListen(f"cannot listen on {self._host}, port {port}: {why}") from error


class Pages:
    """Two small servers, so that the ports may have different readers.

    `/healthz` says whether the process is to be ended, `/readyz` also whether it has begun.
    """

    def __init__(self, problems: Callable[[], list[str]], begun: Callable[[], bool]) -> None:
        """Pages that are not served yet.

        Args:
            problems: what is wrong, in sentences.
            begun: whether what there is has been read.
        """
        self._problems = problems
        self._begun = begun
        self._runners: list[web.AppRunner] = []

    async def start(self, ports: Ports, health_port: int, metrics_port: int) -> tuple[int, int]:
        """Serve.

        Returns:
            The ports, for those that were given as 0.

        Raises:
            CannotListen: a port is taken, or not ours to take.
        """
        health = {"/healthz": self._healthz, "/readyz": self._readyz}
        return (
            await self._serve(ports, "health", health_port, health),
            await self._serve(ports, "metrics", metrics_port, {"/metrics": self._metrics}),
        )

    async def stop(self) -> None:
        """Stop serving, without waiting for slow readers."""
        while self._runners:
            await self._runners.pop().cleanup()

    async def _serve(self, ports: Ports, name: str, port: int, pages: Mapping[str, Handler]) -> int:
        app = web.Application()
        for path, handler in pages.items():
            app.router.add_get(path, handler)
        runner = await ports.listen(name, port, app)
        self._runners.append(runner)
        return port_of(runner)

    async def _healthz(self, _: web.Request) -> web.Response:
        return _verdict(self._problems())

    async def _readyz(self, _: web.Request) -> web.Response:
        waits = [] if self._begun() else ["it has not read yet what there is"]
        return _verdict([*waits, *self._problems()])

    async def _metrics(self, _: web.Request) -> web.Response:
        return web.Response(body=exposition(), headers={"Content-Type": CONTENT_TYPE_LATEST})


def _verdict(problems: list[str]) -> web.Response:
    text = "\n".join(problems) or "ok"
    return web.Response(text=text + "\n", status=500 if problems else 200)


def port_of(runner: web.AppRunner) -> int:
    """The port that is listened on."""
    return int(runner.addresses[0][1])
