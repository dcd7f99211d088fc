"""`coldstart report` of a run in a cluster: what the status tells, and the page by way of a pod."""

import json
import re
import signal
import subprocess
import sys

import command_world
import pytest
from apiserver.faults import Fault
from apiserver.processes import Processes, mapped
from apiserver.scripts import Behaviour
from command_world import call, evaluated, no_reader, put, stage, until
from kube_schema import check
from pod_security import violations

from coldstart import parcel
from coldstart.children.reader import READS

w = command_world.w
place = command_world.place
pytestmark = pytest.mark.usefixtures("place")

PAGE = b"<!doctype html><title>a report</title>"


def test_the_report_is_fetched_by_a_pod_that_is_gone_afterwards(w, tmp_path):
    storage = {"claimName": "runs", "subPath": "ours"}
    more = {"image": "registry/mine:1", "podTemplate": {"nodeSelector": {"zone": "a"}}}
    evaluated(w, "done", storage=storage, **more)
    (tmp_path / "ours" / "done").mkdir(parents=True)
    (tmp_path / "ours" / "done" / "report.html").write_bytes(PAGE)
    w.controllers.script = lambda _: None
    w.controllers.kubelet.runner = Processes(mapped(tmp_path))
    text = call("report", "done")
    assert re.search(r"Base +2.5 % +0.4.12.9 +40 +50 % +17.2", text)
    assert re.search(r"SFT \+ GRPO|GRPO +82.5 % +68.0.91.3 +40", text)
    assert "report: done-report.html" in text
    assert (tmp_path / "done-report.html").read_bytes() == PAGE
    assert no_reader(w, "done")
    made = next(r.body for r in w.server.requests.of("create", "pods") if READS in str(r.body))
    check(made)
    assert violations(made) == []
    assert made["spec"]["containers"][0]["image"] == "registry/mine:1"
    assert made["spec"]["nodeSelector"] == {"zone": "a"}
    assert made["spec"]["containers"][0]["volumeMounts"] == [
        {"name": "storage", "mountPath": "/storage", "subPath": "ours", "readOnly": True}
    ]
    assert not [key for key in made["metadata"]["labels"] if key == "coldstart.dev/run"]
    assert "$(" not in json.dumps(made["spec"]["containers"])


def test_the_report_has_the_shape_that_it_has_on_one_machine(w):
    evaluated(w, "shape")
    found = json.loads(call("report", "shape", "--json"))
    assert found == {
        "checkpoints": {
            "base": {"accuracy": 0.025, "low": 0.004, "high": 0.129, "n": 40},
            "grpo": {"accuracy": 0.825, "low": 0.68, "high": 0.913, "n": 40},
        }
    }
    assert not w.server.list("pods", labels=f"{READS}=shape")
    put(w, "early", stage("sft", "Running"))
    assert json.loads(call("report", "early", "--json")) == {"checkpoints": {}}
    assert "is written at the end of the evaluation, which is Waiting" in call("report", "early")


def test_the_page_is_read_with_the_image_of_the_jobs(w):
    evaluated(w, "imaged")
    template = {"spec": {"containers": [{"name": "pytorch", "image": "registry/operators:2"}]}}
    job = {
        "apiVersion": "kubeflow.org/v1",
        "kind": "PyTorchJob",
        "metadata": {"name": "imaged-evaluation-1"},
        "spec": {"pytorchReplicaSpecs": {"Master": {"replicas": 1, "template": template}}},
    }
    w.controllers.script = lambda _: Behaviour(log=parcel.packed(PAGE), message=None)
    w.server.create("pytorchjobs", job)
    status = w.run("imaged")["status"] | {"backend": "PyTorchJob"}
    w.server.set_status("reasoningruns", "imaged", status)
    call("report", "imaged", "--output", "here.html")
    made = [r.body for r in w.server.requests.of("create", "pods") if READS in str(r.body)]
    assert made[-1]["spec"]["containers"][0]["image"] == "registry/operators:2"


WHOLE = parcel.packed(PAGE * 1000)
REFUSAL = parcel.REFUSAL.format(reason="/storage/r/report.html: No such file or directory")
PULL = ("ImagePullBackOff", 'Back-off pulling image "x"')


@pytest.mark.parametrize(
    ("behaviour", "message"),
    [
        (Behaviour(waiting=PULL), "image pull: pod "),
        (Behaviour(log=REFUSAL, exit_code=1, message=None), "No such file or directory"),
        (Behaviour(log="sh: python: not found\n", exit_code=127, message=None), "python: not"),
        (Behaviour(log=WHOLE[: len(WHOLE) // 2], message=None), "the log was cut short"),
        (Behaviour(log=WHOLE.replace("\nH4sI", "\nI4sH"), message=None), "the log is damaged"),
        (Behaviour(exit_code=137, message=None, reason="Evicted"), "has failed: Evicted"),
        (Behaviour(unschedulable="0/3 nodes are available"), "has not ended in 1 s: no node fits"),
    ],
)
def test_a_page_that_cannot_be_had_is_a_sentence_below_the_table(w, behaviour, message):
    name = f"lost-{abs(hash(message)) % 10**8}"
    evaluated(w, name)
    w.controllers.script = lambda _: behaviour
    text = call("report", name, "--timeout", "1" if "1 s" in message else "30", code=1)
    assert "82.5 %" in text
    *_, last = [line for line in text.splitlines() if line.strip()]
    assert last.startswith("report: ")
    assert message in last
    assert no_reader(w, name)


def test_without_the_right_to_create_pods_the_table_is_shown(w):
    evaluated(w, "shut")
    refusal = "User cannot create resource pods"
    w.server.authorize = lambda request: refusal if request.verb == "create" else None
    text = call("report", "shut", code=1)
    assert "82.5 %" in text
    assert "report: a pod that reads shut/report.html cannot be created: " in text
    assert refusal in text
    assert "82.5 %" in call("report", "shut", "--table")


def test_a_pod_that_was_created_though_nobody_said_so_is_deleted(w):
    evaluated(w, "lost-answer")
    w.server.faults.add(Fault("create", "pods", drop=True, after=True))
    w.controllers.script = lambda _: Behaviour(pending=None)
    assert "cannot be created" in call("report", "lost-answer", code=1)
    assert no_reader(w, "lost-answer")


def test_a_pod_that_cannot_be_deleted_is_named(w):
    evaluated(w, "stuck")
    w.controllers.script = lambda _: Behaviour(log=parcel.packed(PAGE), message=None)
    w.server.faults.add(Fault("delete", "pods", status=403, message="may not"))
    assert "could not be deleted: may not; it ends by itself" in call("report", "stuck")


def test_a_command_that_is_told_to_end_deletes_its_pod(w):
    evaluated(w, "ended")
    w.controllers.script = lambda _: Behaviour(pending=None)
    command = [sys.executable, "-m", "coldstart", "report", "ended"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        until(lambda: w.server.list("pods", labels=f"{READS}=ended"), 60)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 143, process.stdout.read()
    finally:
        process.kill()
    assert no_reader(w, "ended")
