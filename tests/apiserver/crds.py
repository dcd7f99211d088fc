"""CustomResourceDefinitions that tests put on the server; the project's own is in manifests/."""

from __future__ import annotations

from typing import Any


def minimal(
    group: str, kind: str, plural: str, *, version: str = "v1", **more: Any
) -> dict[str, Any]:
    """A definition that accepts anything below spec and status, with the status subresource.

    Args:
        group: API group.
        kind: the kind.
        plural: the resource.
        version: the one version.
        more: additions to that version, such as additionalPrinterColumns.
    """
    anything = {
        key: {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
        for key in ("spec", "status")
    }
    schema = {"type": "object", "properties": anything}
    served = {
        "name": version,
        "served": True,
        "storage": True,
        "schema": {"openAPIV3Schema": schema},
        "subresources": {"status": {}},
        **more,
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{group}"},
        "spec": {
            "group": group,
            "scope": "Namespaced",
            "names": {
                "plural": plural,
                "singular": kind.lower(),
                "kind": kind,
                "listKind": f"{kind}List",
            },
            "versions": [served],
        },
    }


def pytorchjobs() -> dict[str, Any]:
    """kubeflow.org/v1 PyTorchJob as loose as its real definition: without a webhook it accepts
    anything that is an object; `suspend` and `nprocPerNode` have the real defaults' places.
    """
    columns = [
        {"name": "State", "type": "string", "jsonPath": ".status.conditions[-1:].type"},
        {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"},
    ]
    crd = minimal("kubeflow.org", "PyTorchJob", "pytorchjobs", additionalPrinterColumns=columns)
    spec = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    spec["required"] = ["pytorchReplicaSpecs"]
    spec["properties"] = {
        "nprocPerNode": {"type": "string"},
        "pytorchReplicaSpecs": {
            "type": "object",
            "additionalProperties": {
                "type": "object",
                "x-kubernetes-preserve-unknown-fields": True,
            },
        },
        "runPolicy": {
            "type": "object",
            "x-kubernetes-preserve-unknown-fields": True,
            "properties": {"suspend": {"type": "boolean", "default": False}},
        },
    }
    return crd


def reasoningruns() -> dict[str, Any]:
    """A loose ReasoningRun, for tests that do not need the generated definition."""
    return minimal("coldstart.dev", "ReasoningRun", "reasoningruns", version="v1alpha1")
