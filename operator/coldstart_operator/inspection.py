"""A closer look at the one live child of a run, beside the work queue: why it waits, how far it is.

Looks cost requests and may hang, so they have workers of their own; what they find is kept here
and the run is put back into the work queue.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from coldstart.children.identity import ATTEMPT, RUN_UID, STAGE
from coldstart.plan import ChildState
from coldstart.status import RunProgress
from coldstart_operator import progress
from coldstart_operator.cache import Key
from coldstart_operator.cluster import EVENTS, PODS, Cluster
from coldstart_operator.explain import waiting_reason
from coldstart_operator.settings import Settings
from coldstart_operator.sight import Found
from coldstart_operator.work import WorkQueue

Json = dict[str, Any]

EVENT_PODS = 2
"""Pods whose events are read; the others of a gang wait for the same."""

LONGEST = 600.0
"""Seconds between two looks at a pod that tells nothing."""


@dataclass
class Target:
    """What is looked at for one run, and what was found."""

    child: Json
    stage: progress.StageName
    running: bool
    address: str | None = None
    silent: int = 0
    looks: int = 0
    reason: str = ""
    progress: RunProgress | None = None


@dataclass
class Inspector:
    """Looks at children from time to time; `tell` is called with the run whose news there are."""

    cluster: Cluster
    session: aiohttp.ClientSession
    settings: Settings
    tell: Callable[[Key], None]
    queue: WorkQueue[Key] = field(init=False)
    _targets: dict[Key, Target] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.queue = WorkQueue(self._look, self._failed, backoff=5.0, max_backoff=LONGEST)

    def watch(self, key: Key, found: Found) -> None:
        """Look at this child of a run from here on."""
        child = found.child
        running = child.state is ChildState.RUNNING
        known = self._targets.get(key)
        if known and _uid(known.child) == _uid(found.document) and known.running == running:
            known.child = found.document
            return
        self.forget(key)
        self._targets[key] = Target(found.document, child.stage.value, running)
        self.queue.add_after(key, self.settings.progress if running else self.settings.explain)

    def forget(self, key: Key) -> None:
        """Look at nothing of a run any longer."""
        self._targets.pop(key, None)
        self.queue.forget(key)

    def reason(self, key: Key, child: Json) -> str:
        """Why a child waits, as far as it was found out."""
        target = self._targets.get(key)
        return target.reason if target and _uid(target.child) == _uid(child) else ""

    def progress(self, key: Key) -> RunProgress | None:
        """How far the running child of a run is, as far as it tells."""
        target = self._targets.get(key)
        return target.progress if target else None

    async def _look(self, key: Key) -> float | None:
        target = self._targets.get(key)
        if target is None:
            return None
        before = (target.reason, target.progress)
        after = await (self._progress(target) if target.running else self._explain(target))
        if self._targets.get(key) is not target:
            return None
        if (target.reason, target.progress) != before:
            self.tell(key)
        return after

    async def _failed(self, key: Key, error: Exception, number: int) -> None:
        """A look that failed is taken again, later; the run goes on without it."""

    async def _explain(self, target: Target) -> float:
        """Find out what a child waits for."""
        metadata = target.child["metadata"]
        pods = await self._pods(target.child)
        uids = [metadata["uid"], *(pod["metadata"]["uid"] for pod in pods[:EVENT_PODS])]
        events: list[Json] = []
        for uid in uids:
            selector = f"involvedObject.uid={uid}"
            events += await self.cluster.listed(
                EVENTS, metadata["namespace"], fieldSelector=selector
            )
        target.reason = waiting_reason(target.child, pods, events)
        target.looks += 1
        return min(self.settings.explain * 2.0**target.looks, 2 * self.settings.progress)

    async def _progress(self, target: Target) -> float:
        """Read a running stage's metrics, if it serves them."""
        if target.address is None:
            target.address = _address(await self._pods(target.child))
        told = await progress.read(self.session, target.address) if target.address else None
        if told is None:
            target.address = None
            target.silent += 1
            return min(self.settings.progress * 2.0 ** min(target.silent, 10), LONGEST)
        target.silent = 0
        target.progress = progress.progress(target.stage, told) or target.progress
        return self.settings.progress

    async def _pods(self, child: Json) -> list[Json]:
        labels = child["metadata"].get("labels") or {}
        wanted = ",".join(f"{key}={labels.get(key, '')}" for key in (RUN_UID, STAGE, ATTEMPT))
        return await self.cluster.listed(PODS, child["metadata"]["namespace"], labelSelector=wanted)


def _uid(child: Json) -> str:
    return str(child["metadata"].get("uid"))


def _address(pods: list[Json]) -> str | None:
    """Where rank 0 serves its metrics: the first pod by name that runs and has an address."""
    running = [pod for pod in pods if (pod.get("status") or {}).get("phase") == "Running"]
    running.sort(key=lambda pod: str(pod["metadata"]["name"]))
    return next(
        (str(pod["status"]["podIP"]) for pod in running if pod["status"].get("podIP")), None
    )
