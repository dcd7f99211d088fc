"""Every pod that this project makes, or tells people to make, as the API server would be asked."""

from collections.abc import Iterator
from pathlib import Path

import yaml
from charting import of_kind, rendered
from child_objects import DATASET, IMAGE, STORAGE, order_of

from coldstart import preset
from coldstart.children.backend import BACKENDS
from coldstart.children.reader import reader_pod
from coldstart.run import ReasoningRun

EXAMPLES = Path(__file__).parent.parent / "examples"
TEACHER = {"baseUrl": "https://teacher.example/v1", "model": "t", "apiKeyEnv": "KEY"}


def every_pod() -> Iterator[tuple[str, dict]]:
    """Each pod with what makes it."""
    (deployment,) = of_kind(rendered(), "Deployment")
    yield "chart", _pod(deployment["spec"]["template"])
    for path in sorted(EXAMPLES.rglob("*.yaml")):
        for item in yaml.safe_load_all(path.read_text()):
            if item.get("kind") in ("Pod", "Job"):
                template = item if item["kind"] == "Pod" else item["spec"]["template"]
                yield f"{path.parent.name}/{path.name}", _pod(template)
            if item.get("kind") == "ReasoningRun":
                yield from _of_run(item["metadata"]["name"], item)
    for name in preset.names():
        sections = {stage: {} for stage in ("sft", "grpo", "evaluation")}
        yield from _of_run(name, _run({"preset": name, **sections}))
    distill = {"dataset": DATASET, "teacher": TEACHER}
    yield from _of_run("distill", _run({"model": {"name": "m"}, "distill": distill}))


def _run(spec: dict) -> dict:
    return {
        "apiVersion": "coldstart.dev/v1alpha1",
        "kind": "ReasoningRun",
        "metadata": {"name": "r"},
        "spec": spec,
    }


def _of_run(name: str, document: dict) -> Iterator[tuple[str, dict]]:
    """The pods of every stage of a run, by every kind of job, and that which reads its report."""
    document["metadata"] |= {"namespace": "ml", "uid": "u"}
    document["spec"]["storage"] = document["spec"].get("storage", STORAGE)
    run = ReasoningRun.parse(preset.resolve(document))
    for stage in run.spec.stages:
        for kind in BACKENDS:
            job = kind.manifests(run, order_of(run, stage), IMAGE)[-1]["spec"]
            replicas = job.get("pytorchReplicaSpecs", {"": job})
            for role, spec in replicas.items():
                yield f"{name} {stage.value} {kind.name} {role}", _pod(spec["template"])
    yield f"{name} report", _pod(reader_pod(run, "report.html", name="p", image=IMAGE, seconds=60))


def _pod(template: dict) -> dict:
    metadata = {"labels": template.get("metadata", {}).get("labels", {}), "name": "p"}
    spec = {**template["spec"], "restartPolicy": "Never"}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}
