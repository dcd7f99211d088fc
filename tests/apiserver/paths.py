"""What a request's path and query name; looks at nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from apiserver.errors import failure
from apiserver.faults import Request
from apiserver.objects import Deletion, Options
from apiserver.resources import Registry, Resource

_VERBS = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}


@dataclass(frozen=True)
class Target:
    """The resource that a request is about, and which of its objects."""

    resource: Resource
    namespace: str | None
    """None: all namespaces. Empty where the resource has none."""
    name: str
    subresource: str


def split(path: str) -> tuple[str, str, list[str]] | None:
    """Group, version and the rest of a resource's path; none for anything else."""
    parts = [part for part in path.split("/") if part]
    if len(parts) >= 3 and parts[0] == "api":
        return "", parts[1], parts[2:]
    if len(parts) >= 4 and parts[0] == "apis":
        return parts[1], parts[2], parts[3:]
    return None


def describe(method: str, path: str, query: dict[str, str]) -> Request:
    """The request as the record has it, whether it can be served or not."""
    found = split(path)
    if found is None:
        return Request(method.lower(), path, query=query)
    group, _, rest = found
    namespace = ""
    if rest[0] == "namespaces" and len(rest) > 2 and rest[2] not in {"status", "finalize"}:
        namespace, rest = rest[1], rest[2:]
    name = rest[1] if len(rest) > 1 else ""
    subresource = "/".join(rest[2:])
    verb = _VERBS.get(method, "get" if name else "list")
    if method == "GET" and not name and query.get("watch") in {"true", "1"}:
        verb = "watch"
    if method == "DELETE" and not name:
        verb = "deletecollection"
    return Request(verb, rest[0], subresource, group, namespace, name, query)


def resolve(request: Request, path: str, registry: Registry) -> Target:
    """What is served at a path.

    Raises:
        ApiError: 404, nothing; 405, a verb that makes no sense there.
    """
    found = split(path)
    assert found is not None, "only resource paths get here"
    group, version, _ = found
    resource = registry.find(group, version, request.resource)
    subresource = request.subresource
    known = (*resource.subresources, *(("status",) if resource.status else ()))
    if subresource and subresource not in known:
        raise failure(404, "the server could not find the requested resource")
    if request.namespace and not resource.namespaced:
        raise failure(404, "the server could not find the requested resource")
    wide = resource.namespaced and not request.namespace
    if wide and (request.name or request.verb in {"create", "deletecollection"}):
        raise failure(405, "the server does not allow this method on the requested resource")
    if request.verb in {"update", "patch", "delete"} and not request.name:
        raise failure(405, "the server does not allow this method on the requested resource")
    namespace = None if wide else request.namespace
    return Target(resource, namespace, request.name, subresource)


def options(query: dict[str, str], agent: str) -> Options:
    """What the query of a write says."""
    return Options(
        dry_run="dryRun" in query,
        strict=query.get("fieldValidation") == "Strict",
        manager=query.get("fieldManager") or agent.partition("/")[0] or "unknown",
        applier=query.get("fieldManager", ""),
        force=query.get("force") == "true",
    )


def deletion(query: dict[str, str], body: object) -> Deletion:
    """DeleteOptions from the body, else from the query."""
    given: dict[str, Any] = {**query, **body} if isinstance(body, dict) else dict(query)
    conditions = given.get("preconditions") or {}
    orphan = {True: "Orphan", False: "Background", "true": "Orphan", "false": "Background"}
    seconds = given.get("gracePeriodSeconds")
    return Deletion(
        propagation=given.get("propagationPolicy") or orphan.get(given.get("orphanDependents", "")),
        grace=int(seconds) if seconds is not None else None,
        uid=conditions.get("uid"),
        version=conditions.get("resourceVersion"),
        dry_run=bool(given.get("dryRun")),
    )
