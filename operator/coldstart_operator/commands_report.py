"""A file of a run's storage by way of a short-lived pod's log: made, read, deleted; no exec."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import signal
from collections.abc import Callable, Iterator
from typing import Any

from coldstart import parcel
from coldstart.children import documents
from coldstart.children.reader import CONTAINER, reader_pod
from coldstart.parcel import ParcelError
from coldstart.places import NoPage
from coldstart.run import ReasoningRun
from coldstart_operator.cluster import EVENTS, PODS, ApiError, Cluster
from coldstart_operator.explain import waiting_reason

Json = dict[str, Any]

POLL_SECONDS = 0.3
"""How often the pod is looked at."""

MAX_LOG_BYTES = 256 * 1024 * 1024
"""The longest log that is read."""

_READS = 3
"""How often a log that is not whole is read: a node may be slow to hand out the end of it."""

_HOPELESS = frozenset(
    {
        "CreateContainerConfigError",
        "CreateContainerError",
        "ErrImageNeverPull",
        "ImagePullBackOff",
        "InvalidImageName",
        "RunContainerError",
    }
)
"""What a container waits for that will not come by waiting."""


async def fetched(
    cluster: Cluster,
    run: ReasoningRun,
    path: str,
    *,
    image: str,
    seconds: int,
    tell: Callable[[str], None],
) -> bytes:
    """The content of a file of a run's storage.

    Args:
        cluster: where the run is.
        run: whose storage.
        path: the file, relative to the storage.
        image: what the pod runs, if the run names no image.
        seconds: how long the pod may take, the pull of its image included.
        tell: gets what the user has to do besides.

    Raises:
        NoPage: it cannot be had; the message says why.
    """
    namespace = run.metadata.namespace or ""
    name = f"{run.metadata.name}-report-{secrets.token_hex(3)}"
    try:
        pod = reader_pod(run, path, name=name, image=image, seconds=seconds)
    except ValueError as error:
        raise NoPage(str(error)) from error
    uid: str | None = None
    with _ended_by_signals():
        try:
            uid = (await cluster.create(PODS, namespace, pod))["metadata"]["uid"]
            return await _read(cluster, namespace, name, seconds)
        except ApiError as error:
            if uid is None:
                what = f"a pod that reads {path} cannot be created"
            else:
                what = f"the pod that reads {path} cannot be followed"
            raise NoPage(f"{what}: {error.message}") from error
        finally:
            await _delete(cluster, namespace, name, uid, tell)


async def _read(cluster: Cluster, namespace: str, name: str, seconds: int) -> bytes:
    try:
        async with asyncio.timeout(seconds):
            code = await _end(cluster, namespace, name)
            return await _received(cluster, namespace, name, code)
    except TimeoutError as error:
        pod = await cluster.get(PODS, namespace, name)
        why = await _reason(cluster, pod) or "nothing says why"
        raise NoPage(f"pod {name} has not ended in {seconds} s: {why}") from error


async def _end(cluster: Cluster, namespace: str, name: str) -> int:
    """Wait for the end of the pod's container; its exit code.

    Raises:
        NoPage: it will not start, or has ended without an exit code.
    """
    while True:
        pod = await cluster.get(PODS, namespace, name)
        for status in documents.items(pod, "status", "containerStatuses"):
            if status.get("name") != CONTAINER:
                continue
            code = documents.whole(status, "state", "terminated", "exitCode")
            if code is not None:
                return code
            if documents.text(status, "state", "waiting", "reason") in _HOPELESS:
                raise NoPage(await _reason(cluster, pod))
        if documents.text(pod, "status", "phase") == "Failed":
            words = [documents.text(pod, "status", key) for key in ("reason", "message")]
            raise NoPage(f"pod {name} has failed: {documents.line(': '.join(filter(None, words)))}")
        await asyncio.sleep(POLL_SECONDS)


async def _reason(cluster: Cluster, pod: Json) -> str:
    """What a pod waits for, as far as the user may see it."""
    events: list[Json] = []
    with contextlib.suppress(ApiError):
        selector = f"involvedObject.uid={pod['metadata']['uid']}"
        events = await cluster.listed(EVENTS, pod["metadata"]["namespace"], fieldSelector=selector)
    return waiting_reason(pod, [pod], events)


async def _received(cluster: Cluster, namespace: str, name: str, code: int) -> bytes:
    """The file in the log of a pod that has ended.

    Raises:
        NoPage: there is none, or not the whole of it.
    """
    for left in reversed(range(_READS)):
        text = await _log(cluster, namespace, name)
        try:
            return parcel.unpacked(text)
        except ParcelError as error:
            if code:
                said = text.strip().splitlines()[-1:] or ["it wrote nothing"]
                known = parcel.refused(text)
                why = str(error) if known else f"exit code {code}: {documents.line(said[0])}"
                raise NoPage(f"pod {name} could not read it: {why}") from error
            if not left:
                raise NoPage(f"pod {name}: {error}") from error
            await asyncio.sleep(POLL_SECONDS)
    raise AssertionError("the last reading returns or raises")


async def _log(cluster: Cluster, namespace: str, name: str) -> str:
    data = bytearray()
    log = cluster.log(namespace, name, CONTAINER, follow=False, tail=None)
    async with contextlib.aclosing(log) as stream:
        async for piece in stream:
            data += piece
            if len(data) > MAX_LOG_BYTES:
                raise NoPage(f"pod {name} wrote more than {MAX_LOG_BYTES} bytes")
    return data.decode(errors="replace")


async def _delete(
    cluster: Cluster, namespace: str, name: str, uid: str | None, tell: Callable[[str], None]
) -> None:
    """Delete the pod, also one of which it is not known whether it was created."""
    try:
        uid = uid or (await cluster.get(PODS, namespace, name))["metadata"]["uid"]
        await cluster.delete(PODS, namespace, name, str(uid))
    except ApiError as error:
        if uid is not None and not (error.missing or error.conflict):
            tell(
                f"pod {name} could not be deleted: {error.message}; it ends by itself and goes "
                "with its run"
            )


@contextlib.contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Let SIGTERM and SIGHUP cancel the work, so that it cleans up; Ctrl-C does so anyway."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    numbers = (signal.SIGTERM, signal.SIGHUP)
    try:
        for number in numbers:
            loop.add_signal_handler(number, task.cancel)
    except (RuntimeError, ValueError):
        yield  # not the main thread: signals are another's
        return
    try:
        yield
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)
