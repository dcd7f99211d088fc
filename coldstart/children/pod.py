"""The pod that carries out an order, whichever kind of job holds it; PodSecurity *restricted*.

A PyTorchJob of several pods is the exception that is not ours: its controller adds the init
container `init-pytorch` to the workers, without a security context, and a namespace that
enforces *restricted* refuses those (operator.md 1.4). There the Job backend works, or the
cluster's administrator gives the controller another init container
(`--pytorch-init-container-template-file`).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from coldstart import images
from coldstart.children import overrides
from coldstart.children.identity import labels
from coldstart.run import ReasoningRun
from coldstart.spec import Resources, Stage
from coldstart.stage import METRICS_PORT_ENV, ORDER_ENV, RESULT_PATH, StageOrder

IMAGE = images.tagged(images.TRAINER)
"""The trainer's image, where neither the run nor the operator names one."""

CONTAINER = "pytorch"
"""The trainer's container; PyTorchJob asks for this name."""

STORAGE = "/storage"
"""Where the run's claim is mounted; the storage and the working directory of every order."""

HOME = "/home/coldstart"
METRICS_PORT = 9400
METRICS_PORT_NAME = "metrics"
USER_ID = 1000
GPU = "nvidia.com/gpu"

MOUNTS = {"storage": STORAGE, "home": HOME, "tmp": "/tmp", "shm": "/dev/shm"}  # noqa: S108
"""Our volumes, and where they are mounted."""

ENV_BYTES = 128 * 1024
"""The longest `NAME=value` that Linux gives a process, its end included (MAX_ARG_STRLEN)."""

LATER_BYTES = 4096
"""What the inputs of any stage's order may take of it."""

_KILL_MARGIN = 10
"""Seconds of the grace period that are left when torchrun kills what has not saved."""


def pod_template(
    run: ReasoningRun,
    order: StageOrder,
    image: str,
    environment: Sequence[dict[str, Any]] = (),
) -> dict[str, Any]:
    """The template of every pod of an attempt.

    Args:
        run: whose attempt it is; its uid, if it has one, is the order's.
        order: what to do, with the paths that it has in the pod (`STORAGE`).
        image: the trainer's image, for a run that names none.
        environment: further variables of ours, after all others.

    Raises:
        ValueError: the spec asks for a pod that cannot be; the message begins with the field.
    """
    assert (order.storage, order.workdir) == (STORAGE, STORAGE), "the order is for a pod"
    overrides.check(run, order.stage, MOUNTS)
    extra = run.spec.pod_template
    template: dict[str, Any] = {"labels": {**extra.labels, **labels(order)}}
    if extra.annotations:
        template["annotations"] = dict(extra.annotations)
    return {
        "metadata": template,
        "spec": {
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": extra.termination_grace_period_seconds,
            "automountServiceAccountToken": False,
            # A Service called vllm would set VLLM_PORT, which vLLM reads as its own.
            "enableServiceLinks": False,
            "securityContext": _pod_security(),
            "containers": [_container(run, order, run.spec.image or image, environment)],
            "volumes": _volumes(run),
            **_placement(run),
        },
    }


