"""Caches, queue and reconciler put together: primed, woken by events, healed by full LISTs."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from time import monotonic
from typing import Any, NamedTuple, Self

import aiohttp

from coldstart.children import documents
from coldstart.children.backend import BACKENDS, Backend, Resource
from coldstart.plan import Child, ChildState
from coldstart_operator.cache import (
    Cache,
    Key,
    key_of,
    number,
    slim_child,
    slim_run,
    uid_of,
    version_of,
)
from coldstart_operator.cluster import RUNS, ApiError, Cluster, owner_uid
from coldstart_operator.health import Health
from coldstart_operator.inspection import Inspector
from coldstart_operator.jobs import Jobs
from coldstart_operator.metrics import (
    MISSED,
    RECONCILE_SECONDS,
    count_runs,
    tell,
    tell_silences,
)
from coldstart_operator.reconcile import Reconciler
from coldstart_operator.recorder import Recorder
from coldstart_operator.run_metrics import RunSeries, Told
from coldstart_operator.settings import Settings
from coldstart_operator.sight import LABEL, Observer
from coldstart_operator.work import WorkQueue

Json = dict[str, Any]

PRIME_AGAIN = 1.0
"""Seconds between two attempts to read what there is, at the start; no run moves until then."""

LIST_AGAIN = 10.0
"""Seconds until a full LIST that failed is tried again."""

FIRST_LOOKS = 5.0
"""Seconds that the first look at every run has to itself. The watch streams open then; they begin
with a listing of everything, which takes as long as all these looks."""

SECOND_LIST = 15.0
"""Seconds from the start until the second full LIST: what is deleted between the first one and the
opening of the watch streams is told by nobody."""

logger = logging.getLogger(__name__)


class RunMark(NamedTuple):
    """What is at hand of a run without reading it."""

    phase: str
    ended: bool
    expires: bool
    """Whether it is to be deleted some time after its end."""
    observed: bool
    """Whether its status speaks of its latest spec."""
    told: Told = Told()

    @classmethod
    def of(cls, document: Json) -> Self:
        """The mark of a run."""
        ended = any(
            documents.text(documents.condition(document, type_), "status") == "True"
            for type_ in ("Succeeded", "Failed")
        )
        expires = documents.value(document, "spec", "ttlSecondsAfterFinished") is not None
        phase = documents.text(document, "status", "phase") or "Pending"
        generation = documents.whole(document, "metadata", "generation")
        observed = documents.whole(document, "status", "observedGeneration") == generation
        return cls(phase, ended, expires, observed, Told.of(document))


class ChildMark(NamedTuple):
    """What is at hand of a child without reading it: whose it is, and what it tells of itself."""

    uid: str
    owner: str | None
    run: Key
    """The run that it is labelled with."""
    child: Child | None

    @property
    def lives(self) -> bool:
        """Whether it may hold resources."""
        return self.child is not None and self.child.state.live

    def same(self, before: ChildMark | None) -> bool:
        """Whether nothing has happened that a look at the run could find.

        Every status of a failed child is news: it may tell that a pod has ended, which nobody
        else does.
        """
        failed = self.child is None or self.child.state in (ChildState.FAILED, ChildState.PREEMPTED)
        return self == before and not failed


@dataclass(frozen=True)
class Kind:
    """A watched kind of object."""

    resource: Resource
    cache: Cache
    selector: dict[str, str]

    @property
    def api_version(self) -> str:
        """Its group and version, as objects have them."""
        return self.resource.api_version

    @property
    def identity(self) -> dict[str, str]:
        """What the items of a LIST leave out."""
        return {"apiVersion": self.api_version, "kind": self.resource.kind}


class Controller:
    """Everything of the operator but kopf and the process."""

    def __init__(
        self,
        cluster: Cluster,
        session: aiohttp.ClientSession,
        settings: Settings,
        more: Callable[[], None],
    ) -> None:
        """A controller at rest.

        Args:
            cluster: where it works.
            session: what pods are asked with.
            settings: what the process was told.
            more: called when the cluster serves something that it did not serve at the start,
                and kopf will not find out.
        """
        self.cluster = cluster
        self.settings = settings
        self.outgrown = False
        """Whether `more` was called."""
        self._more = more
        self._absent: set[str] = set()
        self._primed = False
        self.queue: WorkQueue[Key] = WorkQueue(
            self._handle, self._failed, settings.backoff, settings.max_backoff
        )
        self.runs = Cache(slim_run, key_of, RunMark.of)
        self.children: dict[str, Cache] = {
            item.name: Cache(slim_child, _run_of, _child_mark(item)) for item in BACKENDS
        }
        labelled = {"labelSelector": LABEL}
        self.kinds = {
            RUNS.plural: Kind(RUNS, self.runs, {}),
            **{
                item.resource.plural: Kind(item.resource, self.children[item.name], labelled)
                for item in BACKENDS
            },
        }
        self.health = Health(settings.unhealthy, lambda: cluster.heard, lambda: self.queue.oldest)
        self.inspector = Inspector(cluster, session, settings, self.queue.add)
        self.recorder = Recorder(cluster)
        self.reconciler = Reconciler(
            cluster=cluster,
            observer=Observer(cluster, self.runs, self.children, settings.lost_pod),
            jobs=Jobs(cluster, self.children, settings.unavailable / 2),
            runs=self.runs,
            inspector=self.inspector,
            recorder=self.recorder,
            health=self.health,
            settings=settings,
            wake=self.queue.add,
        )
        self._tasks: list[asyncio.Task[None]] = []
        self._untell: list[Callable[[], None]] = []

    async def start(self) -> None:
        """Read what there is, then start to work on it; waits for the API server to answer.

        Returns when each run has been looked at once, or when that takes long.
        """
        self._untell.append(tell_silences(self.health.silences))
        while True:
            try:
                await self.resync()
                await self._find_absent()
                break
            except ApiError as error:
                logger.warning("cannot read what there is: %s", error)
                wait = max(PRIME_AGAIN, error.retry_after)
                await asyncio.sleep(min(wait, self.settings.max_backoff))
        self._primed = True
        for key, mark in self.runs.marks():
            rests = mark.observed and not mark.expires and not self._has_live_children(key)
            if mark.ended and not rests:
                self.queue.add(key)
        logger.info("found %d runs, of which %d want a look", len(self.runs), self.queue.depth)
        marks = self.runs.marks
        self._untell += (
            count_runs(lambda: (mark.phase for _, mark in marks())),
            tell(RunSeries(lambda: ((key, mark.phase, mark.told) for key, mark in marks()))),
        )
        self.queue.start(self.settings.workers)
        self.inspector.queue.start(self.settings.lookers)
        self.recorder.start()
        self._tasks = [
            asyncio.create_task(self._resync_for_ever()),
            asyncio.create_task(self._listen_for_ever()),
            asyncio.create_task(self._await_definitions()),
        ]
        await self.queue.idle(FIRST_LOOKS)

    async def stop(self) -> None:
        """End all work, in the middle of it; nothing is lost by that."""
        while self._untell:
            self._untell.pop()()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.queue.stop()
        await self.inspector.queue.stop()
        await self.recorder.stop()

    def run_event(self, type_: str | None, document: Json) -> None:
        """Take in what the watch stream of the runs tells."""
        key = key_of(document)
        if type_ == "DELETED":
            self.health.gone(RUNS.plural, key)
            if self.runs.drop(document):
                self.queue.add(key)
            return
        before = self.runs.get(key)
        news = self.runs.put(document)
        self.health.seen(RUNS.plural, key, version_of(document))
        # Our own writes come back here, too: to be woken by them would undo every wait.
        if news and (before is None or _asked(before) != _asked(document)):
            self.queue.add(key)
            self.reconciler.dependents(key)

    def child_event(self, plural: str, type_: str | None, document: Json) -> None:
        """Take in what the watch stream of a kind of child tells."""
        cache, key = self.kinds[plural].cache, key_of(document)
        before: ChildMark | None = cache.mark_of(key)
        if type_ == "DELETED":
            self.health.gone(plural, key)
            news = cache.drop(document)
        else:
            news = cache.put(document) and not cache.mark_of(key).same(before)
            self.health.seen(plural, key, version_of(document))
        if news:
            self.queue.add(_run_of(document))
        if news and before is not None:
            self.queue.add(before.run)

    async def resync(self) -> None:
        """Compare the caches with full LISTs, and look at every run that has not ended.

        Raises:
            ApiError: refused, or no answer; what was read until then is kept.
        """
        for plural, kind in self.kinds.items():
            try:
                await self._resync(plural, kind)
            except ApiError as error:
                if not error.missing:
                    raise
                self._absent.add(plural)
        for key, mark in self.runs.marks():
            if not mark.ended:
                self.queue.add(key)

    def _has_live_children(self, key: Key) -> bool:
        return any(mark.lives for cache in self.children.values() for mark in cache.marks_of(key))

    async def _resync(self, plural: str, kind: Kind) -> None:
        """Compare one cache with a full LIST; a page at a time, since all at once are many.

        Raises:
            ApiError: refused, or no answer, or not served.
        """
        listing, versions = kind.cache.listing(), []
        for namespace in self.settings.namespaces or (None,):
            pages = self.cluster.pages(kind.resource, namespace, **kind.selector)
            async for items, version in pages:
                known = len(listing.stale)
                listing.add({**kind.identity, **item} for item in items)
                versions.append(version)
                if self._primed:
                    self._found_stale(plural, listing.stale[known:])
                # Else this page is held while the next one comes.
                items.clear()
        gone = listing.finish(min(versions, key=number))
        if not self._primed:
            return
        for run, key in gone:
            self.health.gone(plural, key)
            self.queue.add(run)
        changes = len(listing.stale) + len(gone)
        if changes:
            logger.info("a full LIST of %s found %d changes", plural, changes)
            MISSED.inc(changes)

    def _found_stale(self, plural: str, stale: list[tuple[Key, Key, int]]) -> None:
        """Take in what a page knew better, before the streams can tell of it, or of its end."""
        for run, key, seen in stale:
            self.health.expect(plural, key, seen)
            self.queue.add(run)

    async def _handle(self, key: Key) -> float | None:
        with RECONCILE_SECONDS.time():
            return await self.reconciler.reconcile(key)

    async def _failed(self, key: Key, error: Exception, times: int) -> None:
        await self.reconciler.failed(key, error, times)

    async def _resync_for_ever(self) -> None:
        pause = min(SECOND_LIST, self.settings.resync)
        while True:
            await asyncio.sleep(pause)
            pause = self.settings.resync
            try:
                await self.resync()
            except ApiError as error:
                logger.warning("a full LIST failed: %s", error)
                pause = min(pause, max(LIST_AGAIN, error.retry_after))

    async def _find_absent(self) -> None:
        """Note what kopf, which goes by the list of groups, will not find.

        Raises:
            ApiError: refused, or no answer.
        """
        listed = await self.cluster.announced()
        there = {plural for plural, kind in self.kinds.items() if kind.api_version in listed}
        self._absent |= self.kinds.keys() - there

    async def _await_definitions(self) -> None:
        """Begin anew when what was absent is there.

        kopf looks at the list of groups when a definition comes, but an API server lists a group
        a moment later than that, and kopf does not look again. Where only some namespaces are
        ours, it may not look at all.
        """
        while not self.outgrown:
            await asyncio.sleep(self.settings.unavailable)
            if self._absent:
                with suppress(ApiError):
                    listed = await self.cluster.announced()
                    found = (self.kinds[plural].api_version in listed for plural in self._absent)
                    self.outgrown = any(found)
        self._more()

    async def _listen_for_ever(self) -> None:
        """Ask the API server for a sign of life when nothing else has been asked for a while."""
        while True:
            await asyncio.sleep(self.settings.heartbeat / 2)
            if monotonic() - self.cluster.heard > self.settings.heartbeat:
                with suppress(ApiError):
                    await self.cluster.alive()


def _child_mark(item: Backend) -> Callable[[Json], ChildMark]:
    """How a child of a kind is marked."""

    def mark(document: Json) -> ChildMark:
        child = item.observe(document, (), datetime.now(UTC))
        return ChildMark(uid_of(document), owner_uid(document), _run_of(document), child)

    return mark


def _run_of(document: Json) -> Key:
    """The run that a child is labelled with."""
    metadata = document["metadata"]
    labels = metadata.get("labels") or {}
    return Key(str(metadata.get("namespace") or ""), str(labels.get(LABEL) or ""))


def _asked(document: Json) -> tuple[str, object, bool]:
    """What of a run others change: which run it is, its spec, whether it is to go."""
    metadata = document["metadata"]
    return uid_of(document), metadata.get("generation"), bool(metadata.get("deletionTimestamp"))
