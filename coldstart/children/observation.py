"""What the objects of one attempt tell, whichever kind of job holds its pods; never raises."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Self

from coldstart.children import documents, identity
from coldstart.children.pod import CONTAINER
from coldstart.foreign import parsed
from coldstart.plan import Child, ChildState
from coldstart.spec import Stage
from coldstart.stage import RESULT_BYTES, StageResult
from coldstart.status import ErrorCode

DISRUPTED = "DisruptionTarget"
"""The condition of a pod that the cluster ends for reasons of its own."""

MARGIN_SECONDS = 30.0
"""What clocks and controllers may be late by, on top of a pod's grace period."""

_STOPPED = {137, 143}
"""Exit codes of what was killed or told to end: alone they are nobody's fault."""

MESSAGE_CHARACTERS = 2048
"""The longest text of an error that is taken over from a pod."""

_METRIC = re.compile(r"[A-Za-z_][A-Za-z0-9_./:@-]{0,127}(\{[A-Za-z0-9_.,/:@-]{1,128}\})?")
_NUMBER = re.compile(r"[1-9][0-9]{0,8}")
_LATEST = datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True)
class Condition:
    """A condition of a job."""

    holds: bool
    since: datetime | None
    reason: str
    message: str


@dataclass(frozen=True)
class Pod:
    """One pod of an attempt, as far as its end matters."""

    name: str
    first: bool
    """Whether its first process is rank 0."""
    phase: str
    active: bool
    """Whether it may be writing."""
    created: datetime | None
    gone_by: datetime | None
    """When the kubelet kills what has been told to end."""
    grace: int
    """Seconds between being told so and that."""
    disrupted: bool
    evicted: bool
    """Whether the kubelet ended it for what it, or a neighbour, used up."""
    exit_code: int | None
    ended: datetime | None
    words: str
    """Why it ended, as Kubernetes says it."""
    message: str | None
    """The termination message."""
    out_of_memory: bool

    @classmethod
    def of(cls, document: dict[str, Any]) -> Self:
        """The pod in an object."""
        end = _termination(document)
        phase, reason = (documents.text(document, "status", key) for key in ("phase", "reason"))
        disruption = documents.condition(document, DISRUPTED) or {}
        disrupted = disruption.get("status") == "True"
        words = [
            documents.text(end, "reason"),
            reason,
            documents.text(document, "status", "message"),
        ]
        if disrupted:
            words += [documents.text(disruption, key) for key in ("reason", "message")]
        message = documents.value(end, "message")
        return cls(
            name=documents.text(document, "metadata", "name"),
            first=_is_first(document),
            phase=phase,
            active=phase in ("Running", "Unknown")
            or (phase == "Pending" and bool(documents.text(document, "spec", "nodeName"))),
            created=documents.time(document, "metadata", "creationTimestamp"),
            gone_by=documents.time(document, "metadata", "deletionTimestamp"),
            grace=documents.number(document, "metadata", "deletionGracePeriodSeconds"),
            # A node that runs out of disk because of this pod would do so again, without end, if
            # it cost no retry.
            disrupted=disrupted and reason != "Evicted",
            evicted=reason == "Evicted",
            exit_code=documents.whole(end, "exitCode"),
            ended=documents.time(end, "finishedAt"),
            words=": ".join(dict.fromkeys(w for w in words if w not in ("", "Error", "Completed"))),
            message=message if isinstance(message, str) else None,
            out_of_memory=documents.text(end, "reason") == "OOMKilled",
        )

    @property
    def failed(self) -> bool:
        """Whether it ended badly."""
        return self.phase == "Failed" or bool(self.exit_code)

    def told_to_end_before(self, when: datetime) -> bool:
        """Whether its deletion was asked for by then, give or take the second of a timestamp."""
        return self.gone_by is not None and _seconds(when, self.gone_by) <= self.grace + 1


def _termination(document: dict[str, Any]) -> dict[str, Any]:
    for status in documents.items(document, "status", "containerStatuses"):
        if status.get("name") == CONTAINER:
            found = documents.value(status, "state", "terminated")
            return found if isinstance(found, dict) else {}
    return {}


def _is_first(document: dict[str, Any]) -> bool:
    labels, annotations = (
        documents.value(document, "metadata", key) for key in ("labels", "annotations")
    )
    index = "batch.kubernetes.io/job-completion-index"
    master = documents.text(labels, "training.kubeflow.org/replica-type").lower() == "master"
    return master or "0" in (documents.text(labels, index), documents.text(annotations, index))


