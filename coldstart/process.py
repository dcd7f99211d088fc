"""One attempt of a stage as a process on this machine: started, watched, stopped, found again.

An attempt has a directory with its order, its log, its result, and the process group that
carries it out. Every worker holds a shared lock on the stage's `alive.lock`, so an attempt whose
`coldstart run` was killed is known to be alive without trusting process numbers.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from coldstart.documents import read_document
from coldstart.files import write_atomic
from coldstart.foreign import parsed
from coldstart.layout import StageLayout
from coldstart.plan import Child, ChildState
from coldstart.spec import Stage
from coldstart.stage import METRICS_PORT_ENV, ORDER_ENV, RESULT_ENV, StageOrder, StageResult
from coldstart.status import ErrorCode

GRACE_SECONDS = 120.0
"""How long a stopped attempt may take to save before it is killed."""

LOG_TAIL = 20
"""Lines of the log that are shown when an attempt fails."""

_LOG_BYTES = 64 * 1024
_LAUNCHER = re.compile(r"^E\d{4} .*torch/distributed/elastic/", re.MULTILINE)


@dataclass
class Attempt:
    """A process that carries out one order; only the `coldstart run` that started it has it."""

    order: StageOrder
    directory: Path
    process: subprocess.Popen[bytes]
    stopping_since: float | None = None

    def child(self) -> Child:
        """What the planner needs to know of it."""
        code = self.process.poll()
        if code is None:
            state = ChildState.STOPPING if self.stopping_since else ChildState.RUNNING
            return Child(self.order.stage, self.order.attempt, state)
        return _ended(self.order.stage, self.order.attempt, self.directory, code)

    def stop(self) -> None:
        """Ask it to save and end; it is killed when the grace period is over (`enforce`)."""
        if self.stopping_since is None:
            self.stopping_since = time.monotonic()
            _signal(self.process.pid, signal.SIGTERM)

    def enforce(self) -> None:
        """Kill what was told to stop and has used up its grace period."""
        if self.stopping_since and time.monotonic() - self.stopping_since > GRACE_SECONDS:
            self.kill()

    def kill(self) -> None:
        """End it and its workers at once."""
        for group in {self.process.pid, *_groups(self.directory)}:
            _signal(group, signal.SIGKILL)


def start(
    order: StageOrder, layout: StageLayout, command: list[str], metrics_port: int | None = None
) -> Attempt:
    """Start a command with an order, its output in the attempt's log.

    Args:
        order: what it has to do.
        layout: the stage's directory.
        command: what is started.
        metrics_port: where it serves its numbers; None: nowhere, unless the environment says so.

    Raises:
        OSError: the directory cannot be written.
    """
    directory = layout.attempt(order.attempt)
    directory.mkdir(parents=True, exist_ok=True)
    result, document = directory / "result.json", order.model_dump_json(exclude_none=True)
    write_atomic(directory / "order.json", document.encode())
    environment = os.environ | {
        ORDER_ENV: document,
        RESULT_ENV: str(result.absolute()),
        "PYTHONUNBUFFERED": "1",
        # Else a file beside the run.yaml that is called as a library is would be taken for it.
        "PYTHONSAFEPATH": "1",
        "TOKENIZERS_PARALLELISM": "false",
        # torchrun kills what has not ended so long after it was told to; its default is 30 s.
        "PET_SHUTDOWN_TIMEOUT": str(int(GRACE_SECONDS)),
    }
    if metrics_port is not None:
        environment[METRICS_PORT_ENV] = str(metrics_port)
    # As torchrun does for several processes: beside others, more threads each are slower.
    environment.setdefault("OMP_NUM_THREADS", "1")
    with (directory / "log.txt").open("ab") as log, layout.alive.open("ab") as alive:
        # Inherited, so that there is no moment at which the attempt lives and nobody knows.
        fcntl.flock(alive, fcntl.LOCK_SH)
        process = subprocess.Popen(  # noqa: S603
            command,
            env=environment,
            cwd=order.workdir,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            pass_fds=[alive.fileno()],
            start_new_session=True,
        )
    attempt = Attempt(order, directory, process)
    try:
        sign(directory, "launcher", process.pid)
    except OSError:
        # Nobody would know whom to end.
        attempt.kill()
        process.wait()
        raise
    return attempt


def sign(directory: Path, name: str, group: int) -> None:
    """Record a process group that works on an attempt, for whoever has to end it."""
    document = {"group": group, "host": socket.gethostname()}
    write_atomic(directory / f"process-{name}.json", json.dumps(document).encode())


def launcher(order: StageOrder) -> list[str]:
    """The command of a stage: the same on a cluster, where PyTorchJob sets `PET_*` instead."""
    processes = order.spec.stage(order.stage).resources.processes_per_node
    module = [sys.executable, "-m", "coldstart_trainer.launch"]
    return [*module, "--standalone", f"--nproc-per-node={processes}"]


def earlier(layout: StageLayout, stage: Stage, skip: int | None) -> Iterator[Child]:
    """The attempts that an earlier `coldstart run` left, as children.

    One that was told to stop, or ended without a result, was interrupted together with its
    `coldstart run`: it counts as preempted, not as failed.
    """
    for number, directory in _attempts(layout):
        if number != skip and (directory / "order.json").exists():
            yield _ended(stage, number, directory, None)


def _attempts(layout: StageLayout) -> Iterator[tuple[int, Path]]:
    for directory in layout.root.glob("attempt-*"):
        number = directory.name.removeprefix("attempt-")
        if number.isdecimal():
            yield int(number), directory


def end_orphans(layout: StageLayout) -> bool:
    """Stop what still works in a stage's directory though its `coldstart run` is gone.

    Returns:
        Whether there was any.

    Raises:
        TimeoutError: it could not be ended, or holds the lock from another machine.
    """
    if not layout.alive.exists() or _unlocked(layout.alive):
        return False
    # Not by their times: the clock may have been set back between two attempts.
    newest = max(_attempts(layout), default=None)
    for signal_, patience in ((signal.SIGTERM, GRACE_SECONDS), (signal.SIGKILL, 10.0)):
        told: set[int] = set()
        end = time.monotonic() + patience
        while time.monotonic() < end:
            # One that has only just begun signs later.
            groups = set(_groups(newest[1])) if newest else set()
            for group in groups - told:
                _signal(group, signal_)
            told |= groups
            if _unlocked(layout.alive):
                return True
            time.sleep(0.1)
    raise TimeoutError(f"{layout.root}: another process works here (it holds {layout.alive.name})")


def log_tail(directory: Path, lines: int = LOG_TAIL) -> str:
    """The last lines of an attempt's log, without what torchrun adds when a worker has failed."""
    path = directory / "log.txt"
    if not path.exists():
        return ""
    with path.open("rb") as stream:
        stream.seek(max(0, path.stat().st_size - _LOG_BYTES))
        text = stream.read().decode(errors="replace")
    own = _LAUNCHER.split(text, maxsplit=1)[0].rstrip()
    return "\n".join((own or text).splitlines()[-lines:])


