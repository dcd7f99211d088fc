"""The conditions and the phase word of a run, derived from its stages; they decide nothing."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from coldstart.run import ReasoningRun
from coldstart.status import Condition, RunStatus, StageState, StageStatus

TYPES = ("Accepted", "Queued", "Running", "Suspended", "Succeeded", "Failed")
"""Every condition that a run has, from its first status on."""

_Fact = tuple[Literal["True", "False", "Unknown"], str]


def conditions(
    run: ReasoningRun, status: RunStatus, message: str, now: datetime
) -> tuple[Condition, ...]:
    """All conditions; `lastTransitionTime` moves only where the status of one changes."""
    facts = _facts(status)
    return tuple(_condition(run, status, type_, facts[type_], message, now) for type_ in TYPES)


def phase(run: ReasoningRun, status: RunStatus) -> str:
    """One word for people: `Succeeded`, `Failed`, `Suspended`, `SFTRunning`, `GRPOBackoff`, …"""
    if _failed(status):
        return "Failed"
    current = _current(status)
    if current is None:
        return "Succeeded"
    if current.state is StageState.SUSPENDED:
        return "Suspended"
    if current.state is StageState.WAITING and not current.attempt and not _earlier(run, current):
        return "Pending"
    name = {"sft": "SFT", "grpo": "GRPO"}.get(current.name, current.name.capitalize())
    return f"{name}{current.state.value}"


def _facts(status: RunStatus) -> dict[str, _Fact]:
    failed, current = _failed(status), _current(status)
    ended = failed is not None or current is None
    state = current.state if current and not failed else None
    code = failed.error.code.value if failed and failed.error else "StageFailed"
    return {
        "Accepted": ("True", "SpecValid"),
        "Queued": ("True", "WaitsToStart")
        if state in (StageState.WAITING, StageState.STARTING, StageState.BACKOFF)
        else ("False", "NotWaiting"),
        "Running": ("True", "StageRuns")
        if state in (StageState.RUNNING, StageState.STOPPING)
        else ("False", "NoStageRuns"),
        "Suspended": ("True", "SuspendedByUser")
        if state is StageState.SUSPENDED
        else ("False", "NotSuspended"),
        "Succeeded": ("True", "AllStagesSucceeded")
        if ended and not failed
        else (("False", code) if failed else ("Unknown", "InProgress")),
        "Failed": ("True", code)
        if failed
        else (("False", "AllStagesSucceeded") if ended else ("Unknown", "InProgress")),
    }


def _condition(
    run: ReasoningRun,
    status: RunStatus,
    type_: str,
    fact: _Fact,
    message: str,
    now: datetime,
) -> Condition:
    before = status.condition(type_)
    kept = before is not None and before.status == fact[0]
    return Condition(
        type=type_,
        status=fact[0],
        reason=fact[1],
        message=message if fact[0] == "True" and type_ != "Accepted" else "",
        last_transition_time=before.last_transition_time if before and kept else now,
        observed_generation=run.metadata.generation,
    )


def _failed(status: RunStatus) -> StageStatus | None:
    return next((stage for stage in status.stages if stage.state is StageState.FAILED), None)


def _current(status: RunStatus) -> StageStatus | None:
    return next((s for s in status.stages if s.state is not StageState.SUCCEEDED), None)


def _earlier(run: ReasoningRun, current: StageStatus) -> bool:
    return run.spec.stages[0].value != current.name
