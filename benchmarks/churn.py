"""What users, nodes and queues do to runs all day, at random; not what the API server does.

Runs are applied, edited, suspended, resumed, deleted and made again under the same name; their
jobs and pods are deleted by hand, put back into a queue, evicted, killed, succeed, fail. Acts
directly on the server's objects, beside the faults.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

from apiserver.controllers import Controllers
from apiserver.errors import ApiError
from apiserver.scripts import EVICTED, KILLED, Attempt, Behaviour, error, success
from apiserver.server import ApiServer
from apiserver.store import Change

Json = dict[str, Any]
RUNS, JOBS, PODS = ("coldstart.dev", "reasoningruns"), ("kubeflow.org", "pytorchjobs"), ("", "pods")
UID = "coldstart.dev/run-uid"

SPEC: Json = {
    "model": {"name": "m"},
    "storage": {"claimName": "c"},
    "sft": {"dataset": {"name": "d.jsonl"}},
    "grpo": {"dataset": {"name": "d.jsonl"}},
    "evaluation": {"benchmarks": [{"name": "b", "dataset": {"name": "t.jsonl"}}]},
}

SHORTER = ((), ("evaluation",), ("grpo", "evaluation"), ("grpo", "evaluation"))
"""What runs leave out of it."""

LONGEST_STAGE = 4.0
"""Times the usual length."""

BEGUN_AT_ONCE = 10
"""Runs that are begun between two of a user's breaths."""

BREATH = 0.25
"""Seconds between two looks at what there is to do."""

MISSING = "nobody-has-made-this"
"""A run that others wait for in vain."""


@dataclass
class Nodes:
    """What the pods of an attempt do: the same for the same attempt, whenever it is asked."""

    seed: int
    seconds: float
    """A stage's usual length."""
    addresses: tuple[str, str]
    """Of a pod that serves metrics, and of one that does not."""
    calm: bool = False
    """Whether everything ends at once and well from here on."""

    def __call__(self, attempt: Attempt) -> Behaviour:
        """The script of one attempt."""
        if self.calm:
            return WELL
        dice = random.Random(f"{self.seed}/{attempt.uid}/{attempt.stage}/{attempt.number}")  # noqa: S311
        common = {
            "running": min(dice.expovariate(1 / self.seconds), LONGEST_STAGE * self.seconds),
            "pending": dice.choice((0.0, 0.2, 1.0)),
            "shutdown": dice.choice((0.0, 0.0, 0.5, 2.0)),
            "queued": dice.uniform(0.0, 5.0) if dice.random() < 0.05 else None,  # noqa: PLR2004
            "address": self.addresses[0 if dice.random() < 0.2 else 1],  # noqa: PLR2004
        }
        (end,) = dice.choices(list(ENDS), list(ENDS.values()))
        return Behaviour(**(common | {"exit_code": end[0], "message": end[1], "reason": end[2]}))


def _well(attempt: Attempt) -> bytes:
    """A result that passes every gate."""
    return success(attempt, probe_boxed_share=1.0)


WELL = Behaviour(running=0.05, message=_well)
"""A pod that ends at once, and well."""


def _ill(attempt: Attempt) -> bytes:
    """A result that a gate refuses."""
    return success(attempt, loss=float("nan"))


ENDS: dict[tuple[int, Any, str], int] = {
    (0, _well, ""): 78,
    (0, _ill, ""): 2,
    (0, None, ""): 2,
    (1, None, ""): 3,
    (143, None, ""): 4,
    (137, None, KILLED.reason): 3,
    (137, None, EVICTED.reason): 4,
    (129, error("WorkerLost"), ""): 2,
    (2, error("DatasetInvalid"), ""): 2,
}
"""How a pod ends (exit code, message, reason), and how often of a hundred times."""


