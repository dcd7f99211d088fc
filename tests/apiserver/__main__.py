"""Serve until interrupted: `PYTHONPATH=tests python -m apiserver --crd manifests/crd.yaml`.

The first line says where. With `--controllers` jobs run, too: each pod for `--running` seconds,
with success. With `--control` a second line says where the ledger and the levers are (`control`).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
from contextlib import AsyncExitStack
from pathlib import Path

import yaml
from apiserver.control import Control
from apiserver.controllers import Controllers
from apiserver.crds import pytorchjobs
from apiserver.scripts import Behaviour, scripted
from apiserver.server import ApiServer


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--kubeconfig", type=Path)
    parser.add_argument("--crd", type=Path, action="append", default=[])
    parser.add_argument("--controllers", action="store_true")
    parser.add_argument("--running", type=float, default=0.5)
    parser.add_argument("--control", action="store_true")
    parser.add_argument("--history", type=int, default=100_000, help="changes kept per resource")
    arguments = parser.parse_args()
    if arguments.control and not arguments.controllers:
        parser.error("--control needs --controllers")
    return arguments


async def main() -> None:
    arguments = options()
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(
            ApiServer(port=arguments.port, history=arguments.history)
        )
        server.create("customresourcedefinitions", pytorchjobs())
        for path in arguments.crd:
            for document in yaml.safe_load_all(path.read_text()):
                server.create("customresourcedefinitions", document)
        levers = ""
        if arguments.controllers:
            script = scripted({}, Behaviour(running=arguments.running))
            controllers = await stack.enter_async_context(Controllers(server, script))
            if arguments.control:
                control = Control(server, controllers, arguments.running)
                stack.push_async_callback(control.stop)
                levers = await control.start()
        if arguments.kubeconfig:
            server.kubeconfig(arguments.kubeconfig)
        print(server.url, levers, sep="\n" if levers else "", flush=True)
        end = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, end.set)
        await end.wait()


with contextlib.suppress(KeyboardInterrupt):
    asyncio.run(main())
