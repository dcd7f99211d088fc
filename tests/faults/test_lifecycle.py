"""Faults 46 to 52: runs that are deleted, operators that are replaced, and kubectl."""

import time

import pytest
import yaml
from apiserver.scripts import FOREVER, KILLED, Behaviour, scripted
from earlier import lacking
from faults.proxied import faulty
from faults.verdicts import no_rule_was_broken, well_ended
from kubectl import Kubectl
from operating import MANIFEST, SFT_ONLY, ended, holds, run_starts, stage

CRD = yaml.safe_load(MANIFEST.read_text())
GANG = {"dataset": {"name": "d"}, "resources": {"nodes": 2}}

PHASES = {
    "starting": (Behaviour(pending=None), lambda run: stage(run, "sft").get("state") == "Starting"),
    "running": (Behaviour(running=None, shutdown=0.3), run_starts),
    "backoff": (KILLED, lambda run: stage(run, "sft").get("state") == "Backoff"),
    "suspended": (FOREVER, lambda run: holds(run, "Suspended")),
    "ended": (Behaviour(), ended),
}


@pytest.mark.fault(46, 22)
@pytest.mark.parametrize("backend", ["PyTorchJob", "Job"])
@pytest.mark.parametrize("propagation", ["Background", "Foreground"])
@pytest.mark.parametrize("looks", [True, False], ids=["looking on", "uninstalled"])
@pytest.mark.parametrize("phase", PHASES)
def test_a_run_that_is_deleted_leaves_nothing(tmp_path, phase, looks, propagation, backend):
    first, reached = PHASES[phase]

    def delete():
        assert not w.run()["metadata"].get("finalizers")
        w.server.delete("reasoningruns", "r", propagation=propagation, grace=None)
        w.server.wait("reasoningruns", "r", lambda run: run is None, seconds=30)
        for kind in ("pytorchjobs", "jobs", "pods", "services"):
            end = time.monotonic() + 30
            while w.server.list(kind):
                assert time.monotonic() < end, w.server.list(kind)
                time.sleep(0.02)

    with faulty(tmp_path, scripted({("sft", 1): first})) as w:
        with w.operator():
            w.watched("reasoningruns")
            slow = {"limit": 2, "backoffSeconds": 3600}
            w.apply(**{**SFT_ONLY, "sft": GANG, "backend": backend, "retry": slow})
            if phase == "suspended":
                w.until(run_starts)
                w.server.patch("reasoningruns", "r", {"spec": {"suspend": True}})
            w.until(reached, seconds=30)
            if looks:
                delete()
        if not looks:
            delete()
        with w.operator():
            w.watched("reasoningruns")
            assert w.quiet() == []
        assert len(w.created("pytorchjobs") + w.created("jobs")) <= 1
        no_rule_was_broken(w)


def earlier():
    """The definition of a version that lacked some fields and rules, and knew one more."""
    crd = lacking("progress", of_stages=("child", "gpuSeconds", "wastedGpuSeconds", "gates"))
    schema = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    status = schema["properties"]["status"]["properties"]
    status["stages"]["items"]["properties"]["novelty"] = {"type": "string"}
    return crd


@pytest.mark.fault(48)
@pytest.mark.parametrize("crd_first", [True, False], ids=["definition first", "operator first"])
@pytest.mark.parametrize("state", ["Starting", "Running"])
def test_another_version_takes_over_in_the_middle_of_grpo(tmp_path, state, crd_first):
    first = Behaviour(pending=None) if state == "Starting" else FOREVER
    with faulty(tmp_path, scripted({("grpo", 1): first}), crd=False) as w:
        w.server.create("customresourcedefinitions", earlier())
        with w.operator(image="trainer:1"):
            w.apply()
            w.until(lambda run: stage(run, "grpo").get("state") == state)
            w.server.wait("pytorchjobs", "r-grpo-1", lambda job: job is not None)
            time.sleep(0.5)
        status = w.run()["status"]
        for entry in status["stages"]:
            entry["novelty"] = "of the version before"
        w.server.set_status("reasoningruns", "r", status)
        before = w.server.get("pytorchjobs", "r-grpo-1")

        def upgrade():
            versions = {"spec": {"versions": CRD["spec"]["versions"]}}
            w.server.patch("customresourcedefinitions", CRD["metadata"]["name"], versions)

        if crd_first:
            upgrade()
        with w.operator(image="trainer:2"):
            w.watched("reasoningruns", "pytorchjobs")
            if not crd_first:
                time.sleep(0.5)
                upgrade()
            assert w.server.get("pytorchjobs", "r-grpo-1")["spec"] == before["spec"]
            w.controllers.script = scripted({})
            w.controllers.finish("r-grpo-1")
            well_ended(w)
        assert w.created() == ["r-sft-1", "r-grpo-1", "r-evaluation-1"]
        assert "trainer:1" in yaml.safe_dump(before)
        assert "trainer:2" in yaml.safe_dump(w.server.get("pytorchjobs", "r-evaluation-1"))


CONDITIONS = {
    "Accepted": (FOREVER, {}),
    "Queued": (Behaviour(unschedulable="0/3 nodes are available"), {}),
    "Running": (FOREVER, {}),
    "Suspended": (FOREVER, {"suspend": True}),
    "Succeeded": (Behaviour(), {}),
    "Failed": (KILLED, {"retry": {"limit": 0}}),
}


@pytest.mark.fault(52)
@pytest.mark.parametrize("type_", CONDITIONS)
def test_each_condition_can_be_waited_for(tmp_path, type_):
    first, changes = CONDITIONS[type_]
    with faulty(tmp_path, scripted({}, first)) as w, w.operator():
        kubectl = Kubectl(w.server, tmp_path)
        w.watched("reasoningruns")
        # It is waited for before the operator has written anything.
        w.apply(**{**SFT_ONLY, **changes})
        wanted = f"--for=condition={type_}"
        assert "condition met" in kubectl("wait", wanted, "--timeout=50s", "rrun/r")
        others = {"Succeeded": "Failed", "Failed": "Succeeded"}.get(type_, "Succeeded")
        kubectl("wait", f"--for=condition={others}", "--timeout=1s", "rrun/r", code=1)
