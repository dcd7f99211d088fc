"""A PyTorchJob: what is emitted, and what it is taken for (operator.md 1.5, 1.6, 1.9)."""

import json

import pytest
from builders import NOW, result
from child_objects import (
    cluster_run,
    condition,
    container_of,
    encoded,
    manifests,
    seen_job,
    seen_pod,
    several,
    stamp,
)
from hypothesis import given
from hypothesis import strategies as st
from kube_schema import unknown_fields

from coldstart.children import pytorchjob
from coldstart.children.observation import parse_result
from coldstart.plan import Child, ChildState
from coldstart.run import ReasoningRun
from coldstart.spec import Stage
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
MESSAGE = encoded()
DISRUPTED = {"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler"}


def job(*conditions, **status) -> dict:
    return seen_job("PyTorchJob", *conditions, **status)


def observe(child, *pods, now=NOW) -> Child:
    found = pytorchjob.observe(child, pods, now)
    assert found is not None
    return found


def state(child, *pods) -> ChildState:
    return observe(child, *pods).state


def test_the_job_is_the_one_that_1_9_concludes():
    """No ttl, deadline, backoff, elastic policy or `auto`; the same pods for master and workers."""
    run = cluster_run(sft=several(3, 4))
    (made,) = manifests("PyTorchJob", run)
    assert unknown_fields(made) == []
    assert (made["apiVersion"], made["kind"]) == ("kubeflow.org/v1", "PyTorchJob")
    specs = made["spec"]["pytorchReplicaSpecs"]
    assert made["spec"] == {
        "nprocPerNode": "4",
        "runPolicy": {"cleanPodPolicy": "Running"},
        "pytorchReplicaSpecs": specs,
    }
    assert {key: (spec["replicas"], spec["restartPolicy"]) for key, spec in specs.items()} == {
        "Master": (1, "Never"),
        "Worker": (2, "Never"),
    }
    assert specs["Master"]["template"] == specs["Worker"]["template"]
    assert specs["Master"]["template"] is not specs["Worker"]["template"]
    assert container_of(made)["name"] == "pytorch"


def test_one_machine_has_no_workers():
    (made,) = manifests("PyTorchJob", cluster_run())
    assert list(made["spec"]["pytorchReplicaSpecs"]) == ["Master"]


def test_the_job_is_owned_by_its_run_and_says_whose_it_is():
    (made,) = manifests("PyTorchJob", cluster_run(), Stage.GRPO, 3)
    metadata = made["metadata"]
    assert metadata["name"] == "r-grpo-3"
    assert metadata["ownerReferences"] == [
        {
            "apiVersion": "coldstart.dev/v1alpha1",
            "kind": "ReasoningRun",
            "name": "r",
            "uid": "u",
            "controller": True,
            "blockOwnerDeletion": True,
        }
    ]
    expected = {
        "app.kubernetes.io/name": "coldstart-trainer",
        "app.kubernetes.io/managed-by": "coldstart",
        "app.kubernetes.io/part-of": "coldstart",
        "coldstart.dev/run": "r",
        "coldstart.dev/stage": "grpo",
        "coldstart.dev/attempt": "3",
        "coldstart.dev/run-uid": "u",
    }
    template = made["spec"]["pytorchReplicaSpecs"]["Master"]["template"]
    assert metadata["labels"] == template["metadata"]["labels"] == expected


@pytest.mark.parametrize(
    ("scheduling", "labels", "expected"),
    [
        ({"queueName": "q", "priorityClass": "p"}, {}, ("q", "p")),
        ({}, {"kueue.x-k8s.io/queue-name": "mine"}, ("mine", None)),
        ({"queueName": "q"}, {"kueue.x-k8s.io/queue-name": "mine"}, ("q", None)),
        ({}, {"team": "a"}, (None, None)),
    ],
)
def test_kueue_finds_its_labels_on_the_job_alone(scheduling, labels, expected):
    document = cluster_run(scheduling=scheduling).document()
    document["metadata"]["labels"] = labels
    (made,) = manifests("PyTorchJob", ReasoningRun.parse(document))
    found = made["metadata"]["labels"]
    keys = ("kueue.x-k8s.io/queue-name", "kueue.x-k8s.io/priority-class")
    assert tuple(found.get(key) for key in keys) == expected
    template = made["spec"]["pytorchReplicaSpecs"]["Master"]["template"]
    assert not any(key in template["metadata"]["labels"] for key in keys)
    assert "team" not in found


CREATED = condition("Created")


