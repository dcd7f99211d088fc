"""What only a real API server can show: its admission, its quotas, its rights, its restarts."""

import time

import pytest
import yaml
from apiserver.errors import ApiError
from apiserver.scripts import FOREVER, Behaviour, scripted
from child_objects import cluster_run, manifests, order_of, runs, several, template_of
from cluster_world import ClusterWorld, needs_a_server, on
from control_plane import OPERATOR, apply, plane
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kubectl import Kubectl
from operating import MANIFEST, SFT_ONLY, condition, ended, holds, run_starts, stage, world
from our_pods import every_pod

from coldstart.children.backend import BACKENDS
from coldstart.spec import Stage

pytestmark = pytest.mark.cluster

needs_a_server()

RESTRICTED = {"pod-security.kubernetes.io/enforce": "restricted"}
NAMED = ("priorityClassName", "runtimeClassName", "serviceAccountName")
"""What a pod may name, and what there is none of in these clusters."""

SEVERAL = {"dataset": {"name": "d"}, "resources": {"nodes": 2}}


@pytest.fixture
def there():
    """An API server on which every world is."""
    found = plane()
    with on(found):
        yield found


@pytest.fixture
def ours(there):
    """One that the tests have started, and may do anything to."""
    if not there.ours:
        pytest.skip("changes more than a namespace: not in a cluster that is lent")
    return there


@pytest.fixture
def lacking():
    """One of ours on which the operator may be denied something."""
    found = plane()
    if not found.ours:
        pytest.skip("changes more than a namespace: not in a cluster that is lent")
    with on(found, lacking=True):
        yield found


@pytest.fixture
def managed(there):
    """One with a kube-controller-manager."""
    if not there.managed:
        pytest.skip("no kube-controller-manager beside kube-apiserver")
    return there


def restrict(w: ClusterWorld):
    """Let only pods in that PodSecurity calls restricted."""
    path = f"/api/v1/namespaces/{w.server.own_namespace}"
    labels = {"metadata": {"labels": RESTRICTED}}
    w.server.wire("PATCH", path, labels, None, "application/merge-patch+json")


def dry(w, document):
    """Create an object, but not in earnest.

    Raises:
        ApiError: it would be refused.
    """
    resource = w.server.registry.kind(document["apiVersion"], document["kind"])
    query = {"dryRun": "All", "fieldValidation": "Strict"}
    document = {**document, "metadata": {**document["metadata"]}}
    document["metadata"].pop("namespace", None)
    w.server.wire("POST", w.server.path(resource.plural), document, query)


