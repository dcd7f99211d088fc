"""The stand-in controllers do to jobs and pods what the real ones were seen to do."""

import json
import sys
import time
from contextlib import contextmanager

import pytest
from apiserver import crds
from apiserver.controllers import running_controllers
from apiserver.processes import Processes, mapped
from apiserver.scripts import (
    EVICTED,
    FOREVER,
    KILLED,
    PENDING,
    Behaviour,
    failing,
    scripted,
)
from apiserver.threaded import running_server

LABELS = {
    "coldstart.dev/run": "r",
    "coldstart.dev/stage": "sft",
    "coldstart.dev/attempt": "1",
    "coldstart.dev/run-uid": "u",
}


def template(**container):
    main = {"name": "pytorch", "image": "x", **container}
    spec = {"restartPolicy": "Never", "containers": [main], "terminationGracePeriodSeconds": 5}
    return {"metadata": {"labels": LABELS}, "spec": spec}


def pytorchjob(name="j", workers=0, policy="Never", run_policy=None, **container):
    replica = {"restartPolicy": policy, "template": template(**container)}
    replicas = {"Master": {"replicas": 1, **replica}}
    if workers:
        replicas["Worker"] = {"replicas": workers, **replica}
    spec = {"nprocPerNode": "2", "runPolicy": {"cleanPodPolicy": "Running", **(run_policy or {})}}
    spec["pytorchReplicaSpecs"] = replicas
    return {"metadata": {"name": name, "labels": LABELS}, "spec": spec}


def job(name="j", completions=1, **more):
    spec = {"completions": completions, "parallelism": completions, "backoffLimit": 0}
    spec |= {"completionMode": "Indexed", "template": template(), **more}
    return {"metadata": {"name": name, "labels": LABELS}, "spec": spec}


@contextmanager
def cluster(behaviour=None, **options):
    with running_server() as server:
        server.create("customresourcedefinitions", crds.pytorchjobs())
        script = scripted({("sft", 1): behaviour}) if behaviour else None
        with running_controllers(server, script, **options) as controllers:
            yield server, controllers


def conditions(document):
    found = (document or {}).get("status", {}).get("conditions", [])
    return [(one["type"], one["status"]) for one in found]


def ends(server, resource="pytorchjobs", name="j", *, seconds=10):
    last = {("Succeeded", "True"), ("Complete", "True"), ("Failed", "True")}
    return server.wait(resource, name, lambda one: last & set(conditions(one)), seconds=seconds)


def runs(server, name="j-master-0"):
    return server.wait("pods", name, lambda one: one and one["status"].get("phase") == "Running")


def message(server, name="j-master-0"):
    state = server.get("pods", name)["status"]["containerStatuses"][0]["state"]
    return json.loads(state["terminated"]["message"])


def test_a_job_that_succeeds_passes_through_the_real_conditions():
    with cluster() as (server, _):
        server.create("pytorchjobs", pytorchjob())
        done = ends(server)
        expected = [("Created", "True"), ("Running", "False"), ("Succeeded", "True")]
        assert conditions(done) == expected
        assert done["status"]["completionTime"]
        result = message(server)
        assert (result["run"], result["stage"]) == ({"name": "r", "uid": "u"}, "sft")
        assert result["checkpoint"]["location"] == "r/sft/final"


def test_pods_have_the_real_names_labels_and_environment():
    with cluster(FOREVER) as (server, _):
        server.create("pytorchjobs", pytorchjob(workers=2, env=[{"name": "A", "value": "b"}]))
        for name in ("j-master-0", "j-worker-0", "j-worker-1"):
            runs(server, name)
        worker = server.get("pods", "j-worker-1")
        labels = worker["metadata"]["labels"]
        assert labels["training.kubeflow.org/replica-index"] == "1"
        assert labels["coldstart.dev/run"] == "r"
        env = {one["name"]: one.get("value") for one in worker["spec"]["containers"][0]["env"]}
        assert next(iter(env)) == "A"
        assert env["PET_NNODES"] == "3"
        assert (env["RANK"], env["WORLD_SIZE"], env["MASTER_ADDR"]) == ("2", "6", "j-master-0")
        assert worker["spec"]["initContainers"][0]["name"] == "init-pytorch"
        assert len(server.list("services", "default")) == 3
        server.delete("pytorchjobs", "j")
        server.wait("pods", "j-worker-1", lambda one: one is None)
        assert server.list("services", "default") == []


