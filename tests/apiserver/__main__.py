"""Serve until interrupted: `PYTHONPATH=tests python -m apiserver --crd manifests/crd.yaml`.

With `--controllers` jobs run, too: each pod for `--running` seconds, with success.
"""

from __future__ import annotations

import argparse
import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

import yaml
from apiserver.controllers import Controllers
from apiserver.crds import pytorchjobs
from apiserver.scripts import Behaviour, scripted
from apiserver.server import ApiServer


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--kubeconfig", type=Path)
    parser.add_argument("--crd", type=Path, action="append", default=[])
    parser.add_argument("--controllers", action="store_true")
    parser.add_argument("--running", type=float, default=0.5)
    arguments = parser.parse_args()
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(ApiServer(port=arguments.port))
        server.create("customresourcedefinitions", pytorchjobs())
        for path in arguments.crd:
            for document in yaml.safe_load_all(path.read_text()):
                server.create("customresourcedefinitions", document)
        if arguments.controllers:
            script = scripted({}, Behaviour(running=arguments.running))
            await stack.enter_async_context(Controllers(server, script))
        if arguments.kubeconfig:
            server.kubeconfig(arguments.kubeconfig)
        print(server.url, flush=True)
        await asyncio.Event().wait()


asyncio.run(main())
