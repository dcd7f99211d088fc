"""The garbage collector for a real API server without a kube-controller-manager.

What is collected are the kinds that a `Remote` mirrors. Whether an owner lives is asked of the
server: its mirror may hear of a child before it hears of the owner.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from apiserver.collector import Collector
from apiserver.objects import Deletion
from apiserver.remote import Remote
from apiserver.resources import Resource
from apiserver.wire import suppress_missing


class Owners(Collector):
    """Follows a mirror."""

    def __init__(self, api: Remote) -> None:
        self.api = api
        super().__init__(_Objects(api), seconds=0.05)  # type: ignore[arg-type]

    def _lives(self, owner: Mapping[str, Any], namespace: str) -> bool:
        found = self.objects.registry.kind(owner["apiVersion"], owner["kind"])
        there = self.api.find(found.plural, owner["name"], namespace) if found else None
        return there is not None and there["metadata"]["uid"] == owner["uid"]


class _Objects:
    """As much of `Objects` as a collector uses."""

    def __init__(self, api: Remote) -> None:
        self.api = api
        self.store = api.store
        self.registry = api.registry

    def delete(self, resource: Resource, namespace: str, name: str, options: Deletion) -> None:
        """Delete an object if it is there."""
        policy, grace = options.propagation, options.grace
        self.api.delete(resource.plural, name, namespace, propagation=policy, grace=grace)

    def update(
        self,
        resource: Resource,
        namespace: str,
        name: str,
        document: Mapping[str, Any],
        **_: Any,
    ) -> None:
        """Write what a collector changes: finalizers and owners."""
        keys = ("finalizers", "ownerReferences")
        metadata = {key: document["metadata"].get(key) for key in keys}
        with suppress_missing():
            self.api.patch(resource.plural, name, {"metadata": metadata}, namespace)
