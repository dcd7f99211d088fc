"""The stand-in API server behaves as a real one where an operator can notice: objects."""

import time

import pytest
from apiserver import crds
from apiserver.client import JOBS, RUNS, Client
from apiserver.threaded import running_server

PODS = "/api/v1/namespaces/default/pods"
MAPS = "/api/v1/namespaces/default/configmaps"


@pytest.fixture
def server():
    with running_server() as server:
        server.create("customresourcedefinitions", crds.pytorchjobs())
        server.create("customresourcedefinitions", crds.reasoningruns())
        yield server


@pytest.fixture
def call(server):
    return Client(server.port)


def run(name="r", **more):
    kind = {"apiVersion": "coldstart.dev/v1alpha1", "kind": "ReasoningRun"}
    return {**kind, "metadata": {"name": name}, "spec": {"model": "m"}, **more}


def owned(owner, name="m", **more):
    reference = {
        "apiVersion": owner["apiVersion"],
        "kind": owner["kind"],
        "name": owner["metadata"]["name"],
        "uid": owner["metadata"]["uid"],
        **more,
    }
    return {"metadata": {"name": name, "ownerReferences": [reference]}}


def version(document):
    return document["metadata"]["resourceVersion"]


def test_create_sets_what_the_server_owns_and_drops_the_status(call):
    document = run(status={"phase": "x"})
    document["metadata"] |= {"uid": "mine", "generation": 9, "creationTimestamp": None}
    code, made = call("POST", RUNS, document)
    metadata = made["metadata"]
    assert code == 201
    assert "status" not in made
    assert metadata["generation"] == 1
    assert len(metadata["uid"]) == 36
    assert metadata["creationTimestamp"].endswith("Z")
    assert int(metadata["resourceVersion"]) > 100
    _, other = call("POST", RUNS, run("other"))
    assert int(version(other)) > int(version(made))


def test_generate_name_makes_different_names(call):
    body = {"metadata": {"generateName": "e-"}}
    names = {call("POST", MAPS, body)[1]["metadata"]["name"] for _ in range(5)}
    assert len(names) == 5
    assert all(name.startswith("e-") and len(name) == 7 for name in names)