@dataclass
class Ledger:
    """The runs that are there, told of every change; what nobody moves is looked for here."""

    live: dict[str, str] = field(default_factory=dict)
    """Names of the runs that have not ended, by UID."""
    ended: dict[str, float] = field(default_factory=dict)
    """When the runs that are there ended, by name."""
    moved: dict[str, float] = field(default_factory=dict)
    """When anything last happened to a live run, its jobs or its pods, by the run's UID."""
    running: dict[str, set[str]] = field(default_factory=dict)
    """Pods that run, by the run's UID."""
    waits: set[str] = field(default_factory=set)
    """UIDs of the runs that are suspended, or need another run."""
    ends: Counter[str] = field(default_factory=Counter)
    """How runs ended."""

    def changed(self, key: tuple[str, str], change: Change) -> None:
        """Take in a change of the store."""
        document, gone = change.entry.object, change.type == "DELETED"
        if key == RUNS:
            self._run(document, gone=gone)
        elif key in (JOBS, PODS):
            uid = (document["metadata"].get("labels") or {}).get(UID, "")
            if uid in self.live:
                self.moved[uid] = time.monotonic()
            if key == PODS:
                runs = not gone and document.get("status", {}).get("phase") == "Running"
                pods = self.running.setdefault(uid, set())
                (pods.add if runs else pods.discard)(document["metadata"]["uid"])
                if not pods:
                    del self.running[uid]

    def _run(self, document: Any, *, gone: bool) -> None:
        uid, name = document["metadata"]["uid"], document["metadata"]["name"]
        ends = [
            one["type"]
            for one in (document.get("status") or {}).get("conditions") or ()
            if one["type"] in ("Succeeded", "Failed") and one["status"] == "True"
        ]
        spec = document["spec"]
        needs = spec.get("suspend") or any("from" in (spec.get(at) or {}) for at in ("sft", "grpo"))
        (self.waits.add if needs and not gone else self.waits.discard)(uid)
        if gone or ends:
            if self.live.pop(uid, None) and ends:
                self.ends[ends[0]] += 1
                self.ended[name] = time.monotonic()
            self.moved.pop(uid, None)
        else:
            self.live[uid] = name
            self.moved[uid] = time.monotonic()
        if gone:
            self.ended.pop(name, None)

    def idle(self) -> tuple[float, str]:
        """The live run to which nothing has happened for longest, though nothing keeps it."""
        now = time.monotonic()
        found = (
            (now - when, self.live[uid])
            for uid, when in self.moved.items()
            if uid not in self.waits and uid not in self.running
        )
        return max(found, default=(0.0, ""))


