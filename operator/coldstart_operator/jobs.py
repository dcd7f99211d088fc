"""The jobs of runs, made and deleted: which kind, under whose name, and what a refusal means."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from time import monotonic
from typing import Any

from coldstart.children.backend import BACKENDS, Backend, Resource, backend
from coldstart.children.identity import ATTEMPT, RUN, RUN_UID, STAGE, child_name
from coldstart.plan import ChildState
from coldstart.run import ReasoningRun
from coldstart.spec import Stage
from coldstart_operator.cache import Cache, version_of
from coldstart_operator.cluster import SERVICES, ApiError, Cluster, owner_uid
from coldstart_operator.sight import Found

Json = dict[str, Any]

UNAVAILABLE = "BackendUnavailable"
"""The reason of a run whose kind of job the cluster does not serve."""

IDENTITY = (RUN, STAGE, ATTEMPT, RUN_UID)
"""The labels by which a job is found and known."""

ANY_ATTEMPT = {STAGE: Stage.SFT.value, ATTEMPT: "1"}
"""The labels of some attempt, for a job that has lost its own."""

_REFUSALS = {400: "Rejected", 401: "Unauthorized", 403: "Forbidden", 422: "Rejected"}


class Held(Exception):
    """A job cannot be created as things are; the run says why, and it is tried again."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(f"{reason}: {message}")
        self.reason = reason
        self.message = message


class NameConflict(Exception):
    """The name of a job is taken by an object that is not ours."""


