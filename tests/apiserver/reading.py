"""Reading the store by the API's rules: get, chunked lists, selection; writes nothing."""

from __future__ import annotations

import base64
import json
import uuid
from collections import OrderedDict
from dataclasses import dataclass

from apiserver import builtin
from apiserver.errors import expired, failure, not_found
from apiserver.resources import Registry, Resource
from apiserver.selectors import Test, field_test, label_test
from apiserver.store import Entry, Store

_SNAPSHOTS = 32


@dataclass
class Page:
    """One answer to a list."""

    entries: list[Entry]
    version: int
    token: str = ""
    remaining: int | None = None


class Reading:
    """The API's rules for readers."""

    def __init__(self, store: Store, registry: Registry) -> None:
        self.store = store
        self.registry = registry
        self._snapshots: OrderedDict[str, tuple[int, list[Entry]]] = OrderedDict()

    def get(self, resource: Resource, namespace: str, name: str) -> Entry:
        """One object.

        Raises:
            ApiError: 404.
        """
        entry = self.store.collection(resource.key).entries.get((namespace, name))
        if entry is None:
            raise not_found(resource.qualified, name)
        return self.served(resource, entry)

    def page(
        self,
        resource: Resource,
        namespace: str | None,
        *,
        labels: str = "",
        fields: str = "",
        limit: int = 0,
        token: str = "",
        version: int | None = None,
    ) -> Page:
        """Objects in order of namespace and name; all namespaces where it is none.

        Args:
            version: list what was there at that version, as a stale cache would.

        Raises:
            ApiError: 410, the token or the version has been compacted; 400, a bad selector.
        """
        if token:
            return self._next_page(token, limit)
        test = self.selection(resource, namespace, labels, fields)
        collection = self.store.collection(resource.key)
        if version is None:
            entries = [collection.entries[place] for place in sorted(collection.entries)]
        else:
            entries = collection.at(version)
        found = [self.served(resource, one) for one in entries if test is None or test(one.object)]
        at = self.store.version if version is None else version
        return self._cut(found, at, limit, count=not labels and not fields)

    def selection(
        self, resource: Resource, namespace: str | None, labels: str, fields: str
    ) -> Test | None:
        """One test for namespace and selectors; none where everything is selected.

        Raises:
            ApiError: 400, a bad selector.
        """
        supported = self.registry.named("events").fields
        fields_of = supported if resource.plural == "events" else resource.fields
        tests = [one for one in (label_test(labels), field_test(fields, fields_of)) if one]
        if namespace is not None:
            tests.append(lambda document: document["metadata"].get("namespace") == namespace)
        if not tests:
            return None
        if len(tests) == 1:
            return tests[0]
        return lambda document: all(one(document) for one in tests)

    def served(self, resource: Resource, entry: Entry) -> Entry:
        """An entry in the version that was asked for."""
        if entry.object["apiVersion"] == resource.api_version:
            return entry
        if resource.plural == "events":
            return Entry(builtin.served_event(entry.object), entry.version)
        return Entry({**entry.object, "apiVersion": resource.api_version}, entry.version)

    def _cut(self, entries: list[Entry], version: int, limit: int, *, count: bool) -> Page:
        if not limit or len(entries) <= limit:
            return Page(entries, version)
        key = uuid.uuid4().hex
        self._snapshots[key] = (version, entries[limit:])
        while len(self._snapshots) > _SNAPSHOTS:
            self._snapshots.popitem(last=False)
        token = base64.urlsafe_b64encode(json.dumps({"rest": key}).encode()).decode()
        return Page(entries[:limit], version, token, len(entries) - limit if count else None)

    def _next_page(self, token: str, limit: int) -> Page:
        try:
            key = json.loads(base64.urlsafe_b64decode(token))["rest"]
        except (ValueError, KeyError, TypeError) as error:
            raise failure(400, "continue key is not valid") from error
        if key not in self._snapshots:
            raise expired("The provided continue parameter is too old")
        version, entries = self._snapshots[key]
        return self._cut(entries, version, limit, count=False)

    def compact(self) -> None:
        """Forget history and list snapshots: older versions and tokens answer 410."""
        self._snapshots.clear()
        self.store.compact()