def pods_of(job):
    """The pods of a job's templates, as its controller names them."""
    replicas = job["spec"].get("pytorchReplicaSpecs")
    templates = [one["template"] for one in replicas.values()] if replicas else [template_of(job)]
    for template in templates:
        metadata = {**template["metadata"], "name": f"{job['metadata']['name']}-worker-511"}
        spec = {**template["spec"], "restartPolicy": "Never"}
        yield {**template, "apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


# Definitions and manifests


@pytest.mark.fault(52)
@pytest.mark.parametrize("manifest", [MANIFEST, OPERATOR], ids=lambda path: path.stem)
def test_a_plain_kubectl_apply_installs_it_once(ours, tmp_path, manifest):
    with world(tmp_path) as w:
        kubectl = Kubectl(w.server, tmp_path)
        kubectl("apply", "-f", manifest)
        again = kubectl("apply", "-f", manifest).splitlines()
        assert [line.split()[-1] for line in again] == ["unchanged"] * len(again)
        assert kubectl("diff", "-f", manifest) == ""


def test_the_operators_pod_is_let_into_its_namespace(ours, tmp_path):
    documents = list(yaml.safe_load_all(OPERATOR.read_text()))
    (deployment,) = (one for one in documents if one["kind"] == "Deployment")
    template, namespace = deployment["spec"]["template"], deployment["metadata"]["namespace"]
    pod = {"apiVersion": "v1", "kind": "Pod", **template}
    pod["metadata"] = {**template["metadata"], "name": "operator"}
    with world(tmp_path) as w:
        for document in documents:
            apply(w.server.wire, document)
        path = f"/api/v1/namespaces/{namespace}/pods"
        query = {"dryRun": "All", "fieldValidation": "Strict"}
        w.server.wire("POST", path, pod, query)
        pod["spec"] = {**pod["spec"], "hostNetwork": True}
        with pytest.raises(ApiError, match="violates PodSecurity"):
            w.server.wire("POST", path, pod, query)


def test_a_status_is_apart_from_its_spec(there, tmp_path):
    with world(tmp_path) as w:
        first = w.apply()
        w.server.patch("reasoningruns", "r", {"status": {"phase": "Succeeded"}})
        assert "status" not in w.run()
        changes = {"spec": {"suspend": True}, "status": {"phase": "Pending"}}
        w.server.patch("reasoningruns", "r", changes, subresource="status")
        found = w.run()
        assert (found["spec"], found["status"]) == (first["spec"], {"phase": "Pending"})
        w.server.patch("reasoningruns", "r", {"metadata": {"labels": {"a": "b"}}})
        assert w.run()["metadata"]["generation"] == 1
        w.server.patch("reasoningruns", "r", {"spec": {"suspend": True}})
        assert w.run()["metadata"]["generation"] == 2


# Children


CHILDREN = {
    "one GPU": (cluster_run(), Stage.SFT),
    "three machines": (cluster_run(sft=several(3, 4)), Stage.SFT),
    "GRPO": (cluster_run(), Stage.GRPO),
    "queue": (cluster_run(scheduling={"queueName": "q"}), Stage.SFT),
}


@pytest.mark.fault(51)
@pytest.mark.parametrize("name", CHILDREN)
@pytest.mark.parametrize("backend", [item.name for item in BACKENDS])
def test_every_child_is_let_into_a_restricted_namespace(there, tmp_path, name, backend):
    run, stage_ = CHILDREN[name]
    with world(tmp_path) as w:
        restrict(w)
        objects = manifests(backend, run, stage_)
        for document in (*objects, *pods_of(objects[-1])):
            dry(w, document)


@pytest.mark.fault(51)
def test_every_pod_of_ours_is_let_into_a_restricted_namespace(there, tmp_path):
    with world(tmp_path) as w:
        restrict(w)
        for _, pod in every_pod():
            for key in NAMED:
                pod["spec"].pop(key, None)
            dry(w, pod)


def test_a_child_that_is_not_restricted_is_refused(there, tmp_path):
    with world(tmp_path) as w:
        restrict(w)
        (pod,) = pods_of(manifests("Job", cluster_run())[-1])
        pod["spec"]["containers"][0]["securityContext"]["allowPrivilegeEscalation"] = True
        with pytest.raises(ApiError, match="violates PodSecurity"):
            dry(w, pod)


@pytest.mark.fault(39)
def test_random_runs_give_children_that_are_taken(there, tmp_path):
    with world(tmp_path) as w:
        restrict(w)

        @settings(
            max_examples=40,
            deadline=None,
            database=None,
            suppress_health_check=[HealthCheck.too_slow],
        )
        @given(runs(), st.sampled_from(BACKENDS))
        def taken(drawn, kind):
            run, stage_, attempt = drawn
            objects = kind.manifests(run, order_of(run, stage_, attempt), "image")
            for document in (*objects, *pods_of(objects[-1])):
                for key in NAMED:
                    document["spec"].pop(key, None)
                dry(w, document)

        taken()


def test_jobs_on_several_machines_run_in_a_restricted_namespace(there, tmp_path):
    with world(tmp_path) as w, w.operator():
        restrict(w)
        w.apply(**SFT_ONLY, backend="Job", sft=SEVERAL)
        assert holds(w.end(), "Succeeded")


@pytest.mark.fault(11)
def test_what_pod_security_refuses_is_said(there, tmp_path):
    # The PyTorchJob controller's init container for workers is not restricted.
    with world(tmp_path, scripted({}, FOREVER)) as w, w.operator():
        restrict(w)
        w.apply(**SFT_ONLY, sft=SEVERAL)
        run = w.until(lambda run: "violates PodSecurity" in _message(run))
        assert "PodSecurity" in run["status"]["message"].partition(":")[0]
        assert holds(run, "Queued")


def _message(run):
    return ((run or {}).get("status") or {}).get("message", "")


# Refusals


@pytest.mark.fault(11)
def test_a_quota_is_said_and_healed(managed, tmp_path):
    with world(tmp_path) as w, w.operator():
        quota = {"metadata": {"name": "q"}, "spec": {"hard": {"count/jobs.batch": "0"}}}
        w.server.create("resourcequotas", quota)
        w.server.wait("resourcequotas", "q", lambda one: one["status"].get("hard"))
        w.apply(**SFT_ONLY, backend="Job")
        run = w.until(lambda run: (condition(run, "Queued") or {}).get("reason") == "QuotaExceeded")
        assert "exceeded quota: q" in run["status"]["message"]
        w.server.delete("resourcequotas", "q")
        run = w.end()
        assert holds(run, "Succeeded")
        assert stage(run, "sft")["attempt"] == 1


def test_a_service_account_that_is_missing_is_said(managed, tmp_path):
    with world(tmp_path) as w, w.operator():
        w.apply(**SFT_ONLY, backend="Job", podTemplate={"serviceAccountName": "nobody"})
        run = w.until(lambda run: "nobody" in _message(run))
        assert "missing service account" in run["status"]["message"]
        w.server.create("serviceaccounts", {"metadata": {"name": "nobody"}})
        assert holds(w.end(), "Succeeded")


@pytest.mark.fault(11)
def test_a_right_that_is_missing_is_said_and_healed(lacking, tmp_path):
    (role,) = (one for one in _documents() if one["kind"] == "ClusterRole")
    with world(tmp_path) as w, w.operator():
        apply(w.server.wire, {**role, "rules": [_without_create(one) for one in role["rules"]]})
        w.apply(**SFT_ONLY)
        run = w.until(lambda run: (condition(run, "Queued") or {}).get("reason") == "Forbidden")
        assert 'cannot create resource "pytorchjobs"' in run["status"]["message"]
        apply(w.server.wire, role)
        run = w.end()
        assert holds(run, "Succeeded")
        assert stage(run, "sft")["attempt"] == 1


def _documents():
    return yaml.safe_load_all(OPERATOR.read_text())


def _without_create(rule):
    return {**rule, "verbs": [verb for verb in rule["verbs"] if verb != "create"]}


# Elsewhere, and later


@pytest.mark.fault(50)
def test_other_namespaces_are_not_an_operators_business(ours, tmp_path):
    with world(tmp_path) as w, world(tmp_path) as other:
        with w.operator(namespaces=("default",)):
            other.apply()
            w.apply(**SFT_ONLY)
            assert holds(w.end(), "Succeeded")
        assert "status" not in other.run()


def test_deleting_a_namespace_takes_everything_along(managed, tmp_path):
    with world(tmp_path, scripted({}, FOREVER)) as w, w.operator():
        w.apply()
        w.until(run_starts)
        w.server.delete("namespaces", w.server.own_namespace)
        w.server.wait("namespaces", w.server.own_namespace, lambda one: one is None)


def test_an_api_server_that_is_started_again_is_found_again(lacking, tmp_path):
    # For a moment after its start it may deny what it will allow.
    script = scripted({("sft", 1): FOREVER, ("grpo", 1): Behaviour(running=0.5)})
    with world(tmp_path, script) as w, w.process() as operator:
        operator.ports()
        w.apply()
        w.until(run_starts, seconds=20)
        lacking.restart()
        time.sleep(1)
        w.controllers.finish("r-sft-1")
        run = w.until(ended, seconds=60)
        assert holds(run, "Succeeded")
        assert w.created() == ["r-sft-1", "r-grpo-1", "r-evaluation-1"]
        assert operator.process.poll() is None
