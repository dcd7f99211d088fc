"""One look at one run: read what is there, ask the plan, write the status, do what it says.

Level-triggered: it never matters what woke it, nor how often. Whatever it decides is in the
status before it is done, so it may be killed between any two requests: what was recorded and not
done is done again, under the same name, and what is there already is success.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from time import monotonic
from typing import Any

from coldstart.children.identity import child_name
from coldstart.children.pod import STORAGE
from coldstart.order import build_order
from coldstart.plan import (
    Action,
    ChildState,
    Finished,
    Start,
    Stop,
    Wait,
    WaitsFor,
    next_step,
    replace_status,
)
from coldstart.run import ReasoningRun
from coldstart.spec import Stage
from coldstart.status import RunStatus, StageState, StageStatus
from coldstart_operator import statuses
from coldstart_operator.accounts import charged, clocked, unclocked
from coldstart_operator.cache import Cache, Key, key_of, version_of
from coldstart_operator.cluster import RUNS, ApiError, Cluster
from coldstart_operator.health import Health
from coldstart_operator.inspection import Inspector
from coldstart_operator.jobs import UNAVAILABLE, Held, Jobs, NameConflict
from coldstart_operator.metrics import ATTEMPTS, HANDOFF_SECONDS, RECONCILE_ERRORS, tally
from coldstart_operator.recorder import Note, Recorder, notes
from coldstart_operator.settings import Settings
from coldstart_operator.sight import Found, Observer, Sight

Json = dict[str, Any]

MAX_STEPS = 10
"""Decisions in one look; a run has three stages, and each takes two."""

LOOK_AGAIN = 3.0
"""Seconds until pods that still end, which nobody watches, are looked at again."""

STOPPING_AGAIN = 30.0
"""Seconds until a job that is being deleted, or lacks a pod, is looked at again: its node may be
lost."""

SAY_FROM = 3
"""Failures in a row from which on a run says that the API server does not answer."""

logger = logging.getLogger(__name__)


@dataclass
class Memory:
    """What is remembered of a run between two looks; losing it costs nothing but a write."""

    uid: str
    written: float = -1e9
    """When its status was last written, by the monotonic clock."""


@dataclass(frozen=True)
class Decision:
    """What to do for a run, and the status to write before it is done."""

    action: Action
    status: RunStatus
    before: RunStatus | None
    """The status that the last decision was made on."""


def decide(run: ReasoningRun, sight: Sight, now: datetime) -> Decision:
    """Ask the plan until it wants something done or waits; pure."""
    recorded = run.status
    before = clocked(recorded, sight.children, now)
    for _ in range(MAX_STEPS):
        step = next_step(run.model_copy(update={"status": before}), sight.observation, now)
        if not _goes_on(step.action):
            break
        before = step.status
    status = unclocked(recorded, step.status)
    status = charged(run, recorded, status, sight.children, sight.pods or (), now)
    status = _with_children(run, status)
    if isinstance(step.action, Wait) and step.action.waits_for is WaitsFor.TIME:
        status = statuses.steady(recorded, status)
    return Decision(step.action, statuses.bounded(status), before)


def _goes_on(action: Action) -> bool:
    """Whether the plan wants to be asked again at once; a failure is recorded before its retry."""
    return isinstance(action, Wait) and action.seconds == 0 and action.waits_for is WaitsFor.CHILD


def _with_children(run: ReasoningRun, status: RunStatus) -> RunStatus:
    """The status with the names of the stages' jobs."""
    stages = tuple(
        entry.model_copy(
            update={"child": child_name(run.metadata.name, Stage(entry.name), entry.attempt)}
        )
        if entry.attempt
        else entry
        for entry in status.stages
    )
    return replace_status(status, stages=stages)


