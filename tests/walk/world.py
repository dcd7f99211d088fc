"""A cluster in which a story happens: server, job controllers, operators, on one virtual clock."""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict, deque
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import yaml
from apiserver.controllers import Controllers
from apiserver.crds import pytorchjobs
from apiserver.errors import ApiError
from apiserver.faults import Request
from apiserver.resources import from_crd
from apiserver.server import ApiServer
from operating import MANIFEST, spec
from walk.clock import CLOCK, Loop, virtual_time
from walk.fates import FATES
from walk.operators import Operator

PROBE = 30.0
"""Seconds between two looks at an operator's health; one that is not well is started anew."""

STARTS_AGAIN = 5.0
"""Seconds until an operator that was killed is there again."""


PACKAGES = ("apiserver", "coldstart", "coldstart_operator")
"""Whose time is the world's."""


@contextmanager
def walked_world() -> Iterator[World]:
    """A cluster with an operator that has begun."""
    with virtual_time(*PACKAGES):
        found = World()
        try:
            found.let(1)
            yield found
        finally:
            found.close()


@cache
def definitions():
    """What the definitions of runs and PyTorchJobs have the server serve."""
    found = [*yaml.safe_load_all(MANIFEST.read_text()), pytorchjobs()]
    return [resource for crd in found for resource in from_crd(crd)]


