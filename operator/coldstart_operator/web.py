"""The pages that the operator serves: for the kubelet whether it works, for Prometheus how."""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable, Mapping

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST

from coldstart_operator.metrics import exposition

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class CannotListen(OSError):
    """A port cannot be had."""


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

    async def start(self, host: str, health_port: int, metrics_port: int) -> tuple[int, int]:
        """Serve.

        Returns:
            The ports, for those that were given as 0.

        Raises:
            CannotListen: a port is taken, or not ours to take.
        """
        health = {"/healthz": self._healthz, "/readyz": self._readyz}
        return (
            await self._serve(host, health_port, health),
            await self._serve(host, metrics_port, {"/metrics": self._metrics}),
        )

    async def stop(self) -> None:
        """Stop serving, without waiting for slow readers."""
        while self._runners:
            await self._runners.pop().cleanup()

    async def _serve(self, host: str, port: int, pages: Mapping[str, Handler]) -> int:
        app = web.Application()
        for path, handler in pages.items():
            app.router.add_get(path, handler)
        runner = await listen(app, host, port)
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


async def listen(
    app: web.Application, host: str, port: int, context: ssl.SSLContext | None = None
) -> web.AppRunner:
    """Serve an application; its `cleanup` ends that without waiting for slow clients.

    Raises:
        CannotListen: the port is taken, or not ours to take.
    """
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port, ssl_context=context).start()
    except OSError as error:
        await runner.cleanup()
        why = error.strerror or str(error)
        raise CannotListen(f"cannot listen on {host}, port {port}: {why}") from error
    return runner


def port_of(runner: web.AppRunner) -> int:
    """The port that is listened on."""
    return int(runner.addresses[0][1])
