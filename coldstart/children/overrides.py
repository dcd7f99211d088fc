"""What a run may ask of its pods: refused here is what no cluster takes, or what is ours.

PyTorchJob's own webhook may not run, and without it the API server accepts anything (operator.md
1.2). What only a cluster can know (whether a secret or a class exists) is left to it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Any

from coldstart.children.identity import OWNED_LABELS, PREFIX, QUEUE, QUEUE_PRIORITY, queue_labels
from coldstart.run import PodTemplate, ReasoningRun
from coldstart.schema import printable
from coldstart.spec import Stage
from coldstart.stage import RESULT_PATH

_TEMPLATE = "spec.podTemplate"

_LABEL = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
_DNS_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_SUBDOMAIN = re.compile(
    r"(?=.{1,253}$)[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*"
)
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_QUANTITY = re.compile(r"\d{1,15}(\.\d{1,9})?(m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei|[eE]\d{1,2})?")

OWNED_ENV_PREFIXES = ("COLDSTART_", "PET_")
OWNED_ENV = frozenset(
    {"MASTER_ADDR", "MASTER_PORT", "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"}
)
"""Variables that say what the order is and who the process is."""

CONTROLLER_PREFIXES = ("training.kubeflow.org/", "batch.kubernetes.io/", "kubernetes.io/")
CONTROLLER_LABELS = frozenset({"job-name", "controller-uid", QUEUE, QUEUE_PRIORITY})
"""Labels of pods that belong to the job's controller, or to the job itself."""

_SECURITY_ANNOTATIONS = (
    "container.apparmor.security.beta.kubernetes.io/",
    "container.seccomp.security.alpha.kubernetes.io/",
    "seccomp.security.alpha.kubernetes.io/",
)

VOLUME_SOURCES = frozenset(
    {
        "configMap",
        "csi",
        "downwardAPI",
        "emptyDir",
        "ephemeral",
        "persistentVolumeClaim",
        "projected",
        "secret",
    }
)
"""The volumes that PodSecurity *restricted* allows."""

ENV_SOURCES = frozenset({"configMapKeyRef", "fieldRef", "resourceFieldRef", "secretKeyRef"})
_MOUNT_KEYS = frozenset(
    {
        "mountPath",
        "mountPropagation",
        "name",
        "readOnly",
        "recursiveReadOnly",
        "subPath",
        "subPathExpr",
    }
)
_TOLERATION_KEYS = frozenset({"effect", "key", "operator", "tolerationSeconds", "value"})
_AFFINITY_KEYS = frozenset({"nodeAffinity", "podAffinity", "podAntiAffinity"})


def check(run: ReasoningRun, stage: Stage, mounts: Mapping[str, str]) -> None:
    """Refuse a spec whose pods cannot be.

    Args:
        run: the run.
        stage: the stage that is about to start; the others are looked at, too, so that nothing
            is trained for a run that cannot end.
        mounts: our own volumes, and where they are mounted.

    Raises:
        ValueError: the first mistake, as `spec.podTemplate.env[2].name: …`.
    """
    extra = run.spec.pod_template
    mistakes = chain(
        _storage(run),
        *(_resources(run, each) for each in (stage, *run.spec.stages)),
        _image(run),
        _names(run),
        _labels(extra),
        _environment(extra),
        _volumes(extra, mounts),
        _mounts(extra, mounts),
        _placement(extra),
    )
    for mistake in mistakes:
        raise ValueError(mistake)


def _storage(run: ReasoningRun) -> Iterator[str]:
    storage = run.spec.storage
    if storage.claim_name is None:
        yield "spec.storage.claimName: is required on a cluster: checkpoints outlive their pods"
    parts = storage.sub_path.split("/")
    if storage.sub_path.startswith("/") or ".." in parts:
        yield "spec.storage.subPath: must be a path below the claim, without '..'"


