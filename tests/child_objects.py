"""Orders, random valid runs, jobs and pods as a cluster would show them, for tests of children."""

import json
import string
from datetime import timedelta

from builders import NOW, make_run, result
from hypothesis import strategies as st

from coldstart.children import pod as pods
from coldstart.children.backend import backend
from coldstart.order import build_order
from coldstart.run import ReasoningRun
from coldstart.spec import Stage

IMAGE = "registry.example/trainer:1"
STORAGE = {"claimName": "runs"}
DATASET = {"name": "d.jsonl"}


def cluster_run(**spec) -> ReasoningRun:
    """A run that a cluster can carry out; nodes and the rest as the spec says."""
    return make_run(**({"storage": STORAGE} | spec))


def several(nodes: int, gpus: int = 1) -> dict:
    """An SFT section on several machines."""
    resources = {"nodes": nodes, "gpusPerNode": gpus}
    return {"dataset": DATASET, "resources": resources, "batchSize": nodes * max(1, gpus)}


def order_of(run: ReasoningRun, stage=Stage.SFT, attempt=1):
    return build_order(run, stage, attempt, {}, storage=pods.STORAGE, workdir=pods.STORAGE)


def manifests(name: str, run: ReasoningRun, stage=Stage.SFT, attempt=1) -> list[dict]:
    return backend(name).manifests(run, order_of(run, stage, attempt), IMAGE)


def template_of(job: dict) -> dict:
    """The pod template of a job; the master's, where there are two."""
    if job["kind"] == "Job":
        return job["spec"]["template"]
    return job["spec"]["pytorchReplicaSpecs"]["Master"]["template"]


def container_of(job: dict) -> dict:
    return template_of(job)["spec"]["containers"][0]


def environment_of(job: dict) -> dict:
    return {entry["name"]: entry.get("value") for entry in container_of(job)["env"]}


def stamp(seconds: float) -> str:
    """A time so many seconds after NOW, as Kubernetes writes it."""
    return (NOW + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")


def condition(type_: str, status="True", at=0.0, reason="Reason", message="") -> dict:
    return {
        "type": type_,
        "status": status,
        "reason": reason,
        "message": message,
        "lastTransitionTime": stamp(at),
    }


def seen_job(name: str, *conditions: dict, nodes=2, **status) -> dict:
    """A job as the API server has it, with these conditions."""
    job = manifests(name, cluster_run(sft=several(nodes)))[-1]
    job["metadata"] |= {"uid": "job-uid", "namespace": "ml"}
    if conditions or status:
        job["status"] = {"conditions": list(conditions), **status}
    return job


def seen_pod(job: dict, index=0, phase="Running", **more) -> dict:
    """A pod of a job; index 0 has rank 0.

    Keys: `message`, `code`, `reason` (of the container's end), `ended_at`, `deleted_at` (when its
    deletion was asked for) and `grace`, `conditions`, `status`, `waiting`.
    """
    label = {"batch.kubernetes.io/job-completion-index": str(index)}
    if job["kind"] == "PyTorchJob":
        role = "worker" if index else "master"
        label = {"training.kubeflow.org/replica-type": role}
    state = {"running": {}}
    if "code" in more:
        state = {
            "terminated": {
                "exitCode": more["code"],
                "reason": more.get("reason", "Error" if more["code"] else "Completed"),
                "finishedAt": stamp(more.get("ended_at", 0)),
                "message": more.get("message", ""),
            }
        }
    if "waiting" in more:
        state = {"waiting": more["waiting"]}
    metadata = {
        "name": f"{job['metadata']['name']}-{index}",
        "uid": f"pod-{index}",
        "creationTimestamp": stamp(more.get("created_at", -100)),
        "labels": job["metadata"]["labels"] | label,
        "ownerReferences": [
            {"kind": job["kind"], "uid": job["metadata"]["uid"], "controller": True}
        ],
    }
    if "deleted_at" in more:
        grace = more.get("grace", 300)
        metadata |= {
            "deletionTimestamp": stamp(more["deleted_at"] + grace),
            "deletionGracePeriodSeconds": grace,
        }
    return {
        "metadata": metadata,
        "spec": {"nodeName": "node-1"},
        "status": {
            "phase": phase,
            "conditions": more.get("conditions", []),
            "containerStatuses": [{"name": "pytorch", "image": IMAGE, "state": state}],
            **more.get("status", {}),
        },
    }


def encoded(**more) -> str:
    """A termination message with a result."""
    return result(**more).encode().decode()


_word = st.text(string.ascii_lowercase + string.digits, min_size=1, max_size=10)
_label = st.from_regex(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,20}[A-Za-z0-9])?", fullmatch=True)
_key = st.builds(lambda prefix, name: f"{prefix}.example/{name}", _word, _label) | _label
_labels = st.dictionaries(_key, _label, max_size=3)
_variable = st.from_regex(r"[A-Z_][A-Z0-9_]{0,12}", fullmatch=True)
_env = st.fixed_dictionaries({"name": _variable}).flatmap(
    lambda entry: st.one_of(
        st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20).map(
            lambda value: {**entry, "value": value}
        ),
        _word.map(lambda key: {**entry, "valueFrom": {"secretKeyRef": {"name": "s", "key": key}}}),
    )
)


