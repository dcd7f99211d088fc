"""The judges of the other tests: each rule, broken once, is seen to be broken."""

import pytest
from apiserver.crds import pytorchjobs, reasoningruns
from apiserver.threaded import running_server
from oracles import TYPES, Oracle, at_rest, requests_per_run, violations

TIME = "2026-01-01T00:00:00Z"


@pytest.fixture(scope="module")
def shared():
    with running_server() as server:
        server.create("customresourcedefinitions", pytorchjobs())
        server.create("customresourcedefinitions", reasoningruns())
        yield server


@pytest.fixture
def server(shared):
    """A server whose record begins here."""
    for plural in ("reasoningruns", "pytorchjobs", "pods"):
        for item in shared.list(plural):
            shared.delete(plural, item["metadata"]["name"], grace=0)
    shared.call(shared.collector.sweep)
    shared.call(lambda: [one.history.clear() for one in shared.store.collections.values()])
    shared.requests.clear()
    return shared


def run(server, name="r", **status):
    """A run with a status; its UID."""
    uid = server.create("reasoningruns", {"metadata": {"name": name}, "spec": {}})["metadata"][
        "uid"
    ]
    if status:
        server.set_status("reasoningruns", name, full(**status))
    return uid


def full(end="", **more):
    """A status that says all that it must."""
    conditions = [
        {"type": type_, "status": "True" if type_ == end else "False", "lastTransitionTime": TIME}
        for type_ in TYPES
    ]
    return {"observedGeneration": 1, "message": "m", "conditions": conditions, **more}


def labels(uid, name="r", stage="sft", attempt=1):
    found = {"run": name, "stage": stage, "attempt": str(attempt), "run-uid": uid}
    return {f"coldstart.dev/{key}": value for key, value in found.items()}


def owner(uid, name="r"):
    kind = {"apiVersion": "coldstart.dev/v1alpha1", "kind": "ReasoningRun"}
    return [{**kind, "name": name, "uid": uid, "controller": True}]


def job(server, uid, stage="sft", attempt=1, *, owned=True):
    name = f"r-{stage}-{attempt}"
    metadata = {"name": name, "labels": labels(uid, stage=stage, attempt=attempt)}
    metadata |= {"ownerReferences": owner(uid)} if owned else {}
    server.create("pytorchjobs", {"metadata": metadata, "spec": {"pytorchReplicaSpecs": {}}})
    return name


def pod(server, uid, stage="sft", attempt=1, **more):
    metadata = {"name": f"r-{stage}-{attempt}-0", "labels": labels(uid, "r", stage, attempt)}
    spec = {"containers": [{"name": "pytorch", "image": "i"}]}
    server.create("pods", {"metadata": metadata | more, "spec": spec})


def two_pods(server):
    uid = run(server, stages=[])
    pod(server, uid)
    pod(server, uid, attempt=2)


def two_jobs(server):
    uid = run(server, stages=[])
    job(server, uid)
    job(server, uid, "grpo")


def pods_of_two_runs_of_one_name(server):
    uid = run(server)
    pod(server, uid)
    server.delete("reasoningruns", "r")
    pod(server, run(server), attempt=2)


def a_verdict_that_changes(server):
    run(server, stages=[{"name": "sft", "gates": [{"name": "a", "passed": False}]}])
    gates = [{"name": "a", "passed": True}]
    server.set_status("reasoningruns", "r", full(stages=[{"name": "sft", "gates": gates}]))


def a_verdict_that_goes(server):
    run(server, stages=[{"name": "sft", "gates": [{"name": "a", "passed": False}]}])
    server.set_status("reasoningruns", "r", full(stages=[{"name": "sft"}]))


def an_end_that_flips(server):
    run(server, end="Succeeded")
    server.set_status("reasoningruns", "r", full("Failed"))


def an_end_that_is_taken_back(server):
    run(server, end="Failed")
    server.set_status("reasoningruns", "r", full())


