"""The logs of an attempt's pods, found by their labels and followed; the pods are not touched."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from coldstart.children import documents
from coldstart.children.identity import ATTEMPT, RUN, RUN_UID, STAGE
from coldstart.children.pod import CONTAINER
from coldstart.places import LogQuery, NoLog, PlaceError, gone, shown_attempt
from coldstart_operator.cluster import PODS, RUNS, ApiError, Cluster
from coldstart_operator.commands_view import run_view

Json = dict[str, Any]

POLL_SECONDS = 1.0
"""How often it is looked whether what is waited for has come."""

_WAITING = 100
"""Pieces of logs that may wait to be shown."""

_INDEX = "batch.kubernetes.io/job-completion-index"
_DIGITS = 10
"""No index of a pod has as many."""

_TRAINING = "training.kubeflow.org/replica-"


@dataclass(frozen=True)
class Logs:
    """The logs of one run, as they are asked for."""

    cluster: Cluster
    namespace: str
    name: str
    query: LogQuery
    tell: Callable[[str], None]
    """Gets what is not part of a log, such as why it does not begin."""

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        """The log in pieces; of several pods line by line, each line with its node.

        Raises:
            NoLog: the pods are gone, or have not started.
            PlaceError: there is no such stage, attempt or node.
            ApiError: refused, or no answer.
        """
        pods = self._wanted(await self._pods())
        streams = {
            node: self._pod(documents.text(pod, "metadata", "name")) for node, pod in pods.items()
        }
        one = next(iter(streams.values()))
        async with aclosing(one if len(streams) == 1 else _merged(streams, self.tell)) as stream:
            async for piece in stream:
                yield piece

    def _wanted(self, pods: dict[int, Json]) -> dict[int, Json]:
        if self.query.node is None:
            return pods
        if self.query.node not in pods:
            there = ", ".join(map(str, sorted(pods)))
            raise PlaceError(f"--node {self.query.node}: there are pods of node {there} only")
        return {self.query.node: pods[self.query.node]}

    async def _pods(self) -> dict[int, Json]:
        """The attempt's pods by node; they are waited for if the log is to be followed."""
        told = False
        while True:
            document = await self.cluster.get(RUNS, self.namespace, self.name)
            view = run_view(document, self.namespace)
            entry, number = shown_attempt(view, self.query)
            wanted = {
                RUN: self.name,
                RUN_UID: document["metadata"]["uid"],
                STAGE: entry.name,
                ATTEMPT: str(number),
            }
            selector = ",".join(f"{key}={value}" for key, value in wanted.items())
            found = await self.cluster.listed(PODS, self.namespace, labelSelector=selector)
            if found:
                return {_node(pod): pod for pod in sorted(found, key=_created)}
            coming = number == entry.attempt and entry.state.live
            if not coming:
                raise gone("every pod", entry, number)
            message = f"{entry.name} attempt {number} has no pod yet: {view.status.message}"
            if not self.query.follow:
                raise NoLog(message)
            if not told:
                self.tell(message)
            told = True
            await asyncio.sleep(POLL_SECONDS)

    async def _pod(self, name: str) -> AsyncGenerator[bytes, None]:
        """The log of one pod, from when it has started."""
        told = ""
        while True:
            log = self.cluster.log(
                self.namespace, name, CONTAINER, follow=self.query.follow, tail=self.query.tail
            )
            try:
                async with aclosing(log) as stream:
                    async for piece in stream:
                        yield piece
            except ApiError as error:
                if error.missing:
                    raise NoLog(f"pod {name} is gone: {error.message}") from error
                if error.code != 400:  # noqa: PLR2004 - Bad Request: the container has not started
                    raise
                if not self.query.follow:
                    raise NoLog(f"pod {name}: {error.message}") from error
                if error.message != told:
                    self.tell(f"pod {name}: {error.message}")
                told = error.message
            else:
                return
            await asyncio.sleep(POLL_SECONDS)


async def _merged(
    streams: dict[int, AsyncGenerator[bytes, None]], tell: Callable[[str], None]
) -> AsyncGenerator[bytes, None]:
    """Whole lines of several logs as they come, each behind its node's number."""
    queue: asyncio.Queue[bytes | None] = asyncio.Queue(_WAITING)

    async def pump(node: int, stream: AsyncGenerator[bytes, None]) -> None:
        head, rest = f"[{node}] ".encode(), b""
        try:
            async for piece in stream:
                *lines, rest = (rest + piece).split(b"\n")
                await queue.put(b"".join(head + line + b"\n" for line in lines))
        except (NoLog, ApiError) as error:
            tell(f"node {node}: {error}")
        if rest:
            await queue.put(head + rest + b"\n")
        await queue.put(None)

    tasks = [asyncio.create_task(pump(*item)) for item in sorted(streams.items())]
    try:
        left = len(tasks)
        while left:
            piece = await queue.get()
            if piece is None:
                left -= 1
            elif piece:
                yield piece
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _node(pod: Json) -> int:
    """Which node of its attempt a pod is; a PyTorchJob's master is the first."""
    labels, annotations = (
        documents.value(pod, "metadata", key) for key in ("labels", "annotations")
    )
    if documents.text(labels, f"{_TRAINING}type").lower() == "worker":
        return 1 + _number(documents.text(labels, f"{_TRAINING}index"))
    return _number(documents.text(labels, _INDEX) or documents.text(annotations, _INDEX))


def _number(text: str) -> int:
    return int(text) if text.isdecimal() and len(text) < _DIGITS else 0


def _created(pod: Json) -> str:
    """Of two pods with one number the newer counts."""
    return documents.text(pod, "metadata", "creationTimestamp")
