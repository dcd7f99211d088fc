"""The ledger of a server and its levers, over HTTP on a port of its own; knows no operator.

For programs that measure from outside, with the server as a process (`__main__`). What is counted
is what was committed and what was asked; times are seconds of the monotonic clock, which all
processes of a machine share. Those who present themselves as stand-ins are not counted.
"""

from __future__ import annotations

import asyncio
import copy
import random
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from apiserver.controllers import Controllers
from apiserver.faults import WRITES, Record, Request
from apiserver.scripts import Attempt, Behaviour, success
from apiserver.server import ApiServer
from apiserver.store import Change

RUNS = ("coldstart.dev", "reasoningruns")
JOBS = ("kubeflow.org", "pytorchjobs")
PODS = ("", "pods")
UID, STAGE = "coldstart.dev/run-uid", "coldstart.dev/stage"
NAMESPACE = "default"
"""Where what is counted happens; copies may be put elsewhere."""

COPIES_AT_A_TIME = 50
"""Between them the server answers requests."""


class Counts(Record):
    """A record that keeps a tally of all requests and the last few of them."""

    def __init__(self) -> None:
        super().__init__(bound=2_000)
        self.tally: Counter[tuple[str, str]] = Counter()

    def add(self, request: Request) -> None:
        """Count a request."""
        if not request.agent.startswith("stand-in"):
            self.tally[request.verb, request.target] += 1
            super().add(request)


@dataclass
class Ledger:
    """What has happened to runs and their jobs; grows with the runs, not with the requests."""

    created: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Jobs by run UID and stage. Where nothing fails, a second one is a duplicate."""
    handoffs: list[float] = field(default_factory=list)
    """Seconds from a job's terminal status to the run's next job, both as committed."""
    live: set[str] = field(default_factory=set)
    """UIDs of the runs that have not ended."""
    ended: int = 0
    """Runs that have ended so far."""
    failed: list[str] = field(default_factory=list)
    """What runs say that have not ended well."""
    running: set[str] = field(default_factory=set)
    """UIDs of the runs of which a stage runs."""
    behind: set[str] = field(default_factory=set)
    """UIDs of the runs whose status is of an older generation than their spec."""
    caught_up: float = 0.0
    """When `behind` was last emptied."""
    before: Mapping[str, Any] | None = None
    """A run as it was just before its status said that its second stage starts."""
    paused: bool = False
    """Whether what happens is left out."""
    _finished: dict[str, float] = field(default_factory=dict)

    def changed(self, key: tuple[str, str], change: Change) -> None:
        """Take in a change of the store."""
        if self.paused or change.entry.place[0] != NAMESPACE:
            return
        if key == JOBS:
            self._job(change)
        elif key == RUNS:
            self._run(change)

    def _job(self, change: Change) -> None:
        labels = change.entry.object["metadata"].get("labels") or {}
        uid, now = labels.get(UID, ""), time.monotonic()
        if change.type == "ADDED":
            self.created[uid, labels.get(STAGE, "")] += 1
            if uid in self._finished:
                self.handoffs.append(now - self._finished.pop(uid))
        elif change.type == "MODIFIED" and _over(change.entry.object):
            assert change.previous
            if not _over(change.previous.object):
                self._finished[uid] = now

    def _run(self, change: Change) -> None:
        document = change.entry.object
        metadata, status = document["metadata"], document.get("status") or {}
        uid = metadata["uid"]
        if change.type == "DELETED":
            for known in (self.live, self.running, self.behind):
                known.discard(uid)
            self._finished.pop(uid, None)
            return
        states = [one.get("state") for one in status.get("stages") or ()]
        before = change.previous.object if change.previous else {}
        if states[1:2] == ["Starting"] and _second_state(before) != "Starting":
            self.before = before
        over = _over(document)
        if over and uid in self.live:
            self.ended += 1
            if status.get("phase") != "Succeeded":
                self.failed.append(f"{metadata['name']}: {status.get('message')}")
            self._finished.pop(uid, None)
        _keep(self.live, uid, not over)
        _keep(self.running, uid, "Running" in states)
        was = len(self.behind)
        old = status.get("observedGeneration", 0) < metadata.get("generation", 1)
        _keep(self.behind, uid, old)
        if was and not self.behind:
            self.caught_up = time.monotonic()

    @property
    def duplicates(self) -> int:
        """Jobs beyond the first of a run's stage."""
        return sum(self.created.values()) - len(self.created)


