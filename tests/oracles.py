"""The safety rules of the operator, judged from the API server's own record of what happened.

`violations(server)` replays every version of every run, job and pod in the order in which they
were stored, so it sees what a test that looks now and then does not. An `Oracle` that is told of
every change as it is stored needs no history. `at_rest` judges the end: call it when everything
has settled. All give sentences; a test asserts that there are none.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from apiserver.server import ApiServer
from apiserver.store import Change

RUNS = ("coldstart.dev", "reasoningruns")
PODS = ("", "pods")
JOBS = {("kubeflow.org", "pytorchjobs"): "pytorchjobs", ("batch", "jobs"): "jobs"}

TYPES = ("Accepted", "Queued", "Running", "Suspended", "Succeeded", "Failed")
_LABEL = "coldstart.dev/"

LOST = timedelta(seconds=60)
"""So long after its end was due a pod is taken for lost with its node (`Settings.lost_pod`)."""

Object = Mapping[str, Any]


class Attempt(NamedTuple):
    """One attempt of one stage of one run, by what its objects are labelled with."""

    uid: str
    stage: str
    number: str


def violations(server: ApiServer, *, allowed: Collection[str] = ()) -> list[str]:
    """What was ever wrong, in the order in which it was.

    Args:
        server: whose history is read; it must not have been compacted.
        allowed: names of runs whose objects a person has taken from the operator, so that two of
            them may live at once.
    """
    changes = server.call(lambda: _history(server))
    oracle = Oracle(allowed=frozenset(allowed))
    for key, change in changes:
        oracle.take(key, change)
    return [*oracle.sentences(), *_creations(server)]


def at_rest(server: ApiServer, *, orphaned: Collection[str] = ()) -> list[str]:
    """What is wrong now that nothing moves any more.

    Args:
        server: the server.
        orphaned: names of jobs whose owner reference a person has taken away.
    """
    runs = server.list("reasoningruns")
    by_uid = {run["metadata"]["uid"]: run for run in runs}
    found = [sentence for run in runs for sentence in _resting(run)]
    known = [one.plural for one in server.registry if one.key in JOBS]
    for job in (job for plural in known for job in server.list(plural)):
        name, owner = job["metadata"]["name"], _owner(job)
        if _labels(job) and owner not in by_uid and name not in orphaned:
            found.append(f"job {name} has no owner that is there")
    for pod in server.list("pods"):
        labels = _labels(pod)
        if not labels or not _lives(pod):
            continue
        run = by_uid.get(labels["run-uid"])
        name = pod["metadata"]["name"]
        if run is None:
            jobs = {one.get("name") for one in pod["metadata"].get("ownerReferences") or ()}
            if not jobs & set(orphaned):
                found.append(f"pod {name} lives, and its run is gone")
        elif _ended(run):
            found.append(f"pod {name} lives, and its run has ended")
    return found


def _resting(run: Object) -> Iterator[str]:
    name, status = run["metadata"]["name"], run.get("status") or {}
    generation = run["metadata"].get("generation")
    if run["metadata"].get("deletionTimestamp"):
        return
    if status.get("observedGeneration") != generation:
        yield f"run {name}: generation {generation}, but {status.get('observedGeneration')} is seen"
    if tuple(item["type"] for item in status.get("conditions") or ()) != TYPES:
        yield f"run {name}: lacks conditions: {status.get('conditions')}"
    if not status.get("message"):
        yield f"run {name}: says nothing"
    for text in _texts(status):
        if len(text) > 4096 or not text.isprintable():
            yield f"run {name}: a text of its status is too long or not printable: {text!r:.200}"


def _texts(value: Any) -> Iterator[str]:
    """Every text in a status."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)


def _history(server: ApiServer) -> list[tuple[tuple[str, str], Change]]:
    kept = {key: server.store.collection(key).history for key in (RUNS, PODS, *JOBS)}
    found = [(key, change) for key, history in kept.items() for change in history]
    return sorted(found, key=lambda item: item[1].version)


