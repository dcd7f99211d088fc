"""The one place that knows kopf: it logs in, watches, and hands every event to the controller.

kopf's change detection, indexes, daemons, finalizers and annotations are not used: each of them
loses or costs something (prototypes.md A2.2). What is left writes nothing to the cluster.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import kopf
from kopf._core.reactor.inventory import ResourceMemories  # an argument of kopf.operator

from coldstart.children.backend import BACKENDS
from coldstart_operator.cluster import PAGE, RUNS, Credentials, LogIn
from coldstart_operator.controller import Controller
from coldstart_operator.metrics import WATCH_EVENTS
from coldstart_operator.settings import Settings
from coldstart_operator.sight import LABEL

SWEEP = 0.5
"""Seconds until a task that has not ended is cancelled again."""

PAUSES = "pause-waiter for "
"""The beginning of the names of kopf's tasks that tell a watcher of a pause; each ends with it."""


class WatchLost(Exception):
    """The watch streams have ended by what kopf does not try again: all has to begin anew.

    Such are an error in a stream other than 410, a minute of 503, and a list that expires between
    two of its pages.
    """


async def watch(
    controller: Controller,
    settings: Settings,
    log_in: LogIn,
    end: Callable[[], Awaitable[None]],
    stop: asyncio.Event,
    listen: Callable[[], None],
) -> None:
    """Tell the controller of every event until `stop`.

    Args:
        controller: what is told.
        settings: what the process was told.
        log_in: gives the credentials that our own requests have.
        end: called when kopf has ended, and before every task that was born since is cancelled.
        stop: ends it.
        listen: takes SIGTERM and SIGINT back from kopf, which is deaf to them while it ends.

    Raises:
        WatchLost: kopf has given up a watch stream, and with it everything.
    """
    kept = asyncio.all_tasks()

    async def cleanup(**_: Any) -> None:
        await end()
        await _swept(kept)

    tasks = await kopf.spawn_tasks(
        registry=_registry(controller, log_in, cleanup),
        settings=_settings(settings),
        memories=_NoMemories(),
        standalone=True,
        # Nobody reads it; but where none is given kopf 1.45 asks for the name of the user, and
        # ends where the user is a bare number.
        identity="coldstart-operator",  # type: ignore[arg-type]
        clusterwide=not settings.namespaces,
        namespaces=settings.namespaces,
        stop_flag=stop,
    )
    kept.update(tasks)
    listen()
    try:
        await kopf.run_tasks(tasks, ignored=kept)
    except Exception as error:  # kopf has no public names for what the API server may answer
        raise WatchLost(f"a watch stream was given up: {error!r}") from error


async def _swept(kept: set[asyncio.Task[Any]]) -> None:
    """End what kopf has left of its own, but for those that are kept.

    Where one watcher fails, kopf 1.45 leaves the others, waits 5 s for them, and cancels them once
    and together with what tells them of pauses: a watcher that waits for an answer takes that for a
    pause, begins anew, without credentials, and has no end (nolar/kopf#1033 was of this kind).
    """
    mine = asyncio.current_task()
    while left := {task for task in asyncio.all_tasks() if task not in kept and task is not mine}:
        first = {task for task in left if not task.get_name().startswith(PAUSES)} or left
        for task in first:
            task.cancel()
        await asyncio.wait(first, timeout=SWEEP)


def _registry(
    controller: Controller, log_in: LogIn, cleanup: Callable[..., Awaitable[None]]
) -> kopf.OperatorRegistry:
    """The handlers of one controller."""
    found = kopf.OperatorRegistry()
    kopf.on.login(registry=found)(_login_handler(log_in))
    kopf.on.event(RUNS.group, RUNS.version, RUNS.plural, registry=found)(_run_handler(controller))
    for item in BACKENDS:
        place = item.resource
        kopf.on.event(
            place.group,
            place.version,
            place.plural,
            labels={LABEL: kopf.PRESENT},
            id=f"child_event_{place.plural}",
            registry=found,
        )(_child_handler(controller, place.plural))
    kopf.on.cleanup(registry=found)(cleanup)
    return found


def _settings(ours: Settings) -> kopf.OperatorSettings:
    """Kopf's settings: nothing posted, no peers, no patches; only children with our label."""
    found = kopf.OperatorSettings()
    found.posting.enabled = False
    found.peering.standalone = True
    # Where only some namespaces are ours, CRDs and namespaces may not be listed.
    found.scanning.disabled = bool(ours.namespaces)
    found.watching.chunk_size = PAGE
    for item in BACKENDS:
        place = item.resource
        found.watching.label_selectors[place.group, place.version, place.plural] = LABEL
    found.networking.request_timeout = 30
    # A worker per object lives so long after its last event, and holds that: thousands at start.
    found.queueing.idle_timeout = 0.05
    found.process.ultimate_exiting_timeout = 20
    # Else every event costs three deep copies of its object, to look for changes that nobody wants.
    found.persistence.diffbase_storage = _NoDiffs()
    found.persistence.progress_storage = _NoProgress()
    return found


class _NoMemories(ResourceMemories):
    """What kopf knows of an object from one event to the next: nothing, and nothing is kept.

    kopf forgets an object when a stream tells of its deletion; what is deleted while a stream is
    away, it would keep for ever.
    """

    async def recall(self, raw_body: Any, **more: Any) -> Any:
        return await super().recall(raw_body, **{**more, "ephemeral": True})


class _NoDiffs(kopf.DiffBaseStorage):
    """What was seen last of an object: nothing, and nothing is kept."""

    def build(self, **_: Any) -> Any:
        return {}

    def fetch(self, **_: Any) -> None:
        return None

    def store(self, **_: Any) -> None:
        pass


class _NoProgress(kopf.ProgressStorage):
    """How far handlers that are retried have come: there are none."""

    def fetch(self, **_: Any) -> None:
        return None

    def store(self, **_: Any) -> None:
        pass

    def purge(self, **_: Any) -> None:
        pass

    def touch(self, **_: Any) -> None:
        pass

    def clear(self, *, essence: Any) -> Any:
        return essence


def _run_handler(controller: Controller) -> Any:
    async def run_event(event: dict[str, Any], **_: Any) -> None:
        WATCH_EVENTS.labels(RUNS.plural).inc()
        controller.run_event(event.get("type"), event["object"])

    return run_event


def _child_handler(controller: Controller, plural: str) -> Any:
    async def child_event(event: dict[str, Any], **_: Any) -> None:
        WATCH_EVENTS.labels(plural).inc()
        controller.child_event(plural, event.get("type"), event["object"])

    return child_event


def _login_handler(log_in: LogIn) -> Any:
    async def login(**_: Any) -> kopf.ConnectionInfo:
        return await _connection(await log_in())

    return login


async def _connection(found: Credentials) -> kopf.ConnectionInfo:
    """Credentials in kopf's words."""
    header = await found.get_api_key_with_prefix("BearerToken") or ""
    scheme, _blank, token = header.rpartition(" ")
    return kopf.ConnectionInfo(
        server=found.host,
        ca_path=found.ssl_ca_cert,
        insecure=not found.verify_ssl,
        username=found.username or None,
        password=found.password or None,
        scheme=scheme or ("Bearer" if token else None),
        token=token or None,
        certificate_path=found.cert_file,
        private_key_path=found.key_file,
        proxy_url=found.proxy,
    )
