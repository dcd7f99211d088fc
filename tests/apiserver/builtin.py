"""What creating, changing or deleting an object of a built-in kind means; storage is elsewhere.

Only what an operator can notice: names, labels, defaults, immutable templates, graceful deletion.
Pod templates are not validated; `kubernetes-validate` does that in the tests of the builders.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from apiserver.errors import cause, failure, invalid
from apiserver.resources import Resource
from apiserver.schema import unstructural

_LABEL = re.compile(r"^(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?$")
_SUBDOMAIN = re.compile(r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$")
_DNS1035 = re.compile(r"^[a-z]([-a-z0-9]*[a-z0-9])?$")
_PATH_NAME = re.compile(r"^[^/%]+$")

Causes = list[dict[str, str]]


def metadata_mistakes(resource: Resource, document: Mapping[str, Any]) -> Causes:
    """What is wrong with an object's name, labels, annotations and owners."""
    metadata = document["metadata"]
    found = _name_mistakes(resource, metadata["name"])
    for key, value in (metadata.get("labels") or {}).items():
        name = key.rpartition("/")[2]
        if not _LABEL.match(name) or not 0 < len(name) <= 63:
            found.append(_invalid("metadata.labels", key, "name part must be a valid label name"))
        if not isinstance(value, str) or len(value) > 63 or not _LABEL.match(value):
            text = "must be no more than 63 characters of A-Z a-z 0-9 - _ ."
            found.append(_invalid("metadata.labels", value, text))
    size = sum(len(k) + len(v) for k, v in (metadata.get("annotations") or {}).items())
    if size > 262_144:
        text = "Too long: may not be more than 262144 bytes"
        found.append(cause("FieldValueTooLong", "metadata.annotations", text))
    owners = metadata.get("ownerReferences") or []
    for index, owner in enumerate(owners):
        for field in ("apiVersion", "kind", "name", "uid"):
            if not owner.get(field):
                at = f"metadata.ownerReferences[{index}].{field}"
                found.append(cause("FieldValueRequired", at, "Required value"))
    if sum(bool(owner.get("controller")) for owner in owners) > 1:
        text = "Only one reference can have Controller set to true"
        found.append(_invalid("metadata.ownerReferences", len(owners), text))
    return found


def _name_mistakes(resource: Resource, name: str) -> Causes:
    pattern, limit = _SUBDOMAIN, 253
    if resource.plural == "services":
        pattern, limit = _DNS1035, 63
    elif resource.plural in {"jobs", "namespaces"}:
        limit = 63
    elif resource.group == "rbac.authorization.k8s.io":
        pattern = _PATH_NAME
    if len(name) > limit:
        return [_invalid("metadata.name", name, f"must be no more than {limit} characters")]
    if not pattern.match(name):
        return [_invalid("metadata.name", name, "a lowercase RFC 1123 name is required")]
    return []


def _invalid(field: str, value: Any, text: str) -> dict[str, str]:
    return cause("FieldValueInvalid", field, f'Invalid value: "{value}": {text}')


def prepare(resource: Resource, document: dict[str, Any]) -> None:
    """Fill in what the server itself sets on a new object.

    Raises:
        ApiError: 422, the kind refuses it.
    """
    handler = {
        "pods": _pod,
        "jobs": _job,
        "namespaces": _namespace,
        "services": _service,
        "persistentvolumeclaims": _claim,
        "customresourcedefinitions": _definition,
        "secrets": _secret,
    }.get(resource.plural)
    if handler and not resource.custom:
        handler(document)


def _pod(document: dict[str, Any]) -> None:
    spec = document["spec"] = dict(document.get("spec") or {})
    if not spec.get("containers"):
        raise invalid("Pod", "", document["metadata"]["name"], [_required("spec.containers")])
    spec.setdefault("restartPolicy", "Always")
    spec.setdefault("terminationGracePeriodSeconds", 30)
    document["status"] = {"phase": "Pending", "qosClass": "BestEffort"}


def _job(document: dict[str, Any]) -> None:
    spec = document["spec"] = dict(document.get("spec") or {})
    template = spec.get("template") or {}
    name, uid = document["metadata"]["name"], document["metadata"]["uid"]
    policy = (template.get("spec") or {}).get("restartPolicy")
    if policy not in {"Never", "OnFailure"}:
        text = f'Unsupported value: "{policy}": supported values: "OnFailure", "Never"'
        found = [cause("FieldValueNotSupported", "spec.template.spec.restartPolicy", text)]
        raise invalid("Job", "batch", name, found)
    if spec.get("completionMode") == "Indexed" and not spec.get("completions"):
        raise invalid("Job", "batch", name, [_required("spec.completions")])
    spec.setdefault("parallelism", 1)
    spec.setdefault("completions", 1)
    spec.setdefault("backoffLimit", 6)
    spec.setdefault("completionMode", "NonIndexed")
    spec.setdefault("suspend", False)
    labels = {"batch.kubernetes.io/controller-uid": uid, "controller-uid": uid}
    names = {"batch.kubernetes.io/job-name": name, "job-name": name}
    spec.setdefault("selector", {"matchLabels": {"batch.kubernetes.io/controller-uid": uid}})
    metadata = dict(template.get("metadata") or {})
    metadata["labels"] = {**(metadata.get("labels") or {}), **labels, **names}
    spec["template"] = {**template, "metadata": metadata}


def _namespace(document: dict[str, Any]) -> None:
    document["status"] = {"phase": "Active"}
    name = document["metadata"]["name"]
    labels = dict(document["metadata"].get("labels") or {})
    document["metadata"]["labels"] = {**labels, "kubernetes.io/metadata.name": name}


