"""`coldstart study` in a cluster: the operator's jobs are processes of the stand-in trainer."""

import json
import os
from pathlib import Path

import command_world
import pytest
import yaml
from apiserver.faults import Fault
from apiserver.processes import Processes, mapped
from command_world import call

from coldstart.study.plan import LABEL

w = command_world.w
place = command_world.place
pytestmark = pytest.mark.usefixtures("place")

TESTS = Path(__file__).parents[1]
HEAD = {"apiVersion": "coldstart.dev/v1alpha1"}
SPEC = {
    "model": {"name": "m"},
    "storage": {"claimName": "runs"},
    "sft": {"dataset": {"name": "d"}},
    "grpo": {"dataset": {"name": "d"}},
    "evaluation": {
        "benchmarks": [{"name": "t", "dataset": {"name": "d"}}],
        "checkpoints": ["grpo"],
    },
    "retry": {"limit": 0},
}
IN_CLUSTER = ("--namespace", "default")


def write_run(**changes):
    """The run's file."""
    run = {"kind": "ReasoningRun", "metadata": {"name": "r"}, "spec": SPEC | changes}
    Path("run.yaml").write_text(yaml.safe_dump(HEAD | run))


def write(name, matrix, **changes):
    """A study's file and its run's; and, in its storage, what the stand-in is told."""
    write_run(**changes)
    study = {"kind": "Study", "metadata": {"name": name}}
    study["spec"] = {"run": "run.yaml", "matrix": matrix}
    Path("study.yaml").write_text(yaml.safe_dump(HEAD | study))
    storage = Path("claim").absolute()
    storage.mkdir()
    (storage / "script.json").write_text("{}")
    return storage


def runner(storage):
    path = [str(TESTS / "stand_in_trainer"), str(TESTS), os.environ.get("PYTHONPATH", "")]
    environ = os.environ | {"PYTHONPATH": os.pathsep.join(path)}
    return Processes(mapped(storage), environ)


def test_a_study_in_a_cluster_ends_in_the_same_table(w):
    storage = write("far", {"stages": ["sft", "sft+grpo"]})
    w.controllers.kubelet.runner = runner(storage)
    w.controllers.script = lambda _: None
    with w.operator():
        text = call("study", "study.yaml", *IN_CLUSTER)
    runs = w.server.list("reasoningruns", labels=f"{LABEL}=far")
    names = {run["metadata"]["name"] for run in runs}
    assert len(names) == 2
    for name in names:
        assert f"{name}: created" in text
    rows = {row["arm"]: row for row in json.loads(Path("runs/far.json").read_text())["rows"]}
    (there,) = storage.glob("far-grpo-*/evaluation/grpo/t/results.json")
    both = rows["sft+grpo"]["measures"][0]
    assert both["accuracy"] == json.loads(there.read_text())["accuracy"]
    (pair,) = json.loads(Path("runs/far.json").read_text())["pairs"]
    assert pair["p"] < 0.05
    made = len(w.created())
    text = call("study", "study.yaml", *IN_CLUSTER)
    assert (text.count("is there already"), len(w.created())) == (2, made)
    assert "fetches" not in text


def test_what_starts_from_a_failed_stage_is_not_waited_for(w):
    rates = {"wild": {"sft": {"learningRate": 1.0}}}
    storage = write("odd", {"variants": {"rate": rates}})
    w.controllers.kubelet.runner = runner(storage)
    w.controllers.script = lambda _: None
    with w.operator():
        text = call("study", "study.yaml", *IN_CLUSTER, code=1)
    assert "sft+grpo, rate=wild: waits for odd-sft-" in text
    assert "row 7 is torn" in text


def test_a_run_that_the_operator_refuses_is_not_waited_for(w):
    volume = {"name": "host", "hostPath": {"path": "/"}}
    write("wrong", {"stages": ["sft"]}, podTemplate={"volumes": [volume]})
    with w.operator():
        text = call("study", "study.yaml", *IN_CLUSTER, code=1)
    assert "sft: is not accepted: spec.podTemplate.volumes[0]" in text


def test_runs_are_created_and_not_waited_for(w):
    write("begun", {})
    text = call("study", "study.yaml", *IN_CLUSTER, "--no-wait")
    assert text.count(": created") == 2
    assert "waits for the runs and shows the table" in text
    assert not Path("runs").exists()
    write_run(evaluation=SPEC["evaluation"] | {"batchSize": 3})
    text = call("study", "study.yaml", *IN_CLUSTER, "--no-wait", code=2)
    assert "is there and is scored otherwise (spec.evaluation)" in text


def test_what_a_cluster_refuses_is_a_sentence(w):
    write("refused", {}, storage={})
    text = call("study", "study.yaml", *IN_CLUSTER, code=2)
    assert text == "spec.storage.claimName: is required on a cluster: set it in the run's file\n"
    write_run()
    w.server.faults.add(Fault("create", "reasoningruns", status=403, message="may not"))
    assert "you have no right to this: may not" in call("study", "study.yaml", *IN_CLUSTER, code=2)
    assert "--no-wait: is for runs in a cluster" in call("study", "study.yaml", "--no-wait", code=2)