@pytest.mark.fault(35)
@pytest.mark.parametrize(
    ("conditions", "expected"),
    [
        ([], P),
        ([CREATED], P),
        ([CREATED, condition("Running")], R),
        ([CREATED, condition("Restarting")], P),
        ([CREATED, condition("Running", "False"), condition("Succeeded")], S),
        ([CREATED, condition("Running", "False"), condition("Failed")], F),
        # Order is nothing: Kubernetes appends and replaces as it likes.
        ([condition("Succeeded"), condition("Running", "False"), CREATED], S),
        ([CREATED, condition("Suspended")], Q),
        # After a resume the last condition says Suspended, and that it is False.
        ([CREATED, condition("Suspended", "False")], P),
        ([CREATED, condition("Running"), condition("Suspended", "False")], R),
        ([CREATED, condition("Running", "False"), condition("Suspended")], Q),
        ([CREATED, condition("Running"), condition("Suspended")], Q),
    ],
)
def test_conditions_are_looked_up_by_type(conditions, expected):
    assert state(job(*conditions)) is expected


def test_a_job_that_kueue_holds_back_is_queued_before_it_has_a_status():
    held = job()
    held["spec"]["runPolicy"]["suspend"] = True
    assert state(held) is Q


@pytest.mark.parametrize("conditions", [[], [condition("Running")], [condition("Succeeded")]])
def test_a_job_that_is_being_deleted_is_stopping(conditions):
    deleted = job(*conditions)
    deleted["metadata"]["deletionTimestamp"] = stamp(0)
    assert state(deleted) is X


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("coldstart.dev/stage", "study"),
        ("coldstart.dev/stage", None),
        ("coldstart.dev/attempt", "0"),
        ("coldstart.dev/attempt", "one"),
        ("coldstart.dev/attempt", "-1"),
        ("coldstart.dev/attempt", "٣"),
        ("coldstart.dev/attempt", "9" * 5000),
    ],
)
def test_a_job_that_does_not_say_which_attempt_it_is_is_not_ours(key, value):
    foreign = job()
    foreign["metadata"]["labels"][key] = value
    assert pytorchjob.observe(foreign, [], NOW) is None


def test_the_result_is_rank_0s():
    done = job(condition("Succeeded"))
    master = seen_pod(done, 0, "Succeeded", code=0, message=MESSAGE)
    worker = seen_pod(done, 1, "Succeeded", code=0, message=encoded(attempt=9))
    assert observe(done, worker, master).result == result()
    assert observe(done, worker).result is None


def test_a_pod_of_another_attempt_or_owner_is_left_out():
    done = job(condition("Succeeded"))
    mine = seen_pod(done, 0, "Succeeded", code=0, message=MESSAGE)
    assert observe(done, mine).result is not None
    for key in ("run", "stage", "attempt", "run-uid"):
        labels = mine["metadata"]["labels"] | {f"coldstart.dev/{key}": "other"}
        other = {**mine, "metadata": mine["metadata"] | {"labels": labels}}
        assert observe(done, other).result is None
    owners = [{"kind": "PyTorchJob", "uid": "other", "controller": True}]
    other = {**mine, "metadata": mine["metadata"] | {"ownerReferences": owners}}
    assert observe(done, other).result is None


def test_of_several_pods_of_rank_0_the_one_that_succeeded_speaks():
    """A suspended and resumed job may show an earlier pod, too."""
    done = job(condition("Succeeded"))
    old = seen_pod(done, 0, "Failed", code=143, message=encoded(error=ErrorCode.TERMINATED))
    new = seen_pod(done, 0, "Succeeded", code=0, message=MESSAGE, created_at=-200)
    assert observe(done, old, new).result == observe(done, new, old).result == result()


