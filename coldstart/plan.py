"""What to do next for a run: one pure function, used by the operator and by `coldstart run`.

It reads the run with its status and what is there (children and their results), and says one
thing to do and the status that goes with it. It neither reads a clock nor touches a process.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum

from coldstart.conditions import conditions, phase
from coldstart.distill import Distill
from coldstart.run import ReasoningRun
from coldstart.spec import Stage, StageSpec, TrainingSpec
from coldstart.stage import StageResult, gate
from coldstart.status import (
    RETRYABLE_FROM,
    CheckpointRef,
    ErrorCode,
    RunStatus,
    StageError,
    StageState,
    StageStatus,
    Verdict,
)


class ChildState(StrEnum):
    """Where a child (a job, a process) is, as its backend tells."""

    PENDING = "Pending"
    QUEUED = "Queued"
    RUNNING = "Running"
    STOPPING = "Stopping"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    PREEMPTED = "Preempted"

    @property
    def live(self) -> bool:
        """Whether it may still hold resources."""
        return self not in (ChildState.SUCCEEDED, ChildState.FAILED, ChildState.PREEMPTED)


@dataclass(frozen=True)
class Child:
    """One attempt of one stage, as it was seen."""

    stage: Stage
    attempt: int
    state: ChildState
    result: StageResult | None = None
    exit_code: int | None = None
    message: str = ""
    lost: bool = False
    """Whether it lives on without one of its machines, which nobody will give back to it."""


@dataclass(frozen=True)
class Parent:
    """A stage of another run that this one starts from, as it was seen."""

    finished: bool
    checkpoint: CheckpointRef | None = None
    message: str = ""


@dataclass(frozen=True)
class Observation:
    """All that was seen of a run: every child that there is, and the stages of other runs."""

    children: tuple[Child, ...] = ()
    parents: dict[tuple[str, str], Parent] = field(default_factory=dict)

    def child(self, stage: Stage, attempt: int) -> Child | None:
        """The child of one attempt, if it is there."""
        return next((c for c in self.children if (c.stage, c.attempt) == (stage, attempt)), None)


@dataclass(frozen=True)
class Start:
    """Create the child of this attempt; that it is there already is success."""

    stage: Stage
    attempt: int


@dataclass(frozen=True)
class Stop:
    """Stop this child, with time to save."""

    stage: Stage
    attempt: int
    reason: str


class WaitsFor(StrEnum):
    """What a wait ends with."""

    CHILD = "Child"
    TIME = "Time"
    USER = "User"
    RUN = "Run"


@dataclass(frozen=True)
class Wait:
    """Do nothing until something changes, or for so many seconds; 0 means: look again at once."""

    seconds: float | None = None
    waits_for: WaitsFor = WaitsFor.CHILD


@dataclass(frozen=True)
class Finished:
    """Nothing is left to do."""


Action = Start | Stop | Wait | Finished


@dataclass(frozen=True)
class Step:
    """One thing to do, and the status that goes with it; done and recorded in either order."""

    action: Action
    status: RunStatus


def next_step(run: ReasoningRun, observed: Observation, now: datetime) -> Step:
    """The next thing to do for a run.

    Total: it answers for every run and every observation, and never raises on them. Repeated on
    its own status with the same observation it ends in Wait or Finished, so a caller may loop.
    """
    status = _initial(run)
    if status.finished:
        return Step(_stop_live(observed, "the run has ended") or Finished(), status)
    status = _started(run, status, now)
    for stage in run.spec.stages:
        entry = status.stage(stage.value)
        assert entry is not None
        if entry.state is StageState.SUCCEEDED:
            continue
        action, entry, message = _stage_step(run, entry, observed, now)
        return _step(run, status, entry, action, message, now)
    leftover = _stop_live(observed, "the run has ended")
    return Step(leftover or Finished(), _described(run, status, "all stages have succeeded", now))


def reopened(status: RunStatus, first: Stage | None = None) -> RunStatus:
    """The status of a failed or finished run that its user starts again; never done by the plan.

    The stages before `first` keep what they have. Without `first` only what has not succeeded
    begins again, with its attempts still counted and its retries given back.
    """
    order = list(Stage)
    stages = []
    for entry in status.stages:
        again = first is not None and order.index(Stage(entry.name)) >= order.index(first)
        if not again and entry.state is StageState.SUCCEEDED:
            stages.append(entry)
        else:
            stages.append(StageStatus(name=entry.name, attempt=entry.attempt))
    return replace_status(status, stages=tuple(stages), conditions=(), finished_at=None)


def replace_status(status: RunStatus, **changes: object) -> RunStatus:
    """A status with some fields changed."""
    return status.model_copy(update=changes)


def _initial(run: ReasoningRun) -> RunStatus:
    """The run's status with an entry for each of its stages, whatever was recorded before."""
    status = run.status or RunStatus()
    stages = tuple(
        status.stage(stage.value) or StageStatus(name=stage.value) for stage in run.spec.stages
    )
    return status if stages == status.stages else replace_status(status, stages=stages)


