"""What create, update, patch and delete do to the store; no HTTP, no waiting."""

from __future__ import annotations

import random
import string
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from apiserver import builtin, patches
from apiserver.errors import (
    already_exists,
    cause,
    conflict,
    failure,
    forbidden,
    invalid,
    not_found,
)
from apiserver.reading import Reading
from apiserver.resources import Resource, from_crd
from apiserver.schema import admit, broken, mistakes
from apiserver.store import Entry

MERGE = "application/merge-patch+json"
JSON = "application/json-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"
APPLY = "application/apply-patch+yaml"

CRDS = ("apiextensions.k8s.io", "customresourcedefinitions")


@dataclass(frozen=True)
class Options:
    """What a write may be told beside its body."""

    dry_run: bool = False
    strict: bool = False
    """Refuse unknown fields of a custom resource (fieldValidation=Strict)."""
    manager: str = "unknown"
    applier: str = ""
    """The fieldManager that the request names; server-side apply takes no other."""
    force: bool = False


@dataclass(frozen=True)
class Deletion:
    """DeleteOptions."""

    propagation: str | None = None
    grace: int | None = None
    uid: str | None = None
    version: str | None = None
    dry_run: bool = False


@dataclass
class Written:
    """What a write left."""

    entry: Entry
    created: bool = False
    gone: bool = False
    warnings: list[str] = field(default_factory=list)


