"""Operator processes that are forked from one that has imported the operator: cheap to start.

They are processes of their own, with the arguments, environment and log that they are told; one
may be told, too, that its clock runs faster than the world's or is wrong. `python -m nursery` is
the one that forks; `Nursery` is the test's side of it.
"""

import json
import os
import selectors
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import Future
from contextlib import suppress
from functools import cache
from pathlib import Path


class Child:
    """A process, in the manner of a Popen."""

    def __init__(self, pid, exited):
        self.pid = pid
        self._exited = exited

    def poll(self):
        """Its exit code, negative where a signal ended it; none as long as it lives."""
        return self._exited.result() if self._exited.done() else None

    def wait(self, timeout=None):
        """Wait for its end.

        Raises:
            TimeoutError: it lives on.
        """
        return self._exited.result(timeout)

    def send_signal(self, number):
        """Send a signal, if it lives."""
        if not self._exited.done():
            with suppress(ProcessLookupError):  # its end is not told yet
                os.kill(self.pid, number)

    def kill(self):
        """SIGKILL."""
        self.send_signal(signal.SIGKILL)


class Nursery:
    """A process that forks others."""

    def __init__(self):
        self._process = subprocess.Popen(
            [sys.executable, "-m", "nursery"],
            cwd=Path(__file__).parent,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self._lock = threading.Lock()
        self._born = []
        self._exits = {}
        threading.Thread(target=self._read, daemon=True).start()

    def start(self, arguments, environment, log, clock=()):
        """An operator with these arguments of its command line; the clock as `set_clock` has it."""
        told = {"arguments": arguments, "environment": environment, "log": str(log)}
        born = Future()
        with self._lock:
            self._born.append(born)
            self._process.stdin.write(json.dumps(told | {"clock": dict(clock)}).encode() + b"\n")
            self._process.stdin.flush()
        return born.result(30)

    def _read(self):
        for line in self._process.stdout:
            told = json.loads(line)
            if "code" in told:
                self._exits.pop(told["pid"]).set_result(told["code"])
                continue
            exited = self._exits[told["pid"]] = Future()
            self._born.pop(0).set_result(Child(told["pid"], exited))


@cache
def nursery():
    """The one of this process."""
    return Nursery()


def set_clock(speed=1.0, ahead=0.0):
    """Have this process' clocks and timeouts run otherwise than the world's, from this moment on.

    Args:
        speed: how many times faster.
        ahead: seconds by which the time of day is ahead from the beginning.
    """
    began, begun = time.time(), time.monotonic()
    wall, mono, select = time.time, time.monotonic, selectors.DefaultSelector.select

    def faster(selector, timeout=None):
        return select(selector, timeout and timeout / speed)

    def monotonic():
        return begun + (mono() - begun) * speed

    def now():
        return began + (wall() - began) * speed + ahead

    time.time, time.monotonic, selectors.DefaultSelector.select = now, monotonic, faster
    from coldstart_operator import __name__ as root

    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] == root:
            for key, clock in {"monotonic": monotonic, "datetime": _dates(now)}.items():
                if key in vars(module):
                    setattr(module, key, clock)


def _dates(now):
    from datetime import datetime

    class Dates(datetime):
        """A datetime whose now() follows another clock."""

        @classmethod
        def now(cls, tz=None):
            return datetime.fromtimestamp(now(), tz)

    return Dates


def _serve():
    """Fork what standard input asks for, and tell of births and ends on standard output."""
    import coldstart_operator.__main__  # noqa: F401 - that is what makes the children cheap

    wake, waker = os.pipe()
    os.set_blocking(waker, False)
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(waker)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    selector = selectors.DefaultSelector()
    selector.register(0, selectors.EVENT_READ)
    selector.register(wake, selectors.EVENT_READ)
    living, rest = set(), b""
    while True:
        for key, _ in selector.select():
            data = os.read(key.fd, 65_536)
            if key.fd == 0:
                if not data:
                    for pid in living:
                        os.kill(pid, signal.SIGKILL)
                    return
                *lines, rest = (rest + data).split(b"\n")
                for line in lines:
                    pid = _fork(json.loads(line))
                    living.add(pid)
                    _tell(pid=pid)
        for pid in list(living):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                living.discard(pid)
                _tell(pid=pid, code=os.waitstatus_to_exitcode(status))


def _tell(**said):
    os.write(1, json.dumps(said).encode() + b"\n")


def _fork(told):
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        code = _become(told)
    finally:
        sys.stderr.flush()
        os._exit(code)


def _become(told):
    """Be an operator; its exit code."""
    from kubernetes.aio.config import kube_config

    from coldstart_operator.__main__ import main

    signal.set_wakeup_fd(-1)
    for number in (signal.SIGCHLD, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
    log = os.open(told["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    null = os.open(os.devnull, os.O_RDWR)
    for source, target in ((null, 0), (null, 1), (log, 2)):
        os.dup2(source, target)
    os.closerange(3, 256)
    os.environ.clear()
    os.environ.update(told["environment"])
    kube_config.KUBE_CONFIG_DEFAULT_LOCATION = os.environ.get("KUBECONFIG", "")  # read at import
    if told["clock"]:
        set_clock(**told["clock"])
    try:
        main(told["arguments"], prog_name="coldstart_operator")
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0


if __name__ == "__main__":
    _serve()
