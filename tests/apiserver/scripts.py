"""What a test says that pods do: one behaviour per stage and attempt; moves nothing itself."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from coldstart.spec import Stage
from coldstart.stage import ORDER_ENV, RunRef, StageResult
from coldstart.status import CheckpointRef, ErrorCode, StageError


@dataclass(frozen=True)
class Attempt:
    """Which attempt a pod (or a job, before it has pods) belongs to."""

    namespace: str
    run: str
    uid: str
    stage: str
    number: int
    job: str
    order: dict[str, Any]
    """The StageOrder as the container gets it; empty where there is none."""
    index: int = 0
    """Which pod of the job: 0 is the master."""
    pod: str = ""


def attempt_of(document: Mapping[str, Any], template: Mapping[str, Any], **more: Any) -> Attempt:
    """The attempt that an object's labels and its container's order name."""
    metadata = document["metadata"]
    labels = metadata.get("labels") or {}
    order: dict[str, Any] = {}
    for container in (template.get("spec") or {}).get("containers") or ():
        for one in container.get("env") or ():
            if one["name"] == ORDER_ENV and one.get("value"):
                order = json.loads(one["value"])
    number = labels.get("coldstart.dev/attempt", "0")
    return Attempt(
        namespace=metadata["namespace"],
        run=labels.get("coldstart.dev/run", ""),
        uid=labels.get("coldstart.dev/run-uid", ""),
        stage=labels.get("coldstart.dev/stage", ""),
        number=int(number) if number.isdecimal() else 0,
        order=order,
        **more,
    )


Message = Callable[["Attempt"], "str | bytes"]


def success(attempt: Attempt, **metrics: float) -> bytes:
    """The StageResult of a stage that went well; its checkpoint's digest follows from its name."""
    stage = Stage(attempt.stage)
    name = f"{attempt.uid}/{attempt.stage}/{attempt.number}"
    digest = "sha256:" + hashlib.sha256(name.encode()).hexdigest()
    location = f"{attempt.run}/{attempt.stage}/final"
    checkpoint = CheckpointRef(location=location, digest=digest, step=10)
    return StageResult(
        run=RunRef(name=attempt.run, uid=attempt.uid),
        stage=stage,
        attempt=attempt.number,
        checkpoint=checkpoint if stage is not Stage.EVALUATION else None,
        metrics={"loss": 0.5, "probe_accuracy": 1.0, "boxed_share": 1.0, **metrics},
    ).encode()


def error(code: str, text: str = "as the script says") -> Message:
    """The message of a stage that ended with an error of the closed list."""

    def message(attempt: Attempt) -> bytes:
        return StageResult(
            run=RunRef(name=attempt.run, uid=attempt.uid),
            stage=Stage(attempt.stage),
            attempt=attempt.number,
            error=StageError(code=ErrorCode(code), message=text),
        ).encode()

    return message


@dataclass(frozen=True)
class Behaviour:
    """What the pods of one attempt do. Times are in seconds; None means never."""

    pending: float | None = 0.0
    """Until the pod runs."""
    running: float | None = 0.01
    """Until it ends; none: until it is deleted or the test says `Controllers.finish`."""
    exit_code: int = 0
    message: str | bytes | Message | None = success
    """The termination message of the pod with index 0, cut at 4,096 bytes as a kubelet does."""
    reason: str = ""
    """Empty, `OOMKilled`, or `Evicted` (the pod has failed, the container has no status)."""
    waiting: tuple[str, str] | None = None
    """Reason and message of a container that waits, such as ImagePullBackOff."""
    unschedulable: str = ""
    """The message of PodScheduled=False; such a pod stays pending."""
    refused: str = ""
    """Why pods cannot be created (quota, PodSecurity): a Warning event, and no status."""
    queued: float | None = None
    """Kueue: the job is suspended when it is created, and admitted so much later."""
    shutdown: float = 0.0
    """How long a deleted pod that runs takes to be gone."""
    lost: bool = False
    """The node is gone: once deleted, the pod stays Terminating for ever."""
    log: str = ""
    address: str = "127.0.0.1"
    """The pod's IP, where a test may serve a metrics endpoint."""


FOREVER = Behaviour(running=None)
PENDING = Behaviour(pending=None)


def failing(code: int, name: str = "", **more: Any) -> Behaviour:
    """A pod that exits with a code, and with a StageResult of that error where one is named."""
    return Behaviour(exit_code=code, message=error(name) if name else None, **more)


EVICTED = Behaviour(exit_code=137, message=None, reason="Evicted")
KILLED = Behaviour(exit_code=137, message=None, reason="OOMKilled")

Script = Callable[[Attempt], Behaviour | None]
"""None leaves the pod to the processes, where there are any, and else to the default."""


def scripted(
    table: Mapping[tuple[str, int], Behaviour], default: Behaviour = Behaviour()
) -> Script:
    """A script from a table by stage and attempt; the rest behaves as `default` says."""
    return lambda attempt: table.get((attempt.stage, attempt.number), default)