class Objects(Reading):
    """The API's rules over a store and a registry."""

    def create(
        self, resource: Resource, namespace: str, body: Any, options: Options = Options()
    ) -> Written:
        """A new object.

        Raises:
            ApiError: 400, 404 (namespace), 409, 422.
        """
        document = self._body(resource, namespace, body)
        metadata = document["metadata"]
        if not metadata.get("name") and metadata.get("generateName"):
            suffix = "".join(random.choices(string.ascii_lowercase + string.digits, k=5))
            metadata["name"] = metadata["generateName"] + suffix
        if not metadata.get("name"):
            found = [
                cause("FieldValueRequired", "metadata.name", "name or generateName is required")
            ]
            raise invalid(resource.kind, resource.group, "", found)
        if metadata.get("resourceVersion"):
            raise failure(400, "resourceVersion should not be set on objects to be created")
        self._namespace(resource, namespace, metadata["name"])
        for key in ("deletionTimestamp", "deletionGracePeriodSeconds", "selfLink", "generation"):
            metadata.pop(key, None)
        metadata["uid"] = str(uuid.uuid4())
        metadata["creationTimestamp"] = now()
        if resource.generation:
            metadata["generation"] = 1
        if resource.status:
            document.pop("status", None)
        warnings = self._admit(resource, document, options, None)
        place = (namespace, metadata["name"])
        if place in self.store.collection(resource.key).entries:
            raise already_exists(resource.qualified, metadata["name"])
        return self._put(
            resource, document, options, Written(_draft(document), True, warnings=warnings)
        )

    def update(
        self,
        resource: Resource,
        namespace: str,
        name: str,
        body: Any,
        subresource: str = "",
        options: Options = Options(),
    ) -> Written:
        """Replace an object, or its status.

        Raises:
            ApiError: 400, 404, 409, 422.
        """
        old = self.get(resource, namespace, name)
        document = self._body(resource, namespace, body)
        if document["metadata"].get("name", name) != name:
            raise failure(400, "the name of the object does not match the name on the URL")
        if resource.custom and not document["metadata"].get("resourceVersion"):
            text = "Invalid value: 0x0: must be specified for an update"
            found = [cause("FieldValueInvalid", "metadata.resourceVersion", text)]
            raise invalid(resource.kind, resource.group, name, found)
        return self._replace(resource, old, document, subresource, options)

    def patch(
        self,
        resource: Resource,
        namespace: str,
        name: str,
        body: Any,
        kind: str,
        subresource: str = "",
        options: Options = Options(),
    ) -> Written:
        """Change an object by one of the four patch formats.

        Raises:
            ApiError: 400, 404, 409, 415, 422.
        """
        if kind == APPLY:
            return self._apply(resource, namespace, name, body, subresource, options)
        old = self.get(resource, namespace, name)
        if kind == STRATEGIC and not resource.custom:
            changed = patches.strategic(old.object, body)
        elif kind == MERGE:
            changed = patches.merge(old.object, body)
        elif kind == JSON:
            changed = patches.json_patch(old.object, body)
        else:
            accepted = f"{JSON}, {MERGE}, {APPLY}"
            text = "the body of the request was in an unknown format"
            raise failure(415, f"{text} - accepted media types include: {accepted}")
        if not isinstance(changed, dict) or not isinstance(changed.get("metadata"), dict):
            raise failure(400, "the patch does not leave an object")
        changed["metadata"] = dict(changed["metadata"])
        self._keep_uid(resource, old, changed, subresource)
        return self._replace(resource, old, changed, subresource, options)

    def _keep_uid(
        self, resource: Resource, old: Entry, changed: dict[str, Any], subresource: str
    ) -> None:
        """A UID in a patch is no precondition: it may not differ, or is not looked at."""
        uid, before = changed["metadata"].get("uid"), old.object["metadata"]
        if resource.custom and subresource == "status":
            changed["metadata"]["uid"] = before["uid"]
        elif uid not in {None, "", before["uid"]}:
            text = f'Invalid value: "{uid}": field is immutable'
            found = [cause("FieldValueInvalid", "metadata.uid", text)]
            raise invalid(resource.kind, resource.group, before["name"], found)

    def _apply(
        self,
        resource: Resource,
        namespace: str,
        name: str,
        body: Any,
        subresource: str,
        options: Options,
    ) -> Written:
        if not options.applier:
            found = [cause("FieldValueRequired", "fieldManager", "is required for apply patch")]
            raise invalid("PatchOptions", "meta.k8s.io", "", found)
        entry = self.store.collection(resource.key).entries.get((namespace, name))
        document = self._body(resource, namespace, body)
        document["metadata"].setdefault("name", name)
        if document["metadata"].get("managedFields"):
            raise failure(400, "metadata.managedFields must be nil")
        live = self.served(resource, entry).object if entry else None
        force, manager = options.force, options.applier
        merged = patches.apply(live, document, manager, force=force, time=now())
        if entry is None:
            if subresource:
                raise not_found(resource.qualified, name)
            return self.create(resource, namespace, merged, options)
        if wanted := document["metadata"].get("resourceVersion"):
            merged["metadata"]["resourceVersion"] = wanted
        return self._replace(resource, self.served(resource, entry), merged, subresource, options)

    def _body(self, resource: Resource, namespace: str, body: Any) -> dict[str, Any]:
        """A request's object with its top and metadata copied."""
        if not isinstance(body, Mapping):
            raise failure(400, "the object provided is not an object")
        kind = (body.get("apiVersion", resource.api_version), body.get("kind", resource.kind))
        if resource.custom and kind[0] == resource.api_version and kind[1] != resource.kind:
            text = f'Invalid value: "{kind[1]}": must be {resource.kind}'
            found = [cause("FieldValueInvalid", "kind", text)]
            name = (body.get("metadata") or {}).get("name", "")
            raise invalid(kind[1], resource.group, name, found)
        if kind != (resource.api_version, resource.kind):
            found, wanted = "/".join(kind), f"{resource.api_version}/{resource.kind}"
            raise failure(400, f"the API version and kind ({found}) do not match ({wanted})")
        given = body.get("metadata") or {}
        if not isinstance(given, Mapping):
            raise failure(400, "json: cannot unmarshal into Go struct field .metadata")
        metadata = {key: value for key, value in given.items() if value is not None}
        document = {**body, "apiVersion": kind[0], "kind": kind[1], "metadata": metadata}
        if not resource.namespaced:
            metadata.pop("namespace", None)
        elif metadata.setdefault("namespace", namespace) != namespace:
            text = "the namespace of the provided object does not match the namespace sent"
            raise failure(400, f"{text} on the request")
        return document

    def _namespace(self, resource: Resource, namespace: str, name: str) -> None:
        if not resource.namespaced:
            return
        found = self.store.collection(("", "namespaces")).entries.get(("", namespace))
        if found is None:
            raise not_found("namespaces", namespace)
        if found.object["metadata"].get("deletionTimestamp"):
            why = f"unable to create new content in namespace {namespace}: it is being terminated"
            error = forbidden(resource.qualified, name, why)
            error.details["causes"] = [cause("NamespaceTerminating", "metadata.namespace", why)]
            raise error

    def _admit(
        self,
        resource: Resource,
        document: dict[str, Any],
        options: Options,
        old: Mapping[str, Any] | None,
    ) -> list[str]:
        """Prune, default and validate a document in place; the paths of what was unknown."""
        unknown: list[str] = []
        name = document["metadata"]["name"]
        found = builtin.metadata_mistakes(resource, document)
        if resource.schema is not None:
            unknown = _fit(resource, document, old)
            news = _news(document, old)
            wrong = mistakes(news, resource.schema)
            found += [one for one in wrong if news is document or one["field"] != "spec"]
            same = old is not None and old.get("spec") == document.get("spec")
            if resource.rules and not found and (resource.status_rules or not same):
                found += broken(document, resource.schema, old)
        if unknown and options.strict:
            listed = ", ".join(f'unknown field "{path}"' for path in unknown)
            text = f"{resource.kind} in version {resource.version!r} cannot be handled as a"
            raise failure(400, f"{text} {resource.kind}: strict decoding error: {listed}")
        if found:
            raise invalid(resource.kind, resource.group, name, found)
        if resource.key == ("", "events"):
            if resource.group:
                stored = builtin.stored_event(document)
                document.clear()
                document.update(stored)
            builtin.check_event(document, document["metadata"]["namespace"])
        if old is None:
            builtin.prepare(resource, document)
        return [f'unknown field "{path}"' for path in unknown]

    def _replace(
        self,
        resource: Resource,
        old: Entry,
        document: dict[str, Any],
        subresource: str,
        options: Options,
    ) -> Written:
        before, metadata = old.object["metadata"], document["metadata"]
        name = before["name"]
        if metadata.get("resourceVersion") not in {None, "", before["resourceVersion"]}:
            raise conflict(resource.qualified, name)
        if metadata.get("uid") not in {None, "", before["uid"]}:
            why = f"Precondition failed: UID in precondition: {metadata['uid']}, UID in object meta"
            raise conflict(resource.qualified, name, f"{why}: {before['uid']}")
        if subresource == "status":
            fields = metadata.get("managedFields")
            document = {**old.object, "status": document.get("status"), "metadata": dict(before)}
            if document["status"] is None:
                del document["status"]
            if fields:
                document["metadata"]["managedFields"] = fields
        else:
            document = _keep(resource, old.object, document)
        self._finalizers(resource, before, document["metadata"])
        warnings = self._admit(resource, document, options, old.object)
        builtin.changed(resource, old.object, document)
        if _same(old.object, document):
            return Written(old, warnings=warnings)
        if resource.generation and _spec(resource, document) != _spec(resource, old.object):
            document["metadata"]["generation"] = before.get("generation", 0) + 1
        return self._put(resource, document, options, Written(_draft(document), warnings=warnings))

    def _finalizers(
        self, resource: Resource, before: Mapping[str, Any], after: Mapping[str, Any]
    ) -> None:
        new = set(after.get("finalizers") or ()) - set(before.get("finalizers") or ())
        if new and before.get("deletionTimestamp"):
            text = "Forbidden: no new finalizers can be added if the object is being deleted"
            found = [cause("FieldValueForbidden", "metadata.finalizers", text)]
            raise invalid(resource.kind, resource.group, before["name"], found)

    def _put(
        self, resource: Resource, document: dict[str, Any], options: Options, written: Written
    ) -> Written:
        metadata = document["metadata"]
        if options.dry_run:
            written.entry = Entry(document, self.store.version)
            return written
        done = metadata.get("deletionTimestamp") and not metadata.get("finalizers")
        if done and not metadata.get("deletionGracePeriodSeconds"):
            place = (metadata.get("namespace", ""), metadata["name"])
            written.entry, written.gone = self.remove(resource, place), True
            return written
        written.entry = self.served(resource, self.store.put(resource.key, document))
        if resource.key == CRDS:
            self._serve(document)
        return written

    def _serve(self, crd: dict[str, Any]) -> None:
        spec = crd["spec"]
        self.registry.drop(spec["group"], spec["names"]["plural"])
        stored = next(one["name"] for one in spec["versions"] if one.get("storage"))
        for resource in from_crd(crd):
            self.registry.add(resource)
            if stored == resource.version:
                schema = resource.schema or {}
                self.store.rewrite(resource.key, partial(_today, schema=schema))

    # Deleting

    def delete(
        self, resource: Resource, namespace: str, name: str, options: Deletion = Deletion()
    ) -> Written:
        """Delete an object, or begin to: finalizers and grace periods keep it.

        Raises:
            ApiError: 404, 409 (a precondition).
        """
        old = self.get(resource, namespace, name)
        before = old.object["metadata"]
        for wanted, key, word in (
            (options.uid, "uid", "UID"),
            (options.version, "resourceVersion", "ResourceVersion"),
        ):
            if wanted and wanted != before[key]:
                why = f"the {word} in the precondition ({wanted}) does not match the {word}"
                raise conflict(resource.qualified, name, f"{why} in record ({before[key]})")
        if options.dry_run:
            return Written(old, gone=True)
        finalizers = _last_rites(resource, before.get("finalizers") or (), options.propagation)
        seconds = builtin.grace(resource, old.object, options.grace)
        if not finalizers and not seconds:
            return Written(self.remove(resource, (namespace, name)), gone=True)
        document = _dying(resource, old.object, finalizers, seconds)
        if _same(old.object, document):
            return Written(old)
        return Written(self.store.put(resource.key, document))

    def remove(self, resource: Resource, place: tuple[str, str]) -> Entry:
        """Drop an object for good, and what follows from that for a CustomResourceDefinition."""
        entry = self.store.remove(resource.key, place)
        if resource.key == CRDS:
            spec = entry.object["spec"]
            group, plural = spec["group"], spec["names"]["plural"]
            collection = self.store.collection((group, plural))
            for one in list(collection.entries):
                self.store.remove((group, plural), one)
            for watcher in collection.watchers:
                watcher.close()
            self.registry.drop(group, plural)
        return entry