def _service(document: dict[str, Any]) -> None:
    document["spec"] = {"type": "ClusterIP", "clusterIP": "10.0.0.1", **document.get("spec", {})}
    document["status"] = {"loadBalancer": {}}


def _claim(document: dict[str, Any]) -> None:
    document["status"] = {"phase": "Pending"}


def _secret(document: dict[str, Any]) -> None:
    document.setdefault("type", "Opaque")


def _definition(document: dict[str, Any]) -> None:
    """Serve it at once: established, its names accepted."""
    _check_definition(document)
    spec, now = document["spec"], document["metadata"]["creationTimestamp"]
    reasons = (("NamesAccepted", "NoConflicts"), ("Established", "InitialNamesAccepted"))
    document["status"] = {
        "acceptedNames": spec["names"],
        "storedVersions": [one["name"] for one in spec["versions"] if one.get("storage")],
        "conditions": [
            {"type": kind, "status": "True", "reason": reason, "lastTransitionTime": now}
            for kind, reason in reasons
        ],
    }


def _check_definition(document: Mapping[str, Any]) -> None:
    spec, name = document.get("spec") or {}, document["metadata"]["name"]
    names, found = spec.get("names") or {}, []
    if name != f"{names.get('plural')}.{spec.get('group')}":
        found.append(_invalid("metadata.name", name, "must be spec.names.plural+spec.group"))
    versions = spec.get("versions") or []
    if sum(bool(one.get("storage")) for one in versions) != 1:
        text = "must have exactly one version marked as storage version"
        found.append(_invalid("spec.versions", len(versions), text))
    for index, one in enumerate(versions):
        at = f"spec.versions[{index}].schema.openAPIV3Schema"
        schema = (one.get("schema") or {}).get("openAPIV3Schema")
        found += unstructural(schema, at) if schema else [_required(at)]
    if found:
        raise invalid("CustomResourceDefinition", "apiextensions.k8s.io", name, found)


def _required(field: str) -> dict[str, str]:
    return cause("FieldValueRequired", field, "Required value")


def changed(resource: Resource, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    """Check an update of a built-in kind.

    Raises:
        ApiError: 422, a field that cannot change has changed, or a definition is wrong.
    """
    if resource.plural == "customresourcedefinitions":
        _check_definition(new)
    if resource.custom or resource.plural not in {"jobs", "pods", "persistentvolumeclaims"}:
        return
    before, after = dict(old.get("spec") or {}), dict(new.get("spec") or {})
    free = {
        "jobs": ("suspend", "parallelism", "ttlSecondsAfterFinished", "activeDeadlineSeconds"),
        "pods": ("nodeName", "containers", "tolerations", "activeDeadlineSeconds"),
        "persistentvolumeclaims": ("resources", "volumeName"),
    }[resource.plural]
    extra = ("template",) if resource.plural == "jobs" and before.get("suspend") else ()
    for key in (before.keys() | after.keys()) - {*free, *extra, "backoffLimit"}:
        if before.get(key) != after.get(key):
            found = [cause("FieldValueInvalid", f"spec.{key}", "field is immutable")]
            raise invalid(resource.kind, resource.group, new["metadata"]["name"], found)


def grace(resource: Resource, document: Mapping[str, Any], asked: int | None) -> int:
    """Seconds that a deleted object stays for its kubelet; 0 where it goes at once."""
    if resource.plural != "pods" or resource.custom:
        return 0
    spec, phase = document["spec"], document.get("status", {}).get("phase")
    if not spec.get("nodeName") or phase in {"Succeeded", "Failed"}:
        return 0
    return int(asked if asked is not None else spec.get("terminationGracePeriodSeconds", 30))


def propagation(resource: Resource) -> str:
    """What happens to the dependents of a deleted object where the request does not say.

    Deleting a batch/v1 Job leaves its pods behind: kubectl asks for Background, a bare client
    must, too.
    """
    return "Orphan" if resource.key == ("batch", "jobs") else "Background"


# Events are one kind under two groups.

_NEW_TO_OLD = {
    "regarding": "involvedObject",
    "note": "message",
    "reportingController": "reportingComponent",
    "deprecatedCount": "count",
    "deprecatedSource": "source",
    "deprecatedFirstTimestamp": "firstTimestamp",
    "deprecatedLastTimestamp": "lastTimestamp",
}


def stored_event(document: Mapping[str, Any]) -> dict[str, Any]:
    """An event of events.k8s.io/v1 as the core group has it."""
    renamed = {_NEW_TO_OLD.get(key, key): value for key, value in document.items()}
    return {**renamed, "apiVersion": "v1"}


def served_event(document: Mapping[str, Any]) -> dict[str, Any]:
    """An event of the core group as events.k8s.io/v1 has it."""
    names = {old: new for new, old in _NEW_TO_OLD.items()}
    renamed = {names.get(key, key): value for key, value in document.items()}
    return {**renamed, "apiVersion": "events.k8s.io/v1"}


def check_event(document: Mapping[str, Any], namespace: str) -> None:
    """Check what an event is about.

    Raises:
        ApiError: 422, its object lives in another namespace; 400, it names none.
    """
    about = document.get("involvedObject")
    if about is None:
        raise failure(400, "involvedObject is required")
    if (about.get("namespace") or "default") != namespace:
        found = [_invalid("involvedObject.namespace", about.get("namespace"), "does not match")]
        raise invalid("Event", "", document["metadata"]["name"], found)
