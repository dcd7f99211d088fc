"""Events on runs: few, each said once, sent beside the work and dropped rather than waited for."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import socket
from collections import OrderedDict
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

from coldstart.status import RunStatus, StageState
from coldstart_operator.cluster import EVENTS, RUNS, ApiError, Cluster

COMPONENT = "coldstart-operator"

MAX_WAITING = 1_000
"""Events that may wait to be sent; further ones are dropped."""

MAX_SAID = 10_000
"""Events that are remembered, so that none is sent twice."""

MESSAGE_BYTES = 1024
"""The longest message that the API server takes."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Note:
    """What an event says."""

    type: Literal["Normal", "Warning"]
    reason: str
    message: str


def notes(before: RunStatus, after: RunStatus) -> list[Note]:
    """What happened to a run between two of its statuses, as events; the end of it says it all."""
    found = []
    for entry in after.stages:
        old = before.stage(entry.name)
        state = old.state if old else StageState.WAITING
        if entry.state is state or not (old or entry.attempt):
            continue
        why = entry.error.message if entry.error else ""
        if entry.state is StageState.SUCCEEDED and not after.finished:
            where = entry.checkpoint.location if entry.checkpoint else "no checkpoint"
            found.append(Note("Normal", "StageSucceeded", f"{entry.name} has succeeded: {where}"))
        elif entry.state is StageState.BACKOFF:
            found.append(Note("Warning", "AttemptFailed", f"{entry.name}: {why}"))
        elif entry.state is StageState.SUSPENDED:
            found.append(Note("Normal", "Suspended", f"{entry.name} is suspended"))
    return found + _ends(before, after)


def _ends(before: RunStatus, after: RunStatus) -> list[Note]:
    found = []
    if after.holds("Succeeded") and not before.holds("Succeeded"):
        found.append(Note("Normal", "Succeeded", after.message))
    if after.holds("Failed") and not before.holds("Failed"):
        condition = after.condition("Failed")
        assert condition is not None
        found.append(Note("Warning", condition.reason, after.message))
    accepted, earlier = after.condition("Accepted"), before.condition("Accepted")
    if accepted and accepted.status == "False" and (earlier is None or accepted != earlier):
        found.append(Note("Warning", accepted.reason, accepted.message))
    return found


@dataclass
class Recorder:
    """Sends events; a full queue or a refusal loses them, and nothing waits."""

    cluster: Cluster
    _waiting: asyncio.Queue[dict[str, Any]] = field(
        default_factory=lambda: asyncio.Queue(MAX_WAITING)
    )
    _said: OrderedDict[str, None] = field(default_factory=OrderedDict)
    _task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start sending."""
        self._task = asyncio.create_task(self._send())

    async def stop(self) -> None:
        """Stop sending; what waits is lost."""
        if self._task:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def say(self, run: dict[str, Any], said: list[Note]) -> None:
        """Queue events about a run, without those that were said before."""
        for note in said:
            body = event(run, note, datetime.now(UTC))
            name = body["metadata"]["name"]
            if name in self._said:
                continue
            self._said[name] = None
            if len(self._said) > MAX_SAID:
                self._said.popitem(last=False)
            with contextlib.suppress(asyncio.QueueFull):
                self._waiting.put_nowait(body)

    async def _send(self) -> None:
        while True:
            body = await self._waiting.get()
            try:
                await self.cluster.create(EVENTS, body["metadata"]["namespace"], body)
            except ApiError as error:
                if not error.exists:
                    logger.warning("an event was not taken: %s", error)


def event(run: dict[str, Any], note: Note, now: datetime) -> dict[str, Any]:
    """An event as the API server takes it; the same note has the same name, so it is there once."""
    about = {key: run["metadata"].get(key) or "" for key in ("name", "namespace", "uid")}
    uid, namespace = about["uid"], about["namespace"]
    digest = hashlib.sha256(f"{uid}\0{note.reason}\0{note.message}".encode()).hexdigest()[:16]
    time = now.strftime("%Y-%m-%dT%H:%M:%SZ")
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": f"{about['name']}.{digest}", "namespace": namespace},
        "involvedObject": {
            "apiVersion": RUNS.api_version,
            "kind": RUNS.kind,
            **about,
        },
        "type": note.type,
        "reason": note.reason,
        "message": note.message.encode()[:MESSAGE_BYTES].decode(errors="ignore"),
        "firstTimestamp": time,
        "lastTimestamp": time,
        "count": 1,
        "source": {"component": COMPONENT},
        "reportingComponent": COMPONENT,
        "reportingInstance": socket.gethostname()[:128],
    }
