"""The world of `endurance.py` as one process: API server, faults, users and nodes; no operator.

Two addresses are printed: the API server's, and that of the levers (`/begin`, `/report`, `/calm`).
The safety oracles follow every change as it is stored, so the history may be short.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import signal
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import yaml
from aiohttp import web
from apiserver.control import Counts
from apiserver.controllers import Controllers
from apiserver.crds import pytorchjobs
from apiserver.server import ApiServer
from apiserver.store import Entry
from churn import JOBS, PODS, RUNS, WELL, Ledger, Nodes, Users
from oracles import Oracle, at_rest
from weather import Climate, Weather

from coldstart.children.pod import METRICS_PORT
from coldstart_operator.progress import DONE, REWARD, TOTAL

CRD = Path(__file__).resolve().parents[1] / "manifests" / "crd.yaml"

HISTORY = 3_000
"""Changes that each resource keeps: a few minutes."""

Json = dict[str, Any]


class World:
    """Everything but the operator, and what is told of it."""

    def __init__(self, server: ApiServer, options: argparse.Namespace) -> None:
        self.server = server
        self.counts, self.ledger, self.oracle = Counts(), Ledger(), Oracle()
        server.requests = self.counts
        # What it keeps of the bodies of status patches would be most of this process.
        self.counts.bodies = False
        server.store.listeners += [self.ledger.changed, self.oracle.take]
        self.address = f"127.{os.getpid() >> 16 & 255}.{os.getpid() >> 8 & 255}.{os.getpid() & 255}"
        dice = random.Random(options.seed)  # noqa: S311
        self.nodes = Nodes(options.seed, options.stage, (self.address, "127.0.0.1"))
        self.controllers = Controllers(server, self.nodes)
        self.users = Users(
            server,
            self.controllers,
            self.ledger,
            random.Random(dice.random()),  # noqa: S311
            runs=options.runs,
            pause=options.pause,
            keep=options.stage,
        )
        climate = Climate(**{name: getattr(options, name) for name in Climate.__annotations__})
        self.weather = Weather(server, climate, random.Random(dice.random()))  # noqa: S311
        self._changed = time.monotonic()
        server.store.listeners.append(self._moved)

    async def begin(self, _: web.Request) -> web.Response:
        """Have faults and deeds begin."""
        self.weather.start()
        self.users.start()
        return web.json_response({})

    async def calm(self, _: web.Request) -> web.Response:
        """No more faults and deeds; what runs ends at once, and well."""
        self.nodes.calm = True
        await self.weather.stop()
        await self.users.stop()
        return web.json_response({})

    async def report(self, _: web.Request) -> web.Response:
        """How things are."""
        if self.nodes.calm:
            self._finish()
        idle, idlest = self.ledger.idle()
        failures = [*self.server.errors, *self.controllers.errors]
        failures += [*self.weather.failures(), *self.users.failures()]
        return web.json_response(
            {
                "live": len(self.ledger.live),
                "suspended": len(self.ledger.waits),
                "ends": self.ledger.ends,
                "deeds": self.users.deeds,
                "faults": self.weather.hits,
                "requests": {f"{verb} {what}": n for (verb, what), n in self.counts.tally.items()},
                "objects": sum(len(self._all(key)) for key in (RUNS, JOBS)),
                "idle": idle,
                "idlest": idlest,
                "unchanged": time.monotonic() - self._changed,
                "violations": self.oracle.sentences(),
                "unrest": self._unended() or at_rest(self.server) if self.nodes.calm else [],
                "errors": [repr(error) for error in failures],
            }
        )

    async def metrics(self, _: web.Request) -> web.Response:
        """What a stage tells of itself; sometimes it hangs, or tells nonsense."""
        draw = random.random()  # noqa: S311
        if draw < 0.05:  # noqa: PLR2004
            await asyncio.sleep(10)
        if draw < 0.1:  # noqa: PLR2004
            return web.Response(body=os.urandom(2_000))
        step = int(time.monotonic()) % 1_000
        return web.Response(text=f"{DONE} {step}\n{TOTAL} 1000\n{REWARD} {draw}\n")

    def _all(self, key: tuple[str, str]) -> Mapping[Any, Entry]:
        return self.server.store.collection(key).entries

    def _moved(self, *_: object) -> None:
        self._changed = time.monotonic()

    def _unended(self) -> list[str]:
        return [f"run {name} has not ended" for name in sorted(self.ledger.live.values())[:20]]

    def _finish(self) -> None:
        """End the pods that were started to run for long."""
        pods = {uid for running in self.ledger.running.values() for uid in running}
        for entry in list(self._all(PODS).values()):
            if entry.object["metadata"]["uid"] in pods:
                self.controllers.kubelet.finish(entry.object, WELL)


async def serve(app: web.Application, host: str, port: int, stack: AsyncExitStack) -> str:
    """Serve until the stack is closed; where."""
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    await web.TCPSite(runner, host, port).start()
    return f"http://{host}:{runner.addresses[0][1]}"


def arguments() -> argparse.Namespace:
    """What the program was told."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kubeconfig", type=Path, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--runs", type=int, required=True)
    for name in ("stage", "pause", *Climate.__annotations__):
        parser.add_argument(f"--{name}", type=float, required=True)
    return parser.parse_args()


async def main() -> None:
    """Serve until interrupted."""
    options = arguments()
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(ApiServer(history=HISTORY))
        server.create("customresourcedefinitions", pytorchjobs())
        for document in yaml.safe_load_all(CRD.read_text()):
            server.create("customresourcedefinitions", document)
        world = World(server, options)
        pods, levers = web.Application(), web.Application()
        pods.router.add_get("/metrics", world.metrics)
        levers.router.add_post("/begin", world.begin)
        levers.router.add_get("/report", world.report)
        levers.router.add_post("/calm", world.calm)
        await serve(pods, world.address, METRICS_PORT, stack)
        where = await serve(levers, "127.0.0.1", 0, stack)
        server.kubeconfig(options.kubeconfig)
        world.controllers.start()
        stack.callback(world.controllers.stop)
        print(server.url, where, sep="\n", flush=True)
        end = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, end.set)
        await end.wait()


if __name__ == "__main__":
    asyncio.run(main())