def _ended(stage: Stage, number: int, directory: Path, code: int | None) -> Child:
    result = _result(directory / "result.json")
    if result is not None and result.error is None:
        return Child(stage, number, ChildState.SUCCEEDED, result, code)
    stopped = result is None or (result.error and result.error.code is ErrorCode.TERMINATED)
    if stopped and code is None:
        return Child(stage, number, ChildState.PREEMPTED, result, message="was interrupted")
    if code is not None and code < 0:
        code = 128 - code
    return Child(stage, number, ChildState.FAILED, result, code)


def _result(path: Path) -> StageResult | None:
    """The result of an attempt; none if it wrote none, or nothing that can be believed."""
    try:
        return read_document(path, StageResult)
    except (OSError, ValueError):
        return None


def _groups(directory: Path) -> Iterator[int]:
    """The process groups that have signed an attempt on this machine and still work on it."""
    for path in directory.glob("process-*.json"):
        try:
            document = parsed(path.read_bytes())
            group, host = int(document["group"]), document["host"]
        except (OSError, ValueError, KeyError, TypeError, OverflowError):
            continue
        if host == socket.gethostname() and _works_on(group, directory):
            yield group


def _works_on(process: int, directory: Path) -> bool:
    """Whether a process is what signed the attempt, not a later one with the same number."""
    try:
        environment = Path(f"/proc/{process}/environ").read_bytes()
    except OSError:
        return not Path(
            "/proc/self"
        ).exists()  # where nothing can be looked up, the file is believed
    return f"{RESULT_ENV}={directory.absolute()}/".encode() in environment


def _signal(group: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def _unlocked(path: Path) -> bool:
    with path.open("rb") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True
