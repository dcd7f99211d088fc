"""The stand-in for the batch/v1 Job controller, one job at a time; no per-index limits."""

from __future__ import annotations

import copy
import random
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from apiserver.access import Access
from apiserver.errors import ApiError
from apiserver.objects import now
from apiserver.parts import child_of, pod_from, warn

INDEX = "batch.kubernetes.io/job-completion-index"
_ALPHABET = "bcdfghjklmnpqrstvwxz2456789"


class Batch:
    """Reconciles Jobs; `pods` are those that the job controls."""

    resource = "jobs"

    def __init__(self, api: Access) -> None:
        self.api = api

    def reconcile(self, job: Mapping[str, Any], pods: list[Mapping[str, Any]]) -> float | None:
        """Bring one job a step on; seconds until it is to be seen again, none if only events do.

        Raises:
            ApiError: the server refuses a write.
        """
        spec = job["spec"]
        if spec.get("managedBy") or job["metadata"].get("deletionTimestamp"):
            return None
        status = copy.deepcopy(dict(job.get("status") or {}))
        status.setdefault("conditions", [])
        if _is(status, "Complete") or _is(status, "Failed"):
            return self._ttl(job, status)
        alive = [pod for pod in pods if _alive(pod)]
        if spec.get("suspend"):
            self._delete(alive)
            status.pop("startTime", None)
            _set(status, "Suspended", "True", "JobSuspended", "Job suspended")
            self._write(job, status, pods)
            return None
        if _is(status, "Suspended"):
            _set(status, "Suspended", "False", "JobResumed", "Job resumed")
        status.setdefault("startTime", now())
        failed, verdict = self._failures(job, pods)
        left = _deadline(spec, status)
        if verdict is None and left is not None and left <= 0:
            text = "Job was active longer than specified deadline"
            verdict = ("DeadlineExceeded", text)
        indexes = range(spec.get("completions", 1))
        succeeded = {_index(pod) for pod in pods if pod["status"].get("phase") == "Succeeded"}
        if verdict:
            self._fail(alive, status, verdict)
        elif succeeded >= set(indexes):
            status["completionTime"] = now()
            text = "Reached expected number of succeeded pods"
            _set(status, "SuccessCriteriaMet", "True", "CompletionsReached", text)
            _set(status, "Complete", "True", "CompletionsReached", text)
        else:
            wanted = [i for i in indexes if i not in succeeded | {_index(one) for one in alive}]
            room = spec.get("parallelism", 1) - len(alive)
            self._create(job, wanted[: max(0, room)])
        status["failed"] = failed
        self._write(job, status, pods)
        return left if left is not None and left > 0 else None

    def _failures(
        self, job: Mapping[str, Any], pods: list[Mapping[str, Any]]
    ) -> tuple[int, tuple[str, str] | None]:
        """How many failures count; reason and message of the job's own failure, if any."""
        spec, counted = job["spec"], 0
        for pod in pods:
            if pod["status"].get("phase") != "Failed":
                continue
            action, rule = _rule(spec.get("podFailurePolicy") or {}, pod)
            if action == "FailJob":
                name = f"{pod['metadata']['namespace']}/{pod['metadata']['name']}"
                text = f"for pod {name} failed with exit code {_code(pod)} matching FailJob rule"
                return counted + 1, (
                    "PodFailurePolicy",
                    f"Container pytorch {text} at index {rule}",
                )
            counted += action != "Ignore"
        if counted > spec.get("backoffLimit", 6):
            return counted, ("BackoffLimitExceeded", "Job has reached the specified backoff limit")
        return counted, None

    def _fail(
        self,
        alive: list[Mapping[str, Any]],
        status: dict[str, Any],
        verdict: tuple[str, str],
    ) -> None:
        """FailureTarget at once, Failed when the last pod has ended, as since Kubernetes 1.31."""
        _set(status, "FailureTarget", "True", *verdict)
        self._delete(alive)
        left = [one for one in alive if self._there(one)]
        if not left:
            _set(status, "Failed", "True", *verdict)

    def _there(self, pod: Mapping[str, Any]) -> bool:
        name, namespace = pod["metadata"]["name"], pod["metadata"]["namespace"]
        found = self.api.find("pods", name, namespace)
        return found is not None and _alive(found)

    def _create(self, job: Mapping[str, Any], indexes: list[int]) -> None:
        name, spec = job["metadata"]["name"], job["spec"]
        indexed = spec.get("completionMode") == "Indexed"
        for index in indexes:
            reference = {"fieldRef": {"fieldPath": f"metadata.annotations['{INDEX}']"}}
            pod = pod_from(spec["template"], {"JOB_COMPLETION_INDEX": reference} if indexed else {})
            suffix = "".join(random.choices(_ALPHABET, k=5))
            if indexed:
                for key in ("labels", "annotations"):
                    pod["metadata"][key] = {**pod["metadata"].get(key, {}), INDEX: str(index)}
                pod["spec"]["hostname"] = f"{name}-{index}"
                suffix = f"{index}-{suffix}"
            try:
                self.api.create("pods", child_of(job, pod, f"{name}-{suffix}"))
            except ApiError as error:
                warn(self.api, job, "FailedCreate", f"Error creating: {error.message}")
                return

    def _delete(self, pods: list[Mapping[str, Any]]) -> None:
        for pod in pods:
            if not pod["metadata"].get("deletionTimestamp"):
                metadata = pod["metadata"]
                self.api.delete("pods", metadata["name"], metadata["namespace"], grace=None)

    def _ttl(self, job: Mapping[str, Any], status: Mapping[str, Any]) -> float | None:
        seconds = job["spec"].get("ttlSecondsAfterFinished")
        if seconds is None:
            return None
        ends = [one for one in status["conditions"] if one["type"] in {"Complete", "Failed"}]
        ended = datetime.fromisoformat(ends[-1]["lastTransitionTime"])
        left = float(seconds - (datetime.now(UTC) - ended).total_seconds())
        if left <= 0:
            self.api.delete(self.resource, job["metadata"]["name"], job["metadata"]["namespace"])
        return max(0.05, left)

    def _write(
        self, job: Mapping[str, Any], status: dict[str, Any], pods: list[Mapping[str, Any]]
    ) -> None:
        alive = [one for one in pods if _alive(one)]
        done = sorted({_index(one) for one in pods if one["status"].get("phase") == "Succeeded"})
        ended = _is(status, "Complete") or _is(status, "Failed")
        status["active"] = 0 if ended else len(alive)
        status["ready"] = 0 if ended else sum(map(_ready, alive))
        status["terminating"] = sum(bool(p["metadata"].get("deletionTimestamp")) for p in pods)
        status["succeeded"] = len(done)
        status["uncountedTerminatedPods"] = {}
        if job["spec"].get("completionMode") == "Indexed":
            status["completedIndexes"] = ",".join(str(one) for one in done)
        if status != job.get("status"):
            metadata = job["metadata"]
            self.api.set_status(self.resource, metadata["name"], status, metadata["namespace"])


