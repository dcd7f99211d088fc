"""The recipes in examples/: valid, estimated to fit, rendered as clusters take them; never run."""

import socket
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from kube_schema import VERSIONS, as_pod, check, unknown_fields
from pod_security import violations

from coldstart.cli import main
from coldstart.memory import forecast
from coldstart.memory.quantity import parsed
from coldstart.preset import resolve
from coldstart.run import ReasoningRun
from coldstart.runfile import load
from coldstart.spec import Stage

EXAMPLES = Path(__file__).parents[2] / "examples"
RECIPES = {"paper-3b": (1, 8), "paper-7b": (1, 8), "beyond-paper-32b": (2, 16)}
"""Each with the nodes and processes of its GRPO."""
STAGES = (Stage.SFT, Stage.GRPO, Stage.EVALUATION)


@pytest.fixture(params=RECIPES)
def recipe(request):
    return request.param


def path(recipe):
    return EXAMPLES / f"{recipe}.yaml"


def rendered(recipe):
    result = CliRunner().invoke(main, ["render", str(path(recipe))])
    assert result.exit_code == 0, result.output
    return list(yaml.safe_load_all(result.output))


def test_it_says_that_it_was_never_executed(recipe):
    head = path(recipe).read_text().split("apiVersion:")[0]
    assert "NEVER EXECUTED" in head
    assert all(line.startswith("#") for line in head.splitlines())


def test_it_is_complete(recipe):
    run = load(path(recipe))
    assert run.metadata.name == recipe
    assert run.spec.stages == STAGES
    assert run.spec.storage.claim_name
    assert len(run.spec.evaluation.benchmarks) == 4
    assert run.spec.retry.limit > 0
    grpo = run.spec.grpo
    assert (grpo.resources.nodes, grpo.resources.world_size) == RECIPES[recipe]
    for stage in STAGES:
        resources = run.spec.stage(stage).resources
        assert resources.cpu
        assert resources.memory
        assert run.spec.stage(stage).timeout_seconds


def test_it_is_valid_without_a_network(recipe, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("a connection was made")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    result = CliRunner().invoke(main, ["validate", str(path(recipe))])
    assert result.exit_code == 0, result.output
    assert result.output.count("fits GPUs of 80.0 GiB") == len(STAGES)


def test_its_nodes_are_asked_for_the_memory_that_they_need(recipe):
    memory = forecast(load(path(recipe)).spec, EXAMPLES)
    assert memory.refusals == []
    for stage in memory.stages.values():
        assert parsed(stage.spec.resources.memory) >= stage.host


@pytest.mark.parametrize("version", VERSIONS)
def test_it_is_rendered_as_jobs_that_kubernetes_and_kubeflow_know(recipe, version):
    jobs = rendered(recipe)
    assert [job["metadata"]["name"] for job in jobs] == [
        f"{recipe}-{stage.value}-1" for stage in STAGES
    ]
    for job in jobs:
        assert job["kind"] == "PyTorchJob"
        assert unknown_fields(job) == []
        for replica in job["spec"]["pytorchReplicaSpecs"].values():
            check(as_pod(replica["template"]), version)
            assert violations(replica["template"]) == []


def test_the_jobs_have_the_recipes_nodes_and_gpus(recipe):
    run = load(path(recipe))
    for job, stage in zip(rendered(recipe), STAGES, strict=True):
        replicas = job["spec"]["pytorchReplicaSpecs"]
        resources = run.spec.stage(stage).resources
        assert sum(replica["replicas"] for replica in replicas.values()) == resources.nodes
        (container,) = replicas["Master"]["template"]["spec"]["containers"]
        assert container["resources"] == {
            "requests": {"cpu": resources.cpu, "memory": resources.memory},
            "limits": {"nvidia.com/gpu": str(resources.gpus_per_node)},
        }


def test_32b_needs_what_its_recipe_changes():
    document = yaml.safe_load(path("beyond-paper-32b").read_text())
    del document["spec"]["sft"]["parallelism"]
    changed = ReasoningRun.parse(resolve(document))
    (refusal,) = forecast(changed.spec, EXAMPLES).refusals
    assert refusal.startswith("spec.sft.resources.gpuMemory: a GPU of 80.0 GiB cannot hold")