ENDINGS = {
    "exit code": (failing(2), 2, "Error"),
    "killed": (KILLED, 137, "OOMKilled"),
}


@pytest.mark.parametrize("case", ENDINGS)
@pytest.mark.parametrize("resource", ["pytorchjobs", "jobs"])
def test_failures(case, resource):
    behaviour, code, reason = ENDINGS[case]
    with cluster(behaviour) as (server, _):
        server.create(resource, pytorchjob() if resource == "pytorchjobs" else job())
        assert ("Failed", "True") in conditions(ends(server, resource))
        (pod,) = server.list("pods", "default")
        ended = pod["status"]["containerStatuses"][0]["state"]["terminated"]
        assert (ended["exitCode"], ended["reason"]) == (code, reason)
        assert "message" not in ended


def test_an_evicted_pod_has_no_container_status():
    with cluster(EVICTED) as (server, _):
        server.create("pytorchjobs", pytorchjob())
        ends(server)
        status = server.get("pods", "j-master-0")["status"]
        assert (status["phase"], status["reason"]) == ("Failed", "Evicted")
        assert "containerStatuses" not in status


def test_a_long_message_is_cut_as_a_kubelet_cuts_it():
    with cluster(Behaviour(message="x" * 4097)) as (server, _):
        server.create("pytorchjobs", pytorchjob())
        ends(server)
        state = server.get("pods", "j-master-0")["status"]["containerStatuses"][0]["state"]
        assert len(state["terminated"]["message"]) == 4096


def test_pods_that_wait_say_why():
    waiting = Behaviour(waiting=("ImagePullBackOff", "Back-off pulling image"))
    with cluster(waiting) as (server, controllers):
        server.create("pytorchjobs", pytorchjob())
        pod = server.wait(
            "pods", "j-master-0", lambda one: one and "containerStatuses" in one["status"]
        )
        state = pod["status"]["containerStatuses"][0]["state"]["waiting"]
        assert state["reason"] == "ImagePullBackOff"
        controllers.script = scripted({}, Behaviour(unschedulable="0/1 nodes are available"))
        server.create("pytorchjobs", pytorchjob("k"))
        pod = server.wait("pods", "k-master-0", lambda one: one and one["status"].get("conditions"))
        assert pod["status"]["conditions"][0]["reason"] == "Unschedulable"
        assert conditions(server.get("pytorchjobs", "k")) == [("Created", "True")]


@pytest.mark.parametrize("resource", ["pytorchjobs", "jobs"])
def test_pods_that_are_refused_leave_an_event_and_no_status(resource):
    with cluster(Behaviour(refused="exceeded quota: gpus")) as (server, controllers):
        made = server.create(resource, pytorchjob() if resource == "pytorchjobs" else job())
        fields = f"involvedObject.uid={made['metadata']['uid']}"
        end = time.monotonic() + 5
        while not (events := server.list("events", "default", fields=fields)):
            assert time.monotonic() < end
        assert "exceeded quota: gpus" in events[0]["message"]
        assert "conditions" not in server.get(resource, "j").get("status", {})
        controllers.script = scripted({})
        ends(server, resource)


def test_a_name_that_is_too_long_for_its_services_leaves_no_status():
    with cluster() as (server, _):
        name = "j" * 55
        server.create("pytorchjobs", pytorchjob(name))
        server.wait("pods", f"{name}-master-0", lambda one: one)
        time.sleep(0.1)
        assert conditions(server.get("pytorchjobs", name)) == []
        reasons = {one["reason"] for one in server.list("events", "default")}
        assert reasons == {"FailedCreateService"}


