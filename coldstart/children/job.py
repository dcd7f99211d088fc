"""A stage as a plain Indexed Job with a headless Service: what every cluster serves.

torchrun finds in the environment what PyTorchJob would have put there. No container of it lies
outside PodSecurity *restricted*, however many pods there are.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from coldstart.children import documents
from coldstart.children import observation as seen
from coldstart.children.identity import metadata, queue_labels, selector
from coldstart.children.pod import pod_template
from coldstart.plan import Child, ChildState
from coldstart.run import ReasoningRun
from coldstart.stage import StageOrder

MASTER_PORT = 23456
"""Where the ranks meet; the port that PyTorchJob takes."""


def manifests(run: ReasoningRun, order: StageOrder, image: str) -> list[dict[str, Any]]:
    """The objects of one attempt, in the order in which they are created; the job is the last.

    So a job that is there has all that it needs, whenever its creator was killed. One pod needs
    no Service: its ranks meet on its own loopback.

    Raises:
        ValueError: the spec asks for a pod that cannot be; the message begins with the field.
    """
    resources = run.spec.stage(order.stage).resources
    about = metadata(run, order)
    name = about["name"]
    several = resources.nodes > 1
    master = f"{name}-0.{name}" if several else "127.0.0.1"
    template = pod_template(
        run, order, image, _environment(resources.nodes, resources.processes_per_node, master)
    )
    if several:
        template["spec"]["subdomain"] = name
    job = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": about | {"labels": about["labels"] | queue_labels(run)},
        "spec": _job_spec(resources.nodes, template),
    }
    return [_service(about, order), job] if several else [job]


def _environment(nodes: int, processes: int, master: str) -> list[dict[str, Any]]:
    index = "metadata.annotations['batch.kubernetes.io/job-completion-index']"
    return [
        {"name": "PET_NNODES", "value": str(nodes)},
        {"name": "PET_NPROC_PER_NODE", "value": str(processes)},
        {"name": "PET_NODE_RANK", "valueFrom": {"fieldRef": {"fieldPath": index}}},
        {"name": "PET_MASTER_ADDR", "value": master},
        {"name": "PET_MASTER_PORT", "value": str(MASTER_PORT)},
    ]


def _job_spec(nodes: int, template: dict[str, Any]) -> dict[str, Any]:
    spec: dict[str, Any] = {
        "completionMode": "Indexed",
        "completions": nodes,
        "parallelism": nodes,
        "backoffLimit": 0,
        # Before a pod has ended no other may take its place: both would write the checkpoint.
        "podReplacementPolicy": "Failed",
        # Says in the job's status, where it stays, that a pod was evicted and did not fail.
        "podFailurePolicy": {
            "rules": [
                {
                    "action": "FailJob",
                    "onPodConditions": [{"type": seen.DISRUPTED, "status": "True"}],
                }
            ]
        },
        "template": template,
    }
    if nodes > 1:
        # Rank 0 speaks for all; a cluster that does not know the field (before 1.31) waits for
        # the others to end by themselves.
        spec["successPolicy"] = {"rules": [{"succeededIndexes": "0"}]}
    return spec


def _service(about: dict[str, Any], order: StageOrder) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": about,
        "spec": {
            "clusterIP": "None",
            "selector": selector(order),
            # The ranks look for each other before any of them is ready.
            "publishNotReadyAddresses": True,
            "ports": [{"name": "rendezvous", "port": MASTER_PORT, "protocol": "TCP"}],
        },
    }


def observe(child: dict[str, Any], pods: Sequence[dict[str, Any]], now: datetime) -> Child | None:
    """Where a Job is; None if it is no child of ours.

    Args:
        child: the Job, as the API server has it.
        pods: the pods of its namespace that may be its own, listed after the child was seen.
        now: the time of the look.
    """
    attempt = seen.Attempt.of(child, pods)
    return _observed(attempt, now) if attempt else None


def _observed(attempt: seen.Attempt, now: datetime) -> Child:
    if attempt.deleted:
        return attempt.child(ChildState.STOPPING)
    if attempt.holds("Complete"):
        return attempt.ended(ChildState.SUCCEEDED)
    # FailureTarget comes first, and Failed when every pod has ended: never, on a lost node.
    if failed := attempt.true("Failed", "FailureTarget"):
        return attempt.failure(failed, now)
    if attempt.holds("Suspended") or attempt.told_to_suspend:
        return attempt.child(ChildState.QUEUED)
    # Its controller waits for that pod's end before it says that the job has failed.
    if pod := attempt.lost(now):
        text = f"node lost: pod {pod.name} should have ended, and its node does not answer"
        return attempt.child(ChildState.PENDING, text, lost=True)
    runs = _all_started(attempt.job)
    return attempt.child(ChildState.RUNNING if runs else ChildState.PENDING)


def _all_started(job: dict[str, Any]) -> bool:
    """Whether every pod runs or has ended well; `active` alone counts pods that wait, too."""
    started = sum(documents.number(job, "status", key) for key in ("ready", "succeeded"))
    return started >= max(1, documents.number(job, "spec", "parallelism"))
