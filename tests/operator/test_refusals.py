"""What keeps a run from going on, said in its status, and healed when it goes away."""

import time

import pytest
import yaml
from apiserver.crds import pytorchjobs, reasoningruns
from apiserver.faults import answer
from apiserver.scripts import (
    FOREVER,
    Behaviour,
    scripted,
)
from operating import MANIFEST, SFT_ONLY, condition, holds, run_starts, spec, stage, world

NO_STAGES = {"sft": None, **SFT_ONLY}


@pytest.mark.fault(10)
def test_a_name_that_is_taken_fails_the_run_and_nothing_is_deleted(tmp_path):
    with world(tmp_path) as w:
        taken = {
            "metadata": {"name": "r-sft-1"},
            "spec": {"pytorchReplicaSpecs": {}, "runPolicy": {"suspend": True}},
        }
        uid = w.server.create("pytorchjobs", taken)["metadata"]["uid"]
        with w.operator():
            w.apply()
            run = w.end()
            assert condition(run, "Failed")["reason"] == "NameConflict"
            assert "r-sft-1" in run["status"]["message"]
            assert w.server.get("pytorchjobs", "r-sft-1")["metadata"]["uid"] == uid
            assert w.server.requests.of("delete") == []
            assert w.has_events("NameConflict")


REFUSALS = {
    "quota": (403, "exceeded quota: gpus, requested: 4, limited: 2", "QuotaExceeded"),
    "RBAC": (403, "pytorchjobs.kubeflow.org is forbidden: User cannot create", "Forbidden"),
    "webhook": (422, "admission webhook denied the request: bad", "Rejected"),
}


@pytest.mark.fault(11)
@pytest.mark.parametrize("name", REFUSALS)
def test_a_refused_job_is_explained_and_created_when_it_may_be(tmp_path, name):
    code, message, reason = REFUSALS[name]
    with world(tmp_path) as w, w.operator():
        fault = w.server.faults.add(
            answer("create", "pytorchjobs", code, message=message, times=None)
        )
        w.apply(**SFT_ONLY)
        run = w.until(lambda run: (condition(run, "Queued") or {}).get("reason") == reason)
        assert message in run["status"]["message"]
        assert holds(run, "Queued")
        time.sleep(1.5)
        assert fault.hits < 12  # waits double
        before = len(w.writes())
        time.sleep(0.7)
        assert len(w.writes()) == before  # what has been said is not said again
        w.server.faults.clear()
        run = w.end()
        assert holds(run, "Succeeded")
        assert stage(run, "sft")["attempt"] == 1
        assert condition(run, "Queued")["status"] == "False"


@pytest.mark.fault(13)
def test_a_backend_that_is_not_served_is_waited_for(tmp_path):
    with world(tmp_path, pytorch=False) as w, w.operator():
        w.apply(**SFT_ONLY, backend="PyTorchJob")
        run = w.until(
            lambda run: (condition(run, "Queued") or {}).get("reason") == "BackendUnavailable"
        )
        assert "PyTorchJob" in run["status"]["message"]
        assert run["status"].get("backend") is None
        w.server.create("customresourcedefinitions", pytorchjobs())
        assert holds(w.end(), "Succeeded")


@pytest.mark.fault(13)
def test_a_backend_that_is_taken_away_is_waited_for(tmp_path):
    with world(tmp_path, scripted({("sft", 1): FOREVER})) as w, w.operator(resync=0.5):
        w.apply(grpo=None, evaluation=None)
        w.until(run_starts)
        w.server.delete("customresourcedefinitions", "pytorchjobs.kubeflow.org")
        run = w.until(
            lambda run: (condition(run, "Queued") or {}).get("reason") == "BackendUnavailable"
        )
        assert "PyTorchJob" in run["status"]["message"]
        w.server.create("customresourcedefinitions", pytorchjobs())
        assert holds(w.end(), "Succeeded")


INVALID = {
    "misspelt": ({"sft": {"dataset": {"name": "d"}, "epoch": 3}}, "spec.sft.epoch"),
    "no stage": (NO_STAGES, "has no stage"),
    "no claim": ({"storage": {}}, "spec.storage.claimName"),
    "range": ({"sft": {"dataset": {"name": "d"}, "epochs": -1}}, "spec.sft.epochs"),
}


@pytest.mark.parametrize("name", INVALID)
def test_a_spec_that_cannot_work_is_refused_until_it_is_corrected(tmp_path, name):
    changes, message = INVALID[name]
    with world(tmp_path, crd=False) as w:
        w.server.create("customresourcedefinitions", reasoningruns())
        with w.operator():
            w.apply(**changes)
            run = w.until(lambda run: condition(run, "Accepted"))
            accepted = condition(run, "Accepted")
            assert (accepted["status"], accepted["reason"]) == ("False", "InvalidSpec")
            assert message in accepted["message"]
            assert len(run["status"]["conditions"]) == 6
            assert w.jobs() == []
            assert w.has_events("InvalidSpec")
            assert w.quiet() == []
            whole = spec(**SFT_ONLY)
            gone = {key: None for key in run["spec"] if key not in whole}
            sft = {**whole["sft"], "epoch": None, "epochs": None}
            w.server.patch("reasoningruns", "r", {"spec": {**whole, **gone, "sft": sft}})
            run = w.end()
            assert holds(run, "Succeeded")
            assert holds(run, "Accepted")


