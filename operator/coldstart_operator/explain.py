"""What a child waits for, in one line, from its pods' statuses and the events about it; pure.

The words come from Kubernetes, the job's controller and registries, but also from whoever may
write events: they are shortened and cleaned, and decide nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

from coldstart.children import documents
from coldstart.children.identity import QUEUE

_OLDEST = datetime.min.replace(tzinfo=UTC)

_CAUSES = (
    ("exceeded quota", "quota"),
    ("violates podsecurity", "PodSecurity"),
    ("serviceaccount", "missing service account"),
    ("priorityclass", "missing priority class"),
    ("no priority class", "missing priority class"),
    ("persistentvolumeclaim", "missing claim"),
    ("persistent volume claim", "missing claim"),
    ("insufficient nvidia.com/gpu", "no node has the GPUs free"),
    ("nodes are available", "no node fits"),
)
"""What a message holds, and what it is about; the first that fits."""

_IMAGE_REASONS = frozenset(
    {"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull"}
)
_STARTING = frozenset({"ContainerCreating", "PodInitializing"})
_NODE_REASONS = frozenset({"NodeNotReady", "TaintManagerEviction", "NodeLost"})
_CREATION = frozenset({"FailedCreate", "FailedCreatePod", "FailedCreateService"})


_SUBJECTS = frozenset(
    {*(subject for _, subject in _CAUSES), "image pull", "node lost", "queued", "suspended"}
)
"""What a line may begin with."""


def waiting_reason(
    child: dict[str, Any], pods: Sequence[dict[str, Any]], events: Sequence[dict[str, Any]]
) -> str:
    """One line of at most 512 printable characters; empty if nothing holds the child up.

    Args:
        child: the job, as the API server has it.
        pods: its pods.
        events: events of its namespace; those about other objects are left out.
    """
    about = [event for event in events if _is_about(event, child, pods)]
    about.sort(key=_seen, reverse=True)
    found = _reasons(child, pods, about)
    return documents.line(next(found, ""))


def cause(line: str) -> str:
    """What a line of `waiting_reason`, or a refusal of the API server, is about.

    Returns:
        A word or a few of a closed list; empty if none fits.
    """
    head = line.partition(":")[0]
    return head if head in _SUBJECTS else _cause(line)


def _reasons(
    child: dict[str, Any], pods: Sequence[dict[str, Any]], events: list[dict[str, Any]]
) -> Iterator[str]:
    """All reasons, the most telling first."""
    if _suspended(child):
        yield _queue(child, events)
    for pod in pods:
        yield from _lost(pod, events)
    for pod in pods:
        yield from _container_problems(pod)
    # Events outlive their cause: with every pod there, none failed to be created for long.
    missing = len(pods) < _wanted(child)
    yield from _event_lines(events, lambda reason: missing and reason in _CREATION)
    for pod in pods:
        yield from _unscheduled(pod)
    waiting = {documents.text(pod, "metadata", "name") for pod in pods if not _runs(pod)}
    about_pods = [e for e in events if documents.text(_object(e), "name") in waiting]
    yield from _event_lines(about_pods, lambda reason: reason not in _CREATION)
    yield from _event_lines(
        [event for event in events if _object(event).get("kind") == child.get("kind")],
        lambda reason: missing and reason not in _CREATION,
    )
    for pod in pods:
        yield from _starting(pod)
    if missing:
        yield f"waits for its controller to create its pods ({len(pods)} of {_wanted(child)})"


def _suspended(child: dict[str, Any]) -> bool:
    condition = documents.condition(child, "Suspended") or {}
    paths = (("suspend",), ("runPolicy", "suspend"))
    told = any(documents.value(child, "spec", *path) is True for path in paths)
    return told or condition.get("status") == "True"


def _queue(child: dict[str, Any], events: list[dict[str, Any]]) -> str:
    """Where a suspended child is queued, and what Kueue says of its workload."""
    name = documents.text(documents.value(child, "metadata", "labels"), QUEUE)
    where = f"queued: waits for admission by Kueue's queue {name}" if name else "suspended"
    workload = [event for event in events if _object(event).get("kind") == "Workload"]
    said = _message(workload[0]) if workload else ""
    return f"{where}: {said}" if said else where


def _lost(pod: dict[str, Any], events: list[dict[str, Any]]) -> Iterator[str]:
    name, node = documents.text(pod, "metadata", "name"), documents.text(pod, "spec", "nodeName")
    told = any(
        _reason(event) in _NODE_REASONS and _object(event).get("name") == name for event in events
    )
    disruption = documents.condition(pod, "DisruptionTarget") or {}
    tainted = disruption.get("reason") == "DeletionByTaintManager"
    ready = documents.condition(pod, "Ready") or {}
    silent = documents.text(pod, "status", "reason") == "NodeLost"
    if tainted or silent or (told and ready.get("status") != "True"):
        yield f"node lost: pod {name} was on {node or 'a node'}, which does not answer"


def _container_problems(pod: dict[str, Any]) -> Iterator[str]:
    name = documents.text(pod, "metadata", "name")
    for status in _containers(pod):
        waiting = documents.value(status, "state", "waiting")
        reason, message = documents.text(waiting, "reason"), documents.text(waiting, "message")
        if reason in _IMAGE_REASONS:
            image = documents.text(status, "image")
            yield _joined(f"image pull: pod {name}: {reason} {image}", message)
        elif reason and reason not in _STARTING:
            yield _joined(f"pod {name}: {reason}", message)


def _containers(pod: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for key in ("initContainerStatuses", "containerStatuses"):
        yield from documents.items(pod, "status", key)


def _unscheduled(pod: dict[str, Any]) -> Iterator[str]:
    condition = documents.condition(pod, "PodScheduled") or {}
    if condition.get("status") != "False":
        return
    name, message = (
        documents.text(pod, "metadata", "name"),
        documents.text(condition, "message"),
    )
    if condition.get("reason") == "SchedulingGated":
        yield _joined(f"pod {name} waits for its scheduling gates", message)
    else:
        yield _joined(f"{_cause(message) or 'no node fits'}: pod {name}", message)


def _starting(pod: dict[str, Any]) -> Iterator[str]:
    name = documents.text(pod, "metadata", "name")
    reasons = [documents.text(item, "state", "waiting", "reason") for item in _containers(pod)]
    started = [reason for reason in reasons if reason in _STARTING]
    if started:
        yield f"pod {name} is starting ({started[0]})"
    elif documents.text(pod, "status", "phase") == "Pending":
        yield f"pod {name} waits for a node"


def _event_lines(events: Sequence[dict[str, Any]], wanted: Callable[[str], bool]) -> Iterator[str]:
    for event in events:
        reason = _reason(event)
        if documents.text(event, "type") == "Warning" and wanted(reason):
            message = _message(event)
            cause = _cause(message)
            yield _joined(f"{cause}: {reason}" if cause else reason, message)


def _cause(message: str) -> str:
    lowered = message[: 4 * documents.LINE_LENGTH].lower()
    return next((cause for words, cause in _CAUSES if words in lowered), "")


def _joined(head: str, message: str) -> str:
    return f"{head}: {message}" if message else head


def _wanted(child: dict[str, Any]) -> int:
    """How many pods the child shall have."""
    specs = documents.value(child, "spec", "pytorchReplicaSpecs")
    if isinstance(specs, dict):
        return sum(documents.number(specs, key, "replicas") for key in ("Master", "Worker"))
    return documents.number(child, "spec", "parallelism")


def _runs(pod: dict[str, Any]) -> bool:
    return documents.text(pod, "status", "phase") != "Pending"


def _is_about(event: dict[str, Any], child: dict[str, Any], pods: Sequence[dict[str, Any]]) -> bool:
    """Whether an event is about the child, a pod of it, or its Kueue workload."""
    about = _object(event)
    for item in (child, *pods):
        uid, name = (documents.text(item, "metadata", key) for key in ("uid", "name"))
        if about.get("uid") and uid:
            if about["uid"] == uid:
                return True
        elif name and about.get("name") == name:
            return True
    kind, name = documents.text(child, "kind").lower(), documents.text(child, "metadata", "name")
    return about.get("kind") == "Workload" and documents.text(about, "name").startswith(
        f"{kind}-{name}-"
    )


def _object(event: dict[str, Any]) -> dict[str, Any]:
    """What an event is about, in either of its two versions."""
    for key in ("involvedObject", "regarding"):
        found = documents.value(event, key)
        if isinstance(found, dict):
            return found
    return {}


def _reason(event: dict[str, Any]) -> str:
    return documents.text(event, "reason")


def _message(event: dict[str, Any]) -> str:
    return documents.text(event, "message") or documents.text(event, "note")


def _seen(event: dict[str, Any]) -> datetime:
    """When an event was last seen."""
    paths = (
        ("series", "lastObservedTime"),
        ("lastTimestamp",),
        ("deprecatedLastTimestamp",),
        ("eventTime",),
        ("metadata", "creationTimestamp"),
    )
    return next((found for path in paths if (found := documents.time(event, *path))), _OLDEST)
