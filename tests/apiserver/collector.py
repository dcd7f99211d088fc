"""What follows a deletion: owners' dependents, foreground and orphan policies, namespaces.

Runs in the background a moment after each change, as the garbage collector of the
kube-controller-manager does; an object whose only owners never existed is collected, too.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from apiserver.objects import Deletion, Objects, Options
from apiserver.resources import Resource
from apiserver.store import Change, Entry, Place

Key = tuple[str, str]
Address = tuple[Key, Place]

_FINISHED = ("orphan", "foregroundDeletion", "kubernetes")


class Collector:
    """Follows the store; `sweep` does what is due."""

    def __init__(self, objects: Objects, seconds: float = 0.01) -> None:
        self.objects = objects
        self.seconds = seconds
        self.enabled = True
        """Off, dependents stay: as with a slow or dead controller manager."""
        self._uids: dict[str, Address] = {}
        # Without values, to be gone through in the same order each time.
        self._dependents: dict[str, dict[Address, None]] = {}
        self._due: dict[Address, None] = {}
        self._timer: asyncio.TimerHandle | None = None
        objects.store.listeners.append(self._changed)

    def _changed(self, key: Key, change: Change) -> None:
        metadata = change.entry.object["metadata"]
        address = (key, change.entry.place)
        for owner in metadata.get("ownerReferences") or ():
            dependents = self._dependents.setdefault(owner["uid"], {})
            if change.type == "DELETED":
                dependents.pop(address, None)
                self._later(self._uids.get(owner["uid"]))
            else:
                dependents[address] = None
                if owner["uid"] not in self._uids:
                    self._later(address)
        if change.type == "DELETED":
            self._uids.pop(metadata["uid"], None)
            for dependent in self._dependents.pop(metadata["uid"], ()):
                self._later(dependent)
            namespace = metadata.get("namespace", "")
            self._later((("", "namespaces"), ("", namespace)) if namespace else None)
        else:
            self._uids[metadata["uid"]] = address
            if metadata.get("deletionTimestamp"):
                self._later(address)

    def _later(self, address: Address | None) -> None:
        if address is None:
            return
        self._due[address] = None
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self.seconds, self.sweep)

    def stop(self) -> None:
        """Collect no more."""
        if self._timer:
            self._timer.cancel()
            self._timer = None
        self.enabled = False

    def resume(self) -> None:
        """Collect again, also what was due meanwhile."""
        self.enabled = True
        self.sweep()

    def sweep(self) -> None:
        """Do what is due, and what that makes due later."""
        self._timer = None
        due, self._due = self._due, {}
        if not self.enabled:
            self._due = due
            return
        for key, place in due:
            entry = self.objects.store.collection(key).entries.get(place)
            resource = self._resource(key)
            if entry is None or resource is None:
                continue
            if entry.object["metadata"].get("deletionTimestamp"):
                self._finish(resource, entry)
            else:
                self._collect(resource, entry)

    def _resource(self, key: Key) -> Resource | None:
        return next((one for one in self.objects.registry if one.key == key), None)

    def _collect(self, resource: Resource, entry: Entry) -> None:
        """Delete an object all of whose owners are gone."""
        namespace, name = entry.place
        owners = entry.object["metadata"].get("ownerReferences") or ()
        if owners and not any(self._lives(owner, namespace) for owner in owners):
            self.objects.delete(resource, namespace, name, Deletion("Background"))

    def _lives(self, owner: Mapping[str, Any], namespace: str) -> bool:
        address = self._uids.get(owner["uid"])
        return address is not None and address[1][0] in {"", namespace}

    def _finish(self, resource: Resource, entry: Entry) -> None:
        """Take a deleted object's own finalizers off when their work is done."""
        metadata = entry.object["metadata"]
        waiting = [one for one in metadata.get("finalizers") or () if one in _FINISHED]
        done = [one for one in waiting if self._done(one, metadata)]
        if done:
            kept = [one for one in metadata["finalizers"] if one not in done]
            changed = {**entry.object, "metadata": {**metadata, "finalizers": kept}}
            namespace, name = entry.place
            self.objects.update(resource, namespace, name, changed, options=Options())

    def _done(self, finalizer: str, metadata: Mapping[str, Any]) -> bool:
        if finalizer == "kubernetes":
            return self._emptied(metadata["name"])
        dependents = [self._at(one) for one in self._dependents.get(metadata["uid"], ())]
        if finalizer == "orphan":
            for dependent in dependents:
                self._orphan(dependent, metadata["uid"])
            return True
        for resource, entry in filter(None, dependents):
            if not entry.object["metadata"].get("deletionTimestamp"):
                self.objects.delete(resource, *entry.place, Deletion("Foreground"))
        left = [self._at(one) for one in self._dependents.get(metadata["uid"], ())]
        return not any(_blocks(one[1], metadata["uid"]) for one in left if one)

    def _at(self, address: Address) -> tuple[Resource, Entry] | None:
        key, place = address
        entry, resource = self.objects.store.collection(key).entries.get(place), self._resource(key)
        return (resource, entry) if entry and resource else None

    def _orphan(self, found: tuple[Resource, Entry] | None, uid: str) -> None:
        if found is None:
            return
        resource, entry = found
        metadata = entry.object["metadata"]
        owners = [one for one in metadata["ownerReferences"] if one["uid"] != uid]
        document = {**entry.object, "metadata": {**metadata, "ownerReferences": owners}}
        self._dependents.get(uid, {}).pop((resource.key, entry.place), None)
        self.objects.update(resource, *entry.place, document)

    def _emptied(self, namespace: str) -> bool:
        left = False
        for key, entry in self.objects.store.everything():
            resource = self._resource(key)
            if entry.place[0] != namespace or resource is None:
                continue
            if not entry.object["metadata"].get("deletionTimestamp"):
                gone = self.objects.delete(resource, *entry.place, Deletion("Background")).gone
                left = left or not gone
            else:
                left = True
        return not left


def _blocks(entry: Entry, uid: str) -> bool:
    owners = entry.object["metadata"].get("ownerReferences") or ()
    return any(one["uid"] == uid and one.get("blockOwnerDeletion") for one in owners)
