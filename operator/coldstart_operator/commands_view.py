"""A run of the API server as people are shown it: whatever can be read of it is; pure.

The operator refuses a run that it cannot read as a whole; who looks at one wants to see the rest.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from copy import deepcopy
from datetime import UTC, datetime
from typing import Any

from pydantic import ValidationError

from coldstart.children import documents
from coldstart.places import Event, RunView
from coldstart.schema import problems
from coldstart.status import RunStatus

Json = dict[str, Any]

_OLDEST = datetime.min.replace(tzinfo=UTC)


def run_view(document: Json, place: str, events: Iterable[Json] = (), note: str = "") -> RunView:
    """What is shown of a run.

    Args:
        document: the run, as the API server has it.
        place: where it was found, for people.
        events: what is said about it.
        note: a sentence about the look itself.
    """
    status, unread = read_status(document.get("status"))
    notes = [*_notes(document, status), *unread, *([note] if note else [])]
    return RunView(
        name=str(document["metadata"]["name"]),
        place=place,
        status=status,
        events=tuple(sorted(map(_event, events), key=lambda item: item.time or _OLDEST)),
        notes=tuple(notes),
    )


def read_status(document: Any) -> tuple[RunStatus, list[str]]:
    """A status without the parts that this version cannot read, and which those are."""
    if not isinstance(document, dict):
        return RunStatus(), []
    rest, notes = deepcopy(document), []
    for _ in range(2):
        try:
            status = RunStatus.parse(rest)
        except ValidationError as error:
            notes += [f"The status is not read as a whole: {problems(error, 'status.')[0]}."]
            for item in error.errors():
                unknown = item["type"] == "extra_forbidden"
                _remove(rest, item["loc"] if unknown else item["loc"][:1])
        else:
            assert isinstance(status, RunStatus)
            return status, notes
    return RunStatus(), notes


def _remove(document: Any, path: tuple[int | str, ...]) -> None:
    with contextlib.suppress(KeyError, IndexError, TypeError):  # a part of it may be gone already
        for part in path[:-1]:
            document = document[part]
        del document[path[-1]]


def _notes(document: Json, status: RunStatus) -> Iterator[str]:
    metadata = document["metadata"]
    if metadata.get("deletionTimestamp"):
        yield "It is being deleted."
    if not document.get("status"):
        namespace = metadata.get("namespace")
        yield f"Nothing has looked at it yet: does the operator run, and for namespace {namespace}?"
    elif status.observed_generation < documents.number(metadata, "generation"):
        yield "The operator has not seen the latest change of its spec yet."


def _event(document: Json) -> Event:
    paths = (
        ("series", "lastObservedTime"),
        ("lastTimestamp",),
        ("eventTime",),
        ("metadata", "creationTimestamp"),
    )
    times = (documents.time(document, *path) for path in paths)
    return Event(
        time=next(filter(None, times), None),
        warning=documents.text(document, "type") == "Warning",
        reason=documents.text(document, "reason"),
        message=documents.text(document, "message"),
    )
