"""Which resources are served, built in or by a CustomResourceDefinition; holds no objects."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import Any

from apiserver.errors import Unserved, failure

RULES = "x-kubernetes-validations"
VERBS = ("create", "delete", "deletecollection", "get", "list", "patch", "update", "watch")


@dataclass(frozen=True)
class Resource:
    """One resource in one version."""

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool = True
    status: bool = False
    """Whether it has the status subresource."""
    generation: bool = False
    """Whether changes of the spec are counted."""
    short_names: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    singular: str = ""
    schema: dict[str, Any] | None = None
    """The structural schema of a custom resource."""
    rules: bool = False
    """Whether the schema has CEL rules."""
    status_rules: bool = False
    """Whether any of them may refuse a status while the spec stays as it is."""
    columns: tuple[dict[str, Any], ...] = ()
    """additionalPrinterColumns."""
    fields: tuple[str, ...] = ()
    """What a field selector may name beside name and namespace."""
    subresources: tuple[str, ...] = ()
    """Others than status."""

    @property
    def custom(self) -> bool:
        """Whether a CustomResourceDefinition serves it."""
        return self.schema is not None

    @property
    def api_version(self) -> str:
        """As objects name it."""
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def qualified(self) -> str:
        """The plural, with the group behind a dot."""
        return f"{self.plural}.{self.group}" if self.group else self.plural

    @property
    def key(self) -> tuple[str, str]:
        """Where its objects are kept: one place for all versions of one kind."""
        return ("", "events") if self.plural == "events" else (self.group, self.plural)


def _core(plural: str, kind: str, **more: Any) -> Resource:
    return Resource("", "v1", plural, kind, **more)


_EVENT_FIELDS = (
    *(f"involvedObject.{name}" for name in ("kind", "name", "namespace", "uid", "apiVersion")),
    "involvedObject.fieldPath",
    "reason",
    "reportingComponent",
    "source",
    "type",
)
_POD_FIELDS = ("spec.nodeName", "spec.restartPolicy", "spec.schedulerName", "status.phase")
_RBAC = "rbac.authorization.k8s.io"

BUILT_IN = (
    _core(
        "namespaces", "Namespace", namespaced=False, status=True, short_names=("ns",),
        fields=("status.phase",),
    ),
    _core("nodes", "Node", namespaced=False, status=True, short_names=("no",)),
    _core(
        "pods", "Pod", status=True, short_names=("po",), categories=("all",),
        fields=(*_POD_FIELDS, "status.podIP"), subresources=("log",),
    ),
    _core("services", "Service", status=True, short_names=("svc",), categories=("all",)),
    _core("events", "Event", short_names=("ev",), fields=_EVENT_FIELDS),
    _core("secrets", "Secret", fields=("type",)),
    _core("configmaps", "ConfigMap", short_names=("cm",)),
    _core("serviceaccounts", "ServiceAccount", short_names=("sa",)),
    _core("resourcequotas", "ResourceQuota", status=True, short_names=("quota",)),
    _core("persistentvolumeclaims", "PersistentVolumeClaim", status=True, short_names=("pvc",)),
    Resource("events.k8s.io", "v1", "events", "Event", short_names=("ev",)),
    Resource(
        "batch", "v1", "jobs", "Job", status=True, generation=True, categories=("all",),
        fields=("status.successful",),
    ),
    Resource(
        "apps", "v1", "deployments", "Deployment", status=True, generation=True,
        short_names=("deploy",), categories=("all",),
    ),
    Resource("coordination.k8s.io", "v1", "leases", "Lease"),
    Resource("scheduling.k8s.io", "v1", "priorityclasses", "PriorityClass", namespaced=False),
    Resource(_RBAC, "v1", "clusterroles", "ClusterRole", namespaced=False),
    Resource(_RBAC, "v1", "clusterrolebindings", "ClusterRoleBinding", namespaced=False),
    Resource(_RBAC, "v1", "roles", "Role"),
    Resource(_RBAC, "v1", "rolebindings", "RoleBinding"),
    Resource(
        "apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition",
        namespaced=False, status=True, generation=True, short_names=("crd", "crds"),
    ),
)  # fmt: skip


def from_crd(crd: dict[str, Any]) -> list[Resource]:
    """The resources that a CustomResourceDefinition serves, one per served version."""
    spec, names = crd["spec"], crd["spec"]["names"]
    return [
        Resource(
            group=spec["group"],
            version=version["name"],
            plural=names["plural"],
            kind=names["kind"],
            namespaced=spec["scope"] == "Namespaced",
            status="status" in (version.get("subresources") or {}),
            generation=True,
            short_names=tuple(names.get("shortNames") or ()),
            categories=tuple(names.get("categories") or ()),
            singular=names.get("singular") or names["kind"].lower(),
            schema=(version.get("schema") or {}).get("openAPIV3Schema") or {},
            rules=RULES in json.dumps(version.get("schema")),
            status_rules=_status_rules((version.get("schema") or {}).get("openAPIV3Schema") or {}),
            columns=tuple(version.get("additionalPrinterColumns") or ()),
            fields=tuple(
                one["jsonPath"].lstrip(".") for one in version.get("selectableFields") or ()
            ),
        )
        for version in spec["versions"]
        if version.get("served")
    ]


def _status_rules(schema: dict[str, Any]) -> bool:
    status = json.dumps((schema.get("properties") or {}).get("status"))
    return RULES in status or "self.status" in json.dumps(schema.get(RULES))


class Registry:
    """What is served, by group, version and plural."""

    def __init__(self) -> None:
        self._served = {(one.group, one.version, one.plural): one for one in BUILT_IN}
        self.since: dict[str, float] = {}
        """When a group was first served, by the monotonic clock; none: always."""

    def __iter__(self) -> Any:
        return iter(self._served.values())

    def add(self, resource: Resource) -> None:
        """Serve a resource, in place of what its name served."""
        if all(one.group != resource.group for one in self):
            self.since[resource.group] = time.monotonic()
        self._served[resource.group, resource.version, resource.plural] = resource

    def drop(self, group: str, plural: str) -> None:
        """Serve a resource no longer."""
        for key in [key for key in self._served if key[0] == group and key[2] == plural]:
            del self._served[key]

    def find(self, group: str, version: str, plural: str) -> Resource:
        """What a path names.

        Raises:
            ApiError: 404, it is not served.
        """
        found = self._served.get((group, version, plural))
        if found is None:
            if group:
                raise Unserved
            raise failure(404, "the server could not find the requested resource")
        return found

    def named(self, name: str) -> Resource:
        """The resource of a plural, or of a plural and a group (`jobs.batch`).

        Raises:
            KeyError: it is not served.
        """
        for one in self._served.values():
            if name in {one.plural, one.qualified}:
                return one
        raise KeyError(f"no resource {name!r} is served")

    def kind(self, api_version: str, kind: str) -> Resource | None:
        """The resource of a kind."""
        for one in self._served.values():
            if one.kind == kind and one.api_version == api_version:
                return one
        return None