@dataclass
class Reconciler:
    """Takes runs through their stages; the queue sees to it that a run has one look at a time."""

    cluster: Cluster
    observer: Observer
    jobs: Jobs
    runs: Cache
    inspector: Inspector
    recorder: Recorder
    health: Health
    settings: Settings
    wake: Callable[[Key], None]
    _memories: dict[Key, Memory] = field(default_factory=dict)
    _dependents: dict[Key, set[Key]] = field(default_factory=dict)

    async def reconcile(self, key: Key) -> float | None:
        """One look at a run.

        Returns:
            After how many seconds to look again without being woken; None for never.

        Raises:
            Held: the next job cannot be created; the run says why.
            ApiError: the API server refused something else, or did not answer.
        """
        document = self.runs.get(key)
        if document is None or document["metadata"].get("deletionTimestamp"):
            self._forget(key)
            return None
        uid = str(document["metadata"].get("uid"))
        if key not in self._memories or self._memories[key].uid != uid:
            self._forget(key)
            self._memories[key] = Memory(uid)
        try:
            run = statuses.read_run(document)
            if run.status and run.status.finished:
                return await self._rest(key, run, document)
            return await self._advance(key, run, document)
        except statuses.InvalidRun as error:
            await self._refuse(document, "False", error.reason, error.message)
            return None

    async def failed(self, key: Key, error: Exception, number: int) -> None:
        """Have a run say what went wrong at a look at it, where that tells somebody something."""
        about = {"namespace": key.namespace, "run": key.name}
        reason = error.reason if isinstance(error, (ApiError, Held)) else type(error).__name__
        RECONCILE_ERRORS.labels(reason).inc()
        if isinstance(error, Held):
            logger.warning("%s", error, extra=about)
            return
        document = self.runs.get(key)
        with suppress(ApiError):  # as the look did; it comes again
            if isinstance(error, ApiError):
                logger.warning("look %d failed: %s", number, error, extra=about)
                said = error.code in (401, 403, 422) or number >= SAY_FROM
                if document is not None and said and not (error.conflict or error.missing):
                    status = statuses.complete(document, datetime.now(UTC))
                    message = statuses.said(f"cannot go on: {error}")
                    await self._patch(document, {**status, "message": message})
                return
            logger.error("a look at the run failed", exc_info=error, extra=about)
            if document is not None:
                message = f"{reason}: {error}: a mistake in the operator; it tries again"
                await self._refuse(document, "Unknown", "ReconcileError", message)

    def dependents(self, key: Key) -> None:
        """Wake the runs that wait for a stage of this one."""
        for dependent in self._dependents.pop(key, ()):
            self.wake(dependent)

    async def _advance(self, key: Key, run: ReasoningRun, document: Json) -> float | None:
        """One decision for a run that has not ended, and its deed."""
        now, begun = datetime.now(UTC), monotonic()
        sight = self._explained(key, await self.observer.look(run, now))
        decision = decide(run, sight, now)
        if isinstance(decision.action, Start) and sight.pods is None:
            sight = self._explained(key, await self.observer.look(run, now, thorough=True))
            decision = decide(run, sight, now)
        decision = replace(decision, status=self._with_progress(key, decision.status))
        if isinstance(decision.action, Start):
            return await self._start(run, document, decision, sight, begun)
        if isinstance(decision.action, Stop):
            self._inspect(key, decision.status, sight)
            if await self._record(document, run.status, decision.status) is document:
                await self._confirm(document)
            await self._stop(decision.action, sight)
            return 0.0
        left = await self._write_unhurried(key, document, run.status, decision.status)
        self._inspect(key, decision.status, sight)
        if isinstance(decision.action, Finished):
            return 0.0
        return self._next(key, run, decision.action, sight, left)

    def _next(
        self, key: Key, run: ReasoningRun, action: Wait, sight: Sight, left: float | None
    ) -> float | None:
        """After how many seconds a run that waits is to be looked at."""
        waits = [seconds for seconds in (action.seconds, left) if seconds is not None]
        if action.waits_for is WaitsFor.RUN:
            for stage in run.spec.stages:
                for source in run.spec.sources(stage):
                    other = Key(key.namespace, source.run)
                    self._dependents.setdefault(other, set()).add(key)
        if sight.remains or sight.unsettled:
            waits.append(LOOK_AGAIN)
        if sight.reduced or any(child.state is ChildState.STOPPING for child in sight.children):
            waits.append(STOPPING_AGAIN)
        return min(waits, default=None)

    async def _start(
        self, run: ReasoningRun, document: Json, decision: Decision, sight: Sight, begun: float
    ) -> float | None:
        """Record an attempt, then create its job."""
        action, status, now = decision.action, decision.status, datetime.now(UTC)
        assert isinstance(action, Start)
        try:
            kind = await self.jobs.choose(run)
        except Held as error:
            waiting = statuses.unstarted(status, decision.before)
            await self._hold(run, document, waiting, error)
            return self.settings.unavailable
        status = replace_status(status, backend=kind.name)
        order = build_order(
            run.model_copy(update={"status": status}),
            action.stage,
            action.attempt,
            sight.parents,
            storage=STORAGE,
            workdir=STORAGE,
        )
        try:
            manifests = kind.manifests(run, order, self.settings.image)
        except ValueError as error:
            raise statuses.InvalidRun("InvalidSpec", str(error)) from error
        if _recorded(run, action):
            await self._confirm(document)
        else:
            document = await self._record(document, run.status, status)
        try:
            if action.attempt > 1 and not sight.get(action.stage.value, action.attempt - 1):
                name = child_name(run.metadata.name, action.stage, action.attempt - 1)
                await self.jobs.check_gone(run, kind, name)
            await self.jobs.create(run, kind, manifests)
        except Held as error:
            await self._hold(run, document, status, error)
            if error.reason == UNAVAILABLE:
                return self.settings.unavailable
            raise
        except NameConflict as error:
            failed = statuses.conflicting(run, status, action.stage.value, str(error), now)
            await self._record(document, status, failed)
            return 0.0
        await self._record(document, status, status)
        self._count_start(run, action, begun)
        return self.settings.cosmetic

    def _count_start(self, run: ReasoningRun, action: Start, begun: float) -> None:
        ATTEMPTS.labels(action.stage.value).inc()
        if action.attempt == 1 and action.stage is not run.spec.stages[0]:
            HANDOFF_SECONDS.observe(monotonic() - begun)
        logger.info(
            "created %s",
            child_name(run.metadata.name, action.stage, action.attempt),
            extra={
                "namespace": run.metadata.namespace,
                "run": run.metadata.name,
                "stage": action.stage.value,
                "attempt": action.attempt,
            },
        )

    async def _hold(
        self, run: ReasoningRun, document: Json, status: RunStatus, error: Held
    ) -> None:
        """Have a run say why its next job cannot be created."""
        held = statuses.held(run, status, error.reason, error.message, datetime.now(UTC))
        queued = status.condition("Queued")
        if queued is None or queued.reason != error.reason:
            self.recorder.say(document, [Note("Warning", error.reason, error.message)])
        await self._record(document, status, held)

    async def _stop(self, action: Stop, sight: Sight) -> None:
        """Delete the job of an attempt, if it is as it was seen; else the next look decides."""
        found = sight.get(action.stage.value, action.attempt)
        if found is not None and not await self.jobs.has_changed(found):
            await self.jobs.delete(found)

    async def _rest(self, key: Key, run: ReasoningRun, document: Json) -> float | None:
        """What is left for a run that has ended: nothing of it may run, and its time may be up."""
        assert run.status is not None
        now = datetime.now(UTC)
        self.inspector.forget(key)
        self.dependents(key)
        sight = await self.observer.look(run, now)
        action = next_step(run, sight.observation, now).action
        if isinstance(action, Stop):
            await self._stop(action, sight)
            return 0.0
        status = statuses.observed(run, run.status, now)
        document = await self._record(document, run.status, status)
        lifetime = run.spec.ttl_seconds_after_finished
        if lifetime is None or status.finished_at is None:
            return None
        left = lifetime - (now - status.finished_at).total_seconds()
        if left > 0:
            return left
        uid, version = (str(document["metadata"][name]) for name in ("uid", "resourceVersion"))
        try:
            # Only as it is known: who gives it more time may just have done so.
            await self._confirm(document)
            await self.cluster.delete(RUNS, key.namespace, key.name, uid, version)
        except ApiError as error:
            if not error.missing:
                raise
            self.runs.drop(document)
            return 0.0
        return None

    def _explained(self, key: Key, sight: Sight) -> Sight:
        """The sight with what waiting children were found to wait for."""
        return replace(sight, found=tuple(self._with_reason(key, item) for item in sight.found))

    def _with_reason(self, key: Key, item: Found) -> Found:
        reason = self.inspector.reason(key, item.document)
        if not reason or item.child.state not in (ChildState.PENDING, ChildState.QUEUED):
            return item
        return replace(item, child=replace(item.child, message=reason))

    def _with_progress(self, key: Key, status: RunStatus) -> RunStatus:
        """The status with what the running stage tells of itself."""
        told = self.inspector.progress(key)
        current = status.stage(told.stage) if told else None
        runs = current is not None and current.state is StageState.RUNNING
        return replace_status(status, progress=told if runs else None)

    def _inspect(self, key: Key, status: RunStatus, sight: Sight) -> None:
        """Have the live child of a run looked at, if there is one that waits or runs."""
        for entry in status.stages:
            found = sight.get(entry.name, entry.attempt)
            looked = (ChildState.PENDING, ChildState.QUEUED, ChildState.RUNNING)
            if found is not None and found.child.state in looked:
                self.inspector.watch(key, found)
                return
        self.inspector.forget(key)

    async def _refuse(self, document: Json, status: str, reason: str, message: str) -> None:
        """Have a run say that nothing can be done for it."""
        new = statuses.refused(document, status, reason, message, datetime.now(UTC))
        if statuses.merge_patch(document.get("status") or {}, new):
            self.recorder.say(document, [Note("Warning", reason, message)])
        await self._patch(document, new)

    async def _write_unhurried(
        self, key: Key, document: Json, before: RunStatus | None, after: RunStatus
    ) -> float | None:
        """Write a status, but not yet one that differs in texts only from one just written.

        Returns:
            After how many seconds it may be written, if it was not.
        """
        old, new = document.get("status") or {}, after.document()
        left = self._memories[key].written + self.settings.cosmetic - monotonic()
        if left > 0 and old != new and statuses.cosmetic(old, new):
            return left
        await self._record(document, before, after)
        return None

    async def _record(self, document: Json, before: RunStatus | None, after: RunStatus) -> Json:
        """Write a status, and tell what has happened between the two."""
        result = await self._patch(document, after.document())
        before = before or RunStatus()
        self.recorder.say(document, notes(before, after))
        tally(before, after)
        if before.stages != after.stages:
            self.dependents(key_of(document))
        return result

    async def _confirm(self, document: Json) -> None:
        """See to it that a run is as it is known, before a deed for which nothing is written.

        After a restart, and beside another operator, what is known may be of the past: no job is
        made or deleted on its word.

        Raises:
            ApiError: the run has changed or is gone, or the API server did not answer.
        """
        key = key_of(document)
        try:
            found = await self.cluster.get(RUNS, key.namespace, key.name)
        except ApiError as error:
            if error.missing:
                self.runs.drop(document)
            raise
        if version_of(found) != version_of(document):
            self.runs.put(found)
            raise ApiError(409, "Conflict", "the run is no longer as it was known")

    async def _patch(self, document: Json, status: Json) -> Json:
        """Write what differs of a status; what comes back is what is known from here on.

        Raises:
            ApiError: the run has changed or is gone, or the API server refused it.
        """
        patch = statuses.merge_patch(document.get("status") or {}, status)
        if not patch:
            return document
        key, version = key_of(document), str(document["metadata"]["resourceVersion"])
        try:
            result = await self.cluster.patch_status(key.namespace, key.name, version, patch)
        except ApiError as error:
            if error.missing:
                self.runs.drop(document)
            if error.conflict:
                self.runs.put(await self.cluster.get(RUNS, key.namespace, key.name))
            raise
        # Not where the stream told of it before the answer came, or of the run's deletion since,
        # nor where it changed nothing, as fields do that an older definition prunes.
        if self.runs.put(result):
            self.health.expect(RUNS.plural, key, version_of(result))
        if key in self._memories:
            self._memories[key].written = monotonic()
        return result

    def _forget(self, key: Key) -> None:
        self._memories.pop(key, None)
        self.inspector.forget(key)
        for other, waiting in list(self._dependents.items()):
            waiting.discard(key)
            if not waiting:
                del self._dependents[other]


def _recorded(run: ReasoningRun, action: Start) -> bool:
    """Whether the status says already that this attempt is being started."""
    entry: StageStatus | None = run.status.stage(action.stage.value) if run.status else None
    return (
        entry is not None and entry.state is StageState.STARTING and entry.attempt == action.attempt
    )
