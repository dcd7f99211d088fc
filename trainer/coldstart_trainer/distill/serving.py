"""A teacher that the stage serves itself: vLLM's server as a child, which ends with the stage.

The stage asks it as it asks any endpoint. Its output is kept in the attempt's directory.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from coldstart.distill import Distill
from coldstart.endpoint import Endpoint
from coldstart.engine import vllm_mistake
from coldstart.status import ErrorCode
from coldstart_trainer.errors import StageFailure
from coldstart_trainer.offline.surroundings import surroundings

FIELD = "spec.distill.teacher"

PAUSE = 0.5
"""Seconds between two questions whether it serves."""

GRACE = 30.0
"""Seconds that it has to end."""

_CAUSE = re.compile(r"\b(\w+(?:Error|Exception): .+)")
_LOG_BYTES = 1 << 20


@dataclass(frozen=True)
class Server:
    """A server that was started here."""

    endpoint: Endpoint
    process: subprocess.Popen[bytes]
    log: Path

    def require(self) -> None:
        """Refuse to go on without it.

        Raises:
            StageFailure: it has ended (EndpointDown).
        """
        if self.process.poll() is not None:
            raise self.ended(ErrorCode.ENDPOINT_DOWN, "while it served")

    def ended(self, code: ErrorCode, when: str) -> StageFailure:
        """What its end ends the stage with."""
        return StageFailure(
            code,
            f"{FIELD}: vLLM has ended with exit code {self.process.returncode} {when} "
            f"{self.endpoint.model!r}: {_cause(self.log)}; its output is in {self.log}",
        )


@contextlib.contextmanager
def served(spec: Distill, workdir: Path, images: int, log: Path) -> Iterator[Server]:
    """The teacher as an endpoint of this machine, for as long as the context is entered.

    It listens on this machine's own address only, and needs no key.

    Args:
        spec: the stage's section, whose teacher names no endpoint.
        workdir: the directory that a local model is relative to.
        images: most images that a request has.
        log: where its output goes.

    Raises:
        StageFailure: there is no vLLM (ResourcesMissing), or it does not serve the model
            (EndpointRefused).
        Terminated: told to end while it starts.
    """
    if mistake := vllm_mistake():
        raise StageFailure(ErrorCode.RESOURCES_MISSING, f"{FIELD}: {mistake}; or set baseUrl")
    port = _free_port()
    endpoint = Endpoint(base_url=f"http://127.0.0.1:{port}/v1", model=spec.teacher.model)
    command = [sys.executable, "-m", "coldstart_trainer.offline.serve"]
    command += arguments(spec, workdir, images, port)
    with log.open("ab") as output:
        process = subprocess.Popen(  # noqa: S603 - our own command line
            command, env=surroundings(os.environ), stdout=output, stderr=subprocess.STDOUT
        )
    server = Server(endpoint, process, log)
    try:
        _wait(server, port)
        yield server
    finally:
        _end(process)


def arguments(spec: Distill, workdir: Path, images: int, port: int) -> list[str]:
    """What vLLM's server is started with."""
    gpus, teacher = spec.resources.gpus_per_node, spec.teacher
    local = workdir / teacher.model
    found = {
        "model": str(local) if local.is_dir() else teacher.model,
        "served-model-name": teacher.model,
        # Else it reads pickled weights where there are no others.
        "load-format": "safetensors",
        "host": "127.0.0.1",
        "port": str(port),
        "seed": str(spec.seed),
        # As long as fits beside the weights: later turns hold earlier answers.
        "max-model-len": "auto",
        "max-num-seqs": str(spec.concurrency),
        "tensor-parallel-size": str(max(1, gpus)),
    }
    if teacher.revision:
        found |= {"revision": teacher.revision, "tokenizer-revision": teacher.revision}
    if gpus:
        found["gpu-memory-utilization"] = str(teacher.gpu_memory_utilization)
    if images:
        found["limit-mm-per-prompt"] = json.dumps({"image": images, "video": 0})
    flags = [] if gpus else ["--enforce-eager"]
    return [part for name, value in found.items() for part in (f"--{name}", value)] + flags


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _wait(server: Server, port: int) -> None:
    """Wait until it serves. Loading may take long; what bounds it is the stage's timeoutSeconds."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    while True:
        if server.process.poll() is not None:
            raise server.ended(ErrorCode.ENDPOINT_REFUSED, "before it served")
        try:
            with opener.open(f"http://127.0.0.1:{port}/health", timeout=10):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(PAUSE)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(GRACE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _cause(log: Path) -> str:
    """The first error in the output, which the later ones follow from; else its last line."""
    with log.open("rb") as stream:
        stream.seek(max(0, log.stat().st_size - _LOG_BYTES))
        text = stream.read().decode(errors="replace")
    found = _CAUSE.search(text)
    lines = text.split("\n")
    last = next((line for line in reversed(lines) if line.strip()), "it said nothing")
    return " ".join((found.group(1) if found else last).split())[:300]