def test_a_service_that_is_in_the_way_is_waited_for():
    with cluster() as (server, _):
        server.create("services", {"metadata": {"name": "j-master-0"}, "spec": {}})
        server.create("pytorchjobs", pytorchjob())
        server.wait("pods", "j-master-0", lambda one: one)
        assert conditions(server.get("pytorchjobs", "j")) == []
        server.delete("services", "j-master-0")
        server.wait("pytorchjobs", "j", conditions)


def test_suspend_and_resume_leave_the_real_trap():
    with cluster(FOREVER) as (server, controllers):
        server.create("pytorchjobs", pytorchjob())
        runs(server)
        controllers.suspend("j")
        suspended = ("Suspended", "True")
        server.wait("pytorchjobs", "j", lambda one: conditions(one)[-1] == suspended)
        server.wait("pods", "j-master-0", lambda one: one is None)
        controllers.script = scripted({}, PENDING)
        controllers.resume("j")
        server.wait("pods", "j-master-0", lambda one: one)
        resumed = server.wait("pytorchjobs", "j", lambda one: suspended not in conditions(one))
        assert conditions(resumed)[-1] == ("Suspended", "False")


def test_resuming_while_the_old_pod_terminates_fails_the_job():
    with cluster(Behaviour(running=None, shutdown=0.3)) as (server, controllers):
        server.create("pytorchjobs", pytorchjob())
        runs(server)
        controllers.suspend("j")
        server.wait("pytorchjobs", "j", lambda one: ("Suspended", "True") in conditions(one))
        controllers.resume("j")
        assert ("Failed", "True") in conditions(ends(server))


def test_a_queued_job_starts_suspended_and_is_admitted():
    with cluster(Behaviour(queued=0.1)) as (server, _):
        server.create("pytorchjobs", pytorchjob())
        server.wait("pytorchjobs", "j", lambda one: ("Suspended", "True") in conditions(one))
        assert server.list("pods", "default") == []
        assert ("Succeeded", "True") in conditions(ends(server))


def test_a_master_that_succeeds_ends_the_job_and_its_workers():
    def script(attempt):
        return FOREVER if attempt.index else Behaviour(running=0.1)

    with cluster() as (server, controllers):
        controllers.script = script
        server.create("pytorchjobs", pytorchjob(workers=1))
        runs(server, "j-worker-0")
        ends(server)
        server.wait("pods", "j-worker-0", lambda one: one is None)
        made_up = server.get("pytorchjobs", "j")["status"]["replicaStatuses"]["Worker"]
        assert made_up["succeeded"] == 1


def test_on_failure_restarts_without_bound():
    with cluster(failing(1)) as (server, _):
        server.create("pytorchjobs", pytorchjob(policy="OnFailure", run_policy={"backoffLimit": 1}))
        uids = set()
        end = time.monotonic() + 10
        while len(uids) < 4 and time.monotonic() < end:
            uids |= {one["metadata"]["uid"] for one in server.list("pods", "default")}
        assert len(uids) >= 4
        assert not {("Failed", "True")} & set(conditions(server.get("pytorchjobs", "j")))


def test_a_lost_node_keeps_its_pod_terminating():
    with cluster(Behaviour(running=None, lost=True)) as (server, _):
        server.create("pytorchjobs", pytorchjob())
        runs(server)
        server.delete("pods", "j-master-0", grace=None)
        assert ("Failed", "True") in conditions(ends(server))
        pod = server.get("pods", "j-master-0")
        assert (pod["status"]["phase"], "deletionTimestamp" in pod["metadata"]) == ("Running", True)


def test_ttl_deletes_the_job():
    with cluster() as (server, _):
        server.create("pytorchjobs", pytorchjob(run_policy={"ttlSecondsAfterFinished": 1}))
        ends(server)
        server.wait("pytorchjobs", "j", lambda one: one is None)


def test_an_indexed_job_completes_and_says_which():
    with cluster() as (server, _):
        server.create("jobs", job(completions=3))
        done = ends(server, "jobs")
        assert conditions(done) == [("SuccessCriteriaMet", "True"), ("Complete", "True")]
        assert done["status"]["completedIndexes"] == "0,1,2"
        pods = server.list("pods", "default", labels="batch.kubernetes.io/job-name=j")
        assert sorted(one["spec"]["hostname"] for one in pods) == ["j-0", "j-1", "j-2"]


