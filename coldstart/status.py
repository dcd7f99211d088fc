"""How far a run is: the status document, the same on a cluster and on one machine."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from coldstart.schema import Contract, Digest, Name, Text


class StageState(StrEnum):
    """Where a stage is."""

    WAITING = "Waiting"
    STARTING = "Starting"
    RUNNING = "Running"
    BACKOFF = "Backoff"
    STOPPING = "Stopping"
    SUSPENDED = "Suspended"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"

    @property
    def live(self) -> bool:
        """Whether an attempt may be holding resources."""
        return self in (StageState.STARTING, StageState.RUNNING, StageState.STOPPING)


class ErrorCode(StrEnum):
    """Why a stage ended without a result: a closed list."""

    INVALID_ORDER = "InvalidOrder"
    NAME_CONFLICT = "NameConflict"
    DATASET_NOT_FOUND = "DatasetNotFound"
    DATASET_INVALID = "DatasetInvalid"
    MODEL_INVALID = "ModelInvalid"
    REWARD_INVALID = "RewardInvalid"
    CHECKPOINT_INVALID = "CheckpointInvalid"
    CHECKPOINT_MISMATCH = "CheckpointMismatch"
    RESOURCES_MISSING = "ResourcesMissing"
    ENDPOINT_REFUSED = "EndpointRefused"
    ENDPOINT_DOWN = "EndpointDown"
    SAMPLER_MISMATCH = "SamplerMismatch"
    NON_FINITE = "NonFinite"
    SELF_CHECK_FAILED = "SelfCheckFailed"
    GATE_REFUSED = "GateRefused"
    STORAGE_UNWRITABLE = "StorageUnwritable"
    STORAGE_FULL = "StorageFull"
    OUT_OF_MEMORY = "OutOfMemory"
    TERMINATED = "Terminated"
    WORKER_LOST = "WorkerLost"
    DEADLINE_EXCEEDED = "DeadlineExceeded"
    NO_RESULT = "NoResult"
    INTERNAL = "Internal"

    @property
    def retryable(self) -> bool:
        """Whether another attempt can help without anybody changing anything."""
        return self in _RETRYABLE

    @property
    def exit_code(self) -> int:
        """The exit code of a stage that ends so: below 128 permanent, from 128 on retryable."""
        return _EXIT_CODES[self]


RETRYABLE_FROM = 128
"""Exit codes from here on say that another attempt can help."""

_RETRYABLE = {
    ErrorCode.ENDPOINT_DOWN,
    ErrorCode.OUT_OF_MEMORY,
    ErrorCode.TERMINATED,
    ErrorCode.WORKER_LOST,
    ErrorCode.DEADLINE_EXCEEDED,
    ErrorCode.NO_RESULT,
}

_EXIT_CODES = {
    code: (
        137
        if code is ErrorCode.OUT_OF_MEMORY
        else 143
        if code is ErrorCode.TERMINATED
        else RETRYABLE_FROM
    )
    if code in _RETRYABLE
    else (1 if code is ErrorCode.INTERNAL else 2)
    for code in ErrorCode
}


class StageError(Contract):
    """Why a stage ended without a result."""

    code: ErrorCode
    """The class of the error."""
    message: Text = ""
    """A sentence that names the field, the row or the file, and what to do."""


class CheckpointRef(Contract):
    """A finished checkpoint: where it is, and what it must be."""

    location: Name
    """Directory, relative to the storage."""
    digest: Digest
    """SHA-256 of its manifest file, which holds those of all others."""
    step: Annotated[int, Field(ge=0)]
    """Optimizer updates that made it; of distilled data, its rows."""


class Verdict(Contract):
    """One check of a gate; written once, never changed."""

    name: Name
    """What was checked, as the gate calls it."""
    observed: float | None = None
    """The number that the stage reported."""
    threshold: float | None = None
    """The number that the gate asks for."""
    passed: bool
    """Whether the next stage may start as far as this check goes."""
    message: Text = ""
    """What was wrong."""


class StageStatus(Contract):
    """How far one stage is."""

    name: Literal["distill", "sft", "grpo", "evaluation"]
    """The stage."""
    state: StageState = StageState.WAITING
    """Where it is."""
    attempt: Annotated[int, Field(ge=0)] = 0
    """The latest attempt; counts every start."""
    failures: Annotated[int, Field(ge=0)] = 0
    """Attempts that failed; what the retry limit counts. Preempted ones do not."""
    retry_at: datetime | None = None
    """When the next attempt starts."""
    started_at: datetime | None = None
    """When the first attempt started."""
    attempt_started_at: datetime | None = None
    """When the latest attempt started."""
    finished_at: datetime | None = None
    """When the stage ended."""
    checkpoint: CheckpointRef | None = None
    """What a training stage ended with, or the distilled rows."""
    metrics: dict[str, float] = {}
    """The numbers that the stage reported."""
    child: Name | None = None
    """The name of the latest attempt's job, on a cluster."""
    gpu_seconds: Annotated[float, Field(ge=0)] = 0.0
    """GPU-seconds that its attempts have used."""
    wasted_gpu_seconds: Annotated[float, Field(ge=0)] = 0.0
    """GPU-seconds of attempts that failed or were preempted."""
    gates: tuple[Verdict, ...] = ()
    """The gate's verdicts."""
    error: StageError | None = None
    """Why the latest attempt failed."""


