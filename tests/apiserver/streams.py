"""Watches: from a version on, with bookmarks, time limit and stream faults; one writer each."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any

from apiserver.errors import ApiError, failure
from apiserver.faults import Faults, Request
from apiserver.objects import Objects
from apiserver.paths import Target
from apiserver.selectors import Test
from apiserver.store import Change, Entry, Watcher, encode
from apiserver.table import table
from apiserver.tampering import Cut, Tampering, error_line

BOOKMARK_END = "k8s.io/initial-events-end"
_SILENCE = 3600.0


@dataclass
class Frame:
    """One event to send."""

    type: str
    entry: Entry


class Stream:
    """One watch; `chunks` yields what to send, and ends when the watch does."""

    def __init__(
        self,
        objects: Objects,
        target: Target,
        request: Request,
        faults: Faults,
        *,
        bookmark_seconds: float,
        as_table: bool,
    ) -> None:
        query = request.query
        self.objects, self.target, self.faults = objects, target, faults
        self.request = request
        self.as_table = as_table
        self.bookmarks = query.get("allowWatchBookmarks") in {"true", "1"}
        self.bookmark_seconds = bookmark_seconds
        self.seconds = float(query.get("timeoutSeconds") or 3600)
        self.initial = query.get("sendInitialEvents") in {"true", "1"}
        self.collection = objects.store.collection(target.resource.key)
        self.watcher = Watcher()
        self.tampering = Tampering(faults, target.resource.plural)
        labels, fields = query.get("labelSelector", ""), query.get("fieldSelector", "")
        namespace = None
        if target.namespace and target.resource.namespaced:
            namespace = target.namespace
        self.test: Test | None = objects.selection(target.resource, namespace, labels, fields)
        if self.initial and not self.bookmarks:
            raise failure(422, "sendInitialEvents requires allowWatchBookmarks")

    def start(self) -> list[Frame]:
        """What is sent at once; from then on the watcher has what follows.

        Raises:
            ApiError: 410, the version has been compacted.
        """
        text = self.request.query.get("resourceVersion", "")
        collection = self.collection
        if self.initial or text in {"", "0"}:
            entries = [collection.entries[place] for place in sorted(collection.entries)]
            frames = [
                Frame("ADDED", one) for one in entries if not self.test or self.test(one.object)
            ]
            if self.initial:
                frames.append(Frame("BOOKMARK", self._bookmark(end=True)))
        else:
            changes = collection.since(_version(text))
            frames = [frame for one in changes for frame in self._frames(one)]
        collection.watchers[self.watcher] = None
        return frames

    def stop(self) -> None:
        """Watch no more."""
        self.collection.watchers.pop(self.watcher, None)

    async def chunks(self) -> AsyncIterator[bytes]:
        """The bytes to send.

        Raises:
            Cut: a fault closes the connection.
        """
        loop = asyncio.get_running_loop()
        end, bookmark = loop.time() + self.seconds, loop.time() + self.bookmark_seconds
        try:
            frames = self.start()
        except ApiError as error:
            yield error_line(error)
            return
        while True:
            yield self._bytes(frames)
            if self.tampering.stalled:
                await asyncio.sleep(self.tampering.stalled)
                self.tampering.stalled = 0.0
            if self.tampering.cut:
                raise Cut
            if self.watcher.closed or self.tampering.over:
                return
            due = min(end, bookmark) if self.bookmarks else end
            changes = await self.watcher.wait(
                _SILENCE if self.tampering.silent else due - loop.time()
            )
            frames = [frame for one in changes for frame in self._frames(one)]
            if self.tampering.silent or changes or loop.time() < due:
                continue
            if self.bookmarks:
                frames.append(Frame("BOOKMARK", self._bookmark()))
                bookmark = loop.time() + self.bookmark_seconds
            if loop.time() >= end:
                yield self._bytes(frames)
                return

    def _frames(self, change: Change) -> Iterator[Frame]:
        """A change as this watch's selectors see it."""
        kind = change.type
        if self.test is not None:
            before = bool(change.previous and self.test(change.previous.object))
            after = kind != "DELETED" and self.test(change.entry.object)
            if not before and not after:
                return
            kind = "ADDED" if not before else "MODIFIED" if after else "DELETED"
        yield Frame(kind, change.entry)

    def _bytes(self, frames: list[Frame]) -> bytes:
        out: list[bytes] = []
        for frame in frames:
            if self.tampering.ended:
                break
            line = self._line(frame)
            if self.faults.streams:
                out += self.tampering.lines(frame.type, frame.entry.object, line)
            else:
                out.append(line)
        return b"".join(out)

    def _line(self, frame: Frame) -> bytes:
        entry = frame.entry
        if frame.type != "BOOKMARK":
            entry = self.objects.served(self.target.resource, entry)
        if self.as_table and frame.type != "BOOKMARK":
            metadata = {"resourceVersion": str(entry.version)}
            include = self.request.query.get("includeObject", "Metadata")
            data = encode(table(self.target.resource, [entry.object], metadata, include))
        else:
            data = entry.data
        return b'{"type":"%s","object":%s}\n' % (frame.type.encode(), data)

    def _bookmark(self, *, end: bool = False) -> Entry:
        resource, version = self.target.resource, self.objects.store.version
        metadata: dict[str, Any] = {"resourceVersion": str(version), "creationTimestamp": None}
        if end:
            metadata["annotations"] = {BOOKMARK_END: "true"}
        document = {
            "kind": resource.kind,
            "apiVersion": resource.api_version,
            "metadata": metadata,
        }
        return Entry(document, version)


def _version(text: str) -> int:
    try:
        return int(text)
    except ValueError as error:
        raise failure(400, f"invalid resource version: {text!r}") from error
