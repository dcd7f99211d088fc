"""Discovery and OpenAPI documents, as much as kubectl and the clients ask for.

Schemas are those of custom resources, without the API's own metadata; built-in kinds have none.
"""

from __future__ import annotations

from itertools import groupby
from typing import Any

from apiserver.errors import Unserved
from apiserver.resources import VERBS, Registry, Resource

VERSION = {
    "major": "1",
    "minor": "34",
    "gitVersion": "v1.34.0-standin",
    "gitCommit": "0",
    "gitTreeState": "clean",
    "buildDate": "2026-01-01T00:00:00Z",
    "goVersion": "python",
    "compiler": "cpython",
    "platform": "linux/amd64",
}

EMPTY_OPENAPI_V2 = b""
"""An empty protobuf message: a Swagger document without definitions, which kubectl accepts."""


def document(registry: Registry, path: list[str]) -> dict[str, Any]:
    """What is at a discovery path.

    Raises:
        ApiError: 404.
    """
    found: dict[str, Any] | None = None
    match path:
        case ["api"]:
            found = {"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []}
        case ["apis"]:
            groups = _groups(registry)
            found = {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}
        case ["apis", name]:
            groups = [one for one in _groups(registry) if one["name"] == name]
            found = {"kind": "APIGroup", "apiVersion": "v1", **groups[0]} if groups else None
        case ["api", version]:
            found = _resources(registry, "", version)
        case ["apis", group, version]:
            found = _resources(registry, group, version)
        case ["version"]:
            found = VERSION
        case ["openapi", "v3", *group_version]:
            found = _openapi(registry, group_version) if group_version else _index(registry)
    if found is None:
        raise Unserved
    return found


def _group_versions(registry: Registry) -> list[tuple[str, str]]:
    return sorted({(one.group, one.version) for one in registry})


def _groups(registry: Registry) -> list[dict[str, Any]]:
    found = []
    pairs = [pair for pair in _group_versions(registry) if pair[0]]
    for group, members in groupby(pairs, key=lambda pair: pair[0]):
        versions = [
            {"groupVersion": f"{group}/{version}", "version": version} for _, version in members
        ]
        found.append({"name": group, "versions": versions, "preferredVersion": versions[0]})
    return found


def _resources(registry: Registry, group: str, version: str) -> dict[str, Any]:
    members = [one for one in registry if (one.group, one.version) == (group, version)]
    if not members:
        raise Unserved
    entries = [entry for one in members for entry in _entries(one)]
    return {
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": members[0].api_version,
        "resources": entries,
    }


def _entries(one: Resource) -> list[dict[str, Any]]:
    entry = {
        "name": one.plural,
        "singularName": one.singular or one.kind.lower(),
        "namespaced": one.namespaced,
        "kind": one.kind,
        "verbs": list(VERBS),
        "shortNames": list(one.short_names),
        "categories": list(one.categories),
    }
    found = [{key: value for key, value in entry.items() if value or key == "namespaced"}]
    status = [("status", ["get", "patch", "update"])] if one.status else []
    for name, verbs in [*status, *((name, ["get"]) for name in one.subresources)]:
        found.append(
            {
                "name": f"{one.plural}/{name}",
                "singularName": "",
                "namespaced": one.namespaced,
                "kind": one.kind,
                "verbs": verbs,
            }
        )
    return found


def _path(group: str, version: str) -> str:
    return f"apis/{group}/{version}" if group else f"api/{version}"


def _index(registry: Registry) -> dict[str, Any]:
    paths = [_path(*pair) for pair in _group_versions(registry)]
    return {"paths": {path: {"serverRelativeURL": f"/openapi/v3/{path}"} for path in paths}}


def _openapi(registry: Registry, group_version: list[str]) -> dict[str, Any]:
    """One group and version: the definitions' schemas, and that the server validates fields."""
    group, version = ["", *group_version[1:]][-2:]
    paths, schemas = {}, {}
    for one in registry:
        if (one.group, one.version) != (group, version):
            continue
        kind = {"group": one.group, "version": one.version, "kind": one.kind}
        names = ["dryRun", "fieldManager", "fieldValidation", "force"]
        parameters = [{"name": name, "in": "query", "schema": {"type": "string"}} for name in names]
        operation = {
            "parameters": parameters,
            "x-kubernetes-group-version-kind": kind,
            "x-kubernetes-action": "patch",
            "responses": {},
        }
        place = "/namespaces/{namespace}" if one.namespaced else ""
        path = f"/{_path(group, version)}{place}/{one.plural}"
        content = {"schema": {"$ref": f"#/components/schemas/{one.version}.{one.kind}"}}
        reading = {
            "x-kubernetes-group-version-kind": kind,
            "x-kubernetes-action": "list",
            "responses": {"200": {"description": "OK", "content": {"application/json": content}}},
        }
        paths[path] = {"get": reading}
        paths[f"{path}/{{name}}"] = {"get": reading, "patch": operation}
        schemas[f"{one.version}.{one.kind}"] = {
            "type": "object",
            **(one.schema or {}),
            "x-kubernetes-group-version-kind": [kind],
        }
    return {
        "openapi": "3.0.0",
        "info": {"title": "stand-in", "version": "v1"},
        "paths": paths,
        "components": {"schemas": schemas},
    }
