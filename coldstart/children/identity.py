"""What a child is called and how it is known as ours: names, labels, owner."""

from __future__ import annotations

import hashlib
from typing import Any

from coldstart.run import ReasoningRun
from coldstart.spec import Stage
from coldstart.stage import StageOrder

PREFIX = "coldstart.dev/"
"""Labels and annotations that begin so are ours."""

RUN, STAGE, ATTEMPT, RUN_UID = (f"{PREFIX}{key}" for key in ("run", "stage", "attempt", "run-uid"))
"""Labels of every child and every pod."""

QUEUE, QUEUE_PRIORITY = "kueue.x-k8s.io/queue-name", "kueue.x-k8s.io/priority-class"
"""Labels that Kueue reads on a job."""

NAME_LIMIT = 50
"""Longest name of a child. A PyTorchJob names services `<job>-worker-<index>`, of at most 63
characters, and has no status at all where that does not fit (operator.md 1.3)."""

_COMMON = {
    "app.kubernetes.io/name": "coldstart-trainer",
    "app.kubernetes.io/managed-by": "coldstart",
    "app.kubernetes.io/part-of": "coldstart",
}

OWNED_LABELS = frozenset(_COMMON)
"""Labels outside our prefix that are ours on a child all the same."""


def child_name(run: str, stage: Stage, attempt: int) -> str:
    """`<run>-<stage>-<attempt>`; a run's name that is too long for it is cut, with a hash."""
    tail = f"-{stage.value}-{attempt}"
    if len(run) + len(tail) <= NAME_LIMIT:
        return run + tail
    digest = hashlib.sha256(run.encode()).hexdigest()[:8]
    head = run[: NAME_LIMIT - len(tail) - len(digest) - 1].rstrip("-")
    return f"{head}-{digest}{tail}"


def labels(order: StageOrder) -> dict[str, str]:
    """The labels of a child and of its pods."""
    return {
        **_COMMON,
        RUN: order.run.name,
        STAGE: order.stage.value,
        ATTEMPT: str(order.attempt),
        RUN_UID: order.run.uid,
    }


def selector(order: StageOrder) -> dict[str, str]:
    """The labels that tell the pods of one attempt from all others."""
    return {key: value for key, value in labels(order).items() if key.startswith(PREFIX)}


def metadata(run: ReasoningRun, order: StageOrder) -> dict[str, Any]:
    """The metadata of a child: name, namespace, labels, owner.

    A run without a UID has not been to a cluster: what is built of it has no owner.
    """
    found: dict[str, Any] = {
        "name": child_name(order.run.name, order.stage, order.attempt),
        "labels": labels(order),
    }
    if run.metadata.namespace:
        found["namespace"] = run.metadata.namespace
    if run.metadata.uid:
        found["ownerReferences"] = [
            {
                "apiVersion": run.api_version,
                "kind": run.kind,
                "name": run.metadata.name,
                "uid": run.metadata.uid,
                "controller": True,
                "blockOwnerDeletion": True,
            }
        ]
    return found


def queue_labels(run: ReasoningRun) -> dict[str, str]:
    """Kueue's labels of a job: what spec.scheduling says, else those of the run itself."""
    wanted = {
        QUEUE: run.spec.scheduling.queue_name or run.metadata.labels.get(QUEUE),
        QUEUE_PRIORITY: run.spec.scheduling.priority_class
        or run.metadata.labels.get(QUEUE_PRIORITY),
    }
    return {key: value for key, value in wanted.items() if value}