REFUSED = {
    "duplicate": ("POST", RUNS, run(), 409, "AlreadyExists"),
    "no namespace": ("POST", RUNS.replace("default", "no"), run(), 404, "NotFound"),
    "other namespace": (
        "POST",
        RUNS,
        {**run("x"), "metadata": {"name": "x", "namespace": "y"}},
        400,
        "BadRequest",
    ),
    "other kind": ("POST", RUNS, {**run("x"), "kind": "Pod"}, 422, "Invalid"),
    "no kind": ("POST", RUNS, {**run("x"), "kind": ""}, 400, "BadRequest"),
    "other version": ("POST", RUNS, {**run("x"), "apiVersion": "v1"}, 400, "BadRequest"),
    "no name": ("POST", RUNS, run(""), 422, "Invalid"),
    "bad name": ("POST", RUNS, run("A_b"), 422, "Invalid"),
    "long label": (
        "POST",
        MAPS,
        {"metadata": {"name": "m", "labels": {"a": "b" * 64}}},
        422,
        "Invalid",
    ),
    "long service": ("POST", PODS.replace("pods", "services"), run("a" * 64), 400, "BadRequest"),
    "no object": ("GET", RUNS + "/no", None, 404, "NotFound"),
    "no resource": ("GET", "/api/v1/namespaces/default/no", None, 404, "NotFound"),
    "put without version": ("PUT", RUNS + "/r", run(), 422, "Invalid"),
    "put of another": ("PUT", RUNS + "/r", run("other"), 400, "BadRequest"),
    "not JSON": ("POST", RUNS, "{", 400, "BadRequest"),
    "too large": ("POST", RUNS, " " * 3_200_000, 413, "RequestEntityTooLarge"),
    "post to all namespaces": ("POST", "/api/v1/pods", {}, 405, "MethodNotAllowed"),
    "bad selector": ("GET", RUNS + "?labelSelector=a%20b%20c", None, 400, "BadRequest"),
    "bad field": ("GET", RUNS + "?fieldSelector=spec.model%3Dm", None, 400, "BadRequest"),
    "pod without containers": ("POST", PODS, {"metadata": {"name": "p"}}, 422, "Invalid"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(call, case):
    call("POST", RUNS, run())
    method, path, body, code, reason = REFUSED[case]
    got, status = call(method, path, body)
    assert got == code, status
    assert status["kind"] == "Status"
    assert reason in {"", status["reason"]}
    assert status["code"] == code


@pytest.mark.parametrize(
    "path",
    ["/apis/coldstart.dev/v1alpha1/namespaces/default/no", "/apis/no.dev/v1", "/apis/no.dev"],
)
def test_what_no_group_serves_is_no_status(call, path):
    assert call("GET", path) == (404, "404 page not found\n")


def test_status_and_the_rest_are_written_apart_and_counted_apart(call):
    call("POST", RUNS, run())
    both = {"spec": {"model": "n"}, "status": {"phase": "x"}, "metadata": {"labels": {"a": "b"}}}
    _, one = call("PATCH", RUNS + "/r/status", both, patch="merge")
    assert (one["spec"]["model"], one["status"]) == ("m", {"phase": "x"})
    assert "labels" not in one["metadata"]
    assert one["metadata"]["generation"] == 1
    _, two = call("PATCH", RUNS + "/r", {**both, "status": {"phase": "y"}}, patch="merge")
    assert (two["spec"]["model"], two["status"]) == ("n", {"phase": "x"})
    assert two["metadata"]["generation"] == 2
    _, three = call("PATCH", RUNS + "/r", {"metadata": {"labels": {"a": "c"}}}, patch="merge")
    assert three["metadata"]["generation"] == 2
    assert int(version(three)) > int(version(two)) > int(version(one))
    three["status"] = {"phase": "z"}
    three["spec"]["model"] = "ignored"
    code, four = call("PUT", RUNS + "/r/status", three)
    assert (code, four["status"], four["spec"]["model"]) == (200, {"phase": "z"}, "n")


def test_a_write_that_changes_nothing_makes_no_version(call):
    _, made = call("POST", RUNS, run())
    for how in ("merge", "apply"):
        call("PATCH", RUNS + "/r", run(), patch=how, fieldManager="m")
    _, before = call("GET", RUNS + "/r")
    _, again = call("PATCH", RUNS + "/r", run(), patch="apply", fieldManager="m")
    _, put = call("PUT", RUNS + "/r", again)
    assert version(before) == version(again) == version(put)
    assert before["metadata"]["generation"] == 1
    assert made["metadata"]["uid"] == put["metadata"]["uid"]


def test_old_versions_and_other_uids_are_conflicts(call):
    _, old = call("POST", RUNS, run())
    call("PATCH", RUNS + "/r", {"spec": {"epochs": 4}}, patch="merge")
    stale = {"metadata": {"resourceVersion": version(old)}, "status": {"a": 1}}
    other = {"metadata": {"uid": "another"}, "status": {"a": 2}}
    for code, status in (
        call("PUT", RUNS + "/r", old),
        call("PATCH", RUNS + "/r/status", stale, patch="merge"),
        call("DELETE", RUNS + "/r", {"preconditions": {"uid": "another"}}),
        call("DELETE", RUNS + "/r", {"preconditions": {"resourceVersion": version(old)}}),
    ):
        assert (code, status["reason"]) == (409, "Conflict")
    # In a patch a UID is no precondition.
    code, patched = call("PATCH", RUNS + "/r/status", other, patch="merge")
    assert (code, patched["status"], patched["metadata"]["uid"]) == (
        200,
        {"a": 2},
        old["metadata"]["uid"],
    )
    code, status = call("PATCH", RUNS + "/r", other, patch="merge")
    assert (code, status["details"]["causes"][0]["field"]) == (422, "metadata.uid")


def test_json_patch(call):
    call("POST", RUNS, run())
    tested = [{"op": "test", "path": "/spec/model", "value": "m"}]
    added = [{"op": "add", "path": "/metadata/labels", "value": {"a/b": "c"}}]
    code, patched = call("PATCH", RUNS + "/r", tested + added, patch="json")
    assert (code, patched["metadata"]["labels"]) == (200, {"a/b": "c"})
    removed = [{"op": "remove", "path": "/metadata/labels/a~1b"}]
    assert call("PATCH", RUNS + "/r", removed, patch="json")[0] == 200
    wrong = [{"op": "test", "path": "/spec/model", "value": "x"}]
    code, status = call("PATCH", RUNS + "/r", wrong, patch="json")
    assert (code, status["reason"]) == (422, "Invalid")
    assert call("PATCH", RUNS + "/r", removed, patch="json")[0] == 422


def test_strategic_merge_is_for_built_in_kinds(call):
    call("POST", RUNS, run())
    assert call("PATCH", RUNS + "/r", {}, patch="strategic")[0] == 415
    pod = {"metadata": {"name": "p"}, "spec": {"containers": [{"name": "a", "image": "x"}]}}
    call("POST", PODS, pod)
    for kind in ("A", "B", "A"):
        body = {"status": {"conditions": [{"type": kind, "status": "True"}]}}
        _, patched = call("PATCH", PODS + "/p/status", body, patch="strategic")
    assert [one["type"] for one in patched["status"]["conditions"]] == ["B", "A"]


def test_merge_patch_replaces_lists_and_removes_nulls(call):
    call("POST", RUNS, run())
    first = {"status": {"stages": [{"a": 1}], "phase": "x"}}
    call("PATCH", RUNS + "/r/status", first, patch="merge")
    second = {"status": {"stages": {"sft": 1}, "phase": None}}
    _, patched = call("PATCH", RUNS + "/r/status", second, patch="merge")
    assert patched["status"] == {"stages": {"sft": 1}}


def test_server_side_apply_knows_who_applied_what(call):
    def apply(manager, spec, **query):
        body = run(spec=spec)
        return call("PATCH", RUNS + "/r", body, patch="apply", fieldManager=manager, **query)

    assert call("PATCH", RUNS + "/r", run(), patch="apply")[0] == 422
    code, made = apply("one", {"model": "m", "epochs": 5, "kind": "a"})
    assert code == 201
    assert made["metadata"]["managedFields"][0]["manager"] == "one"
    code, status = apply("two", {"model": "m", "epochs": 6})
    assert (code, status["reason"]) == (409, "Conflict")
    assert status["details"]["causes"][0]["field"] == ".spec.epochs"
    code, forced = apply("two", {"model": "m", "epochs": 6}, force="true")
    assert (code, forced["spec"]) == (200, {"model": "m", "epochs": 6, "kind": "a"})
    _, left = apply("one", {"model": "m"})
    assert left["spec"] == {"model": "m", "epochs": 6}


def test_a_mistake_of_the_server_is_an_answer_and_kept(server, call, monkeypatch):
    monkeypatch.setattr(server.objects, "create", None)
    assert call("POST", RUNS, run())[0] == 500
    assert isinstance(server.errors[0], TypeError)


def gone(server, resource, name):
    return server.wait(resource, name, lambda found: found is None) is None


def test_dependents_follow_their_owner(server, call):
    _, owner = call("POST", RUNS, run())
    call("POST", MAPS, owned(owner))
    assert call("DELETE", RUNS + "/r")[1]["status"] == "Success"
    assert gone(server, "configmaps", "m")
    call("POST", MAPS, owned(owner, "late"))
    assert gone(server, "configmaps", "late")


def test_an_owner_deleted_in_the_foreground_waits_for_those_that_block(server, call):
    _, owner = call("POST", RUNS, run())
    blocking = owned(owner, blockOwnerDeletion=True)
    blocking["metadata"]["finalizers"] = ["x.dev/wait"]
    call("POST", MAPS, blocking)
    _, deleted = call("DELETE", RUNS + "/r", {"propagationPolicy": "Foreground"})
    assert deleted["metadata"]["finalizers"] == ["foregroundDeletion"]
    server.wait("configmaps", "m", lambda one: one["metadata"].get("deletionTimestamp"))
    assert server.find("reasoningruns", "r")
    server.patch("configmaps", "m", {"metadata": {"finalizers": None}})
    assert gone(server, "reasoningruns", "r")


def test_a_job_deleted_by_a_bare_client_leaves_its_pods(server, call):
    template = {"spec": {"restartPolicy": "Never", "containers": [{"name": "a", "image": "x"}]}}
    path = "/apis/batch/v1/namespaces/default/jobs"
    for policy, left in (({}, True), ({"propagationPolicy": "Background"}, False)):
        _, job = call("POST", path, {"metadata": {"name": "j"}, "spec": {"template": template}})
        pod = {**owned(job, "p"), "spec": template["spec"]}
        server.create("pods", pod)
        call("DELETE", path + "/j", policy or None)
        assert gone(server, "jobs", "j")
        if left:
            assert not server.get("pods", "p")["metadata"].get("ownerReferences")
            server.delete("pods", "p")
        else:
            assert gone(server, "pods", "p")


def test_finalizers_keep_an_object_and_no_new_ones_are_let_in(server, call):
    document = run()
    document["metadata"]["finalizers"] = ["x.dev/a"]
    call("POST", RUNS, document)
    _, deleted = call("DELETE", RUNS + "/r")
    assert deleted["metadata"]["deletionTimestamp"]
    assert deleted["metadata"]["generation"] == 2
    more = {"metadata": {"finalizers": ["x.dev/a", "x.dev/b"]}}
    assert call("PATCH", RUNS + "/r", more, patch="merge")[0] == 422
    assert call("PATCH", RUNS + "/r", {"metadata": {"finalizers": []}}, patch="merge")[0] == 200
    assert server.find("reasoningruns", "r") is None


def test_a_pod_on_a_node_stays_for_its_kubelet(server, call):
    pod = {"metadata": {"name": "p"}, "spec": {"containers": [{"name": "a", "image": "x"}]}}
    call("POST", PODS, pod)
    call("DELETE", PODS + "/p")
    assert server.find("pods", "p") is None
    call("POST", PODS, pod)
    server.bind("p", "n")
    server.patch("pods", "p", {"status": {"phase": "Running"}}, subresource="status")
    _, deleted = call("DELETE", PODS + "/p")
    assert deleted["metadata"]["deletionGracePeriodSeconds"] == 30
    assert server.find("pods", "p")
    call("DELETE", PODS + "/p", {"gracePeriodSeconds": 0})
    assert server.find("pods", "p") is None


def test_deletecollection_takes_what_is_selected(server, call):
    for name, label in (("a", "x"), ("b", "x"), ("c", "y")):
        call("POST", MAPS, {"metadata": {"name": name, "labels": {"l": label}}})
    code, _ = call("DELETE", MAPS, labelSelector="l=x")
    assert code == 200
    assert [one["metadata"]["name"] for one in server.list("configmaps")] == ["c"]


def test_a_namespace_takes_its_objects_with_it_and_lets_none_in(server, call):
    server.create("namespaces", {"metadata": {"name": "n"}})
    server.create("configmaps", {"metadata": {"name": "m", "finalizers": ["x.dev/a"]}}, "n")
    call("DELETE", "/api/v1/namespaces/n")
    code, status = call("POST", MAPS.replace("default", "n"), {"metadata": {"name": "new"}})
    assert (code, status["reason"]) == (403, "Forbidden")
    server.wait("configmaps", "m", lambda one: one["metadata"].get("deletionTimestamp"), "n")
    server.patch("configmaps", "m", {"metadata": {"finalizers": None}}, "n")
    assert gone(server, "namespaces", "n")


def test_events_are_one_kind_in_two_groups(call):
    about = {"kind": "Pod", "name": "p", "namespace": "default", "uid": "u"}
    old = "/api/v1/namespaces/default/events"
    body = {"metadata": {"name": "e"}, "involvedObject": about, "reason": "R", "message": "m"}
    assert call("POST", old, body)[0] == 201
    new = "/apis/events.k8s.io/v1/namespaces/default/events"
    _, same = call("GET", new + "/e")
    assert (same["regarding"], same["note"]) == (about, "m")
    named = {"metadata": {"name": "f"}, "regarding": {**about, "name": "q"}, "note": "n"}
    named |= {"type": "Normal", "eventTime": "2026-01-01T00:00:00.000000Z", "action": "A"}
    named |= {"reason": "R", "reportingController": "x.dev/c", "reportingInstance": "i"}
    assert call("POST", new, named)[0] == 201
    _, found = call("GET", old, fieldSelector="involvedObject.name=q,involvedObject.kind=Pod")
    assert [one["message"] for one in found["items"]] == ["n"]
    wrong = {**body, "metadata": {"name": "g"}, "involvedObject": {**about, "namespace": "x"}}
    assert call("POST", old, wrong)[0] == 422


def test_dry_run_changes_nothing(server, call):
    code, made = call("POST", RUNS, run(), dryRun="All")
    assert (code, made["metadata"]["generation"]) == (201, 1)
    assert server.find("reasoningruns", "r") is None


def test_logs_are_what_the_test_says(server, call):
    pod = {"metadata": {"name": "p"}, "spec": {"containers": [{"name": "a"}]}}
    call("POST", PODS, pod)
    server.set_log("p", "a\nb\nc\n")
    assert call("GET", PODS + "/p/log", tailLines=2) == (200, "b\nc\n")
    assert call("GET", PODS + "/no/log")[0] == 404


def test_loose_jobs_are_taken_as_the_real_definition_takes_them(call):
    odd = {"runPolicy": {"cleanPodPolicy": "Bogus", "activeDeadlineSeconds": -5}}
    odd["pytorchReplicaSpecs"] = {"Leader": {"any": "thing"}}
    kind = {"apiVersion": "kubeflow.org/v1", "kind": "PyTorchJob"}
    job = {**kind, "metadata": {"name": "j"}, "spec": odd}
    code, made = call("POST", JOBS, job)
    assert (code, made["spec"]["runPolicy"]["suspend"]) == (201, False)


def test_direct_access_from_another_thread_obeys_the_same_rules(server):
    made = server.create("reasoningruns", run())
    server.set_status("reasoningruns", "r", {"a": {"b": 1}})
    made["spec"]["model"] = "changed by the test"
    assert server.get("reasoningruns", "r")["spec"]["model"] == "m"
    with pytest.raises(TimeoutError, match="reasoningruns default/r"):
        server.wait("reasoningruns", "r", lambda one: one["status"] == {}, seconds=0.05)
    start = time.monotonic()
    server.wait("reasoningruns", "r", lambda one: one["status"]["a"]["b"] == 1)
    assert time.monotonic() - start < 1