def _pod_security() -> dict[str, Any]:
    return {
        "runAsNonRoot": True,
        "runAsUser": USER_ID,
        "runAsGroup": USER_ID,
        "fsGroup": USER_ID,
        # Else every start walks through all files of the claim.
        "fsGroupChangePolicy": "OnRootMismatch",
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def _container(
    run: ReasoningRun, order: StageOrder, image: str, environment: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    container: dict[str, Any] = {
        "name": CONTAINER,
        "image": image,
        "command": ["python", "-m", "coldstart_trainer.launch"],
        "workingDir": STORAGE,
        "env": [*_environment(run, order), *environment],
        "ports": [{"name": METRICS_PORT_NAME, "containerPort": METRICS_PORT, "protocol": "TCP"}],
        "resources": _resources(run.spec.stage(order.stage).resources),
        "terminationMessagePath": RESULT_PATH,
        # Not FallbackToLogsOnError: the end of a log is no result.
        "terminationMessagePolicy": "File",
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": _mounts(run),
    }
    if run.spec.pod_template.secrets:
        container["envFrom"] = [
            {"secretRef": {"name": name}} for name in run.spec.pod_template.secrets
        ]
    return container


def _environment(run: ReasoningRun, order: StageOrder) -> list[dict[str, Any]]:
    """Values that the user may change, then the user's, then ours."""
    extra = run.spec.pod_template
    given = {entry["name"] for entry in extra.env}
    defaults = {
        "HOME": HOME,
        # torch asks for the user's name, which a bare number has not in the image's passwd.
        "USER": "coldstart",
        "LOGNAME": "coldstart",
        # On the claim, so that stages and attempts do not download a model again.
        "HF_HOME": f"{STORAGE}/.cache/huggingface",
        "OMP_NUM_THREADS": "1",
        "PYTHONUNBUFFERED": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    ours = {
        # Else a file on the claim that is called as a library is would be taken for it.
        "PYTHONSAFEPATH": "1",
        # torchrun kills what has not ended so long after it was told to; its default is 30 s.
        "PET_SHUTDOWN_TIMEOUT": str(extra.termination_grace_period_seconds - _KILL_MARGIN),
        METRICS_PORT_ENV: str(METRICS_PORT),
        ORDER_ENV: order_text(order),
    }
    return [
        *({"name": name, "value": value} for name, value in defaults.items() if name not in given),
        *(dict(entry) for entry in extra.env),
        *({"name": name, "value": value} for name, value in ours.items()),
    ]


def order_text(order: StageOrder) -> str:
    r"""The order as the value of an environment variable: ASCII JSON without a dollar sign.

    Kubernetes replaces `$(NAME)` and `$$` in values, and prompts hold formulas: `$` is written
    `\u0024`, which is the same JSON and nothing to replace.

    Raises:
        ValueError: it is longer than Linux lets an environment variable be.
    """
    text = _compact(order)
    size = len(f"{ORDER_ENV}={text}") + 1
    if size > ENV_BYTES - LATER_BYTES:
        # No stage may start for a run whose later ones, which read more, cannot be told.
        bare = order.model_copy(update={"inputs": (), "stage": Stage.EVALUATION, "attempt": 1})
        size = max(size, len(f"{ORDER_ENV}={_compact(bare)}") + LATER_BYTES)
    if size > ENV_BYTES:
        raise ValueError(
            f"spec: takes {size} bytes as an environment variable, and Linux allows {ENV_BYTES}: "
            "shorten its longest texts or lists"
        )
    return text


def _compact(order: StageOrder) -> str:
    return json.dumps(order.document(), separators=(",", ":")).replace("$", "\\u0024")


def _resources(wanted: Resources) -> dict[str, Any]:
    pairs = {"cpu": wanted.cpu, "memory": wanted.memory}
    found: dict[str, Any] = {}
    requests = {name: value for name, value in pairs.items() if value is not None}
    if requests:
        found["requests"] = requests
    if wanted.gpus_per_node:
        found["limits"] = {GPU: str(wanted.gpus_per_node)}
    return found


def _volumes(run: ReasoningRun) -> list[dict[str, Any]]:
    claim = {"claimName": run.spec.storage.claim_name}
    return [
        {"name": "storage", "persistentVolumeClaim": claim},
        {"name": "home", "emptyDir": {}},
        {"name": "tmp", "emptyDir": {}},
        # NCCL and data loaders need more than the runtime's 64 MiB.
        {"name": "shm", "emptyDir": {"medium": "Memory"}},
        *(dict(volume) for volume in run.spec.pod_template.volumes),
    ]


def _mounts(run: ReasoningRun) -> list[dict[str, Any]]:
    mounts: list[dict[str, Any]] = [
        {"name": name, "mountPath": path} for name, path in MOUNTS.items()
    ]
    if run.spec.storage.sub_path:
        mounts[0]["subPath"] = run.spec.storage.sub_path
    return [*mounts, *(dict(mount) for mount in run.spec.pod_template.volume_mounts)]


def _placement(run: ReasoningRun) -> dict[str, Any]:
    """Where the pod may run and who it is, as far as the spec says."""
    extra = run.spec.pod_template
    wanted = {
        "nodeSelector": dict(extra.node_selector),
        "tolerations": [dict(item) for item in extra.tolerations],
        "affinity": dict(extra.affinity),
        "priorityClassName": extra.priority_class_name,
        "schedulerName": extra.scheduler_name,
        "runtimeClassName": extra.runtime_class_name,
        "serviceAccountName": extra.service_account_name,
        "imagePullSecrets": [{"name": name} for name in extra.image_pull_secrets],
    }
    return {key: value for key, value in wanted.items() if value}