def _resources(run: ReasoningRun, stage: Stage) -> Iterator[str]:
    wanted = run.spec.stage(stage).resources
    for key, quantity in (("cpu", wanted.cpu), ("memory", wanted.memory)):
        if quantity is not None and not _QUANTITY.fullmatch(quantity):
            yield (
                f"spec.{stage.value}.resources.{key}: must be a Kubernetes quantity, "
                f"as 8, 500m or 64Gi (is {quantity!r:.80})"
            )


def _image(run: ReasoningRun) -> Iterator[str]:
    image = run.spec.image
    if image is not None and not (image.isascii() and image.isprintable() and " " not in image):
        yield f"spec.image: must be the name of an image, without spaces (is {image!r:.80})"


def _names(run: ReasoningRun) -> Iterator[str]:
    """Names of other objects, and the labels that are made of some."""
    extra = run.spec.pod_template
    found = {
        "spec.storage.claimName": run.spec.storage.claim_name,
        f"{_TEMPLATE}.priorityClassName": extra.priority_class_name,
        f"{_TEMPLATE}.runtimeClassName": extra.runtime_class_name,
        f"{_TEMPLATE}.schedulerName": extra.scheduler_name,
        f"{_TEMPLATE}.serviceAccountName": extra.service_account_name,
    }
    for key, names in (("imagePullSecrets", extra.image_pull_secrets), ("secrets", extra.secrets)):
        found |= {f"{_TEMPLATE}.{key}[{i}]": name for i, name in enumerate(names)}
    for path, name in found.items():
        if name is not None and not _SUBDOMAIN.fullmatch(name):
            yield f"{path}: must be the name of an object, as {_example(name)} (is {name!r:.80})"
    for i, name in enumerate(extra.image_pull_secrets):
        if name in extra.image_pull_secrets[:i]:
            yield f"{_TEMPLATE}.imagePullSecrets[{i}]: {name:.80} is there twice"
    for key, value in queue_labels(run).items():
        if not _LABEL.fullmatch(value):
            yield (
                f"spec.scheduling: {key} must be a label of at most 63 letters, digits, '-', "
                f"'_' or '.' (is {value!r:.80})"
            )


def _example(name: str) -> str:
    fitting = re.sub(r"[^a-z0-9.-]+", "-", name.lower()).strip("-.")
    return fitting if _SUBDOMAIN.fullmatch(fitting) else "my-name"


def _labels(extra: PodTemplate) -> Iterator[str]:
    for key, value in extra.labels.items():
        path = f"{_TEMPLATE}.labels[{key!r:.80}]"
        owned = key in OWNED_LABELS | CONTROLLER_LABELS
        if owned or key.startswith((PREFIX, *CONTROLLER_PREFIXES)):
            yield f"{path}: is not the user's to set"
        elif not (_key(key) and _label_value(value)):
            yield f"{path}: is not a Kubernetes label (its value is {value!r:.80})"
    for key in extra.annotations:
        path = f"{_TEMPLATE}.annotations[{key!r:.80}]"
        if key.startswith((PREFIX, *_SECURITY_ANNOTATIONS)):
            yield f"{path}: is not the user's to set"
        elif not _key(key):
            yield f"{path}: is not the key of a Kubernetes annotation"
    for key, value in extra.node_selector.items():
        if not (_key(key) and _label_value(value)):
            yield (
                f"{_TEMPLATE}.nodeSelector[{key!r:.80}]: is not a Kubernetes label "
                f"(its value is {value!r:.80})"
            )


def _key(key: str) -> bool:
    prefix, slash, name = key.rpartition("/")
    return bool(_LABEL.fullmatch(name)) and (not slash or bool(_SUBDOMAIN.fullmatch(prefix)))


def _label_value(value: str) -> bool:
    return not value or bool(_LABEL.fullmatch(value))


