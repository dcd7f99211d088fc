"""Runs and statuses between the API server's JSON and the models; pure, and where the plan is mute.

The plan writes the status of a run that it can read and act on. Here is the rest: a spec that
cannot work, a job that cannot be created, a name that is taken, a mistake of ours.
"""

from __future__ import annotations

from copy import deepcopy
from datetime import datetime
from typing import Any

from pydantic import ValidationError

from coldstart.conditions import TYPES, conditions, phase
from coldstart.plan import replace_status
from coldstart.preset import resolve
from coldstart.run import ReasoningRun
from coldstart.schema import problems
from coldstart.status import ErrorCode, RunStatus, StageError, StageState, StageStatus

Json = dict[str, Any]

MESSAGE_CHARACTERS = 4096
"""The longest message of a status."""

_COSMETIC = ("message", "progress", "conditions")


class InvalidRun(ValueError):
    """A run that nothing can be done for until somebody changes it."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message[:MESSAGE_CHARACTERS]


def read_run(document: Json) -> ReasoningRun:
    """The run of an object, its preset resolved.

    Raises:
        InvalidRun: the spec is wrong in itself, or the status is not one of ours.
    """
    asked = {key: document.get(key) for key in ("apiVersion", "kind", "metadata", "spec")}
    try:
        run = ReasoningRun.parse(resolve(asked))
    except ValidationError as error:
        raise InvalidRun("InvalidSpec", "; ".join(problems(error, model=ReasoningRun))) from error
    except (ValueError, TypeError, RecursionError) as error:
        raise InvalidRun("InvalidSpec", f"spec: {error}") from error
    assert isinstance(run, ReasoningRun)
    if run.spec.storage.claim_name is None:
        raise InvalidRun(
            "InvalidSpec",
            "spec.storage.claimName: is required on a cluster: name the PersistentVolumeClaim "
            "that every stage mounts",
        )
    return run.model_copy(update={"status": _read_status(document.get("status"))})


def _read_status(document: Any) -> RunStatus | None:
    """A recorded status; keys that this version does not know are left out."""
    if not document:
        return None
    try:
        return _parsed(document)
    except ValidationError as error:
        rest = deepcopy(document)
        for item in error.errors():
            if item["type"] != "extra_forbidden":
                raise InvalidRun("StatusUnreadable", _unreadable(error)) from error
            _remove(rest, item["loc"])
    try:
        return _parsed(rest)
    except ValidationError as error:
        raise InvalidRun("StatusUnreadable", _unreadable(error)) from error


def _parsed(document: Any) -> RunStatus:
    status = RunStatus.parse(document)
    assert isinstance(status, RunStatus)
    return status


def _unreadable(error: ValidationError) -> str:
    where = "; ".join(problems(error, "status."))
    return f"{where}: the status was changed by hand, or written by another version"


def _remove(document: Any, path: tuple[int | str, ...]) -> None:
    for part in path[:-1]:
        document = document[part]
    document.pop(path[-1], None)


def refused(document: Json, status: str, reason: str, message: str, now: datetime) -> Json:
    """The status of a run that cannot be read or worked on: `Accepted` says why, the rest stays.

    Args:
        document: the run as it is.
        status: of the condition `Accepted`: `False` for a mistake of the user, `Unknown` for ours.
        reason: a CamelCase word.
        message: a sentence.
        now: the time.
    """
    message = message[:MESSAGE_CHARACTERS]
    old = document.get("status") or {}
    generation = document["metadata"].get("generation", 1)
    before = {item["type"]: item for item in old.get("conditions") or []}
    found = []
    for type_ in TYPES:
        item = before.get(type_) or _condition(type_, "Unknown", "InProgress", "", now)
        if type_ == "Accepted":
            item = _condition(type_, status, reason, message, now)
            if before.get(type_, {}).get("status") == status:
                item["lastTransitionTime"] = before[type_]["lastTransitionTime"]
        found.append({**item, "observedGeneration": generation})
    return {
        **old,
        "observedGeneration": generation,
        "phase": old.get("phase", "Pending") if status == "Unknown" else "Invalid",
        "message": message,
        "conditions": found,
    }


def _condition(type_: str, status: str, reason: str, message: str, now: datetime) -> Json:
    time = now.isoformat().replace("+00:00", "Z")
    return {
        "type": type_,
        "status": status,
        "reason": reason,
        "message": message,
        "lastTransitionTime": time,
    }


def held(
    run: ReasoningRun, status: RunStatus, reason: str, message: str, now: datetime
) -> RunStatus:
    """The status of a run whose next job cannot be created yet: `Queued` says why."""
    message = message[:MESSAGE_CHARACTERS]
    found = tuple(
        item.model_copy(update={"reason": reason, "message": message})
        if item.type == "Queued"
        else item
        for item in conditions(run, status, message, now)
    )
    return replace_status(status, conditions=found, phase=phase(run, status), message=message)


def unstarted(planned: RunStatus, before: RunStatus | None) -> RunStatus:
    """A planned status without the start that it plans."""
    before = before or RunStatus()
    stages = tuple(
        before.stage(entry.name) or StageStatus(name=entry.name) for entry in planned.stages
    )
    return replace_status(planned, stages=stages)


def conflicting(
    run: ReasoningRun, status: RunStatus, stage: str, message: str, now: datetime
) -> RunStatus:
    """The status of a run whose job's name belongs to somebody else: it has failed."""
    error = StageError(code=ErrorCode.INVALID_ORDER, message=message[:MESSAGE_CHARACTERS])
    stages = tuple(
        entry.model_copy(update={"state": StageState.FAILED, "error": error, "finished_at": now})
        if entry.name == stage
        else entry
        for entry in status.stages
    )
    status = replace_status(status, stages=stages)
    found = tuple(
        item.model_copy(update={"reason": "NameConflict"})
        if item.type in ("Failed", "Succeeded")
        else item
        for item in conditions(run, status, message, now)
    )
    return replace_status(
        status,
        conditions=found,
        phase=phase(run, status),
        message=error.message,
        finished_at=now,
    )


def steady(before: RunStatus | None, after: RunStatus) -> RunStatus:
    """The status without a new countdown in its message: a wait is written once."""
    if before is None:
        return after
    for entry in after.stages:
        old = before.stage(entry.name)
        waits = entry.state is StageState.BACKOFF and old == entry
        if waits and before.message:
            return replace_status(after, message=before.message, conditions=before.conditions)
    return after


def merge_patch(old: Json, new: Json) -> Json:
    """What turns one document into another as a JSON merge patch (RFC 7386); empty if they agree.

    Lists are replaced whole.
    """
    patch: Json = {key: None for key in old if key not in new}
    for key, value in new.items():
        before = old.get(key)
        if isinstance(before, dict) and isinstance(value, dict):
            inner = merge_patch(before, value)
            if inner:
                patch[key] = inner
        elif key not in old or before != value:
            patch[key] = value
    return patch


def cosmetic(old: Json, new: Json) -> bool:
    """Whether two statuses differ in texts and progress only."""
    return _substance(old) == _substance(new)


def _substance(status: Json) -> Json:
    rest = {key: value for key, value in status.items() if key not in _COSMETIC}
    rest["conditions"] = [
        {key: value for key, value in item.items() if key != "message"}
        for item in status.get("conditions") or []
    ]
    return rest
