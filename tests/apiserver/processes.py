"""Pods as processes of this machine: the command and environment of the `pytorch` container.

Volumes are directories by the test's `rewrite`; the termination message is the file that
`COLDSTART_RESULT` names; HOME is a directory of the pod's own; the master's address is the
loopback, one free port per job. No images, init containers, probes or resource limits; /tmp and
/dev/shm are this machine's.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import socket
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from coldstart.stage import METRICS_PORT_ENV, RESULT_ENV


@dataclass(frozen=True)
class Launch:
    """What is started."""

    command: tuple[str, ...]
    env: dict[str, str]
    directory: str
    pod: Mapping[str, Any]


def mapped(root: Path, mount: str = "/storage") -> Callable[[Launch], Launch]:
    """A rewrite that puts a directory in place of the claim that is mounted at `mount`.

    A mount's subPath is a directory below `root`; `python` is this interpreter.
    """

    def rewrite(launch: Launch) -> Launch:
        place = root
        for container in launch.pod["spec"]["containers"]:
            for one in container.get("volumeMounts") or ():
                if one["mountPath"] == mount and one.get("subPath"):
                    place = root / one["subPath"]
        place.mkdir(parents=True, exist_ok=True)
        pattern = re.compile(rf"{re.escape(mount)}(?=/|\"|:|$)")

        def swap(text: str) -> str:
            return pattern.sub(lambda _: str(place), text)

        command = [swap(one) for one in launch.command]
        if command[0] in {"python", "python3"}:
            command[0] = sys.executable
        env = {name: swap(value) for name, value in launch.env.items()}
        return replace(launch, command=tuple(command), env=env, directory=swap(launch.directory))

    return rewrite


class Processes:
    """Runs pods.

    Args:
        rewrite: turns what the pod says into what this machine can do.
        environ: what processes inherit beside the pod's own environment.
    """

    def __init__(
        self, rewrite: Callable[[Launch], Launch], environ: Mapping[str, str] | None = None
    ) -> None:
        self.rewrite = rewrite
        self.environ = dict(os.environ if environ is None else environ)
        self.launches: list[Launch] = []
        self._running: dict[str, asyncio.subprocess.Process] = {}
        self._stopped: set[str] = set()
        self._ports: dict[str, str] = {}

    async def run(self, pod: dict[str, Any], log: Callable[[str], None]) -> tuple[int, bytes]:
        """Run a pod to its end: the exit code as a shell has it, and the termination message."""
        uid = pod["metadata"]["uid"]
        with tempfile.TemporaryDirectory() as scratch:
            launch = self.rewrite(self._launch(pod, Path(scratch)))
            message = Path(launch.env[RESULT_ENV])
            self.launches.append(launch)
            process = await asyncio.create_subprocess_exec(
                *launch.command,
                env={**self.environ, **launch.env},
                cwd=launch.directory,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                start_new_session=True,
                limit=2**24,
            )
            self._running[uid] = process
            try:
                if uid in self._stopped:
                    _signal(process, signal.SIGTERM)
                assert process.stdout is not None
                async for line in process.stdout:
                    log(line.decode(errors="replace"))
                code = await process.wait()
            finally:
                _signal(process, signal.SIGKILL)
                del self._running[uid]
            data = _content(message)
        return (128 - code if code < 0 else code), data

    def stop(self, pod: dict[str, Any]) -> None:
        """SIGTERM now, SIGKILL when the grace period is over."""
        uid = pod["metadata"]["uid"]
        self._stopped.add(uid)
        process = self._running.get(uid)
        if process is None:
            return
        _signal(process, signal.SIGTERM)
        seconds = pod["metadata"].get("deletionGracePeriodSeconds") or 0
        loop = asyncio.get_running_loop()
        loop.call_later(seconds, self._kill, uid)

    def _kill(self, uid: str) -> None:
        if uid in self._running:
            _signal(self._running[uid], signal.SIGKILL)

    def _launch(self, pod: dict[str, Any], scratch: Path) -> Launch:
        containers = pod["spec"]["containers"]
        container = next((one for one in containers if one["name"] == "pytorch"), containers[0])
        env: dict[str, str] = {}
        for one in container.get("env") or ():
            value = one.get("value", "") if "valueFrom" not in one else _field(pod, one)
            env[one["name"]] = re.sub(
                r"\$\((\w+)\)", lambda match: env.get(match[1], match[0]), value
            )
        if "MASTER_ADDR" in env or "PET_MASTER_ADDR" in env:
            port = self._port(pod)
            env |= {"MASTER_ADDR": "127.0.0.1", "PET_MASTER_ADDR": "127.0.0.1"}
            env |= {"MASTER_PORT": port, "PET_MASTER_PORT": port}
        # A port of its own is what a pod's network would give it.
        env.pop(METRICS_PORT_ENV, None)
        env[RESULT_ENV] = str(scratch / "termination-log")
        env["HOME"] = str(scratch)
        command = (*(container.get("command") or ()), *(container.get("args") or ()))
        return Launch(command, env, container.get("workingDir", "."), pod)

    def _port(self, pod: dict[str, Any]) -> str:
        owner = pod["metadata"]["ownerReferences"][0]["uid"]
        if owner not in self._ports:
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                self._ports[owner] = str(free.getsockname()[1])
        return self._ports[owner]


def _field(pod: Mapping[str, Any], variable: Mapping[str, Any]) -> str:
    """What a fieldRef names; secrets and config maps are empty."""
    path = variable["valueFrom"].get("fieldRef", {}).get("fieldPath", "")
    if match := re.match(r"^metadata\.(labels|annotations)\['([^']+)'\]$", path):
        return str((pod["metadata"].get(match[1]) or {}).get(match[2], ""))
    found: Any = pod
    for part in filter(None, path.split(".")):
        found = found.get(part, "") if isinstance(found, Mapping) else ""
    return str(found) if path else ""


def _content(path: Path) -> bytes:
    return path.read_bytes() if path.exists() else b""


def _signal(process: asyncio.subprocess.Process, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)
