"""The Indexed Job with its Service: what is emitted, and what its status is taken for."""

import pytest
from builders import NOW, result
from child_objects import (
    cluster_run,
    condition,
    container_of,
    encoded,
    environment_of,
    manifests,
    seen_job,
    seen_pod,
    several,
    stamp,
)
from hypothesis import given
from hypothesis import strategies as st

from coldstart.children import job as jobs
from coldstart.plan import Child, ChildState
from coldstart.status import ErrorCode

P, Q, R, X, S, F, E = (
    ChildState.PENDING,
    ChildState.QUEUED,
    ChildState.RUNNING,
    ChildState.STOPPING,
    ChildState.SUCCEEDED,
    ChildState.FAILED,
    ChildState.PREEMPTED,
)
BY_POLICY = condition(
    "Failed",
    reason="PodFailurePolicy",
    message="Pod ml/r-sft-1-0-x has condition DisruptionTarget matching FailJob rule at index 0",
)
BACKOFF = condition("Failed", reason="BackoffLimitExceeded")


def job(*conditions, **status) -> dict:
    return seen_job("Job", *conditions, **status)


def observe(child, *pods, now=NOW) -> Child:
    found = jobs.observe(child, pods, now)
    assert found is not None
    return found


def test_several_machines_meet_through_a_service_that_is_made_first():
    service, job_ = manifests("Job", cluster_run(sft=several(3, 4)))
    assert (service["kind"], service["spec"]["clusterIP"]) == ("Service", "None")
    assert service["metadata"]["name"] == job_["metadata"]["name"] == "r-sft-1"
    template = job_["spec"]["template"]
    assert service["spec"]["selector"].items() <= template["metadata"]["labels"].items()
    assert service["metadata"]["ownerReferences"] == job_["metadata"]["ownerReferences"]
    assert service["spec"]["publishNotReadyAddresses"] is True
    assert template["spec"]["subdomain"] == "r-sft-1"
    environment = environment_of(job_)
    names = ("PET_NNODES", "PET_NPROC_PER_NODE", "PET_MASTER_ADDR", "PET_MASTER_PORT")
    assert [environment[name] for name in names] == ["3", "4", "r-sft-1-0.r-sft-1", "23456"]
    (rank,) = [e for e in container_of(job_)["env"] if e["name"] == "PET_NODE_RANK"]
    assert rank["valueFrom"]["fieldRef"]["fieldPath"] == (
        "metadata.annotations['batch.kubernetes.io/job-completion-index']"
    )


def test_the_whole_gang_fails_once_and_is_ended_with_rank_0():
    job_ = manifests("Job", cluster_run(sft=several(3)))[-1]
    spec = {key: value for key, value in job_["spec"].items() if key != "template"}
    assert spec == {
        "completionMode": "Indexed",
        "completions": 3,
        "parallelism": 3,
        "backoffLimit": 0,
        "podReplacementPolicy": "Failed",
        "podFailurePolicy": {
            "rules": [
                {
                    "action": "FailJob",
                    "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}],
                }
            ]
        },
        "successPolicy": {"rules": [{"succeededIndexes": "0"}]},
    }
    assert job_["spec"]["template"]["spec"]["restartPolicy"] == "Never"


def test_one_machine_needs_no_service_and_no_name_to_be_found_by():
    (job_,) = manifests("Job", cluster_run())
    assert environment_of(job_)["PET_MASTER_ADDR"] == "127.0.0.1"
    assert "subdomain" not in job_["spec"]["template"]["spec"]
    assert "successPolicy" not in job_["spec"]