@dataclass
class Oracle:
    """The objects as they were at one moment, and what was wrong until then.

    `server.store.listeners.append(oracle.take)` has it see what a bounded history forgets.
    """

    allowed: frozenset[str] = frozenset()
    found: list[str] = field(default_factory=list)
    pods: dict[str, tuple[str, Attempt]] = field(default_factory=dict)
    """The pods that live: namespace and run's name, attempt."""
    jobs: dict[str, tuple[str, Attempt]] = field(default_factory=dict)
    """The jobs that have not ended and are not being deleted."""
    gates: dict[tuple[str, str], Any] = field(default_factory=dict)
    ends: dict[str, str] = field(default_factory=dict)
    """Which terminal condition a run has, by its UID."""
    limits: dict[str, int] = field(default_factory=dict)
    gone: set[str] = field(default_factory=set)
    """The UIDs of the runs that are no more."""
    due: dict[str, datetime] = field(default_factory=dict)
    """When a pod that is being deleted should have ended, by its UID."""
    lost: set[str] = field(default_factory=set)
    """The UIDs of pods that are lost with their nodes."""
    created: dict[Attempt, list[str]] = field(default_factory=lambda: defaultdict(list))
    """The UIDs of the jobs that an attempt has had."""
    removed: set[str] = field(default_factory=set)
    """The UIDs of the jobs that are gone."""

    def take(self, key: tuple[str, str], change: Change) -> None:
        """Take in one step of history."""
        if key == RUNS:
            self._run(change)
        elif key == PODS:
            self._hold(self.pods, change, _lives(change.entry.object), "pods")
        elif key in JOBS:
            self._job(change)

    def sentences(self) -> list[str]:
        """What was ever wrong, and the attempts that were made twice while the first was there."""
        twice = [
            f"{attempt} was made {len(uids)} times"
            for attempt, uids in self.created.items()
            if not self.removed.issuperset(uids[:-1])
        ]
        return [*self.found, *twice]

    def _run(self, change: Change) -> None:
        run = change.entry.object
        uid, name = run["metadata"]["uid"], run["metadata"]["name"]
        status = run.get("status") or {}
        if change.type == "DELETED":
            self.gone.add(uid)
            return
        end = _ended(run)
        if uid in self.ends and end != self.ends[uid]:
            self.found.append(f"run {name}: {self.ends[uid]} became {end or 'undecided'}")
        if end:
            self.ends[uid] = end
        for stage in _items(status.get("stages")):
            self._stage(run, stage)

    def _stage(self, run: Object, stage: Object) -> None:
        uid, name = run["metadata"]["uid"], run["metadata"]["name"]
        where = (uid, str(stage.get("name")))
        before, gates = self.gates.get(where), stage.get("gates")
        if before and gates != before:
            self.found.append(f"run {name}: a verdict of {where[1]} changed: {before} to {gates}")
        if gates:
            self.gates[where] = gates
        limit = ((run.get("spec") or {}).get("retry") or {}).get("limit", 3)
        failures = stage.get("failures")
        if isinstance(failures, int) and isinstance(limit, int):
            self.limits[uid] = max(limit, self.limits.get(uid, 0))
            if failures > self.limits[uid]:
                self.found.append(f"run {name}: {where[1]} has failed {failures} times")

    def _job(self, change: Change) -> None:
        job = change.entry.object
        labels = _labels(job)
        if change.type == "ADDED" and labels:
            name, uid = job["metadata"]["name"], job["metadata"]["uid"]
            owner = _owner(job)
            self.created[_attempt(labels)].append(uid)
            if owner != labels["run-uid"]:
                self.found.append(f"job {name} was made without its owner")
            if owner in self.ends:
                self.found.append(f"job {name} was made after its run had ended")
        ended = any(
            item.get("type") in ("Succeeded", "Failed", "Complete") and item.get("status") == "True"
            for item in _items((job.get("status") or {}).get("conditions"))
        )
        alive = not ended and not job["metadata"].get("deletionTimestamp")
        if change.type == "DELETED":
            self.removed.add(job["metadata"]["uid"])
        self._hold(self.jobs, change, alive, "jobs")

    def _hold(
        self, living: dict[str, tuple[str, Attempt]], change: Change, alive: bool, what: str
    ) -> None:
        """Keep an object among those that live, or not, and count the attempts of its run."""
        thing = change.entry.object
        uid, labels, owner = thing["metadata"]["uid"], _labels(thing), _owner(thing)
        if change.type == "DELETED" or not alive or uid in self.lost or not (labels or owner):
            living.pop(uid, None)
            return
        # Somebody may have put another run's label on a job; its owner is who made it.
        owners = [one for one in thing["metadata"].get("ownerReferences") or () if _is_run(one)]
        name = owners[0]["name"] if owners else labels["run"]
        job = thing["metadata"]["name"]
        attempt = _attempt(labels) if labels else Attempt(owner, job, "without labels")
        run = f"{thing['metadata']['namespace']}/{name}"
        new = uid not in living
        if new and (owner or labels.get("run-uid")) in self.gone:
            return  # made by a request that was late; the garbage collector takes it
        if new:
            self._bury(living, thing)
        if due := thing["metadata"].get("deletionTimestamp"):
            self.due[uid] = datetime.fromisoformat(due)
        living[uid] = (run, attempt)
        if not new or name in self.allowed:
            return
        at_once = {attempt for other, attempt in living.values() if other == run}
        if len(at_once) > 1:
            self.found.append(f"run {run}: {what} of {sorted(at_once)} live at once")

    def _bury(self, living: dict[str, tuple[str, Attempt]], thing: Object) -> None:
        """Count no longer what should have ended long before this was made: its node is lost."""
        made = datetime.fromisoformat(thing["metadata"]["creationTimestamp"])
        for uid in [uid for uid in living if uid in self.due]:
            if made - self.due[uid] >= LOST:
                del living[uid]
                self.lost.add(uid)


