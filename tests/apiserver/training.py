"""The stand-in for the PyTorchJob controller of training-operator v1.9.4, one job at a time.

What it writes, and in what order, is that of the real one (operator.md 1.3 to 1.6), with its
traps: the condition that changed last stands last, resuming leaves `Suspended` (False) there,
workers' successes are made up when the master succeeds, nothing changes after Failed, pods that
cannot be created leave the status empty, `backoffLimit` does not bound failures.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from apiserver.access import Access
from apiserver.errors import ApiError
from apiserver.objects import now
from apiserver.parts import child_of, controlled, pod_from, warn

PORT = 23456

AGAIN = 1.0
"""Seconds until what could not be created is tried again; the real one backs off."""


class Training:
    """Reconciles PyTorchJobs; `pods` are those that the job controls."""

    resource = "pytorchjobs"

    def __init__(self, api: Access) -> None:
        self.api = api
        self._services: set[tuple[str, str]] = set()
        """Those that have been made, by the job's UID and their name."""

    def reconcile(self, job: Mapping[str, Any], pods: list[Mapping[str, Any]]) -> float | None:
        """Bring one job a step on; seconds until it is to be seen again, none if only events do.

        Raises:
            ApiError: the server refuses a write.
        """
        spec, policy = job["spec"], job["spec"].get("runPolicy") or {}
        if policy.get("managedBy") or job["metadata"].get("deletionTimestamp"):
            return None
        status = copy.deepcopy(dict(job.get("status") or {}))
        status.setdefault("conditions", [])
        _set(status, "Created", "True", "PyTorchJobCreated", f"{_name(job)} is created.")
        if _is(status, "Succeeded") or _is(status, "Failed"):
            return self._finished(job, pods, status)
        if policy.get("suspend"):
            self._suspend(job, pods, status)
            return None
        if _is(status, "Suspended"):
            _set(status, "Suspended", "False", "PyTorchJobResumed", f"{_name(job)} is resumed.")
            status["startTime"] = now()
        status.setdefault("startTime", now())
        replicas = spec["pytorchReplicaSpecs"]
        if not self._create(job, pods):
            return AGAIN
        for kind in [one for one in ("Master", "Worker") if one in replicas]:
            self._observe(job, kind, pods, status)
        self._write(job, status)
        return 0.0 if _is(status, "Succeeded") or _is(status, "Failed") else None

    def _create(self, job: Mapping[str, Any], pods: list[Mapping[str, Any]]) -> bool:
        """Create what is missing; False where something cannot be created."""
        there = {pod["metadata"]["name"] for pod in pods}
        for kind, spec in job["spec"]["pytorchReplicaSpecs"].items():
            for index in range(spec.get("replicas", 1)):
                name = f"{job['metadata']['name']}-{kind.lower()}-{index}"
                if name not in there and not self._make(job, "Pod", self._pod(job, kind, index)):
                    return False
                service = (job["metadata"]["uid"], name)
                if service not in self._services:
                    if not self._make(job, "Service", self._service(job, kind, index)):
                        return False
                    self._services.add(service)
        return True

    def _make(self, job: Mapping[str, Any], kind: str, document: dict[str, Any]) -> bool:
        try:
            self.api.create(f"{kind.lower()}s", document)
        except ApiError as error:
            text = f"Error creating: {error.message}"
            warn(self.api, job, f"FailedCreate{kind}", text)
            return False
        return True

    def _pod(self, job: Mapping[str, Any], kind: str, index: int) -> dict[str, Any]:
        replicas = job["spec"]["pytorchReplicaSpecs"]
        spec, processes = replicas[kind], str(job["spec"].get("nprocPerNode", "auto"))
        name = job["metadata"]["name"]
        count = sum(one.get("replicas", 1) for one in replicas.values())
        world = count * (int(processes) if processes.isdecimal() else 1)
        rank = index + (1 if kind == "Worker" and "Master" in replicas else 0)
        env = {"PYTHONUNBUFFERED": "1", "PET_NPROC_PER_NODE": processes, "PET_NNODES": str(count)}
        if "Master" in replicas:
            master = f"{name}-master-0"
            env |= {"MASTER_ADDR": master, "PET_MASTER_ADDR": master}
            env |= {"MASTER_PORT": str(PORT), "PET_MASTER_PORT": str(PORT)}
            env |= {"WORLD_SIZE": str(world), "RANK": str(rank), "PET_NODE_RANK": str(rank)}
        pod = pod_from(spec["template"], env)
        pod["spec"]["restartPolicy"] = spec.get("restartPolicy", "OnFailure")
        if pod["spec"]["restartPolicy"] == "ExitCode":
            pod["spec"]["restartPolicy"] = "Never"
        if kind == "Worker" and "Master" in replicas:
            init = {"name": "init-pytorch", "image": "alpine:3.10"}
            pod["spec"]["initContainers"] = [*pod["spec"].get("initContainers", []), init]
        metadata = pod["metadata"]
        metadata["labels"] = {**metadata.get("labels", {}), **_labels(job, kind, index)}
        return child_of(job, pod, f"{name}-{kind.lower()}-{index}")

    def _service(self, job: Mapping[str, Any], kind: str, index: int) -> dict[str, Any]:
        labels = _labels(job, kind, index)
        spec = {
            "clusterIP": "None",
            "selector": labels,
            "ports": [{"name": "pytorchjob-port", "port": PORT}],
        }
        service = {"metadata": {"labels": labels}, "spec": spec}
        return child_of(job, service, f"{job['metadata']['name']}-{kind.lower()}-{index}")

    def _observe(
        self,
        job: Mapping[str, Any],
        kind: str,
        pods: list[Mapping[str, Any]],
        status: dict[str, Any],
    ) -> None:
        spec = job["spec"]["pytorchReplicaSpecs"][kind]
        policy = spec.get("restartPolicy", "OnFailure")
        mine = [pod for pod in pods if _kind(pod) == kind.lower()]
        phases = [_phase(pod) for pod in mine]
        counts = {name: phases.count(phase) for name, phase in _COUNTED}
        selector = f"training.kubeflow.org/job-name={job['metadata']['name']}"
        status.setdefault("replicaStatuses", {})[kind] = {
            **{name: count for name, count in counts.items() if count},
            "selector": f"{selector},training.kubeflow.org/replica-type={kind.lower()}",
        }
        restarted = [pod for pod in mine if _restarts(pod, policy)]
        decides = kind == "Master" or "Master" not in job["spec"]["pytorchReplicaSpecs"]
        done = counts["succeeded"] >= spec.get("replicas", 1)
        elastic = job["spec"].get("elasticPolicy") and counts["succeeded"]
        if decides and (done or elastic):
            status.setdefault("completionTime", now())
            text = f"{_name(job)} is successfully completed."
            _set(status, "Succeeded", "True", "PyTorchJobSucceeded", text)
        elif decides and counts["active"]:
            _set(status, "Running", "True", "PyTorchJobRunning", f"{_name(job)} is running.")
        if counts["failed"] and (restarted or policy in {"OnFailure", "Always"}):
            text = (
                f"{_name(job)} is restarting because {counts['failed']} {kind} replica(s) failed."
            )
            _set(status, "Restarting", "True", "PyTorchJobRestarting", text)
        elif counts["failed"] and not _is(status, "Succeeded"):
            text = f"{_name(job)} is failed because {counts['failed']} {kind} replica(s) failed."
            if policy != "ExitCode":
                status.setdefault("completionTime", now())
            _set(status, "Failed", "True", "PyTorchJobFailed", text)
        for pod in restarted:
            self.api.delete("pods", pod["metadata"]["name"], pod["metadata"]["namespace"])

    def _suspend(
        self, job: Mapping[str, Any], pods: list[Mapping[str, Any]], status: dict[str, Any]
    ) -> None:
        self._clean(job, pods)
        for one in status.get("replicaStatuses", {}).values():
            one["active"] = 0
        text = f"{_name(job)} is suspended."
        if _is(status, "Running"):
            _set(status, "Running", "False", "PyTorchJobSuspended", text)
        _set(status, "Suspended", "True", "PyTorchJobSuspended", text)
        self._write(job, status)

    def _finished(
        self, job: Mapping[str, Any], pods: list[Mapping[str, Any]], status: dict[str, Any]
    ) -> float | None:
        policy = job["spec"].get("runPolicy") or {}
        clean = policy.get("cleanPodPolicy", "None")
        if clean != "None":
            running = [pod for pod in pods if pod["status"].get("phase") in {"Running", "Pending"}]
            self._clean(job, pods if clean == "All" else running)
        if _is(status, "Succeeded"):
            for one in status.get("replicaStatuses", {}).values():
                one["succeeded"] = one.get("succeeded", 0) + one.get("active", 0)
                one["active"] = 0
        self._write(job, status)
        if (seconds := policy.get("ttlSecondsAfterFinished")) is None:
            return None
        if "completionTime" not in status:
            return None
        ended = datetime.fromisoformat(status["completionTime"])
        left = float(seconds - (datetime.now(UTC) - ended).total_seconds())
        if left <= 0:
            self.api.delete(self.resource, job["metadata"]["name"], job["metadata"]["namespace"])
        return max(0.05, left)

    def _clean(self, job: Mapping[str, Any], pods: list[Mapping[str, Any]]) -> None:
        for pod in pods:
            name, namespace = pod["metadata"]["name"], pod["metadata"]["namespace"]
            if not pod["metadata"].get("deletionTimestamp"):
                self.api.delete("pods", name, namespace, grace=None)
            service = self.api.find("services", name, namespace)
            if service and controlled(service, job):
                self.api.delete("services", name, namespace)
                self._services.discard((job["metadata"]["uid"], name))

    def _write(self, job: Mapping[str, Any], status: dict[str, Any]) -> None:
        if status != job.get("status"):
            metadata = job["metadata"]
            self.api.set_status(self.resource, metadata["name"], status, metadata["namespace"])