def _seconds(start: datetime, end: datetime) -> float:
    return (end - start).total_seconds()


@dataclass(frozen=True)
class Attempt:
    """A job of ours with its pods."""

    stage: Stage
    number: int
    job: dict[str, Any]
    pods: tuple[Pod, ...]

    @classmethod
    def of(cls, job: dict[str, Any], pods: Sequence[dict[str, Any]]) -> Self | None:
        """The attempt that a job stands for, with those of the pods that are its own.

        None if the job's labels do not say which attempt of which stage it is.
        """
        labels = documents.value(job, "metadata", "labels")
        stage, number = (documents.text(labels, key) for key in (identity.STAGE, identity.ATTEMPT))
        if stage not in list(Stage) or not _NUMBER.fullmatch(number):
            return None
        own = tuple(Pod.of(pod) for pod in pods if _belongs(job, pod))
        return cls(Stage(stage), int(number), job, own)

    @property
    def deleted(self) -> bool:
        """Whether the job is being deleted."""
        return bool(documents.text(self.job, "metadata", "deletionTimestamp"))

    @property
    def told_to_suspend(self) -> bool:
        """Whether the job's spec says that it shall not run, as Kueue's webhook does."""
        paths = (("suspend",), ("runPolicy", "suspend"))
        return any(documents.value(self.job, "spec", *path) is True for path in paths)

    def condition(self, type_: str) -> Condition | None:
        """The job's condition of a type."""
        found = documents.condition(self.job, type_)
        if found is None:
            return None
        return Condition(
            holds=found.get("status") == "True",
            since=documents.time(found, "lastTransitionTime"),
            reason=documents.text(found, "reason"),
            message=documents.text(found, "message"),
        )

    def true(self, *types: str) -> Condition | None:
        """The first of these conditions that the job has and that is True."""
        found = (self.condition(type_) for type_ in types)
        return next((item for item in found if item and item.holds), None)

    def holds(self, type_: str) -> bool:
        """Whether the job has the condition, and it is True."""
        return self.true(type_) is not None

    def child(self, state: ChildState, message: str = "", *, lost: bool = False) -> Child:
        """The attempt while it lives."""
        return Child(self.stage, self.number, state, message=message, lost=lost)

    def lost(self, now: datetime) -> Pod | None:
        """A pod that should have ended long ago: its node is gone, and nobody will end it."""
        late = (
            pod
            for pod in self.pods
            if pod.active and pod.gone_by and _seconds(pod.gone_by, now) > MARGIN_SECONDS
        )
        return next(late, None)

    def ended(self, state: ChildState, message: str = "") -> Child:
        """The attempt after its end, with what rank 0 reported and how the first failure ended."""
        culprit = self._culprit()
        return Child(
            self.stage,
            self.number,
            state,
            result=self.result(),
            exit_code=culprit.exit_code if culprit and culprit.exit_code else None,
            message=message,
        )

    def failure(self, failed: Condition, now: datetime) -> Child:
        """The attempt after it has failed: as running while a pod of it may still write."""
        if any(self._may_write(pod, failed, now) for pod in self.pods):
            return self.child(ChildState.RUNNING, "has failed, and waits for its other pods to end")
        if self._preempted(failed):
            return self.ended(ChildState.PREEMPTED, self._why(failed) or "was suspended")
        return self.ended(ChildState.FAILED, self._why(failed))

    def result(self) -> StageResult | None:
        """What rank 0 wrote, if it wrote a result; of its pods, the newest that succeeded."""
        pods = [pod for pod in self.pods if pod.first and pod.message is not None]
        oldest = datetime.min.replace(tzinfo=UTC)
        pods.sort(key=lambda pod: (pod.phase == "Succeeded", pod.created or oldest))
        return parse_result(pods[-1].message or "") if pods else None

    def _culprit(self) -> Pod | None:
        """The pod that failed first; the others fail because of it."""
        failed = [pod for pod in self.pods if pod.failed]
        return min(failed, key=lambda pod: (pod.ended or _LATEST, pod.name), default=None)

    def _why(self, failed: Condition) -> str:
        culprit = next((pod for pod in self.pods if pod.disrupted), None) or self._culprit()
        if culprit and culprit.words:
            return documents.line(f"pod {culprit.name}: {culprit.words}")
        return documents.line(failed.message if not culprit else f"pod {culprit.name}")

    def _may_write(self, pod: Pod, failed: Condition, now: datetime) -> bool:
        """Whether a pod may still be at work; a lost node's pod looks so for ever, and is not."""
        if not pod.active:
            return False
        if pod.gone_by is not None:
            return _seconds(pod.gone_by, now) < MARGIN_SECONDS
        if failed.since is None:
            return False
        return _seconds(failed.since, now) < self._grace + MARGIN_SECONDS

    @property
    def _grace(self) -> int:
        """Seconds that a pod of this job may take to end."""
        template = documents.value(self.job, "spec", "template") or documents.value(
            self.job, "spec", "pytorchReplicaSpecs", "Master", "template"
        )
        found = documents.whole(template, "spec", "terminationGracePeriodSeconds")
        return 30 if found is None else found

    def _preempted(self, failed: Condition) -> bool:
        """Whether the cluster ended the attempt, so that it did not fail by itself.

        A job that is resumed while pods of it still end counts those as failed: operator.md
        1.6.10. Who suspended it wanted its resources, and it goes on as a new attempt.
        """
        return self._disrupted(failed) or self._suspended_before(failed)

    def _disrupted(self, failed: Condition) -> bool:
        if any(pod.disrupted for pod in self.pods):
            return True
        told = failed.reason == "PodFailurePolicy" and DISRUPTED in failed.message
        return told and not any(pod.evicted for pod in self.pods)

    def _suspended_before(self, failed: Condition) -> bool:
        suspended = self.condition("Suspended")
        if suspended is None or suspended.holds:
            return suspended is not None
        if suspended.since is None or failed.since is None:
            return False
        if any(pod.told_to_end_before(suspended.since) for pod in self.pods):
            return True
        window = self._grace + MARGIN_SECONDS
        return _seconds(suspended.since, failed.since) <= window and not self._failed_itself()

    def _failed_itself(self) -> bool:
        """Whether a pod ended in a way that being told to end does not explain.

        Without this a wrong spec would be started for ever under Kueue, where every job is
        resumed shortly before it begins.
        """
        result = self.result()
        if result and result.error and result.error.code is not ErrorCode.TERMINATED:
            return True
        return any(
            pod.out_of_memory or pod.evicted or pod.exit_code not in {None, 0, *_STOPPED}
            for pod in self.pods
        )


