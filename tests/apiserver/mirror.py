"""What is known of the objects of a real API server: as much of a `Store` as the stand-ins use.

It asks nobody: what it is told, by watches and by the answers to writes, may come in any order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from apiserver.store import Change, Collection, Entry

Json = dict[str, Any]
Key = tuple[str, str]


class Mirror:
    """Objects by kind; who listens is told of every change."""

    def __init__(self) -> None:
        self.listeners: list[Callable[[Key, Change], None]] = []
        self._collections: dict[Key, Collection] = {}
        self._graves: set[str] = set()

    def collection(self, key: Key) -> Collection:
        """The objects of a group and plural."""
        return self._collections.setdefault(key, Collection())

    def everything(self) -> Iterable[tuple[Key, Entry]]:
        """All objects with their keys."""
        for key, collection in list(self._collections.items()):
            for entry in list(collection.entries.values()):
                yield key, entry

    def take(self, key: Key, kind: str, document: Json) -> None:
        """Take in an object as somebody saw it; what is older than the known changes nothing."""
        entry = Entry(document, int(document["metadata"]["resourceVersion"]))
        entries, uid = self.collection(key).entries, document["metadata"]["uid"]
        known = entries.get(entry.place)
        if kind == "DELETED":
            self._graves.add(uid)
            if known is not None and _uid(known) == uid:
                del entries[entry.place]
                self._tell(key, "DELETED", entry, known)
            return
        if uid in self._graves or (known is not None and entry.version <= known.version):
            return
        if known is not None and _uid(known) != uid:
            self.take(key, "DELETED", dict(known.object))
            known = None
        entries[entry.place] = entry
        self._tell(key, "MODIFIED" if known else "ADDED", entry, known)

    def replace(self, key: Key, items: list[Json], version: int) -> None:
        """Take in a full LIST as of a version."""
        for item in items:
            self.take(key, "MODIFIED", item)
        there = {item["metadata"]["uid"] for item in items}
        for entry in list(self.collection(key).entries.values()):
            if _uid(entry) not in there and entry.version <= version:
                self.take(key, "DELETED", dict(entry.object))

    def _tell(self, key: Key, kind: str, entry: Entry, previous: Entry | None) -> None:
        change = Change(entry.version, kind, entry, previous)
        self.collection(key).history.append(change)
        for listener in list(self.listeners):
            listener(key, change)


def _uid(entry: Entry) -> str:
    return str(entry.object["metadata"]["uid"])
