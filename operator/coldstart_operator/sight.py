"""What is there of a run: its children, what still lives of earlier ones, other runs' stages."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from coldstart.children import documents
from coldstart.children.backend import BACKENDS, Backend, backend
from coldstart.children.identity import ATTEMPT, RUN, RUN_UID, STAGE, child_name
from coldstart.plan import Child, ChildState, Observation, Parent
from coldstart.run import ReasoningRun
from coldstart.spec import Stage
from coldstart.status import StageState
from coldstart_operator.cache import Cache, Key
from coldstart_operator.cluster import PODS, ApiError, Cluster, owner_uid
from coldstart_operator.statuses import InvalidRun, read_run

Json = dict[str, Any]

LABEL = RUN
"""The label that every child and every pod of a run has."""


@dataclass(frozen=True)
class Found:
    """One child: as it is, and as the plan sees it."""

    backend: Backend
    document: Json
    child: Child


@dataclass(frozen=True)
class Sight:
    """Everything that was seen of a run."""

    found: tuple[Found, ...]
    remains: tuple[Child, ...]
    """Stand-ins for what still lives without being a child of ours: no attempt may start."""
    parents: dict[tuple[str, str], Parent]
    pods: tuple[Json, ...] | None = None
    """The pods of this run's name; None as long as they were not needed."""
    unsettled: bool = False
    """Whether a job has ended of which pods may still write; nobody tells when they have ended."""
    reduced: bool = False
    """Whether a job that ran lacks a pod; nobody tells when that is lost with its node."""

    @property
    def observation(self) -> Observation:
        """What the plan is shown."""
        return Observation((*self.children, *self.remains), self.parents)

    @property
    def children(self) -> tuple[Child, ...]:
        """The run's own children."""
        return tuple(item.child for item in self.found)

    def get(self, stage: str, attempt: int) -> Found | None:
        """The child of one attempt."""
        return next(
            (f for f in self.found if (f.child.stage, f.child.attempt) == (stage, attempt)), None
        )


@dataclass(frozen=True)
class Observer:
    """Sees runs, from the caches where they suffice and from the cluster where they do not."""

    cluster: Cluster
    runs: Cache
    children: dict[str, Cache]
    lost_after: float
    """Seconds after a pod should have ended until it is taken for lost with its node."""

    async def look(self, run: ReasoningRun, now: datetime, *, thorough: bool = False) -> Sight:
        """Everything there is of a run; pods only where they decide something, or if `thorough`.

        Raises:
            ApiError: the pods could not be listed, or a job not read.
        """
        now = self.cluster.time(now)
        sight = self._sight(run, None, now)
        for kind, name in _missing(run, sight):
            if await self._found(run, kind, name):
                sight = self._sight(run, None, now)
        ended = {c for c in sight.children if _unrecorded(run, c)}
        overdue = any(_overdue(item, self.lost_after, now) for item in sight.found)
        reduced = any(_reduced(run, child) for child in sight.children)
        if not (thorough or ended or overdue or reduced):
            return sight
        namespace = run.metadata.namespace or ""
        selector = f"{LABEL}={run.metadata.name}"
        pods = await self.cluster.listed(PODS, namespace, labelSelector=selector)
        sight = self._sight(run, tuple(pods), now)
        numbers = {(child.stage, child.attempt) for child in ended}
        unsettled = any(
            child.state.live and (child.stage, child.attempt) in numbers for child in sight.children
        )
        return replace(sight, unsettled=unsettled, reduced=reduced)

    async def _found(self, run: ReasoningRun, kind: Backend, name: str) -> bool:
        """Whether a child is there that was not in sight: a LIST may tell of the past."""
        try:
            document = await self.cluster.get(kind.resource, run.metadata.namespace or "", name)
        except ApiError as error:
            if error.missing:
                return False
            raise
        labels = document["metadata"].get("labels") or {}
        if labels.get(LABEL) != run.metadata.name:
            return False
        # That it is no news means that the watch stream has told of it while this was asked.
        self.children[kind.name].put(document)
        return True

    def _sight(self, run: ReasoningRun, pods: tuple[Json, ...] | None, now: datetime) -> Sight:
        key = Key(run.metadata.namespace or "", run.metadata.name)
        found: list[Found] = []
        remains: list[Child] = []
        for kind in BACKENDS:
            for document in self.children[kind.name].of(key):
                child = kind.observe(document, pods or (), now)
                owner = owner_uid(document)
                if owner == run.metadata.uid:
                    if child is None or not _is_named(document, run, child):
                        remains += [_remain(run)] if child and child.state.live else []
                        continue
                    item = Found(kind, document, child)
                    if pods is None or not self._lost(item, run, pods, now):
                        found.append(item)
                elif _was_here(document, run) or (not owner and child and child.state.live):
                    remains.append(_remain(run))
        lives = (pod for pod in pods or () if _lives(pod, self.lost_after, now))
        remains += [_remain(run) for pod in lives if not _belongs(pod, run, found)]
        return Sight(tuple(found), tuple(remains[:1]), self._parents(run), pods)

    def _lost(self, item: Found, run: ReasoningRun, pods: Sequence[Json], now: datetime) -> bool:
        """Whether a job that is being deleted waits for pods that are lost with their node."""
        return _overdue(item, self.lost_after, now) and not any(
            _lives(pod, self.lost_after, now) and _belongs(pod, run, [item]) for pod in pods
        )

    def _parents(self, run: ReasoningRun) -> dict[tuple[str, str], Parent]:
        """The stages of other runs that this run starts from."""
        found: dict[tuple[str, str], Parent] = {}
        for stage in run.spec.stages:
            for source in run.spec.sources(stage):
                document = self.runs.get(Key(run.metadata.namespace or "", source.run))
                if document is not None:
                    found[source.run, source.stage] = _parent(run, document, source.stage)
        return found