def a_job_after_the_end(server):
    job(server, run(server, end="Failed"))


def a_job_without_owner(server):
    job(server, run(server, stages=[]), owned=False)


def a_job_made_twice(server):
    uid = run(server, stages=[])
    job(server, uid)
    metadata = {"name": "r-x", "labels": labels(uid), "ownerReferences": owner(uid)}
    server.create("pytorchjobs", {"metadata": metadata, "spec": {"pytorchReplicaSpecs": {}}})


def too_many_failures(server):
    run(server, stages=[{"name": "sft", "failures": 4}])


EVER = {
    two_pods: "pods of",
    two_jobs: "jobs of",
    pods_of_two_runs_of_one_name: "pods of",
    a_verdict_that_changes: "a verdict of sft changed",
    a_verdict_that_goes: "a verdict of sft changed",
    an_end_that_flips: "Succeeded became Failed",
    an_end_that_is_taken_back: "Failed became undecided",
    a_job_after_the_end: "after its run had ended",
    a_job_without_owner: "without its owner",
    a_job_made_twice: "was made 2 times",
    too_many_failures: "has failed 4 times",
}


@pytest.mark.parametrize("broken", EVER, ids=lambda function: function.__name__)
def test_a_rule_that_was_ever_broken_is_seen(server, broken):
    broken(server)
    assert any(EVER[broken] in sentence for sentence in violations(server)), violations(server)


@pytest.mark.parametrize("broken", EVER, ids=lambda function: function.__name__)
def test_an_oracle_that_follows_sees_the_same_without_history(server, broken, monkeypatch):
    oracle = Oracle()
    monkeypatch.setattr(server.store, "listeners", [*server.store.listeners, oracle.take])
    monkeypatch.setattr(server.store, "history", 0)
    broken(server)
    assert any(EVER[broken] in sentence for sentence in oracle.sentences()), oracle.sentences()


def an_old_generation(server):
    run(server, stages=[])
    server.patch("reasoningruns", "r", {"spec": {"a": 1}})


def no_conditions(server):
    run(server)


def no_message(server):
    run(server, message="")


def words_in_colours(server):
    run(server, message="\x1b[31mred")


def endless_words(server):
    run(server, message="a" * 5000)


def a_pod_after_the_end(server):
    pod(server, run(server, end="Failed"))


def a_pod_of_a_run_that_is_gone(server):
    run(server, stages=[])
    pod(server, "another")


def a_job_of_nobody(server):
    job(server, run(server, stages=[]), owned=False)


NOW = {
    an_old_generation: "generation 2, but 1 is seen",
    no_conditions: "lacks conditions",
    no_message: "says nothing",
    words_in_colours: "not printable",
    endless_words: "too long",
    a_pod_after_the_end: "its run has ended",
    a_pod_of_a_run_that_is_gone: "its run is gone",
    a_job_of_nobody: "has no owner that is there",
}


@pytest.mark.parametrize("broken", NOW, ids=lambda function: function.__name__)
def test_a_rule_that_is_broken_now_is_seen(server, broken):
    broken(server)
    assert any(NOW[broken] in sentence for sentence in at_rest(server)), at_rest(server)


def test_what_is_right_is_not_complained_of(server):
    uid = run(server, stages=[{"name": "sft", "failures": 3, "gates": [{"name": "a"}]}])
    job(server, uid)
    pod(server, uid)
    server.patch("pods", "r-sft-1-0", {"status": {"phase": "Failed"}}, subresource="status")
    failed = {"conditions": [{"type": "Failed", "status": "True"}]}
    server.patch("pytorchjobs", "r-sft-1", {"status": failed}, subresource="status")
    job(server, uid, attempt=2)
    pod(server, uid, attempt=2)
    assert violations(server) == []
    assert at_rest(server) == []
    assert requests_per_run(server) == {}