@pytest.mark.parametrize(
    "message",
    [
        "",
        "done",
        MESSAGE[:-1],
        MESSAGE[: len(MESSAGE) // 2],
        "null",
        "[]",
        "{}",
        '"' + "a" * 4000 + '"',
        MESSAGE.replace('"metrics":{}', '"metrics":{"loss":NaN}'),
        MESSAGE.replace('"metrics":{}', '"metrics":{"loss":1e999}'),
        MESSAGE.replace('"metrics":{}', '"metrics":{"loss":"low"}'),
        MESSAGE.replace('"attempt":1', '"attempt":' + "9" * 4000),
        MESSAGE.replace("{", '{"extra":1,', 1),
        MESSAGE.replace('"uid":"u"', '"uid":"\\u2028"'),
        MESSAGE + " " * (4097 - len(MESSAGE)),
        "[" * 4096,
        '{"a":' * 800,
        "\ud800",
        "\0" * 100,
    ],
)
def test_what_is_no_result_is_none(message):
    done = job(condition("Succeeded"))
    found = observe(done, seen_pod(done, 0, "Succeeded", code=0, message=message))
    assert (found.state, found.result) == (S, None)


def test_half_a_character_makes_it_the_result_of_another_run():
    done = job(condition("Succeeded"))
    message = MESSAGE.replace('"uid":"u"', '"uid":"\\ud800"')
    found = observe(done, seen_pod(done, 0, "Succeeded", code=0, message=message))
    assert found.result.run.uid == "?"


def test_a_result_of_4096_bytes_is_read_and_one_of_another_run_is_left_to_the_plan():
    assert parse_result(MESSAGE + " " * (4096 - len(MESSAGE))) == result()
    assert parse_result(encoded(uid="another")) == result(uid="another")


@given(st.text() | st.binary().map(lambda data: data.decode(errors="surrogateescape")))
def test_no_text_in_a_termination_message_raises(message):
    parse_result(message)


@given(st.data())
def test_a_damaged_result_is_no_result_or_a_valid_one(data):
    start = data.draw(st.integers(0, len(MESSAGE)))
    end = data.draw(st.integers(start, len(MESSAGE)))
    parse_result(MESSAGE[:start] + data.draw(st.text(max_size=5)) + MESSAGE[end:])


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=10,
)
_field = st.sampled_from(
    ["metadata", "status", "spec", "conditions", "labels", "containerStatuses", "state", "type"]
)
_object = st.dictionaries(_field, _json | st.dictionaries(_field, _json, max_size=3), max_size=4)


@given(_object, st.lists(_object, max_size=3), st.sampled_from(["status", "metadata", "spec"]))
def test_no_object_raises(change, pods, key):
    child = job(condition("Failed"))
    mine = [seen_pod(child, 0, "Failed", code=1) | pod for pod in pods]
    mine += [pod | {"metadata": seen_pod(child)["metadata"]} for pod in pods]
    pytorchjob.observe(child | change, pods + mine, NOW)
    if key in change:
        pytorchjob.observe(child | {key: change[key]}, mine, NOW)


@pytest.mark.parametrize("time", ["0001-01-01T00:00:00Z", "9999-12-31T23:59:59+00:00", "soon", ""])
def test_no_time_raises(time):
    child = job(condition("Failed"), condition("Suspended", "False"))
    for item in child["status"]["conditions"]:
        item["lastTransitionTime"] = time
    pod = seen_pod(child, 0, "Running", deleted_at=0)
    pod["metadata"] |= {"deletionTimestamp": time, "deletionGracePeriodSeconds": 10**18}
    observe(child, pod)


FAILED = condition("Failed", at=0, message="PyTorchJob r-sft-1 has failed because 1 Worker failed.")


def test_the_exit_code_is_that_of_the_pod_that_failed_first():
    child = job(FAILED)
    master = seen_pod(child, 0, "Failed", code=134, ended_at=-1)
    worker = seen_pod(child, 1, "Failed", code=2, ended_at=-9)
    found = observe(child, master, worker)
    assert (found.state, found.exit_code) == (F, 2)
    assert found.message == "pod r-sft-1-1"


@pytest.mark.parametrize(
    ("pod", "code", "message"),
    [
        ({"code": 137, "reason": "OOMKilled"}, 137, "pod r-sft-1-0: OOMKilled"),
        (
            {"status": {"reason": "UnexpectedAdmissionError", "message": "no GPU"}},
            None,
            "pod r-sft-1-0: UnexpectedAdmissionError: no GPU",
        ),
        (
            {"status": {"reason": "Evicted", "message": "low on\n\x1b[31mdisk\u202e"}},
            None,
            "pod r-sft-1-0: Evicted: low on [31mdisk",
        ),
    ],
)
def test_a_failure_says_what_kubernetes_said(pod, code, message):
    child = job(FAILED)
    found = observe(child, seen_pod(child, 0, "Failed", **pod))
    assert (found.state, found.exit_code, found.message) == (F, code, message)


def test_a_failure_without_a_pod_has_the_words_of_the_job():
    found = observe(job(FAILED))
    assert (found.state, found.exit_code, found.message) == (F, None, FAILED["message"])


def test_an_eviction_for_what_was_used_up_is_a_failure_and_costs_a_retry():
    """Else a pod that fills its node's disk would do so for ever."""
    child = job(FAILED)
    by_kubelet = DISRUPTED | {"reason": "TerminationByKubelet"}
    status = {"reason": "Evicted", "message": "The node was low on resource: ephemeral-storage."}
    pod = seen_pod(child, 0, "Failed", conditions=[by_kubelet], status=status)
    assert state(child, pod) is F