def _started(run: ReasoningRun, status: RunStatus, now: datetime) -> RunStatus:
    return replace_status(
        status,
        observed_generation=run.metadata.generation,
        started_at=status.started_at or now,
    )


def _step(
    run: ReasoningRun,
    status: RunStatus,
    entry: StageStatus,
    action: Action,
    message: str,
    now: datetime,
) -> Step:
    stages = tuple(entry if old.name == entry.name else old for old in status.stages)
    status = replace_status(status, stages=stages)
    return Step(action, _described(run, status, message, now))


def _described(run: ReasoningRun, status: RunStatus, message: str, now: datetime) -> RunStatus:
    """The status with what follows from its stages: conditions, phase, message, end."""
    described = replace_status(
        status,
        conditions=conditions(run, status, message, now),
        phase=phase(run, status),
        message=message,
    )
    if described.finished and described.finished_at is None:
        return replace_status(described, finished_at=now)
    return described


def _stop_live(observed: Observation, reason: str) -> Stop | None:
    for child in observed.children:
        if child.state.live and child.state is not ChildState.STOPPING:
            return Stop(child.stage, child.attempt, reason)
    return None


_Outcome = tuple[Action, StageStatus, str]


def _stage_step(
    run: ReasoningRun,
    entry: StageStatus,
    observed: Observation,
    now: datetime,
) -> _Outcome:
    """The step for the stage that the run is at."""
    stage = Stage(entry.name)
    stray = _stray(observed, stage, entry)
    if stray is not None:
        return Stop(stray.stage, stray.attempt, "it is not the attempt that runs"), entry, "tidies"
    entry = _adopted(entry, observed, now)
    child = observed.child(stage, entry.attempt) if entry.attempt else None
    if entry.state.live and child is None and entry.state is not StageState.STARTING:
        return _lost(run, entry, now)
    if child is not None and entry.state.live:
        return _child_step(run, entry, child, now)
    if run.spec.suspend:
        entry = entry.model_copy(update={"state": StageState.SUSPENDED, "retry_at": None})
        return Wait(None, WaitsFor.USER), entry, "suspended: set spec.suspend to false to go on"
    return _start(run, entry, observed, now)


def _stray(observed: Observation, stage: Stage, entry: StageStatus) -> Child | None:
    """A live child that must not be: of another stage, or of an attempt that is over."""
    for child in observed.children:
        if not child.state.live or child.state is ChildState.STOPPING:
            continue
        current = child.stage is stage and child.attempt >= entry.attempt
        over = child.attempt == entry.attempt and not entry.state.live and entry.attempt > 0
        if not current or over:
            return child
    return None


def _adopted(entry: StageStatus, observed: Observation, now: datetime) -> StageStatus:
    """The entry with a child taken in that was created but not recorded before a crash."""
    newest = max(
        (child.attempt for child in observed.children if child.stage == entry.name), default=0
    )
    if newest <= entry.attempt:
        return entry
    return _attempt(entry, newest, now)


def _attempt(entry: StageStatus, number: int, now: datetime) -> StageStatus:
    return entry.model_copy(
        update={
            "state": StageState.STARTING,
            "attempt": number,
            "retry_at": None,
            "error": None,
            "started_at": entry.started_at or now,
            "attempt_started_at": now,
        }
    )


