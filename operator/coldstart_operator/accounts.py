"""What attempts cost: when their clocks run, and the GPU-seconds of those that have ended; pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

from coldstart.children import documents
from coldstart.children.identity import ATTEMPT, RUN_UID, STAGE
from coldstart.children.pod import CONTAINER
from coldstart.plan import Child, ChildState, replace_status
from coldstart.run import ReasoningRun
from coldstart.spec import Stage
from coldstart.status import RunStatus, StageState, StageStatus

Json = dict[str, Any]


def clocked(status: RunStatus | None, children: Sequence[Child], now: datetime) -> RunStatus | None:
    """The recorded status with the clock of an attempt that does not run yet set to now.

    An attempt in a queue uses up no deadline, and one that was put back into it begins anew. What
    a clock that was ahead of this one has recorded is taken for now: no deadline is put off.
    """
    if status is None:
        return None
    return _each(status, lambda entry: _clocked(entry, children, now))


def _clocked(entry: StageStatus, children: Sequence[Child], now: datetime) -> StageStatus:
    started = entry.attempt_started_at
    if started is not None and started > now:
        entry = entry.model_copy(update={"attempt_started_at": now})
    child = _child(children, entry)
    if child is None:
        return entry
    waits = child.state.live and entry.state is StageState.STARTING
    requeued = child.state is ChildState.QUEUED and entry.state is StageState.RUNNING
    if not (waits or requeued):
        return entry
    return entry.model_copy(update={"state": StageState.STARTING, "attempt_started_at": now})


def unclocked(recorded: RunStatus | None, status: RunStatus) -> RunStatus:
    """The status with the recorded clock where the attempt still does not run."""

    def restored(entry: StageStatus) -> StageStatus:
        old = recorded.stage(entry.name) if recorded else None
        if old is None or not old.state is entry.state is StageState.STARTING:
            return entry
        if old.attempt != entry.attempt:
            return entry
        return entry.model_copy(update={"attempt_started_at": old.attempt_started_at})

    return _each(status, restored)


def charged(
    run: ReasoningRun,
    recorded: RunStatus | None,
    status: RunStatus,
    children: Sequence[Child],
    pods: Sequence[Json],
    now: datetime,
) -> RunStatus:
    """The status with the GPU-seconds of the attempts that have ended since the recorded one."""

    def with_costs(entry: StageStatus) -> StageStatus:
        old = recorded.stage(entry.name) if recorded else None
        if old is None or not _ended(old, entry):
            return entry
        return _charged(run, old, entry, children, pods, now)

    return _each(status, with_costs)


def _each(status: RunStatus, change: Callable[[StageStatus], StageStatus]) -> RunStatus:
    return replace_status(status, stages=tuple(change(entry) for entry in status.stages))


def _child(children: Sequence[Child], entry: StageStatus) -> Child | None:
    """The child of an entry's attempt."""
    wanted = (entry.name, entry.attempt)
    return next((c for c in children if (c.stage.value, c.attempt) == wanted), None)


def _ended(old: StageStatus, new: StageStatus) -> bool:
    """Whether the attempt that was recorded as live is over, or back in the queue."""
    over = not new.state.live or new.attempt != old.attempt
    requeued = old.state is StageState.RUNNING and new.state is StageState.STARTING
    return old.state.live and (over or requeued)


def _charged(
    run: ReasoningRun,
    old: StageStatus,
    new: StageStatus,
    children: Sequence[Child],
    pods: Sequence[Json],
    now: datetime,
) -> StageStatus:
    resources = run.spec.stage(Stage(old.name)).resources
    uid = run.metadata.uid or ""
    seconds = pod_seconds(uid, old.name, old.attempt, pods)
    if seconds is None and old.state is not StageState.STARTING and old.attempt_started_at:
        lasted = (now - old.attempt_started_at).total_seconds()
        seconds = max(0.0, lasted) * resources.nodes
    used = round((seconds or 0.0) * resources.gpus_per_node, 3)
    child = _child(children, old)
    useful = child is not None and child.state is ChildState.SUCCEEDED
    wasted = 0.0 if useful and new.attempt == old.attempt else used
    return new.model_copy(
        update={
            "gpu_seconds": round(old.gpu_seconds + used, 3),
            "wasted_gpu_seconds": round(old.wasted_gpu_seconds + wasted, 3),
        }
    )


def pod_seconds(uid: str, stage: str, attempt: int, pods: Sequence[Json]) -> float | None:
    """How long the containers of an attempt have run, added up; None if no pod tells."""
    wanted = {RUN_UID: uid, STAGE: stage, ATTEMPT: str(attempt)}
    own = [p for p in pods if wanted.items() <= (p["metadata"].get("labels") or {}).items()]
    times = [seconds for seconds in map(_ran, own) if seconds is not None]
    return sum(times) if times else None


def _ran(pod: Json) -> float | None:
    """How long the trainer's container of a pod ran, if it has ended and says so."""
    for container in documents.items(pod, "status", "containerStatuses"):
        begin, end = (
            documents.time(container, "state", "terminated", key)
            for key in ("startedAt", "finishedAt")
        )
        if container.get("name") == CONTAINER and begin and end:
            return max(0.0, (end - begin).total_seconds())
    return None