def _belongs(job: dict[str, Any], pod: dict[str, Any]) -> bool:
    """Whether a pod is of this job: its labels say so, and no other object controls it."""
    keys = (identity.RUN, identity.STAGE, identity.ATTEMPT, identity.RUN_UID)
    mine, its = (documents.value(item, "metadata", "labels") for item in (job, pod))
    if any(documents.text(mine, key) != documents.text(its, key) for key in keys):
        return False
    owners = documents.items(pod, "metadata", "ownerReferences")
    controllers = [owner.get("uid") for owner in owners if owner.get("controller") is True]
    return not controllers or documents.text(job, "metadata", "uid") in controllers


def parse_result(message: str) -> StageResult | None:
    """The result in a termination message; None for anything else that a container may say.

    Whose result it is the plan checks. Its texts end in statuses, events and terminals: they are
    cleaned, and numbers under names that are no names are left out.
    """
    if len(message.encode(errors="replace")) > RESULT_BYTES:
        return None
    try:
        result = StageResult.parse(parsed(message))
    except ValueError:  # not JSON, or not a result
        return None
    assert isinstance(result, StageResult)
    if not result.run.uid.isprintable() or not _is_inside(result):
        return None
    return _cleaned(result)


def _is_inside(result: StageResult) -> bool:
    """Whether the checkpoint, if there is one, lies in the storage, and its step in a status."""
    if result.checkpoint is None:
        return True
    if result.checkpoint.step >= 1 << 63:  # as 1e30, a number like any other
        return False
    location = result.checkpoint.location
    return location.isprintable() and location[0] != "/" and ".." not in location.split("/")


def _cleaned(result: StageResult) -> StageResult:
    error = result.error
    if error is not None:
        text = documents.line(error.message, MESSAGE_CHARACTERS)
        error = error.model_copy(update={"message": text})
    metrics = {name: value for name, value in result.metrics.items() if _METRIC.fullmatch(name)}
    return result.model_copy(update={"error": error, "metrics": metrics})