def _child_step(run: ReasoningRun, entry: StageStatus, child: Child, now: datetime) -> _Outcome:
    if child.state.live:
        return _live_step(run, entry, child, now)
    if child.state is ChildState.SUCCEEDED:
        return _succeeded(run, entry, child, now)
    if entry.error is not None and entry.error.code is ErrorCode.DEADLINE_EXCEEDED:
        return _failed(run, entry, entry.error, now)
    error = _error(run, child)
    if child.state is ChildState.PREEMPTED or entry.state is StageState.STOPPING:
        entry = entry.model_copy(update={"state": StageState.WAITING, "error": error})
        return Wait(0), entry, f"{entry.name} attempt {entry.attempt} was stopped"
    return _failed(run, entry, error, now)


def _live_step(run: ReasoningRun, entry: StageStatus, child: Child, now: datetime) -> _Outcome:
    where = f"{entry.name} attempt {entry.attempt}"
    if child.state is ChildState.STOPPING or entry.state is StageState.STOPPING:
        stopping = entry.model_copy(update={"state": StageState.STOPPING})
        if child.state is ChildState.STOPPING:
            return Wait(), stopping, f"{where} is stopping"
        return Stop(child.stage, child.attempt, "it was told to stop"), stopping, f"stops {where}"
    if run.spec.suspend:
        entry = entry.model_copy(update={"state": StageState.STOPPING})
        return Stop(child.stage, child.attempt, "the run is suspended"), entry, f"suspends {where}"
    left = _time_left(run.spec.stage(child.stage), entry, now)
    error = None
    if child.lost:
        error = StageError(code=ErrorCode.WORKER_LOST, message=f"{where}: {child.message}")
    elif left is not None and left <= 0:
        error = StageError(
            code=ErrorCode.DEADLINE_EXCEEDED,
            message=f"{where} ran longer than spec.{entry.name}.timeoutSeconds",
        )
    if error:
        entry = entry.model_copy(update={"state": StageState.STOPPING, "error": error})
        return Stop(child.stage, child.attempt, error.message), entry, error.message
    if child.state is not ChildState.RUNNING:
        return Wait(left), entry, child.message or f"{where} is {child.state.lower()}"
    return Wait(left), entry.model_copy(update={"state": StageState.RUNNING}), f"{where} is running"


def _time_left(spec: StageSpec, entry: StageStatus, now: datetime) -> float | None:
    if spec.timeout_seconds is None or entry.attempt_started_at is None:
        return None
    return spec.timeout_seconds - (now - entry.attempt_started_at).total_seconds()


def _succeeded(run: ReasoningRun, entry: StageStatus, child: Child, now: datetime) -> _Outcome:
    result = child.result
    mismatch = _mismatch(run, child)
    if result is None or mismatch:
        message = mismatch or f"{entry.name} attempt {entry.attempt} ended without a result"
        return _failed(run, entry, StageError(code=ErrorCode.NO_RESULT, message=message), now)
    if result.error is not None:
        return _failed(run, entry, result.error, now)
    spec = run.spec.stage(child.stage)
    verdicts: tuple[Verdict, ...] = ()
    if isinstance(spec, Distill | TrainingSpec):
        verdicts = entry.gates or gate(spec.gate, result)
    update: dict[str, object] = {
        "checkpoint": result.checkpoint,
        "metrics": result.metrics,
        "gates": verdicts,
        "finished_at": now,
        "retry_at": None,
    }
    refused = next((verdict for verdict in verdicts if not verdict.passed), None)
    if refused:
        message = f"the gate of {entry.name} refuses: {refused.name}: {refused.message}"
        error = StageError(code=ErrorCode.GATE_REFUSED, message=message)
        update |= {"state": StageState.FAILED, "error": error}
        return Wait(0), entry.model_copy(update=update), message
    update |= {"state": StageState.SUCCEEDED, "error": None}
    return Wait(0), entry.model_copy(update=update), f"{entry.name} has succeeded"


def _mismatch(run: ReasoningRun, child: Child) -> str:
    """What a result says that its child is not; empty if they agree."""
    result = child.result
    if result is None:
        return ""
    told = (result.run.name, result.stage, result.attempt)
    if told != (run.metadata.name, child.stage, child.attempt) or (
        run.metadata.uid is not None and result.run.uid != run.metadata.uid
    ):
        return (
            f"{child.stage.value} attempt {child.attempt} reported the result of run "
            f"{result.run.name!r} ({result.run.uid}), {result.stage.value} attempt {result.attempt}"
        )
    return ""