class Control:
    """What is served: the ledger to read, and levers to pull."""

    def __init__(self, server: ApiServer, controllers: Controllers, running: float) -> None:
        self.server, self.controllers = server, controllers
        self.running: float | None = running
        self.counts, self.ledger = Counts(), Ledger()
        server.requests = self.counts
        server.store.listeners.append(self.ledger.changed)
        controllers.script = self._script
        self._runner: web.AppRunner | None = None

    def _script(self, _: Attempt) -> Behaviour:
        """A stage of half to one and a half times the usual length, so that they do not march."""
        if self.running is None:
            return Behaviour(running=None, message=_message)
        return Behaviour(running=self.running * random.uniform(0.5, 1.5), message=_message)

    async def start(self) -> str:
        """Serve; where."""
        app = web.Application()
        app.router.add_get("/ledger", self._ledger)
        app.router.add_get("/handoffs", self._handoffs)
        app.router.add_get("/sample", self._sample)
        app.router.add_post("/running", self._set_running)
        app.router.add_post("/finish", self._finish)
        app.router.add_post("/copies", self._copies)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        return f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    async def stop(self) -> None:
        """Serve no more."""
        if self._runner:
            await self._runner.cleanup()

    async def _ledger(self, _: web.Request) -> web.Response:
        tally, ledger = self.counts.tally, self.ledger
        errors = [*self.server.errors, *self.controllers.errors, *ledger.failed]
        return web.json_response(
            {
                "writes": sum(n for (verb, _), n in tally.items() if verb in WRITES),
                "reads": sum(n for (verb, _), n in tally.items() if verb not in WRITES),
                "requests": {f"{verb} {target}": n for (verb, target), n in tally.items()},
                "live": len(ledger.live),
                "ended": ledger.ended,
                "running": len(ledger.running),
                "behind": len(ledger.behind),
                "caught_up": ledger.caught_up,
                "duplicates": ledger.duplicates,
                "handoffs": len(ledger.handoffs),
                "errors": [repr(one) for one in errors],
            }
        )

    async def _handoffs(self, request: web.Request) -> web.Response:
        return web.json_response(self.ledger.handoffs[int(request.query.get("since", 0)) :])

    async def _sample(self, _: web.Request) -> web.Response:
        """The writes of the latest hand-off that the record has: the status patch, and the job."""
        creates = [one for one in self.counts.of("create", "pytorchjobs") if one.status == 201]
        for create in reversed(creates):
            labels = create.body["metadata"]["labels"]
            if labels[STAGE] != "grpo":
                continue
            for patch in self.counts.of("patch", "reasoningruns/status"):
                stages = (patch.body.get("status") or {}).get("stages") or [{}]
                if patch.name == labels["coldstart.dev/run"] and _is_starting(stages):
                    return web.json_response({"patch": patch.body, "job": create.body})
        return web.json_response({})

    async def _set_running(self, request: web.Request) -> web.Response:
        """Pods that start from here on run so many `seconds`; without it, until they are ended."""
        seconds = request.query.get("seconds")
        self.running = float(seconds) if seconds else None
        return web.json_response({})

    async def _finish(self, request: web.Request) -> web.Response:
        """End every `nth` running pod."""
        entries = self.server.store.collection(PODS).entries.values()
        pods = [one.object for one in entries if one.object["status"].get("phase") == "Running"]
        for pod in pods[:: int(request.query.get("nth", 1))]:
            self.controllers.kubelet.finish(pod, Behaviour(message=_message))
        return web.json_response({"finished": len(pods)})

    async def _copies(self, request: web.Request) -> web.Response:
        """Make `count` copies of a `run` with its jobs; without one, of a run before a hand-off.

        They are not in the ledger. Answers with the resource versions of the runs.
        """
        query, of = request.query, request.query.get("run", "")
        jobs: list[dict[str, Any]] = []
        if of:
            run: Mapping[str, Any] | None = self.server.get("reasoningruns", of, NAMESPACE)
            jobs = self.server.list("pytorchjobs", NAMESPACE, f"coldstart.dev/run={of}")
        else:
            run = self.ledger.before
        assert run is not None, "no run has come to its second stage yet"
        first, versions = int(query.get("first", 0)), []
        for number in range(first, first + int(query["count"])):
            name = f"{query['prefix']}-{number}"
            copied = self._copy("reasoningruns", run, name, query.get("namespace", NAMESPACE))
            for job in jobs:
                self._copy_job(job, of, copied)
            versions.append(copied["metadata"]["resourceVersion"])
            if number % COPIES_AT_A_TIME == 0:
                await asyncio.sleep(0.01)
        return web.json_response(versions)

    def _copy_job(self, job: dict[str, Any], of: str, run: Mapping[str, Any]) -> None:
        """The job of a run again, for its copy."""
        job = copy.deepcopy(job)
        metadata, name = job["metadata"], run["metadata"]["name"]
        metadata["labels"] |= {"coldstart.dev/run": name, UID: run["metadata"]["uid"]}
        metadata["ownerReferences"][0] |= {"name": name, "uid": run["metadata"]["uid"]}
        self._copy("pytorchjobs", job, name + metadata["name"].removeprefix(of), NAMESPACE)

    def _copy(
        self, resource: str, document: Mapping[str, Any], name: str, namespace: str
    ) -> dict[str, Any]:
        """An object again under another name, its status included."""
        kept = ("labels", "annotations", "ownerReferences")
        old = document["metadata"]
        metadata = {"name": name, "namespace": namespace}
        metadata |= {key: copy.deepcopy(old[key]) for key in kept if key in old}
        self.ledger.paused = True
        try:
            self.server.create(resource, {**document, "metadata": metadata}, namespace)
            return self.server.set_status(resource, name, document.get("status"), namespace)
        finally:
            self.ledger.paused = False


def _message(attempt: Attempt) -> bytes:
    """A result that passes every gate."""
    return success(attempt, probe_boxed_share=1.0)


def _over(document: Mapping[str, Any]) -> bool:
    """Whether a run or a job has ended."""
    conditions = (document.get("status") or {}).get("conditions") or ()
    return any(_ends(one) for one in conditions)


def _ends(condition: Mapping[str, Any]) -> bool:
    return condition["type"] in {"Succeeded", "Failed"} and condition["status"] == "True"


def _second_state(document: Mapping[str, Any]) -> str:
    """The state of a run's second stage."""
    stages = (document.get("status") or {}).get("stages") or []
    return str(stages[1].get("state")) if len(stages) > 1 else ""


def _is_starting(stages: list[Mapping[str, Any]]) -> bool:
    return len(stages) > 1 and stages[1].get("state") == "Starting"


def _keep(known: set[str], uid: str, wanted: bool) -> None:
    if wanted:
        known.add(uid)
    else:
        known.discard(uid)
