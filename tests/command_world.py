"""Runs in an API server, in any state, and the commands that look at them, for tests.

`w` and `place` are fixtures: a test module takes them over by assignment.
"""

import time
from datetime import UTC, datetime

import pytest
from apiserver.scripts import scripted
from click.testing import CliRunner
from operating import world

from coldstart.children.reader import READS
from coldstart.cli import main
from coldstart.status import RunStatus

NOW = datetime(2026, 9, 14, 10, 2, tzinfo=UTC)
SCORES = {
    "accuracy_base": 0.025,
    "accuracy_low_base": 0.004,
    "accuracy_high_base": 0.129,
    "responses_base": 40.0,
    "accuracy_grpo": 0.825,
    "accuracy_low_grpo": 0.68,
    "accuracy_high_grpo": 0.913,
    "responses_grpo": 40.0,
    "accuracy_sft": 0.4,
    "boxed_share_base": 0.5,
    "mean_tokens_base": 17.25,
}


@pytest.fixture(scope="module")
def w(tmp_path_factory):
    with world(tmp_path_factory.mktemp("world")) as found:
        yield found


@pytest.fixture
def place(w, tmp_path, monkeypatch):
    """A directory without runs, a wide terminal, and a kubeconfig that leads to the server."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("KUBECONFIG", str(w.server.kubeconfig(tmp_path / "kubeconfig")))
    yield
    w.server.faults.clear()
    w.server.authorize = None
    w.controllers.script = scripted({})
    w.controllers.kubelet.runner = None


def call(*arguments, code=0, command=main):
    """What a command prints, both streams; it has to end with that code."""
    result = CliRunner().invoke(command, [str(one) for one in arguments])
    assert result.exit_code == code, (result.exit_code, result.output, result.exception)
    return result.output


def stage(name, state="Succeeded", attempt=1, **more):
    """A stage's status."""
    return {"name": name, "state": state, "attempt": attempt, **more}


def put(w, name, *stages, holds="", changes=None, **more):
    """A run with a status, as an operator would leave it."""
    made = w.apply(name, **(changes or {}))
    conditions = [
        {"type": type_, "status": "True", "reason": "R", "lastTransitionTime": NOW}
        for type_ in ("Accepted", *filter(None, [holds]))
    ]
    told = {"observedGeneration": 1, "message": f"{name} is as it is", **more}
    status = RunStatus.parse(told | {"stages": stages, "conditions": conditions})
    w.server.set_status("reasoningruns", name, status.document())
    return made


def evaluated(w, name, **changes):
    """A run that has been evaluated."""
    done = stage("evaluation", metrics=SCORES, child=f"{name}-evaluation-1")
    stages = (stage("sft"), stage("grpo"), done)
    return put(w, name, *stages, holds="Succeeded", phase="Succeeded", changes=changes)


def pod(w, run, stage="sft", attempt=1, index=None, kind="worker"):
    """A pod of an attempt, as its job's controller makes it."""
    labels = {"run": run["metadata"]["name"], "run-uid": run["metadata"]["uid"]}
    labels |= {"stage": stage, "attempt": str(attempt)}
    labels = {f"coldstart.dev/{key}": value for key, value in labels.items()}
    if index is not None:
        training = "training.kubeflow.org/replica-"
        labels |= {f"{training}type": kind, f"{training}index": str(index)}
    name = f"{run['metadata']['name']}-{stage}-{attempt}-{kind}-{index or 0}"
    metadata = {"name": name, "labels": labels}
    body = {"metadata": metadata, "spec": {"containers": [{"name": "pytorch", "image": "i"}]}}
    w.server.create("pods", body)
    return name


def no_reader(w, name):
    """Whether the pods that read for a run are gone; the server deletes in its own time."""
    until(lambda: not w.server.list("pods", labels=f"{READS}={name}"))
    return True


def until(test, seconds=20.0):
    end = time.monotonic() + seconds
    while not test():
        assert time.monotonic() < end
        time.sleep(0.01)


def ends(w, name):
    """End a pod."""
    w.server.patch("pods", name, {"status": {"phase": "Succeeded"}}, subresource="status")