@dataclass
class Users:
    """Keep so many runs live, and do to them what people do."""

    server: ApiServer
    controllers: Controllers
    ledger: Ledger
    dice: random.Random
    runs: int
    pause: float
    """Seconds between two deeds to the same run, on average."""
    keep: float
    """Seconds for which ended runs are kept at most."""
    deeds: Counter[str] = field(default_factory=Counter)
    _task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin."""
        self._task = asyncio.create_task(self._act())

    async def stop(self) -> None:
        """Do no more; what waits for other people's deeds is resumed or deleted."""
        assert self._task
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        for run in self.server.list("reasoningruns"):
            name, spec = run["metadata"]["name"], run["spec"]
            if any("from" in (spec.get(stage) or {}) for stage in ("sft", "grpo")):
                self.server.delete("reasoningruns", name)
            elif spec.get("suspend"):
                self.server.patch("reasoningruns", name, {"spec": {"suspend": False}})

    def failures(self) -> list[BaseException]:
        """What ended our task before its time; there should be nothing."""
        task = self._task
        error = task.exception() if task and task.done() and not task.cancelled() else None
        return [error] if error else []

    async def _act(self) -> None:
        while True:
            await asyncio.sleep(BREATH)
            for _ in range(min(BEGUN_AT_ONCE, self.runs - len(self.ledger.live))):
                self._apply(f"r-{self.deeds['applied']}")
                self.deeds["applied"] += 1
            now = time.monotonic()
            for name, when in list(self.ledger.ended.items()):
                if now - when > self.dice.uniform(0.0, self.keep):
                    self.server.delete("reasoningruns", name)
            due = len(self.ledger.live) * BREATH / self.pause
            for _ in range(int(due) + (self.dice.random() < due % 1)):
                self._meddle()

    def _meddle(self) -> None:
        """One deed to one live run; that it has just changed or gone is nobody's fault."""
        name = self.dice.choice(list(self.ledger.live.values()))
        (deed,) = self.dice.choices(list(DEEDS), [weight for weight, _ in DEEDS.values()])
        try:
            DEEDS[deed][1](self, name)
        except ApiError as error:
            if error.code not in (404, 409):
                raise
        else:
            self.deeds[deed] += 1

    def _apply(self, name: str) -> None:
        dice, spec = self.dice, deepcopy(SPEC)
        for stage in dice.choice(SHORTER):
            del spec[stage]
        spec["retry"] = {"limit": dice.randint(1, 4), "backoffSeconds": dice.choice((0, 0, 1, 5))}
        if dice.random() < 0.1:  # noqa: PLR2004
            spec["ttlSecondsAfterFinished"] = dice.randrange(30)
        if dice.random() < 0.03 and "grpo" in spec and self.ledger.live:  # noqa: PLR2004
            others = list(self.ledger.live.values())
            del spec["sft"]
            spec["grpo"]["from"] = {"run": dice.choice((MISSING, dice.choice(others)))}
        if dice.random() < 0.02:  # noqa: PLR2004
            spec["suspend"] = True
        kind = {"apiVersion": "coldstart.dev/v1alpha1", "kind": "ReasoningRun"}
        self.server.create("reasoningruns", {**kind, "metadata": {"name": name}, "spec": spec})

    def _patch(self, name: str, spec: Json) -> None:
        self.server.patch("reasoningruns", name, {"spec": spec})

    def edit(self, name: str) -> None:
        """Change what may be changed of a run that has started."""
        limit = {"retry": {"limit": self.dice.randint(1, 5)}}
        self._patch(name, self.dice.choice((limit, {"ttlSecondsAfterFinished": 20})))

    def toggle(self, name: str) -> None:
        """Suspend a run, or resume it."""
        suspended = self.server.get("reasoningruns", name)["spec"].get("suspend")
        self._patch(name, {"suspend": not suspended})

    def delete(self, name: str) -> None:
        """Delete a run, and with it its jobs."""
        propagation = self.dice.choice(("Background", "Foreground"))
        self.server.delete("reasoningruns", name, propagation=propagation)

    def recreate(self, name: str) -> None:
        """Delete a run, and make another of its name at once."""
        self.server.delete("reasoningruns", name)
        self._apply(name)

    def _job(self, name: str) -> str:
        found = self.server.list("pytorchjobs", labels=f"coldstart.dev/run={name}")
        if not found:
            raise ApiError(404, "NotFound", "it has no job")
        return str(self.dice.choice(found)["metadata"]["name"])

    def delete_job(self, name: str) -> None:
        """Delete a job under a run."""
        self.server.delete("pytorchjobs", self._job(name))

    def delete_pod(self, name: str) -> None:
        """Delete a pod under a job."""
        self.server.delete("pods", f"{self._job(name)}-master-0", grace=None)

    def requeue(self, name: str) -> None:
        """Put a job back into its queue, as Kueue does, and admit it again."""
        job, loop = self._job(name), asyncio.get_running_loop()
        self.controllers.suspend(job)
        loop.call_later(self.dice.uniform(0.1, 5.0), self._admit, job)

    def _admit(self, job: str) -> None:
        if self.server.find("pytorchjobs", job):
            self.controllers.resume(job)


DEEDS: dict[str, tuple[int, Callable[[Users, str], None]]] = {
    "edited": (4, Users.edit),
    "suspended or resumed": (5, Users.toggle),
    "deleted": (3, Users.delete),
    "deleted and made again": (2, Users.recreate),
    "job deleted": (2, Users.delete_job),
    "pod deleted": (2, Users.delete_pod),
    "job put back into its queue": (2, Users.requeue),
}
"""What people do to a run, and how often beside the others."""
