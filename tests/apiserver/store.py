"""Objects with versions, a bounded history and watchers, in memory; etcd's part, no API rules.

What is stored is never changed in place: a new version shares what it did not change with the
old one, so snapshots and history are references.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from apiserver.errors import expired

Object = Mapping[str, Any]
Place = tuple[str, str]
"""Namespace (empty where there is none) and name."""

_encode = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode


def encode(document: Any) -> bytes:
    """Compact JSON."""
    return _encode(document).encode()


class Entry:
    """One version of one object, with its JSON made once."""

    __slots__ = ("_data", "object", "version")

    def __init__(self, document: Object, version: int) -> None:
        self.object = document
        self.version = version
        self._data: bytes | None = None

    @property
    def data(self) -> bytes:
        """Its JSON."""
        if self._data is None:
            self._data = encode(self.object)
        return self._data

    @property
    def place(self) -> Place:
        """Where it is."""
        metadata = self.object["metadata"]
        return metadata.get("namespace", ""), metadata["name"]


@dataclass(frozen=True, slots=True)
class Change:
    """One step of history."""

    version: int
    type: str
    """ADDED, MODIFIED or DELETED."""
    entry: Entry
    previous: Entry | None


class Watcher:
    """Changes of one collection as they come; for one reader."""

    def __init__(self) -> None:
        self._changes: deque[Change] = deque()
        self._wake = asyncio.Event()
        self.closed = False

    def push(self, change: Change) -> None:
        """Add a change."""
        self._changes.append(change)
        self._wake.set()

    def close(self) -> None:
        """End the stream after what is there."""
        self.closed = True
        self._wake.set()

    async def wait(self, seconds: float) -> list[Change]:
        """The changes since the last call; an empty list after so many seconds without one."""
        if not self._changes and not self.closed:
            try:
                await asyncio.wait_for(self._wake.wait(), max(0.0, seconds))
            except TimeoutError:
                return []
        self._wake.clear()
        changes = list(self._changes)
        self._changes.clear()
        return changes


@dataclass
class Collection:
    """All objects of one resource."""

    entries: dict[Place, Entry] = field(default_factory=dict)
    history: deque[Change] = field(default_factory=deque)
    compacted: int = 0
    """No history at or before this version."""
    watchers: dict[Watcher, None] = field(default_factory=dict)
    """In the order in which they came."""

    def at(self, version: int) -> list[Entry]:
        """The objects as they were.

        Raises:
            ApiError: 410, that history is gone.
        """
        self.require(version)
        entries = dict(self.entries)
        for change in reversed(self.history):
            if change.version <= version:
                break
            if change.previous is None:
                entries.pop(change.entry.place, None)
            else:
                entries[change.previous.place] = change.previous
        return [entries[place] for place in sorted(entries)]

    def since(self, version: int) -> list[Change]:
        """The changes after a version.

        Raises:
            ApiError: 410, that history is gone.
        """
        self.require(version)
        changes: deque[Change] = deque()
        for change in reversed(self.history):
            if change.version <= version:
                break
            changes.appendleft(change)
        return list(changes)

    def require(self, version: int) -> None:
        """Check that all after a version is known.

        Raises:
            ApiError: 410, it is not.
        """
        if version < self.compacted:
            raise expired(f"too old resource version: {version} ({self.compacted})")


class Store:
    """Collections by key under one version counter; `history` bounds the changes each keeps."""

    def __init__(self, history: int = 100_000) -> None:
        self.version = 100
        self.history = history
        self.collections: dict[tuple[str, str], Collection] = {}
        self.listeners: list[Callable[[tuple[str, str], Change], None]] = []

    def collection(self, key: tuple[str, str]) -> Collection:
        """The collection of a group and plural, made when it is first asked for."""
        found = self.collections.get(key)
        if found is None:
            found = self.collections[key] = Collection(compacted=0)
        return found

    def put(self, key: tuple[str, str], document: dict[str, Any]) -> Entry:
        """Store an object that nobody else will change; sets its resourceVersion."""
        self.version += 1
        document["metadata"]["resourceVersion"] = str(self.version)
        entry, collection = Entry(document, self.version), self.collection(key)
        previous = collection.entries.get(entry.place)
        collection.entries[entry.place] = entry
        kind = "MODIFIED" if previous else "ADDED"
        self._record(key, collection, Change(self.version, kind, entry, previous))
        return entry

    def remove(self, key: tuple[str, str], place: Place) -> Entry:
        """Drop an object; its last version carries the version of the deletion."""
        collection = self.collection(key)
        previous = collection.entries.pop(place)
        self.version += 1
        metadata = dict(previous.object["metadata"], resourceVersion=str(self.version))
        entry = Entry(dict(previous.object, metadata=metadata), self.version)
        self._record(key, collection, Change(self.version, "DELETED", entry, previous))
        return entry

    def rewrite(self, key: tuple[str, str], change: Callable[[Object], dict[str, Any]]) -> None:
        """Show all objects of a collection differently from now on, without new versions."""
        entries = self.collection(key).entries
        for place, entry in entries.items():
            entries[place] = Entry(change(entry.object), entry.version)

    def compact(self, version: int | None = None) -> None:
        """Forget the history up to a version; without one, all of it."""
        limit = self.version if version is None else version
        for collection in self.collections.values():
            while collection.history and collection.history[0].version <= limit:
                collection.history.popleft()
            collection.compacted = max(collection.compacted, limit)

    def everything(self) -> Iterable[tuple[tuple[str, str], Entry]]:
        """All objects with their keys."""
        for key, collection in list(self.collections.items()):
            for entry in list(collection.entries.values()):
                yield key, entry

    def _record(self, key: tuple[str, str], collection: Collection, change: Change) -> None:
        collection.history.append(change)
        if len(collection.history) > self.history:
            collection.compacted = collection.history.popleft().version
        for watcher in collection.watchers:
            watcher.push(change)
        for listener in self.listeners:
            listener(key, change)
