"""A stage as a PyTorchJob (kubeflow.org/v1): its manifest, and what its status says.

Every choice follows from how the controller (training-operator 1.9) behaves, not from what its
fields promise; operator.md 1.6 has the runs that show it. Retries, deadlines and clean-up are
ours: `restartPolicy: Never` turns every loss of a pod into `Failed` at once, and the next attempt
is a new object for the whole gang.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from datetime import datetime
from typing import Any

from coldstart.children import observation as seen
from coldstart.children.identity import metadata, queue_labels
from coldstart.children.pod import pod_template
from coldstart.plan import Child, ChildState
from coldstart.run import ReasoningRun
from coldstart.stage import StageOrder


def manifests(run: ReasoningRun, order: StageOrder, image: str) -> list[dict[str, Any]]:
    """The objects of one attempt, in the order in which they are created; the job is the last.

    Raises:
        ValueError: the spec asks for a pod that cannot be; the message begins with the field.
    """
    resources = run.spec.stage(order.stage).resources
    template = pod_template(run, order, image)
    replicas = {"Master": _replicas(1, template)}
    if resources.nodes > 1:
        replicas["Worker"] = _replicas(resources.nodes - 1, template)
    about = metadata(run, order)
    about["labels"] = about["labels"] | queue_labels(run)
    return [
        {
            "apiVersion": "kubeflow.org/v1",
            "kind": "PyTorchJob",
            "metadata": about,
            "spec": {
                # `auto` starts one process per CPU where there is no GPU.
                "nprocPerNode": str(resources.processes_per_node),
                # The default, None, leaves workers running, with their GPUs, when the master ends.
                "runPolicy": {"cleanPodPolicy": "Running"},
                "pytorchReplicaSpecs": replicas,
            },
        }
    ]


def _replicas(count: int, template: dict[str, Any]) -> dict[str, Any]:
    return {"replicas": count, "restartPolicy": "Never", "template": deepcopy(template)}


def observe(child: dict[str, Any], pods: Sequence[dict[str, Any]], now: datetime) -> Child | None:
    """Where a PyTorchJob is; None if it is no child of ours.

    Conditions are looked up by type: the last one may be an old `Suspended` that is False.

    Args:
        child: the PyTorchJob, as the API server has it.
        pods: the pods of its namespace that may be its own, listed after the child was seen.
        now: the time of the look.
    """
    attempt = seen.Attempt.of(child, pods)
    return _observed(attempt, now) if attempt else None


def _observed(attempt: seen.Attempt, now: datetime) -> Child:
    if attempt.deleted:
        return attempt.child(ChildState.STOPPING)
    if attempt.holds("Succeeded"):
        return attempt.ended(ChildState.SUCCEEDED)
    if failed := attempt.true("Failed"):
        return attempt.failure(failed, now)
    runs = attempt.holds("Running")
    if attempt.holds("Suspended") or (attempt.told_to_suspend and not runs):
        return attempt.child(ChildState.QUEUED)
    return attempt.child(ChildState.RUNNING if runs else ChildState.PENDING)
