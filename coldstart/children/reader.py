"""The pod that reads one file of a run's storage into its log; a user's, made by a command.

It is no child: the operator takes a pod with a run's labels for one that may still write.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Any

from coldstart import parcel
from coldstart.children.identity import PREFIX
from coldstart.children.pod import STORAGE, pod_template
from coldstart.order import build_order
from coldstart.run import ReasoningRun

CONTAINER = "reader"
READS = f"{PREFIX}reads"
"""The label of a reader; its value is the run's name."""

_RESOURCES = {
    "requests": {"cpu": "100m", "memory": "128Mi"},
    "limits": {"cpu": "1", "memory": "1Gi"},
}
_KEPT = ("securityContext", "automountServiceAccountToken", "enableServiceLinks")
_PLACEMENT = (
    "nodeSelector",
    "tolerations",
    "affinity",
    "priorityClassName",
    "schedulerName",
    "runtimeClassName",
    "serviceAccountName",
    "imagePullSecrets",
)


def reader_pod(
    run: ReasoningRun, path: str, *, name: str, image: str, seconds: int
) -> dict[str, Any]:
    """The pod: one of the run's own, without its work.

    Security, image and placement are those of the run's stages, so that it may run where they
    did: an image that is there, a claim that is bound to a zone or a node.

    Args:
        run: whose storage; it has been to a cluster.
        path: the file, relative to the storage.
        name: the pod's name.
        image: the trainer's image, for a run that names none.
        seconds: after which the cluster ends the pod, should nobody delete it.

    Raises:
        ValueError: the spec asks for a pod that cannot be; the message begins with the field.
    """
    order = build_order(run, run.spec.stages[-1], 1, {}, storage=STORAGE, workdir=STORAGE)
    template = pod_template(run, order, image)
    stage = template["spec"]["containers"][0]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": _metadata(run, name),
        "spec": {
            "restartPolicy": "Never",
            "activeDeadlineSeconds": seconds,
            "terminationGracePeriodSeconds": 1,
            **{key: template["spec"][key] for key in _KEPT},
            "containers": [_container(stage, path)],
            "volumes": [item for item in template["spec"]["volumes"] if item["name"] == "storage"],
            **{key: template["spec"][key] for key in _PLACEMENT if key in template["spec"]},
        },
    }


def _metadata(run: ReasoningRun, name: str) -> dict[str, Any]:
    extra = run.spec.pod_template
    found: dict[str, Any] = {
        "name": name,
        "namespace": run.metadata.namespace,
        "labels": {
            **extra.labels,
            "app.kubernetes.io/name": "coldstart-reader",
            "app.kubernetes.io/managed-by": "coldstart",
            "app.kubernetes.io/part-of": "coldstart",
            READS: run.metadata.name,
        },
        # What a killed command leaves goes with its run. Not as its controller, and without
        # blockOwnerDeletion, which would ask the user for a right on the run.
        "ownerReferences": [
            {
                "apiVersion": run.api_version,
                "kind": run.kind,
                "name": run.metadata.name,
                "uid": run.metadata.uid,
            }
        ],
    }
    if extra.annotations:
        found["annotations"] = dict(extra.annotations)
    return found


def _container(stage: dict[str, Any], path: str) -> dict[str, Any]:
    mount = next(item for item in stage["volumeMounts"] if item["name"] == "storage")
    return {
        "name": CONTAINER,
        "image": stage["image"],
        "command": ["python", "-c", parcel.source(), f"{STORAGE}/{path}"],
        "resources": deepcopy(_RESOURCES),
        "securityContext": stage["securityContext"],
        # The mount alone: a claim that is read-only as a volume is attached otherwise, which some
        # storage refuses while a stage has it for writing.
        "volumeMounts": [{**mount, "readOnly": True}],
    }