def _environment(extra: PodTemplate) -> Iterator[str]:
    names: set[str] = set()
    for i, entry in enumerate(extra.env):
        path, name = f"{_TEMPLATE}.env[{i}]", entry.get("name")
        if not isinstance(name, str) or not _VARIABLE.fullmatch(name):
            yield f"{path}.name: must be the name of an environment variable (is {name!r:.80})"
            continue
        if name in OWNED_ENV or name.startswith(OWNED_ENV_PREFIXES):
            yield f"{path}.name: {name:.80} is not the user's to set"
        if name in names:
            yield f"{path}.name: {name:.80} is there twice"
        names.add(name)
        yield from _unknown(path, entry, {"name", "value", "valueFrom"})
        yield from _variable(path, entry)


def _variable(path: str, entry: dict[str, Any]) -> Iterator[str]:
    text = entry.get("value", "")
    if not isinstance(text, str):
        yield f"{path}.value: must be a string: put it in quotes"
    elif "\0" in text:
        yield f"{path}.value: no environment holds a zero byte"
    if "valueFrom" not in entry:
        return
    source = entry["valueFrom"]
    if "value" in entry:
        yield f"{path}: has both value and valueFrom"
    elif not isinstance(source, dict) or len(source) != 1 or not source.keys() <= ENV_SOURCES:
        yield f"{path}.valueFrom: must hold one of {', '.join(sorted(ENV_SOURCES))}"


def _volumes(extra: PodTemplate, mounts: Mapping[str, str]) -> Iterator[str]:
    names: set[str] = set(mounts)
    for i, volume in enumerate(extra.volumes):
        path, name = f"{_TEMPLATE}.volumes[{i}]", volume.get("name")
        if not isinstance(name, str) or not _DNS_LABEL.fullmatch(name):
            yield f"{path}.name: must be a DNS label (is {name!r:.80})"
            continue
        if name in names:
            yield f"{path}.name: {name} is there already"
        names.add(name)
        sources = volume.keys() - {"name"}
        if len(sources) != 1 or not sources <= VOLUME_SOURCES:
            yield (
                f"{path}: must hold, besides its name, one of {', '.join(sorted(VOLUME_SOURCES))}: "
                "PodSecurity restricted allows no other"
            )


def _mounts(extra: PodTemplate, mounts: Mapping[str, str]) -> Iterator[str]:
    known = {volume.get("name") for volume in extra.volumes if isinstance(volume.get("name"), str)}
    taken = {*mounts.values(), RESULT_PATH}
    for i, mount in enumerate(extra.volume_mounts):
        path = f"{_TEMPLATE}.volumeMounts[{i}]"
        yield from _unknown(path, mount, _MOUNT_KEYS)
        name, where = mount.get("name"), mount.get("mountPath")
        if not isinstance(name, str) or name not in known:
            yield f"{path}.name: is not one of spec.podTemplate.volumes (is {name!r:.80})"
        if not isinstance(where, str) or not where.startswith("/") or ".." in where.split("/"):
            yield f"{path}.mountPath: must be an absolute path (is {where!r:.80})"
            continue
        place = "/" + "/".join(part for part in where.split("/") if part not in ("", "."))
        covered = next((own for own in taken if _covers(place, own)), None)
        if covered:
            yield f"{path}.mountPath: {where!r:.80} covers {covered}"
        taken.add(place)


def _covers(place: str, other: str) -> bool:
    return other == place or other.startswith(place.rstrip("/") + "/")


def _placement(extra: PodTemplate) -> Iterator[str]:
    for i, toleration in enumerate(extra.tolerations):
        yield from _unknown(f"{_TEMPLATE}.tolerations[{i}]", toleration, _TOLERATION_KEYS)
    yield from _unknown(f"{_TEMPLATE}.affinity", extra.affinity, _AFFINITY_KEYS)


def _unknown(path: str, entry: Mapping[str, Any], keys: frozenset[str] | set[str]) -> Iterator[str]:
    for key in entry:
        if key not in keys:
            known = ", ".join(sorted(keys))
            yield f"{path}.{printable(key, 80)}: unknown key; may be {known}"
