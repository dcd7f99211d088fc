"""What is known of the cluster's objects without asking; ordered by resourceVersion, kept slim.

Watch events, our own writes and full LISTs all end here, in any order: an older version never
replaces a newer one, and what was seen deleted does not come back. Objects are held as JSON, a
fifth of what the dictionaries take.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

Json = dict[str, Any]

GRAVES = 10_000
"""How many deleted objects are remembered, so that a late message does not bring one back."""


class Key(NamedTuple):
    """The namespace and name of an object."""

    namespace: str
    name: str


class Entry(NamedTuple):
    """One object as it is held."""

    uid: str
    version: int
    owner: Key
    data: bytes
    mark: Any


@dataclass
class Cache:
    """The objects of one kind, by their key and by the key of the run that they belong to."""

    slim: Callable[[Json], Json]
    """What is kept of an object."""
    owner: Callable[[Json], Key]
    """The run that an object belongs to."""
    mark: Callable[[Json], Any]
    """What is at hand of an object without reading it."""
    _entries: dict[Key, Entry] = field(default_factory=dict)
    _owned: dict[Key, set[Key]] = field(default_factory=dict)
    _graves: OrderedDict[str, None] = field(default_factory=OrderedDict)

    def put(self, document: Json) -> bool:
        """Take in an object as it was seen.

        Returns:
            Whether it is news: unknown until now, or newer than what was known.
        """
        key, uid, version = key_of(document), uid_of(document), version_of(document)
        known = self._entries.get(key)
        if uid in self._graves:
            return False
        if known is not None and version <= known.version:
            return False
        owner = self.owner(document)
        if known is not None and known.owner != owner:
            self._unlink(key, known)
        data = json.dumps(self.slim(document), separators=(",", ":")).encode()
        self._entries[key] = Entry(uid, version, owner, data, self.mark(document))
        self._owned.setdefault(owner, set()).add(key)
        return True

    def drop(self, document: Json) -> bool:
        """Take in that an object was deleted.

        Returns:
            Whether it was there; a later object of the same name stays.
        """
        key, uid = key_of(document), uid_of(document)
        self._bury(uid)
        known = self._entries.get(key)
        if known is None or known.uid != uid:
            return False
        self._unlink(key, self._entries.pop(key))
        return True

    def get(self, key: Key) -> Json | None:
        """An object; a copy that may be changed."""
        known = self._entries.get(key)
        return json.loads(known.data) if known else None

    def version(self, key: Key) -> int:
        """The version of an object that is known; 0 for none."""
        known = self._entries.get(key)
        return known.version if known else 0

    def of(self, owner: Key) -> list[Json]:
        """The objects of one run, by name."""
        keys = sorted(self._owned.get(owner, ()))
        return [json.loads(self._entries[key].data) for key in keys]

    def owners(self) -> Iterator[Key]:
        """The runs that own something here."""
        return iter(list(self._owned))

    def mark_of(self, key: Key) -> Any:
        """The mark of an object; None if it is not there."""
        known = self._entries.get(key)
        return known.mark if known else None

    def marks(self) -> Iterator[tuple[Key, Any]]:
        """Every object with its mark."""
        return iter([(key, entry.mark) for key, entry in self._entries.items()])

    def marks_of(self, owner: Key) -> list[Any]:
        """The marks of the objects of one run."""
        return [self._entries[key].mark for key in self._owned.get(owner, ())]

    def listing(self) -> Listing:
        """What takes in a full LIST, page by page."""
        return Listing(self)

    def sweep(self, kept: set[Key], version: str) -> list[tuple[Key, Key]]:
        """Drop what a full LIST did not have, unless it was seen later than the list was made.

        Returns:
            What is gone: its run and its own key.
        """
        gone = []
        for key, entry in list(self._entries.items()):
            if key not in kept and entry.version <= number(version):
                self._bury(entry.uid)
                self._unlink(key, self._entries.pop(key))
                gone.append((entry.owner, key))
        return gone

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, key: Key) -> bool:
        return key in self._entries

    def _unlink(self, key: Key, entry: Entry) -> None:
        owned = self._owned[entry.owner]
        owned.discard(key)
        if not owned:
            del self._owned[entry.owner]

    def _bury(self, uid: str) -> None:
        self._graves[uid] = None
        while len(self._graves) > GRAVES:
            self._graves.popitem(last=False)


@dataclass
class Listing:
    """A full LIST on its way into a cache."""

    cache: Cache
    stale: list[tuple[Key, Key, int]] = field(default_factory=list)
    """What was newer in the list: its run, its own key, its version."""
    _keys: set[Key] = field(default_factory=set)

    def add(self, page: Iterable[Json]) -> None:
        """Take in a page."""
        for document in page:
            key = key_of(document)
            self._keys.add(key)
            if self.cache.put(document):
                self.stale.append((self.cache.owner(document), key, version_of(document)))

    def finish(self, version: str) -> list[tuple[Key, Key]]:
        """Take in that this was all, as of a version.

        Returns:
            What is gone: its run and its own key.
        """
        return self.cache.sweep(self._keys, version)


def key_of(document: Json) -> Key:
    """An object's namespace and name."""
    metadata = document["metadata"]
    return Key(str(metadata.get("namespace") or ""), str(metadata["name"]))


def uid_of(document: Json) -> str:
    """An object's UID."""
    return str(document["metadata"].get("uid") or "")


def version_of(document: Json) -> int:
    """An object's resourceVersion; Kubernetes 1.35 and later promise that they can be compared."""
    return number(str(document["metadata"].get("resourceVersion") or ""))


def number(version: str) -> int:
    """A resourceVersion as a number."""
    return int(version) if version.isdecimal() else 0


def slim_run(document: Json) -> Json:
    """A run without the copies that others keep in its metadata."""
    metadata = document["metadata"]
    kept = (
        "name",
        "namespace",
        "uid",
        "resourceVersion",
        "generation",
        "labels",
        "deletionTimestamp",
    )
    return {
        **{
            key: document[key]
            for key in ("apiVersion", "kind", "spec", "status")
            if key in document
        },
        "metadata": {key: metadata[key] for key in kept if key in metadata},
    }


_READ = frozenset(
    (
        "completions",
        "Master",
        "parallelism",
        "pytorchReplicaSpecs",
        "replicas",
        "runPolicy",
        "spec",
        "suspend",
        "template",
        "terminationGracePeriodSeconds",
        "Worker",
    )
)
"""The keys of a job's spec that somebody reads; the others hold the order and the containers."""


def slim_child(document: Json) -> Json:
    """A job without its containers, which hold the whole order."""
    metadata = document["metadata"]
    kept = (
        "name",
        "namespace",
        "uid",
        "resourceVersion",
        "creationTimestamp",
        "deletionTimestamp",
        "labels",
        "ownerReferences",
    )
    return {
        **{key: document[key] for key in ("apiVersion", "kind", "status") if key in document},
        "metadata": {key: metadata[key] for key in kept if key in metadata},
        "spec": _pruned(document.get("spec")),
    }


def _pruned(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    return {key: _pruned(item) for key, item in value.items() if key in _READ}