@pytest.mark.parametrize(
    "reason",
    [
        "PreemptionByScheduler",
        "DeletionByTaintManager",
        "EvictionByEvictionAPI",
        "DeletionByPodGC",
        "TerminationByKubelet",
    ],
)
def test_what_the_cluster_ends_is_preempted_whatever_code_its_peers_end_with(reason):
    child = job(FAILED)
    taken = seen_pod(child, 1, "Failed", code=143, conditions=[DISRUPTED | {"reason": reason}])
    peer = seen_pod(child, 0, "Failed", code=1, ended_at=-5)
    found = observe(child, peer, taken)
    assert found.state is E
    assert found.message.startswith("pod r-sft-1-1: ")


RESUMED = condition("Suspended", "False", at=-20)
TERMINATED = encoded(error=ErrorCode.TERMINATED)
INVALID = encoded(error=ErrorCode.INVALID_ORDER)


@pytest.mark.fault(28)
@pytest.mark.parametrize(
    ("suspended", "pods", "expected"),
    [
        # The race of 1.6.10: resumed while the pods of before still end.
        (RESUMED, [{"code": 143, "deleted_at": -40}], E),
        (RESUMED, [{"code": 1, "deleted_at": -40}], E),
        (RESUMED, [{"code": 143, "message": TERMINATED}], E),
        (RESUMED, [{"code": 137}], E),
        (RESUMED, [], E),
        (condition("Suspended", at=-20), [{"code": 143}], E),
        (condition("Suspended", at=-1000), [{"code": 143}], E),
        (condition("Suspended", "False", at=-329), [], E),
        # Under Kueue every job is resumed before it begins: what fails soon is no preemption.
        (RESUMED, [{"code": 2, "message": INVALID}], F),
        (RESUMED, [{"code": 1}], F),
        (RESUMED, [{"code": 137, "reason": "OOMKilled"}], F),
        (RESUMED, [{"code": 128, "message": encoded(error=ErrorCode.OUT_OF_MEMORY)}], F),
        # Resumed long ago, or never suspended.
        (condition("Suspended", "False", at=-331), [{"code": 143}], F),
        (condition("Suspended", "False", at=-331), [{"code": 143, "deleted_at": -5}], F),
        (condition("Created"), [{"code": 143}], F),
        # Deleted by the controller because of the failure: nobody suspended it then.
        (condition("Created"), [{"code": 1}, {"code": 143, "deleted_at": 1}], F),
    ],
)
def test_a_failure_after_a_resume_is_told_from_one_of_its_own(suspended, pods, expected):
    child = job(suspended, FAILED)
    seen = [seen_pod(child, i, "Failed", **pod) for i, pod in enumerate(pods)]
    assert state(child, *seen) is expected


@pytest.mark.parametrize(
    ("pod", "after", "expected"),
    [
        ({"deleted_at": 0}, 10, R),
        ({"deleted_at": 0}, 329, R),
        # On a node that is lost a pod looks so for ever.
        ({"deleted_at": 0}, 331, F),
        ({}, 10, R),
        ({}, 331, F),
        ({"phase": "Failed", "code": 143, "deleted_at": 0}, 1, F),
        ({"phase": "Pending"}, 1, R),
    ],
)
def test_a_failed_job_runs_until_its_pods_have_ended(pod, after, expected):
    """Else the next attempt would write the checkpoints together with what is left of this one."""
    child = job(FAILED)
    phase = {"phase": "Running"} | pod
    other = seen_pod(child, 1, **phase)
    culprit = seen_pod(child, 0, "Failed", code=1)
    now = NOW.fromisoformat(stamp(after))
    assert observe(child, culprit, other, now=now).state is expected


def test_a_pod_that_never_had_a_node_is_not_waited_for():
    child = job(FAILED)
    waiting = seen_pod(child, 1, "Pending")
    del waiting["spec"]["nodeName"]
    assert state(child, waiting) is F


def test_a_succeeded_job_does_not_wait_for_its_workers():
    """The hand-over is at once; `cleanPodPolicy: Running` ends them."""
    child = job(condition("Succeeded"))
    master = seen_pod(child, 0, "Succeeded", code=0, message=MESSAGE)
    assert state(child, master, seen_pod(child, 1)) is S


def test_objects_can_be_sent_as_json():
    json.dumps(manifests("PyTorchJob", cluster_run(sft=several(2))))