def _alive(pod: Mapping[str, Any]) -> bool:
    return pod["status"].get("phase") not in {"Succeeded", "Failed"}


def _ready(pod: Mapping[str, Any]) -> bool:
    conditions = pod["status"].get("conditions") or ()
    return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)


def _index(pod: Mapping[str, Any]) -> int:
    return int((pod["metadata"].get("annotations") or {}).get(INDEX, 0))


def _code(pod: Mapping[str, Any], container: str = "pytorch") -> int | None:
    for one in pod["status"].get("containerStatuses") or ():
        if one["name"] == container:
            code = one["state"].get("terminated", {}).get("exitCode")
            return int(code) if code is not None else None
    return None


def _rule(policy: Mapping[str, Any], pod: Mapping[str, Any]) -> tuple[str, int]:
    """The action of the first rule that fits a failed pod, and its place."""
    for index, rule in enumerate(policy.get("rules") or ()):
        if codes := rule.get("onExitCodes"):
            code = _code(pod, codes.get("containerName", "pytorch"))
            inside = code in codes["values"]
            if code and inside is (codes["operator"] == "In"):
                return rule["action"], index
        for wanted in rule.get("onPodConditions") or ():
            for one in pod["status"].get("conditions") or ():
                if one["type"] == wanted["type"] and one["status"] == wanted.get("status", "True"):
                    return rule["action"], index
    return "Count", -1


def _deadline(spec: Mapping[str, Any], status: Mapping[str, Any]) -> float | None:
    seconds = spec.get("activeDeadlineSeconds")
    if seconds is None:
        return None
    started = datetime.fromisoformat(status["startTime"])
    return float(seconds - (datetime.now(UTC) - started).total_seconds())


def _is(status: Mapping[str, Any], kind: str) -> bool:
    return any(one["type"] == kind and one["status"] == "True" for one in status["conditions"])


def _set(status: dict[str, Any], kind: str, value: str, reason: str, message: str) -> None:
    current = next((one for one in status["conditions"] if one["type"] == kind), None)
    if current and current["status"] == value:
        return
    new = {
        "type": kind,
        "status": value,
        "reason": reason,
        "message": message,
        "lastProbeTime": now(),
        "lastTransitionTime": now(),
    }
    if current:
        current.update(new)
    else:
        status["conditions"].append(new)