def _missing(run: ReasoningRun, sight: Sight) -> Iterator[tuple[Backend, str]]:
    """The kind and name of a child that is recorded as living, and that is not in sight."""
    if run.status is None or not run.status.backend:
        return
    for entry in run.status.stages:
        lives = entry.state.live and entry.state is not StageState.STARTING
        if lives and sight.get(entry.name, entry.attempt) is None:
            name = child_name(run.metadata.name, Stage(entry.name), entry.attempt)
            yield backend(run.status.backend), name


def _parent(run: ReasoningRun, document: Json, stage: str) -> Parent:
    try:
        other = read_run(document)
    except InvalidRun as error:
        return Parent(finished=False, message=documents.line(f"it is not valid: {error.message}"))
    if other.spec.storage != run.spec.storage:
        return Parent(finished=False, message="it has another spec.storage than this run")
    entry = other.status.stage(stage) if other.status else None
    done = entry is not None and entry.state is StageState.SUCCEEDED
    return Parent(finished=done, checkpoint=entry.checkpoint if entry else None)


def _unrecorded(run: ReasoningRun, child: Child) -> bool:
    """Whether a child has ended and its end is not in the status."""
    if child.state.live:
        return False
    entry = run.status.stage(child.stage.value) if run.status else None
    if entry is None or child.attempt > entry.attempt:
        return True
    return child.attempt == entry.attempt and entry.state.live


def _reduced(run: ReasoningRun, child: Child) -> bool:
    """Whether a child that ran does not have all its pods at work any more."""
    entry = run.status.stage(child.stage.value) if run.status else None
    if entry is None or entry.attempt != child.attempt:
        return False
    return entry.state is StageState.RUNNING and child.state is ChildState.PENDING


def _overdue(item: Found, lost_after: float, now: datetime) -> bool:
    """Whether a job should have been gone for some time."""
    if item.child.state is not ChildState.STOPPING:
        return False
    return _past(item.document, lost_after, now)


def _past(document: Json, seconds: float, now: datetime) -> bool:
    """Whether an object's deletion is due for longer than so many seconds."""
    due = documents.time(document, "metadata", "deletionTimestamp")
    return due is not None and (now - due).total_seconds() > seconds


def _was_here(document: Json, run: ReasoningRun) -> bool:
    """Whether a child is of an earlier run of this name, and not one with our label put on it."""
    owners = documents.items(document, "metadata", "ownerReferences")
    return any(owner.get("name") == run.metadata.name for owner in owners)


def _is_named(document: Json, run: ReasoningRun, child: Child) -> bool:
    """Whether a child has the name of its attempt; else somebody has changed its labels."""
    expected = child_name(run.metadata.name, child.stage, child.attempt)
    return documents.text(document, "metadata", "name") == expected


def _remain(run: ReasoningRun) -> Child:
    return Child(run.spec.stages[0], 0, ChildState.STOPPING)


def _belongs(pod: Json, run: ReasoningRun, found: Sequence[Found]) -> bool:
    """Whether a pod is of a live child of this run."""
    labels = pod["metadata"].get("labels") or {}
    if labels.get(RUN_UID) != run.metadata.uid:
        return False
    return any(
        item.child.state.live
        and labels.get(STAGE) == item.child.stage.value
        and labels.get(ATTEMPT) == str(item.child.attempt)
        for item in found
    )


def _lives(pod: Json, lost_after: float, now: datetime) -> bool:
    """Whether a pod may still write; one on a dead node says so for ever."""
    if documents.text(pod, "status", "phase") in ("Succeeded", "Failed"):
        return False
    return not _past(pod, lost_after, now)
