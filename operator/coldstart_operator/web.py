"""The two pages that the operator serves: `/healthz` for the kubelet, `/metrics` for Prometheus."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST

from coldstart_operator.metrics import exposition

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Pages:
    """Two small servers, so that the ports may have different readers."""

    def __init__(self, problems: Callable[[], list[str]]) -> None:
        self._problems = problems
        self._runners: list[web.AppRunner] = []

    async def start(self, host: str, health_port: int, metrics_port: int) -> tuple[int, int]:
        """Serve.

        Returns:
            The ports, for those that were given as 0.

        Raises:
            OSError: a port is taken.
        """
        health = await self._serve(host, health_port, "/healthz", self._healthz)
        return health, await self._serve(host, metrics_port, "/metrics", self._metrics)

    async def stop(self) -> None:
        """Stop serving, without waiting for slow readers."""
        while self._runners:
            await self._runners.pop().cleanup()

    async def _serve(self, host: str, port: int, path: str, handler: Handler) -> int:
        app = web.Application()
        app.router.add_get(path, handler)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)
        await runner.setup()
        self._runners.append(runner)
        site = web.TCPSite(runner, host, port)
        await site.start()
        return int(runner.addresses[0][1])

    async def _healthz(self, _: web.Request) -> web.Response:
        problems = self._problems()
        text = "\n".join(problems) or "ok"
        return web.Response(text=text + "\n", status=500 if problems else 200)

    async def _metrics(self, _: web.Request) -> web.Response:
        return web.Response(body=exposition(), headers={"Content-Type": CONTENT_TYPE_LATEST})
