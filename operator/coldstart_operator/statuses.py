"""Runs and statuses between the API server's JSON and the models; pure, and where the plan is mute.

The plan writes the status of a run that it can read and act on. Here is the rest: a spec that
cannot work, a job that cannot be created, a name that is taken, a mistake of ours.
"""

from __future__ import annotations

from copy import deepcopy
from datetime import UTC, datetime
from typing import Any, TypeVar

from pydantic import ValidationError

from coldstart.children import documents
from coldstart.conditions import TYPES, conditions, phase
from coldstart.plan import replace_status
from coldstart.preset import resolve
from coldstart.run import ReasoningRun
from coldstart.schema import Contract, problems
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
        self.message = said(message)


def said(message: str) -> str:
    """Foreign words as the message of a status: one line of printable characters, not too long."""
    return documents.line(message, MESSAGE_CHARACTERS)


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
    return _zoned(status)


Model = TypeVar("Model", bound=Contract)


def _zoned(model: Model) -> Model:
    """A status whose times can be compared: the API server takes some without a zone."""
    update: Json = {}
    for name in type(model).model_fields:
        value = getattr(model, name)
        if isinstance(value, datetime) and value.tzinfo is None:
            update[name] = value.replace(tzinfo=UTC)
        elif isinstance(value, tuple):
            items = tuple(_zoned(item) for item in value)
            if any(new is not old for new, old in zip(items, value, strict=True)):
                update[name] = items
    return model.model_copy(update=update) if update else model


def _unreadable(error: ValidationError) -> str:
    where = "; ".join(problems(error, "status."))
    return f"{where}: the status was changed by hand, or written by another version"


def _remove(document: Any, path: tuple[int | str, ...]) -> None:
    for part in path[:-1]:
        document = document[part]
    document.pop(path[-1], None)


def refused(document: Json, status: str, reason: str, message: str, now: datetime) -> Json:
    """The status of a run that cannot be read or worked on: `Accepted` says why, the rest stays.

    A run that has ended keeps its last words: nothing is asked of its spec any more.

    Args:
        document: the run as it is; whatever its status is.
        status: of the condition `Accepted`: `False` for a mistake of the user, `Unknown` for ours.
        reason: a CamelCase word.
        message: a sentence.
        now: the time.
    """
    message = said(message)
    found = complete(document, now)
    ended = any(
        item["type"] in ("Succeeded", "Failed") and item["status"] == "True"
        for item in found["conditions"]
    )
    if not ended:
        found["message"] = message
        if status != "Unknown" or "phase" not in found:
            found["phase"] = "Pending" if status == "Unknown" else "Invalid"
    for index, item in enumerate(found["conditions"]):
        if item["type"] == "Accepted":
            new = _condition("Accepted", status, reason, message, now)
            if item["status"] == status:
                new["lastTransitionTime"] = item["lastTransitionTime"]
            found["conditions"][index] = new
    generation = document["metadata"].get("generation", 1)
    for item in found["conditions"]:
        item["observedGeneration"] = generation
    return {**found, "observedGeneration": generation}


def complete(document: Json, now: datetime) -> Json:
    """A run's status as it is, but with every condition, whatever else somebody has put there."""
    old = document.get("status")
    found = dict(old) if isinstance(old, dict) else {}
    conditions = []
    for type_ in TYPES:
        before = documents.condition(document, type_) or {}
        new = _condition(type_, "Unknown", "InProgress", "", now)
        kept = {key: before[key] for key in new if isinstance(before.get(key), str)}
        if documents.time(kept, "lastTransitionTime") is None:
            kept.pop("lastTransitionTime", None)
        if kept.get("status") not in ("True", "False", "Unknown"):
            kept.pop("status", None)
        generation = documents.whole(before, "observedGeneration")
        seen = {} if generation is None else {"observedGeneration": generation}
        conditions.append({**new, **kept, **seen})
    return {**found, "conditions": conditions}


def _condition(type_: str, status: str, reason: str, message: str, now: datetime) -> Json:
    time = now.isoformat().replace("+00:00", "Z")
    return {
        "type": type_,
        "status": status,
        "reason": reason,
        "message": message,
        "lastTransitionTime": time,
    }


def observed(run: ReasoningRun, status: RunStatus, now: datetime) -> RunStatus:
    """The status of an ended run whose spec is right, be it right again: the rest stays."""
    found = []
    for item in status.conditions:
        update: Json = {"observed_generation": run.metadata.generation}
        if item.type == "Accepted" and item.status != "True":
            update |= {"status": "True", "reason": "SpecValid", "message": ""}
            update |= {"last_transition_time": now}
        found.append(item.model_copy(update=update))
    return replace_status(
        status, conditions=tuple(found), observed_generation=run.metadata.generation
    )


def held(
    run: ReasoningRun, status: RunStatus, reason: str, message: str, now: datetime
) -> RunStatus:
    """The status of a run whose next job cannot be created yet: `Queued` says why."""
    message = said(message)
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
    error = StageError(code=ErrorCode.NAME_CONFLICT, message=message[:MESSAGE_CHARACTERS])
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


def bounded(status: RunStatus) -> RunStatus:
    """The status with texts that fit: one that is too long would make it unwritable."""
    found = tuple(
        item
        if len(item.message) <= MESSAGE_CHARACTERS
        else item.model_copy(update={"message": said(item.message)})
        for item in status.conditions
    )
    if found == status.conditions and len(status.message) <= MESSAGE_CHARACTERS:
        return status
    return replace_status(status, conditions=found, message=said(status.message))


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