def _creations(server: ApiServer) -> Iterator[str]:
    """Bodies without an owner."""
    for request in server.requests.of("create"):
        if request.target in JOBS.values() and request.status == 201 and not _owner(request.body):
            yield f"job {request.body['metadata']['name']} was asked for without an owner"


def requests_per_run(server: ApiServer) -> Counter[str]:
    """How many requests of the operator name a run or a job of it; lists and watches left out."""
    names = [run["metadata"]["name"] for run in server.list("reasoningruns")]
    counted: Counter[str] = Counter()
    for request in server.requests.of():
        if request.verb in ("list", "watch") or not request.resource:
            continue
        name = request.name or ((request.body or {}).get("metadata") or {}).get("name", "")
        for run in names:
            if name == run or name.startswith((f"{run}-", f"{run}.")):
                counted[run] += 1
    return counted


def _owner(thing: Object) -> str:
    """The UID of the run that controls an object; empty if none does."""
    for owner in thing["metadata"].get("ownerReferences") or ():
        if _is_run(owner):
            return str(owner["uid"])
    return ""


def _is_run(owner: Object) -> bool:
    return owner.get("kind") == "ReasoningRun" and bool(owner.get("controller"))


def _labels(thing: Object) -> dict[str, str]:
    """Our labels of an object, without their prefix; none if one of them is missing."""
    labels = thing["metadata"].get("labels") or {}
    found = {key: labels.get(_LABEL + key) for key in ("run", "stage", "attempt", "run-uid")}
    return {key: value for key, value in found.items() if value} if all(found.values()) else {}


def _attempt(labels: Mapping[str, str]) -> Attempt:
    return Attempt(labels["run-uid"], labels["stage"], labels["attempt"])


def _lives(pod: Object) -> bool:
    return (pod.get("status") or {}).get("phase") not in ("Succeeded", "Failed")


def _ended(run: Object) -> str:
    """The terminal condition that a run has; empty if it has none."""
    for item in _items((run.get("status") or {}).get("conditions")):
        if item.get("type") in ("Succeeded", "Failed") and item.get("status") == "True":
            return str(item["type"])
    return ""


def _items(value: Any) -> list[Object]:
    """The mappings in a list, if it is one: a status may hold anything."""
    return [one for one in value if isinstance(one, Mapping)] if isinstance(value, list) else []