@dataclass
class Jobs:
    """The hands: what they make and delete is in the caches at once."""

    cluster: Cluster
    children: dict[str, Cache]
    ask_again: float
    """Seconds for which an answer that a kind is not served is believed."""
    _served: dict[str, tuple[bool, float]] = field(default_factory=dict)

    async def choose(self, run: ReasoningRun) -> Backend:
        """The kind of job that a run's stages are: the recorded one, else the first served.

        Raises:
            Held: the cluster serves none of those that the run allows.
            ApiError: it could not be asked.
        """
        if run.status and run.status.backend:
            return backend(run.status.backend)
        wanted = run.spec.backend
        allowed = [item for item in BACKENDS if wanted in ("Auto", item.name)]
        for item in allowed:
            if await self._serves(item):
                return item
        names = " or ".join(f"{item.name} ({item.resource.api_version})" for item in allowed)
        raise Held(
            UNAVAILABLE,
            f"spec.backend is {wanted}, but the cluster serves no {names}: install its "
            "controller, or make a run with another spec.backend",
        )

    async def _serves(self, item: Backend) -> bool:
        known, when = self._served.get(item.name, (False, -1e9))
        if known or monotonic() - when < self.ask_again:
            return known
        known = await self.cluster.serves(item.resource)
        self._served[item.name] = (known, monotonic())
        return known

    async def create(self, run: ReasoningRun, kind: Backend, manifests: list[Json]) -> None:
        """Create the objects of an attempt, its job last; what is there and ours is left.

        Raises:
            Held: the API server refuses one of them.
            NameConflict: a name is taken.
            ApiError: no answer, or one that means nothing; it may be there all the same.
        """
        for manifest in manifests:
            job = manifest["kind"] == kind.resource.kind
            created = await self._ensure(run, kind.resource if job else SERVICES, manifest)
            if job:
                self.children[kind.name].put(created)

    async def _ensure(self, run: ReasoningRun, resource: Resource, manifest: Json) -> Json:
        namespace = run.metadata.namespace or ""
        try:
            return await self.cluster.create(resource, namespace, manifest)
        except ApiError as error:
            if not error.exists:
                await self._refused(resource, error)
        there = await self.cluster.get(resource, namespace, manifest["metadata"]["name"])
        owner = owner_uid(there)
        what = f"{resource.kind} {namespace}/{manifest['metadata']['name']}"
        if owner == run.metadata.uid:
            if not _identity(manifest) <= _identity(there):
                raise _changed(what)
            return there
        if owner is not None and _names(there, run):
            raise Held("EarlierRunEnds", f"waits until {what} of an earlier run is gone")
        raise NameConflict(
            f"{what} is there and is not this run's: delete it, or take another metadata.name, "
            "and create the run again"
        )

    async def check_gone(self, run: ReasoningRun, kind: Backend, name: str) -> None:
        """See to it that an attempt that is out of sight does not live on under its name.

        One that is being deleted makes no pods any more, and those that live are seen themselves.

        Raises:
            Held: it does; its labels were changed, so that nobody told of it.
            ApiError: it does, and should have been seen; or no answer.
        """
        namespace = run.metadata.namespace or ""
        try:
            there = await self.cluster.get(kind.resource, namespace, name)
        except ApiError as error:
            if error.missing:
                return
            raise
        labels = there["metadata"].get("labels") or {}
        labelled = {**there, "metadata": {**there["metadata"], "labels": ANY_ATTEMPT}}
        child = kind.observe(labelled, (), datetime.now(UTC))
        lives = child and child.state.live and child.state is not ChildState.STOPPING
        if owner_uid(there) != run.metadata.uid or not lives:
            return
        what = f"{kind.resource.kind} {namespace}/{name}"
        if not _known(run, name, labels):
            raise _changed(what)
        self.children[kind.name].put(there)
        raise ApiError(409, "Conflict", f"{what} is there, and was not known to be")

    async def _refused(self, resource: Resource, error: ApiError) -> None:
        """What a refusal means for the run.

        Raises:
            Held: something has to change in the cluster.
            ApiError: nothing to tell the run of yet.
        """
        what = f"{resource.kind}: {error.message}"
        if error.missing:
            self._served.clear()
            if not await self.cluster.serves(resource):
                kind = f"{resource.kind} ({resource.api_version})"
                text = f"the cluster no longer serves {kind}: install its controller again"
                raise Held(UNAVAILABLE, text) from error
            raise Held("NotFound", what) from error
        if error.code in _REFUSALS:
            reason = "QuotaExceeded" if "exceeded quota" in error.message else None
            raise Held(reason or _REFUSALS[error.code], what) from error
        raise error

    async def has_changed(self, found: Found) -> bool:
        """Whether there is more to know of a job: what was listed may be of the past.

        Raises:
            ApiError: refused, or no answer.
        """
        metadata = found.document["metadata"]
        cache, resource = self.children[found.backend.name], found.backend.resource
        try:
            there = await self.cluster.get(resource, metadata["namespace"], metadata["name"])
        except ApiError as error:
            if not error.missing:
                raise
            cache.drop(found.document)
            return True
        # The cache may have been told of it meanwhile; what was decided on was not.
        cache.put(there)
        return version_of(there) != version_of(found.document)

    async def delete(self, found: Found) -> None:
        """Delete a job; it stays in sight until its pods have ended.

        Raises:
            ApiError: refused, or no answer.
        """
        metadata = found.document["metadata"]
        cache, resource = self.children[found.backend.name], found.backend.resource
        try:
            left = await self.cluster.delete(
                resource, metadata["namespace"], metadata["name"], metadata["uid"]
            )
        except ApiError as error:
            if not (error.missing or error.conflict):
                raise
            cache.drop(found.document)
            return
        if left.get("kind") == resource.kind and left["metadata"].get("deletionTimestamp"):
            cache.put(left)


def _known(run: ReasoningRun, name: str, labels: dict[str, Any]) -> bool:
    """Whether labels are those of the attempt of this name."""
    stage, number = str(labels.get(STAGE)), str(labels.get(ATTEMPT))
    if (labels.get(RUN), labels.get(RUN_UID)) != (run.metadata.name, run.metadata.uid):
        return False
    right = stage in list(Stage) and number.isdecimal()
    return right and child_name(run.metadata.name, Stage(stage), int(number)) == name


def _identity(document: Json) -> set[tuple[str, str]]:
    """The labels that say whose and which attempt an object is."""
    labels = document["metadata"].get("labels") or {}
    return {(key, str(labels[key])) for key in IDENTITY if key in labels}


def _changed(what: str) -> Held:
    return Held(
        "JobChanged",
        f"{what} is this run's, but somebody has changed its coldstart.dev/ labels, so that nobody "
        "sees how it ends: delete it",
    )


def _names(document: Json, run: ReasoningRun) -> bool:
    """Whether an object's owner is an earlier run of this name."""
    owners = document["metadata"].get("ownerReferences") or ()
    return any(owner.get("name") == run.metadata.name for owner in owners)
