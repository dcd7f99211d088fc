"""The processes that a measurement of the operator needs, and requests to them; measures nothing.

The API server (`tests/apiserver`, with stand-ins for the job controller and the kubelet), the
operator and the program that imports this are three processes.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
import yaml

ROOT = Path(__file__).resolve().parents[1]
RUN = ROOT / "examples" / "quickstart" / "run.yaml"
RUNS = "/apis/coldstart.dev/v1alpha1/namespaces/{}/reasoningruns"
OURS = "default"
"""The namespace that the operator works in."""

STALLED = 120.0
"""Seconds without any change until a measurement is given up."""

COPIES = 50
"""Runs that the server copies in one request."""

Json = dict[str, Any]


class Failed(Exception):
    """There is no result; the message says why."""


class Operator:
    """The operator's process; it may be killed and started again. Needs the proc(5) of Linux.

    Args:
        kubeconfig: where the API server is.
        log: what it says is added to this file.
        program: what Python is to run, if not the operator alone.
        options: further options of the operator.
    """

    def __init__(
        self,
        kubeconfig: Path,
        log: Path,
        program: Sequence[str] = ("-m", "coldstart_operator"),
        options: Sequence[str] = (),
    ) -> None:
        self.log = log
        self._command = [sys.executable, *program, "--namespace", OURS, "--host", "127.0.0.1"]
        self._command += ["--health-port", "0", "--metrics-port", "0", *options]
        self._env = environment() | {"KUBECONFIG": str(kubeconfig)}
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> float:
        """Start it; when that was."""
        begun = time.monotonic()
        self._process = spawned(self._command, self.log, self._env)
        return begun

    def stop(self) -> None:
        """End it, if it runs."""
        ended(self._process)

    def kill(self) -> None:
        """SIGKILL."""
        assert self._process
        self._process.kill()
        self._process.wait()

    def check(self) -> None:
        """See that it runs.

        Raises:
            Failed: it has ended.
        """
        code = self._process.poll() if self._process else None
        if code is not None:
            tail = "\n".join(self.log.read_text(errors="replace").splitlines()[-20:])
            raise Failed(f"the operator has ended with {code}:\n{tail}")

    @property
    def memory(self) -> float:
        """Its resident memory in MiB; 0 while it is not there."""
        found = re.search(r"^VmRSS:\s+(\d+) kB", self._told("status"), re.MULTILINE)
        return int(found[1]) / 1024 if found else 0.0

    @property
    def processor_seconds(self) -> float:
        """The processor time that it has taken since it was started."""
        words = self._told("stat").rpartition(")")[2].split()
        return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")

    @property
    def threads(self) -> int:
        """Its threads; 0 while it is not there."""
        found = re.search(r"^Threads:\s+(\d+)", self._told("status"), re.MULTILINE)
        return int(found[1]) if found else 0

    @property
    def descriptors(self) -> int:
        """Its open file descriptors; 0 while it is not there."""
        assert self._process
        with suppress(FileNotFoundError, ProcessLookupError):
            return sum(1 for _ in Path(f"/proc/{self._process.pid}/fd").iterdir())
        return 0

    def _told(self, name: str) -> str:
        """What the kernel tells of it (proc(5)); empty while it is not there."""
        assert self._process
        with suppress(FileNotFoundError, ProcessLookupError):
            return Path(f"/proc/{self._process.pid}/{name}").read_text()
        return ""


def environment() -> dict[str, str]:
    """The environment of processes that shall run what is in this checkout."""
    places = [str(ROOT / name) for name in ("tests", "", "operator")]
    inherited = os.environ.get("PYTHONPATH")
    return os.environ | {"PYTHONPATH": os.pathsep.join([*places, *([inherited] * bool(inherited))])}


def spawned(command: list[str], log: Path, env: dict[str, str]) -> subprocess.Popen[bytes]:
    """A process that Ctrl-C does not reach: it is ended by us, in our order."""
    with log.open("ab") as stream:
        return subprocess.Popen(
            command, env=env, cwd=ROOT, stdout=stream, stderr=stream, start_new_session=True
        )


def ended(process: subprocess.Popen[bytes] | None) -> None:
    """End a process: SIGTERM, and SIGKILL when that does not help."""
    if process is None or process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@contextmanager
def served(folder: Path, *program: str) -> Iterator[tuple[str, str]]:
    """An API server; where it is, and where its ledger and levers are.

    Args:
        folder: where its kubeconfig and its log are put.
        program: what Python is to run for it, if not the server alone.
    """
    log = folder / "server.log"
    crd = ROOT / "manifests" / "crd.yaml"
    alone = ("-m", "apiserver", "--crd", str(crd), "--controllers", "--control")
    command = [sys.executable, *(program or (*alone, "--history", "10000"))]
    command += ["--kubeconfig", str(folder / "kubeconfig")]
    process = spawned(command, log, environment())
    try:
        deadline = time.monotonic() + 60
        found: list[str] = []
        while len(found) != 2:  # noqa: PLR2004 - the server's address and that of its levers
            found = re.findall(r"^http\S+$", log.read_text(), re.MULTILINE)
            if process.poll() is not None or time.monotonic() > deadline:
                raise Failed(f"the API server did not start:\n{log.read_text()}")
            time.sleep(0.05)
        yield found[0], found[1]
    finally:
        ended(process)


class Bench:
    """The three processes' common ground: requests to the server, and what it has recorded."""

    def __init__(
        self, session: aiohttp.ClientSession, url: str, levers: str, operator: Operator
    ) -> None:
        self.session, self.url, self.levers, self.operator = session, url, levers, operator
        document = yaml.safe_load(RUN.read_text())
        self.document: Json = {key: document[key] for key in ("apiVersion", "kind", "spec")}
        self.names: deque[str] = deque()
        """Every run that is there, the oldest first."""
        self.begun = 0
        """Runs that were begun to keep so many live."""

    async def call(self, method: str, path: str, body: Json | None = None, **query: str) -> Any:
        """What the server answers.

        Raises:
            Failed: an error, or no answer.
        """
        kind = "application/merge-patch+json" if method == "PATCH" else "application/json"
        headers = {"Content-Type": kind}
        data = json.dumps(body).encode() if body is not None else None
        where = path if path.startswith("http") else self.url + path
        try:
            async with self.session.request(
                method, where, data=data, params=query, headers=headers
            ) as answer:
                text = await answer.read()
        except (aiohttp.ClientError, TimeoutError) as error:
            raise Failed(f"{method} {path}: no answer: {error!r}") from error
        if answer.status >= 300:  # noqa: PLR2004
            raise Failed(f"{method} {path}: {answer.status} {text[:500]!r}")
        return json.loads(text)

    async def lever(self, name: str, **query: object) -> Any:
        """Pull a lever of the server."""
        told = {key: str(value) for key, value in query.items()}
        return await self.call("POST", f"{self.levers}/{name}", **told)

    async def copies(self, count: int, **query: object) -> list[str]:
        """Have the server copy runs; their resource versions."""
        found: list[str] = []
        while len(found) < count:
            some = min(COPIES, count - len(found))
            found += await self.lever("copies", first=len(found), count=some, **query)
        return found

    async def ledger(self) -> Json:
        """The server's ledger."""
        found: Json = await self.call("GET", f"{self.levers}/ledger")
        return found

    async def apply(self, name: str) -> None:
        """Create a run."""
        await self.call("POST", RUNS.format(OURS), {**self.document, "metadata": {"name": name}})
        self.names.append(name)

    async def until(self, test: Callable[[Json], bool], pause: float = 0.2) -> Json:
        """The ledger, when it passes a test.

        Raises:
            Failed: the operator has ended, nothing changes any more, or the server has errors.
        """
        last, since = {}, time.monotonic()
        while not test(found := await self.ledger()):
            self.operator.check()
            if found["errors"]:
                raise Failed(f"the stand-in API server has errors: {found['errors'][:3]}")
            if found != last:
                last, since = found, time.monotonic()
            if time.monotonic() - since > STALLED:
                raise Failed(f"nothing has changed for {STALLED:.0f} s: {found}")
            await asyncio.sleep(pause)
        return found