class _Ears(logging.Handler):
    """Hears of the errors that an operator logs."""

    def __init__(self, heard: list[str]) -> None:
        super().__init__(logging.ERROR)
        self.heard = heard
        self.setFormatter(logging.Formatter("an operator logs: %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        self.heard.append(self.format(record))


class World:
    """One cluster; everything happens in `let` and `do`, and nothing between them."""

    def __init__(self) -> None:
        self.loop = Loop()
        self.server = ApiServer(bookmark_seconds=600.0)
        self.fates: deque[str] = deque()
        """What becomes of the attempts that start next."""
        self.fate_of: dict[tuple[str, str, int], str] = {}
        """What becomes of an attempt, by UID, stage and number."""
        self.well = False
        """Whether every attempt ends well from here on."""
        self.controllers = Controllers(self.server, self._script)
        self.operators: list[Operator] = []
        """All that there ever were."""
        self.log: list[str] = []
        self.touched: dict[str, set[str]] = defaultdict(set)
        """What was done to a run or what belongs to it, by its UID."""
        self.allowed: set[str] = set()
        """The names of runs a job of which somebody has taken away."""
        self.disowned: set[str] = set()
        """The names of those jobs."""
        self.changed: set[str] = set()
        """The UIDs of jobs that stand in the way until somebody deletes them."""
        self.judged = (0, 0)
        """Where the history was when it was last looked through."""
        self.broken = False
        """Whether something has gone wrong already."""
        self.mistakes: list[str] = []
        """What an operator has logged as an error."""
        self._number = 0
        self._logger = logging.getLogger("coldstart_operator")
        self.do(self._begin)

    def _begin(self) -> None:
        self.loop.set_exception_handler(
            lambda _, told: self.mistakes.append(f"{told.get('exception', told)!r}")
        )
        self._ears = _Ears(self.mistakes)
        self._logger.addHandler(self._ears)
        self._level = self._logger.level
        self._logger.setLevel(logging.ERROR)
        for resource in definitions():
            self.server.registry.add(resource)
        self.server.create("namespaces", {"metadata": {"name": "default"}})
        self.controllers.start()
        self.server.store.listeners.append(self._note)
        self.start()
        self.loop.call_later(PROBE, self._probe)

    def close(self) -> None:
        """End it all."""
        self._logger.removeHandler(self._ears)
        self._logger.setLevel(self._level)
        for one in self.operators:
            self.do(one.kill)
        self.do(self.controllers.stop)
        # More than once: `wait_for` of Python 3.11 may lose a cancellation.
        while tasks := asyncio.all_tasks(self.loop):
            for task in tasks:
                task.cancel()
            self.let(0.001)
        self.loop.close()

    # Time

    def do(self, function: Any) -> Any:
        """Do something at once."""

        async def once() -> Any:
            return function()

        return self.loop.run_until_complete(once())

    def let(self, seconds: float) -> None:
        """Let time pass."""
        self.loop.run_until_complete(asyncio.sleep(seconds))

    # Operators

    @property
    def alive(self) -> list[Operator]:
        """The operators that work, the oldest first."""
        return [one for one in self.operators if not one.dead]

    def start(self) -> None:
        """Start an operator."""
        self._number += 1
        self.operators.append(Operator(self.server, f"operator-{self._number}"))

    def start_if_none(self) -> None:
        """Start an operator where there is none."""
        if not self.alive:
            self.start()

    def crash(self, operator: Operator, seconds: float = STARTS_AGAIN) -> None:
        """Kill an operator; it is back after so long."""
        operator.kill()
        asyncio.get_running_loop().call_later(seconds, self.start_if_none)

    def crash_at(self, request: Request) -> None:
        """Kill the operator that sent a request."""
        self.say(f"    {request.agent} is killed")
        for one in self.alive:
            if one.name == request.agent:
                self.crash(one)

    def _probe(self) -> None:
        """Be the kubelet: kill what says that it is not well."""
        self.loop.call_later(PROBE, self._probe)
        for one in self.alive:
            if problems := one.controller.health.problems():
                self.say(f"    {one.name} is not well: {problems[0]}")
                self.crash(one)

    def mend(self) -> None:
        """Let every fault end."""
        self.server.faults.clear()
        for one in self.alive:
            for watch in one.watches.values():
                self.do(watch.release)
        self.do(self.start_if_none)

    def help(self) -> None:
        """Do what a patient person would do for whatever cannot go on by itself."""
        for run in self.runs():
            if run["spec"].get("suspend"):
                self.patch_run(run["metadata"]["name"], {"spec": {"suspend": False}})
        for job in self.jobs():
            if not job["metadata"].get("deletionTimestamp"):
                self._help_job(job)
        for pod in self.server.list("pods"):
            self._help_pod(pod)

    def _help_job(self, job: dict[str, Any]) -> None:
        name = job["metadata"]["name"]
        if job["metadata"]["uid"] in self.changed:
            self.attempt(lambda: self.server.delete(kind_of(job), name))
        elif suspended(job):
            self.attempt(lambda: self.controllers.resume(name))

    def _help_pod(self, pod: dict[str, Any]) -> None:
        metadata, phase = pod["metadata"], pod["status"].get("phase")
        if metadata.get("deletionTimestamp") or phase == "Pending":
            self.attempt(lambda: self.server.delete("pods", metadata["name"]))
        elif phase == "Running":
            attempt = self.controllers.kubelet.attempt(pod)
            self.fate_of[attempt.uid, attempt.stage, attempt.number] = "well"
            self.do(lambda: self.controllers.kubelet.finish(pod, FATES["well"]))

    # Pods

    def _script(self, attempt: Any) -> Any:
        key = (attempt.uid, attempt.stage, attempt.number)
        if self.well:
            if attempt.pod:  # it starts now
                self.fate_of[key] = "well"
            return FATES["well"]
        if key not in self.fate_of:
            self.fate_of[key] = self.fates.popleft() if self.fates else "well"
        return FATES[self.fate_of[key]]

    # People

    def apply(self, name: str, changes: dict[str, Any]) -> None:
        """Create a run."""
        body = {
            "apiVersion": "coldstart.dev/v1alpha1",
            "kind": "ReasoningRun",
            "metadata": {"name": name, "namespace": "default"},
            "spec": spec(**changes),
        }
        self.attempt(lambda: self.server.create("reasoningruns", body))

    def patch_run(self, name: str, patch: dict[str, Any]) -> Any:
        """Change a run."""
        return self.attempt(lambda: self.server.patch("reasoningruns", name, patch))

    def runs(self) -> list[dict[str, Any]]:
        """All runs."""
        return self.server.list("reasoningruns")

    def attempt(self, deed: Any) -> Any:
        """Do what the server may refuse."""
        try:
            return self.do(deed)
        except ApiError as error:
            self.say(f"    refused: {error}"[:200])
            return None

    def touch(self, uid: str, what: str) -> None:
        """Note that somebody meddled with a run."""
        self.touched[uid].add(what)

    def jobs(self, run: str | None = None) -> list[dict[str, Any]]:
        """The jobs of a run, or all, the oldest first."""
        found = [job for kind in ("pytorchjobs", "jobs") for job in self.server.list(kind)]
        mine = [
            job for job in found if run is None or job["metadata"]["name"].startswith(f"{run}-")
        ]
        return sorted(mine, key=lambda job: int(job["metadata"]["resourceVersion"]))

    def job(self, run: str) -> dict[str, Any] | None:
        """The job of a run that changed last."""
        return next(reversed(self.jobs(run)), None)

    # The story

    def say(self, line: str) -> None:
        """Add a line to the story."""
        self.log.append(f"{CLOCK.seconds:9.2f} {line}")

    def _note(self, key: tuple[str, str], change: Any) -> None:
        """Add a line about what was stored."""
        if key[1] not in ("reasoningruns", "pytorchjobs", "jobs", "pods"):
            return
        thing = change.entry.object
        status = thing.get("status") or {}
        words = status.get("phase") or " ".join(
            one["type"] for one in status.get("conditions") or () if one["status"] == "True"
        )
        if change.type == "MODIFIED" and thing["metadata"].get("deletionTimestamp"):
            words += " (goes)"
        name = thing["metadata"]["name"]
        line = f"    {change.type.lower()} {key[1]} {name}: {words} {status.get('message', '')}"
        self.say(line[:150])


def kind_of(job: dict[str, Any]) -> str:
    """What the API calls a job's kind."""
    return f"{job['kind'].lower()}s"


def suspended(job: dict[str, Any]) -> bool:
    """Whether a job is told not to run."""
    spec = job["spec"]
    return bool(spec.get("suspend") or (spec.get("runPolicy") or {}).get("suspend"))