def _error(run: ReasoningRun, child: Child) -> StageError:
    """Why a child failed: what it reported, else what its exit code says."""
    if child.result is not None and child.result.error is not None and not _mismatch(run, child):
        return child.result.error
    where = f"{child.stage.value} attempt {child.attempt}"
    detail = f": {child.message}" if child.message else ""
    code = child.exit_code
    if code is None:
        return StageError(code=ErrorCode.WORKER_LOST, message=f"{where} was lost{detail}")
    if code >= RETRYABLE_FROM:
        return StageError(
            code=ErrorCode.WORKER_LOST, message=f"{where} was killed (exit code {code}){detail}"
        )
    return StageError(
        code=ErrorCode.INTERNAL, message=f"{where} ended with exit code {code}{detail}"
    )


def _lost(run: ReasoningRun, entry: StageStatus, now: datetime) -> _Outcome:
    """The child of a live attempt is gone, and nobody knows its result."""
    if entry.state is StageState.STOPPING and (
        entry.error is None or entry.error.code is not ErrorCode.DEADLINE_EXCEEDED
    ):
        waiting = entry.model_copy(update={"state": StageState.WAITING})
        return Wait(0), waiting, f"{entry.name} attempt {entry.attempt} was stopped"
    message = f"{entry.name} attempt {entry.attempt} is gone: it was deleted before it ended"
    error = entry.error or StageError(code=ErrorCode.WORKER_LOST, message=message)
    return _failed(run, entry, error, now)


def _failed(run: ReasoningRun, entry: StageStatus, error: StageError, now: datetime) -> _Outcome:
    retry = run.spec.retry
    if not error.code.retryable or entry.failures >= retry.limit:
        if error.code.retryable:
            text = f"{error.message} (after {entry.failures + 1} attempts: retry.limit is reached)"
            error = error.model_copy(update={"message": text[:4096]})
        update = {"state": StageState.FAILED, "error": error, "finished_at": now, "retry_at": None}
        return Wait(0), entry.model_copy(update=update), f"{entry.name} failed: {error.message}"
    wait = min(retry.backoff_seconds * 2**entry.failures, retry.max_backoff_seconds)
    update = {
        "state": StageState.BACKOFF,
        "failures": entry.failures + 1,
        "error": error,
        "retry_at": now + timedelta(seconds=wait),
    }
    message = f"{entry.name} tries again in {wait} s: {error.message}"
    return Wait(float(wait), WaitsFor.TIME), entry.model_copy(update=update), message


def _start(
    run: ReasoningRun,
    entry: StageStatus,
    observed: Observation,
    now: datetime,
) -> _Outcome:
    left = (entry.retry_at - now).total_seconds() if entry.retry_at else 0.0
    # A retry that is further off than any wait was planned before the clock was set back.
    if 0 < left <= run.spec.retry.max_backoff_seconds:
        why = entry.error.message if entry.error else ""
        message = f"{entry.name} tries again in {left:.0f} s: {why}"
        return Wait(left, WaitsFor.TIME), entry, message
    if any(child.state.live for child in observed.children):
        return Wait(), entry, f"{entry.name} waits for an earlier attempt to stop"
    waiting = _missing_parent(run, Stage(entry.name), observed)
    if waiting:
        return Wait(None, WaitsFor.RUN), entry, waiting
    number = entry.attempt if entry.state is StageState.STARTING else entry.attempt + 1
    entry = _attempt(entry, number, now)
    return Start(Stage(entry.name), number), entry, f"starts {entry.name} attempt {number}"


def _missing_parent(run: ReasoningRun, stage: Stage, observed: Observation) -> str:
    """What another run's stage still lacks for this one to start from it; empty if nothing."""
    for source in run.spec.sources(stage):
        parent = observed.parents.get((source.run, source.stage))
        where = f"spec.{stage.value}: run {source.run!r}, stage {source.stage}"
        if parent is None:
            return f"waits for {where}: there is no such run"
        if not parent.finished or parent.checkpoint is None:
            return f"waits for {where}: {parent.message or 'it has not finished'}"
    return ""