def now(seconds: float = 0) -> str:
    """The time so many seconds from now, as the API writes it."""
    moment = datetime.now(UTC) + timedelta(seconds=seconds)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def _last_rites(resource: Resource, present: Iterable[str], policy: str | None) -> list[str]:
    """The finalizers of an object that is being deleted."""
    finalizers = [one for one in present if one not in {"orphan", "foregroundDeletion"}]
    policy = policy or builtin.propagation(resource)
    finalizers += {"Orphan": ["orphan"], "Foreground": ["foregroundDeletion"]}.get(policy, [])
    if resource.key == ("", "namespaces") and "kubernetes" not in finalizers:
        finalizers.append("kubernetes")
    return finalizers


def _dying(
    resource: Resource, old: Mapping[str, Any], finalizers: list[str], seconds: int
) -> dict[str, Any]:
    """An object with the marks of deletion; a shorter grace period replaces a longer one."""
    before = old["metadata"]
    metadata = {**before, "finalizers": finalizers}
    if not finalizers:
        del metadata["finalizers"]
    if not before.get("deletionTimestamp") or seconds < before["deletionGracePeriodSeconds"]:
        metadata["deletionTimestamp"] = now(seconds)
        metadata["deletionGracePeriodSeconds"] = seconds
        if before.get("generation"):
            metadata["generation"] = before["generation"] + 1
    document = {**old, "metadata": metadata}
    if resource.key == ("", "namespaces"):
        document["status"] = {"phase": "Terminating"}
    return document