def test_a_failure_policy_decides_by_exit_code():
    rule = {"onExitCodes": {"containerName": "pytorch", "operator": "In", "values": [2]}}
    policy = {"rules": [{"action": "FailJob", **rule}]}
    with cluster(failing(2)) as (server, _):
        server.create("jobs", job(backoffLimit=3, podFailurePolicy=policy))
        done = ends(server, "jobs")
        assert done["status"]["conditions"][-1]["reason"] == "PodFailurePolicy"
        assert len(server.list("pods", "default")) == 1


def test_a_suspended_job_has_no_pods():
    with cluster(FOREVER) as (server, controllers):
        server.create("jobs", job(suspend=True))
        server.wait("jobs", "j", lambda one: ("Suspended", "True") in conditions(one))
        assert server.list("pods", "default") == []
        controllers.resume("j")
        server.wait("jobs", "j", lambda one: one["status"].get("ready") == 1)
        controllers.finish("j")
        ends(server, "jobs")


PROGRAM = """
import os, sys, signal, time
from pathlib import Path
print("order", os.environ["COLDSTART_ORDER"], flush=True)
Path("/storage/out.txt".replace("/storage", os.environ["PLACE"])).write_text("made")
if os.environ.get("WAIT"):
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    time.sleep(30)
Path(os.environ["COLDSTART_RESULT"]).write_text("the result")
sys.exit(int(os.environ.get("CODE", 0)))
"""


def process_job(**env):
    env = {"COLDSTART_ORDER": '{"storage":"/storage"}', "PLACE": "/storage", **env}
    mount = {"mountPath": "/storage", "name": "storage", "subPath": "team"}
    return pytorchjob(
        command=["python", "-c", PROGRAM],
        env=[{"name": key, "value": value} for key, value in env.items()],
        workingDir="/storage",
        volumeMounts=[mount],
    )


@pytest.mark.parametrize("code", [0, 2])
def test_a_pod_can_be_a_process_of_this_machine(tmp_path, code):
    with cluster(runner=Processes(mapped(tmp_path))) as (server, controllers):
        controllers.script = lambda _: None
        server.create("pytorchjobs", process_job(CODE=str(code)))
        done = ends(server)
        assert ((("Failed" if code else "Succeeded"), "True")) in conditions(done)
        state = server.get("pods", "j-master-0")["status"]["containerStatuses"][0]["state"]
        assert state["terminated"]["exitCode"] == code
        assert state["terminated"]["message"] == "the result"
        assert (tmp_path / "team/out.txt").read_text() == "made"
        expected = f'order {{"storage":"{tmp_path}/team"}}\n'
        assert server.logs["default", "j-master-0"] == expected
        launch = controllers.kubelet.runner.launches[0]
        assert (launch.command[0], launch.env["MASTER_ADDR"]) == (sys.executable, "127.0.0.1")


def test_a_process_is_told_to_stop_when_its_pod_is_deleted(tmp_path):
    with cluster(runner=Processes(mapped(tmp_path))) as (server, controllers):
        controllers.script = lambda _: None
        server.create("pytorchjobs", process_job(WAIT="1"))
        runs(server)
        end = time.monotonic() + 5
        while "order" not in server.logs.get(("default", "j-master-0"), ""):
            assert time.monotonic() < end
            time.sleep(0.01)
        start = time.monotonic()
        controllers.suspend("j")
        server.wait("pods", "j-master-0", lambda one: one is None)
        assert time.monotonic() - start < 4


class Broken:
    """A runner that cannot start anything."""

    async def run(self, pod, _log):
        raise FileNotFoundError(pod["metadata"]["name"])

    def stop(self, pod):
        pass


def test_a_pod_that_cannot_be_started_is_seen():
    with cluster(runner=Broken()) as (server, controllers):
        controllers.script = lambda _: None
        server.create("pytorchjobs", pytorchjob())
        end = time.monotonic() + 10
        while not controllers.errors:
            assert time.monotonic() < end
            time.sleep(0.01)
        (error,) = controllers.errors
        assert str(error) == "j-master-0"
        controllers.errors.clear()