def test_a_pod_that_cannot_be_is_an_invalid_spec(tmp_path):
    env = [{"name": "COLDSTART_ORDER", "value": "mine"}]
    with world(tmp_path) as w, w.operator():
        w.apply(podTemplate={"env": env})
        run = w.until(lambda run: condition(run, "Accepted"))
        assert condition(run, "Accepted")["reason"] == "InvalidSpec"
        assert "spec.podTemplate.env" in condition(run, "Accepted")["message"]
        assert w.jobs() == []


WAITS = {
    "image": (Behaviour(waiting=("ImagePullBackOff", "no such image")), "no such image"),
    "GPU": (
        Behaviour(unschedulable="0/3 nodes are available: 3 Insufficient nvidia.com/gpu."),
        "Insufficient nvidia.com/gpu",
    ),
    "quota": (Behaviour(refused="pods is forbidden: exceeded quota: gpus"), "exceeded quota"),
    "PodSecurity": (
        Behaviour(refused='pods is forbidden: violates PodSecurity "restricted:latest"'),
        "violates PodSecurity",
    ),
}


@pytest.mark.fault(11, 26)
@pytest.mark.parametrize("name", WAITS)
def test_a_waiting_run_says_what_for(tmp_path, name):
    behaviour, message = WAITS[name]
    with world(tmp_path, scripted({("sft", 1): behaviour})) as w, w.operator():
        w.apply(**SFT_ONLY)
        run = w.until(lambda run: message in ((run or {}).get("status") or {}).get("message", ""))
        assert holds(run, "Queued")
        assert message in condition(run, "Queued")["message"]


def test_a_status_that_was_changed_by_hand_is_refused_and_kept(tmp_path):
    with world(tmp_path, crd=False) as w:
        w.server.create("customresourcedefinitions", reasoningruns())
        w.apply(**SFT_ONLY)
        w.server.set_status("reasoningruns", "r", {"stages": [{"name": "sft", "state": "Dancing"}]})
        with w.operator():
            run = w.until(lambda run: condition(run, "Accepted"))
            assert condition(run, "Accepted")["reason"] == "StatusUnreadable"
            assert run["status"]["stages"] == [{"name": "sft", "state": "Dancing"}]
            assert w.jobs() == []


@pytest.mark.fault(41)
def test_a_status_of_another_version_is_read_as_far_as_it_is_known(tmp_path):
    with world(tmp_path, crd=False) as w:
        w.server.create("customresourcedefinitions", reasoningruns())
        w.apply(grpo={"dataset": {"name": "d"}}, evaluation=None)
        done = {
            "name": "sft",
            "state": "Succeeded",
            "attempt": 1,
            "novelty": 1,
            "checkpoint": {"location": "r/sft/final", "digest": "sha256:" + "1" * 64, "step": 1},
        }
        w.server.set_status("reasoningruns", "r", {"stages": [done], "future": {"a": 1}})
        with w.operator():
            run = w.end()
            assert holds(run, "Succeeded")
            assert w.created() == ["r-grpo-1"]


def allowed(path):
    """What a role allows, as the server asks for it."""
    documents = yaml.safe_load_all(path.read_text())
    role = next(item for item in documents if item and item["kind"] == "ClusterRole")
    rights = {
        (group, resource, verb)
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }

    def authorize(request):
        if request.resource.startswith("/"):
            return None  # discovery is everybody's
        asked = (request.group, request.target, request.verb)
        return None if asked in rights else f"{asked} is not allowed"

    return authorize


def test_no_request_is_outside_the_role_of_the_manifest(tmp_path):
    with world(tmp_path, scripted({("sft", 1): Behaviour(running=None, pending=0.3)})) as w:
        w.server.authorize = allowed(MANIFEST.parent / "operator.yaml")
        with w.operator():
            several = {"dataset": {"name": "d"}, "resources": {"nodes": 2}}
            w.apply("job", backend="Job", sft=several, ttlSecondsAfterFinished=1)
            w.until(run_starts, "job")
            w.server.patch("reasoningruns", "job", {"spec": {"suspend": True}})
            w.until(lambda run: holds(run, "Suspended"), "job")
            w.server.patch("reasoningruns", "job", {"spec": {"suspend": False}})
            w.apply()
            w.until(run_starts)
            w.controllers.finish("r-sft-1")
            assert holds(w.end(), "Succeeded")
            assert holds(w.end("job"), "Succeeded")
            w.server.wait("reasoningruns", "job", lambda run: run is None)
        refused = [item for item in w.server.requests if item.status == 403]
        assert refused == []