def _today(document: Mapping[str, Any], schema: Mapping[str, Any]) -> dict[str, Any]:
    """A stored object as a new definition shows it."""
    return admit(document, schema)[0]


def _news(document: Mapping[str, Any], old: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """What is to be looked at: a spec that is the old one itself has been.

    A real server looks again, but lets old mistakes pass.
    """
    if old is None or document.get("spec") is not old.get("spec") or "spec" not in document:
        return document
    return {key: value for key, value in document.items() if key != "spec"}


def _fit(resource: Resource, document: dict[str, Any], old: Mapping[str, Any] | None) -> list[str]:
    """Prune and default a custom object in place; the paths of what was unknown."""
    assert resource.schema is not None
    news = _news(document, old)
    admitted, unknown = admit(news, resource.schema)
    kept = {} if news is document else {"spec": document["spec"]}
    document.clear()
    document.update(admitted | kept)
    return unknown


def _draft(document: dict[str, Any]) -> Entry:
    return Entry(document, 0)


def _keep(resource: Resource, old: Mapping[str, Any], document: dict[str, Any]) -> dict[str, Any]:
    """A new version of the main resource: what only the server may change is kept."""
    kept = (
        "name",
        "namespace",
        "uid",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "generation",
        "resourceVersion",
    )
    metadata = {key: value for key, value in document["metadata"].items() if key not in kept}
    before = old["metadata"]
    metadata.update({key: before[key] for key in kept if key in before})
    metadata.setdefault("managedFields", before.get("managedFields"))
    if metadata["managedFields"] is None:
        del metadata["managedFields"]
    document = {**document, "metadata": metadata}
    if resource.status:
        document.pop("status", None)
        if "status" in old:
            document["status"] = old["status"]
    return document


def _spec(resource: Resource, document: Mapping[str, Any]) -> dict[str, Any]:
    """What the generation counts."""
    skip = {"metadata", "apiVersion", "kind"} | ({"status"} if resource.status else set())
    return {key: value for key, value in document.items() if key not in skip}


def _same(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """Whether a write changes nothing: it then makes no version and no event."""
    if old.keys() != new.keys() or any(old[k] != new[k] for k in old if k != "metadata"):
        return False
    return bool(_plain(old["metadata"]) == _plain(new["metadata"]))


def _plain(metadata: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in metadata.items() if k != "resourceVersion" and v not in ({}, [])}