@st.composite
def _volumes(draw):
    names = draw(st.lists(_word.map(lambda word: f"v-{word}"), unique=True, max_size=3))
    sources = st.sampled_from(
        [
            {"emptyDir": {}},
            {"configMap": {"name": "c"}},
            {"secret": {"secretName": "s"}},
            {"persistentVolumeClaim": {"claimName": "other", "readOnly": True}},
        ]
    )
    return (
        [{"name": name, **draw(sources)} for name in names],
        [{"name": name, "mountPath": f"/mnt/{name}", "readOnly": True} for name in names],
    )


def _unique(entries: list[dict]) -> list[dict]:
    return list({entry["name"]: entry for entry in entries}.values())


@st.composite
def _pod_template(draw):
    volumes, mounts = draw(_volumes())
    name = st.none() | _word
    found = {
        "labels": draw(_labels),
        "annotations": draw(st.dictionaries(_key, st.text(max_size=30), max_size=3)),
        "nodeSelector": draw(_labels),
        "tolerations": draw(
            st.lists(
                st.fixed_dictionaries(
                    {"key": _key, "operator": st.just("Exists")},
                    optional={"effect": st.just("NoSchedule")},
                ),
                max_size=2,
            )
        ),
        "priorityClassName": draw(name),
        "schedulerName": draw(name),
        "runtimeClassName": draw(name),
        "serviceAccountName": draw(name),
        "imagePullSecrets": draw(st.lists(_word, max_size=2, unique=True)),
        "secrets": draw(st.lists(_word, max_size=2)),
        "env": _unique(draw(st.lists(_env, max_size=4))),
        "volumes": volumes,
        "volumeMounts": mounts,
        "terminationGracePeriodSeconds": draw(st.integers(30, 86_400)),
    }
    return {key: value for key, value in found.items() if value is not None}


_quantity = st.none() | st.sampled_from(["8", "500m", "1.5", "64Gi", "1e3", "128974848"])


@st.composite
def runs(draw):
    """A random run that a cluster can carry out, with its name, and one attempt of a stage."""
    name = draw(st.from_regex(r"[a-z]([-a-z0-9]{0,38}[a-z0-9])?", fullmatch=True))
    stage = draw(st.sampled_from(list(Stage)))
    resources = {
        "nodes": draw(st.sampled_from([1, 2, 11, 101, 512]) | st.integers(1, 512)),
        "gpusPerNode": draw(st.integers(0, 64)),
        "cpu": draw(_quantity),
        "memory": draw(_quantity),
    }
    if stage is Stage.DISTILL:
        resources |= {"nodes": 1, "gpusPerNode": 0}
    resources = {key: value for key, value in resources.items() if value is not None}
    processes = resources["nodes"] * max(1, resources["gpusPerNode"])
    section = {
        Stage.DISTILL: {
            "dataset": DATASET,
            "teacher": {"baseUrl": "https://host/v1", "model": "m"},
        },
        Stage.SFT: {"dataset": DATASET, "batchSize": processes},
        Stage.GRPO: {
            "dataset": DATASET,
            "groupSize": 2,
            "promptsPerStep": processes,
            "updatesPerStep": 1,
            "microBatchSize": 2,
        },
        Stage.EVALUATION: {"benchmarks": [{"dataset": DATASET}]},
    }[stage]
    spec = {
        "model": {"name": draw(st.text(min_size=1, max_size=20))},
        "storage": {"claimName": "runs", "subPath": draw(st.sampled_from(["", "a/b"]))},
        "conversation": {"system": draw(st.text(max_size=200))},
        stage.value: section | {"resources": resources},
        "podTemplate": draw(_pod_template()),
        "scheduling": draw(st.sampled_from([{}, {"queueName": "q", "priorityClass": "p"}])),
    }
    document = {
        "apiVersion": "coldstart.dev/v1alpha1",
        "kind": "ReasoningRun",
        "metadata": {"name": name, "uid": str(draw(st.uuids())), "namespace": "ml"},
        "spec": spec,
    }
    run = ReasoningRun.parse(json.loads(json.dumps(document)))
    return run, stage, draw(st.integers(1, 12) | st.integers(1, 10**6))