class Condition(Contract):
    """A condition, as Kubernetes has them."""

    type: Name
    """What it is about."""
    status: Literal["True", "False", "Unknown"]
    """Whether it holds."""
    reason: Name
    """A CamelCase word for machines."""
    message: Text = ""
    """A sentence for people."""
    last_transition_time: datetime
    """When `status` last changed."""
    observed_generation: Annotated[int, Field(ge=0)] = 0
    """The generation of the spec that it speaks of."""


class RunProgress(Contract):
    """Where the running stage is, as it tells."""

    stage: Literal["distill", "sft", "grpo", "evaluation"]
    """Which stage."""
    done: Annotated[int, Field(ge=0)]
    """Optimizer updates, problems or questions that are done."""
    total: Annotated[int, Field(ge=0)]
    """How many there will be; 0 where it is not known."""
    text: Annotated[str, StringConstraints(max_length=64)]
    """For people, as in `120/496`."""
    reward: float | None = None
    """Mean reward of the latest update, in GRPO."""


class RunStatus(Contract):
    """How far a run is."""

    observed_generation: Annotated[int, Field(ge=0)] = 0
    """The generation of the spec that this speaks of."""
    phase: Text = "Pending"
    """A word for people, derived from the conditions; nothing reads it."""
    message: Text = ""
    """What the run is doing or waiting for, in one line."""
    backend: Literal["PyTorchJob", "Job"] | None = None
    """What runs the stages on a cluster; chosen once."""
    progress: RunProgress | None = None
    """Where the running stage is."""
    stages: tuple[StageStatus, ...] = ()
    """The run's stages, in order."""
    conditions: tuple[Condition, ...] = ()
    """Accepted, Queued, Running, Suspended, Succeeded, Failed: all of them, always."""
    started_at: datetime | None = None
    """When the first stage started."""
    finished_at: datetime | None = None
    """When the run ended."""

    def stage(self, name: str) -> StageStatus | None:
        """The status of a stage, if it has one."""
        return next((stage for stage in self.stages if stage.name == name), None)

    def condition(self, type_: str) -> Condition | None:
        """A condition by its type; never by its place."""
        return next((item for item in self.conditions if item.type == type_), None)

    def holds(self, type_: str) -> bool:
        """Whether a condition is there and True."""
        condition = self.condition(type_)
        return condition is not None and condition.status == "True"

    @property
    def finished(self) -> bool:
        """Whether the run has ended, for good or bad."""
        return self.holds("Succeeded") or self.holds("Failed")