_COUNTED = (("active", "Running"), ("succeeded", "Succeeded"), ("failed", "Failed"))


def _name(job: Mapping[str, Any]) -> str:
    return f"PyTorchJob {job['metadata']['name']}"


def _labels(job: Mapping[str, Any], kind: str, index: int) -> dict[str, str]:
    prefix = "training.kubeflow.org"
    labels = {
        f"{prefix}/job-name": job["metadata"]["name"],
        f"{prefix}/operator-name": "pytorchjob-controller",
        f"{prefix}/replica-type": kind.lower(),
        f"{prefix}/replica-index": str(index),
    }
    master = kind == "Master" or "Master" not in job["spec"]["pytorchReplicaSpecs"]
    return labels | ({f"{prefix}/job-role": "master"} if master and index == 0 else {})


def _kind(pod: Mapping[str, Any]) -> str:
    return str(pod["metadata"]["labels"].get("training.kubeflow.org/replica-type"))


def _phase(pod: Mapping[str, Any]) -> str:
    """A pod that runs and is Terminating counts as failed: the real one's care for dead nodes."""
    phase = str(pod.get("status", {}).get("phase"))
    if phase == "Running" and pod["metadata"].get("deletionTimestamp"):
        return "Failed"
    return phase


def _restarts(pod: Mapping[str, Any], policy: str) -> bool:
    if pod.get("status", {}).get("phase") != "Failed":
        return False
    if policy in {"OnFailure", "Always"}:
        return True
    statuses = pod["status"].get("containerStatuses") or []
    codes = [
        one["state"].get("terminated", {}).get("exitCode", 0xBEEF)
        for one in statuses
        if one["name"] == "pytorch"
    ]
    return policy == "ExitCode" and (codes or [0xBEEF])[0] >= 128


def _is(status: Mapping[str, Any], kind: str) -> bool:
    found = [one for one in status["conditions"] if one["type"] == kind]
    return bool(found) and found[0]["status"] == "True"


def _set(status: dict[str, Any], kind: str, value: str, reason: str, message: str) -> None:
    """`setCondition` of training-operator: the changed condition goes to the end."""
    conditions: list[dict[str, Any]] = status["conditions"]
    current = next((one for one in conditions if one["type"] == kind), None)
    if _is(status, "Failed") or (kind == "Created" and current):
        return
    if current and (current["status"], current["reason"]) == (value, reason):
        return
    time = now()
    moved = current["lastTransitionTime"] if current and current["status"] == value else time
    rival = {"Running": "Restarting", "Restarting": "Running"}.get(kind)
    kept = [one for one in conditions if one["type"] not in {kind, rival}]
    if kind in {"Succeeded", "Failed"}:
        kept = [{**one, "status": "False"} if one["type"] == "Running" else one for one in kept]
    new = {
        "type": kind,
        "status": value,
        "reason": reason,
        "message": message,
        "lastUpdateTime": time,
        "lastTransitionTime": moved,
    }
    status["conditions"] = [*kept, new]