def test_kueue_labels_are_on_the_job_and_not_on_the_service():
    service, job_ = manifests(
        "Job", cluster_run(sft=several(2), scheduling={"queueName": "q", "priorityClass": "p"})
    )
    assert job_["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "q"
    assert not any(key.startswith("kueue") for key in service["metadata"]["labels"])


@pytest.mark.parametrize(
    ("conditions", "status", "expected"),
    [
        ([], {}, P),
        ([], {"active": 2, "ready": 0}, P),
        ([], {"active": 2, "ready": 1}, P),
        ([], {"active": 2, "ready": 2}, R),
        ([], {"active": 1, "ready": 1, "succeeded": 1}, R),
        ([condition("Suspended")], {}, Q),
        ([condition("Suspended", "False")], {"ready": 2}, R),
        ([condition("Suspended", "False")], {}, P),
        ([condition("SuccessCriteriaMet")], {"ready": 1, "succeeded": 1}, R),
        ([condition("SuccessCriteriaMet"), condition("Complete")], {}, S),
        ([condition("Complete"), condition("Suspended", "False")], {}, S),
        ([condition("FailureTarget")], {"active": 2, "ready": 2}, F),
        ([condition("FailureTarget"), condition("Failed")], {}, F),
        ([BACKOFF], {}, F),
        ([BY_POLICY], {}, E),
        ([condition("Suspended"), BACKOFF], {}, E),
        ([], {"ready": "2", "succeeded": True}, P),
    ],
)
def test_conditions_are_looked_up_by_type(conditions, status, expected):
    assert observe(job(*conditions, **status)).state is expected


def test_a_job_that_is_told_to_suspend_is_queued():
    held = job(ready=2)
    held["spec"]["suspend"] = True
    assert observe(held).state is Q


def test_a_job_that_is_being_deleted_is_stopping():
    deleted = job(condition("Complete"))
    deleted["metadata"]["deletionTimestamp"] = stamp(0)
    assert observe(deleted).state is X


def test_the_result_is_that_of_index_0():
    done = job(condition("Complete"))
    first = seen_pod(done, 0, "Succeeded", code=0, message=encoded())
    second = seen_pod(done, 1, "Succeeded", code=0, message=encoded(attempt=7))
    assert observe(done, second, first).result == result()
    del first["metadata"]["labels"]["batch.kubernetes.io/job-completion-index"]
    first["metadata"]["annotations"] = {"batch.kubernetes.io/job-completion-index": "0"}
    assert observe(done, second, first).result == result()


@pytest.mark.parametrize("type_", ["FailureTarget", "Failed"])
def test_a_failure_waits_for_its_pods_but_not_for_a_lost_node(type_):
    child = job(condition(type_, at=0, reason="BackoffLimitExceeded"))
    culprit = seen_pod(child, 1, "Failed", code=2)
    ending = seen_pod(child, 0, "Running", deleted_at=0)
    found = {
        after: observe(child, culprit, ending, now=NOW.fromisoformat(stamp(after)))
        for after in (5, 400)
    }
    assert (found[5].state, found[400].state) == (R, F)
    assert found[400].exit_code == 2


def test_a_live_job_whose_pod_should_have_ended_long_ago_has_lost_its_node():
    child = job()
    pods = [seen_pod(child, 0, "Running", deleted_at=0), seen_pod(child, 1, "Running")]
    found = {
        after: observe(child, *pods, now=NOW.fromisoformat(stamp(after))) for after in (5, 400)
    }
    assert not found[5].lost
    assert (found[400].lost, found[400].state) == (True, P)
    assert found[400].message.startswith("node lost: pod r-sft-1-0")


def test_an_eviction_for_what_was_used_up_is_a_failure():
    child = job(BY_POLICY)
    pod = seen_pod(child, 0, "Failed", status={"reason": "Evicted", "message": "low on disk"})
    found = observe(child, pod)
    assert (found.state, found.message) == (F, "pod r-sft-1-0: Evicted: low on disk")


def test_a_failure_after_a_resume_is_told_from_one_of_its_own():
    child = job(condition("Suspended", "False", at=-20), BACKOFF)
    stopped = seen_pod(child, 0, "Failed", code=143, deleted_at=-30)
    wrong = seen_pod(child, 0, "Failed", code=2, message=encoded(error=ErrorCode.DATASET_NOT_FOUND))
    assert observe(child, stopped).state is E
    failed = observe(child, wrong)
    assert (failed.state, failed.exit_code) == (F, 2)
    assert failed.result.error.code is ErrorCode.DATASET_NOT_FOUND


def test_a_job_of_somebody_else_is_not_ours():
    foreign = job()
    foreign["metadata"]["labels"] = {"app": "x"}
    assert jobs.observe(foreign, [], NOW) is None


_odd = st.none() | st.integers() | st.text(max_size=4) | st.lists(st.integers(), max_size=2)


@given(
    st.dictionaries(st.sampled_from(["conditions", "ready", "succeeded", "failed"]), _odd),
    st.dictionaries(st.sampled_from(["parallelism", "suspend", "template"]), _odd),
)
def test_no_status_raises(status, spec):
    child = job()
    jobs.observe(child | {"status": status, "spec": spec}, [{}, seen_pod(child)], NOW)
