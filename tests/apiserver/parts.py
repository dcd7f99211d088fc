"""What both stand-in controllers make: children with owners, pods from templates, events."""

from __future__ import annotations

import copy
import uuid
from collections.abc import Mapping
from typing import Any

from apiserver.access import Access
from apiserver.objects import now


def child_of(owner: Mapping[str, Any], document: dict[str, Any], name: str) -> dict[str, Any]:
    """A document with a name, in the owner's namespace, controlled by it."""
    metadata = document.setdefault("metadata", {})
    metadata["name"], metadata["namespace"] = name, owner["metadata"]["namespace"]
    metadata["ownerReferences"] = [
        {
            "apiVersion": owner["apiVersion"],
            "kind": owner["kind"],
            "name": owner["metadata"]["name"],
            "uid": owner["metadata"]["uid"],
            "controller": True,
            "blockOwnerDeletion": True,
        }
    ]
    return document


def controlled(document: Mapping[str, Any], owner: Mapping[str, Any]) -> bool:
    """Whether an object belongs to an owner."""
    owners = document["metadata"].get("ownerReferences") or ()
    return any(one["uid"] == owner["metadata"]["uid"] for one in owners)


def pod_from(template: Mapping[str, Any], env: Mapping[str, Any]) -> dict[str, Any]:
    """A pod of a template, with variables appended to every container, after the user's."""
    pod = copy.deepcopy(dict(template))
    pod.setdefault("metadata", {}).pop("creationTimestamp", None)
    pod.setdefault("spec", {})
    added = [
        {"name": name, **({"value": value} if isinstance(value, str) else {"valueFrom": value})}
        for name, value in env.items()
    ]
    for container in pod["spec"].get("containers", ()):
        container["env"] = [*(container.get("env") or ()), *copy.deepcopy(added)]
    return pod


def warn(api: Access, about: Mapping[str, Any], reason: str, message: str) -> None:
    """A Warning event, repeated by count as the recorder does."""
    metadata = about["metadata"]
    fields = f"involvedObject.uid={metadata['uid']},reason={reason}"
    for event in api.list("events", metadata["namespace"], fields=fields):
        if event["message"] == message:
            again = {"count": event["count"] + 1, "lastTimestamp": now()}
            api.patch("events", event["metadata"]["name"], again, metadata["namespace"])
            return
    document = {
        "metadata": {"name": f"{metadata['name']}.{uuid.uuid4().hex[:16]}"},
        "involvedObject": {
            "apiVersion": about["apiVersion"],
            "kind": about["kind"],
            "name": metadata["name"],
            "namespace": metadata["namespace"],
            "uid": metadata["uid"],
        },
        "type": "Warning",
        "reason": reason,
        "message": message,
        "count": 1,
        "firstTimestamp": now(),
        "lastTimestamp": now(),
        "source": {"component": "stand-in"},
    }
    api.create("events", document, metadata["namespace"])
