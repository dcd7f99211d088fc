"""The pod of an attempt: what is in it, what a user may add, and what is refused."""

import json
import re

import jsonschema
import pytest
from child_objects import (
    DATASET,
    cluster_run,
    container_of,
    environment_of,
    manifests,
    order_of,
    runs,
    several,
    template_of,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kube_schema import VERSIONS, as_pod, check, unknown_fields
from pod_security import violations

from coldstart.children import overrides
from coldstart.children.backend import BACKENDS, backend
from coldstart.children.identity import child_name
from coldstart.children.pod import MOUNTS, order_text
from coldstart.spec import Stage
from coldstart.stage import StageOrder

NAMES = [item.name for item in BACKENDS]
both = pytest.mark.parametrize("name", NAMES)


def expanded(value: str, environment: dict[str, str]) -> str:
    """What the kubelet makes of a value: `$(NAME)` and `$$` are replaced."""
    return re.sub(
        r"\$\$|\$\((.*?)\)",
        lambda found: "$" if found[0] == "$$" else environment.get(found[1], found[0]),
        value,
    )


def templates(job: dict) -> list[dict]:
    if job["kind"] == "Job":
        return [job["spec"]["template"]]
    return [spec["template"] for spec in job["spec"]["pytorchReplicaSpecs"].values()]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(runs(), st.sampled_from(BACKENDS))
def test_every_valid_run_gives_objects_that_a_cluster_takes(drawn, kind):
    run, stage, attempt = drawn
    order = order_of(run, stage, attempt)
    objects = kind.manifests(run, order, "image")
    assert objects == kind.manifests(run, order, "image")
    json.dumps(objects)
    for item in objects:
        assert re.fullmatch(r"[a-z]([-a-z0-9]{0,48}[a-z0-9])", item["metadata"]["name"])
        for value in item["metadata"]["labels"].values():
            assert re.fullmatch(r"([A-Za-z0-9]([-\w.]{0,61}[A-Za-z0-9])?)?", value)
        if item["apiVersion"] == "kubeflow.org/v1":
            assert unknown_fields(item) == []
        else:
            check(item)
    for template in templates(objects[-1]):
        check(as_pod(template))
        assert violations(template) == []
        names = [entry["name"] for entry in template["spec"]["containers"][0]["env"]]
        assert len(set(names)) == len(names)
    environment = environment_of(objects[-1])
    told = StageOrder.parse(json.loads(expanded(environment["COLDSTART_ORDER"], environment)))
    assert told == order


@pytest.mark.parametrize("version", VERSIONS)
@both
def test_an_attempt_on_several_machines_fits_the_schemas(name, version):
    *others, job = manifests(name, cluster_run(sft=several(3, 4)))
    for item in [*others, *([job] if name == "Job" else [])]:
        check(item, version)
    for template in templates(job):
        check(as_pod(template), version)


def test_the_schemas_refuse_what_is_wrong():
    template = template_of(manifests("Job", cluster_run())[-1])
    template["spec"]["containers"][0]["images"] = "x"
    with pytest.raises(jsonschema.ValidationError, match="images"):
        check(as_pod(template))
    job = manifests("PyTorchJob", cluster_run())[-1]
    job["spec"] |= {"nprocPerNode": 1, "backoffLimit": 0}
    assert unknown_fields(job) == [
        ".spec.nprocPerNode: is no str",
        ".spec.backoffLimit: is unknown",
    ]


def unsafe(**security) -> dict:
    """A container that is as ours are but for this."""
    container = container_of(manifests("Job", cluster_run())[-1])
    return {
        "containers": [container | {"securityContext": container["securityContext"] | security}]
    }


PROBED = unsafe()["containers"][0] | {"livenessProbe": {"httpGet": {"host": "10.0.0.1", "port": 1}}}


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"initContainers": [{"name": "init-pytorch"}]}, "init-pytorch: allowPrivilegeEscalation"),
        ({"hostNetwork": True}, "hostNetwork"),
        ({"volumes": [{"name": "x", "hostPath": {"path": "/"}}]}, "volume hostPath"),
        ({"securityContext": {}}, "pytorch: runAsNonRoot"),
        ({"securityContext": {"windowsOptions": {"hostProcess": True}}}, "hostProcess"),
        (unsafe(appArmorProfile={"type": "Unconfined"}), "pytorch: appArmorProfile"),
        (unsafe(privileged=True), "pytorch: privileged"),
        (unsafe(procMount="Unmasked"), "pytorch: procMount"),
        (unsafe(runAsUser=0), "pytorch: runAsUser"),
        (unsafe(seccompProfile={"type": "Unconfined"}), "pytorch: seccompProfile"),
        (unsafe(capabilities={"drop": ["ALL"], "add": ["NET_ADMIN"]}), "pytorch: capabilities.add"),
        ({"ephemeralContainers": [{"name": "debug"}]}, "debug: allowPrivilegeEscalation"),
        ({"containers": [PROBED]}, "pytorch: host of a probe"),
    ],
)
def test_the_checker_of_pod_security_sees_what_is_wrong(change, found):
    template = template_of(manifests("Job", cluster_run())[-1])
    assert violations(template) == []
    assert found in violations({**template, "spec": template["spec"] | change})


@both
def test_the_container_runs_the_order_where_it_can_write(name):
    run = cluster_run(
        storage={"claimName": "runs", "subPath": "team/a"},
        sft={
            "dataset": DATASET,
            "batchSize": 4,
            "resources": {"gpusPerNode": 4, "cpu": "8", "memory": "64Gi"},
        },
    )
    job = manifests(name, run)[-1]
    container, spec = container_of(job), template_of(job)["spec"]
    assert container["command"] == ["python", "-m", "coldstart_trainer.launch"]
    assert container["resources"] == {
        "limits": {"nvidia.com/gpu": "4"},
        "requests": {"cpu": "8", "memory": "64Gi"},
    }
    mounts = {mount["mountPath"]: mount for mount in container["volumeMounts"]}
    assert mounts["/storage"] == {"name": "storage", "mountPath": "/storage", "subPath": "team/a"}
    volumes = {volume["name"]: volume for volume in spec["volumes"]}
    assert volumes["shm"]["emptyDir"] == {"medium": "Memory"}
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    environment = environment_of(job)
    for variable in ("HOME", "HF_HOME"):
        assert any(environment[variable].startswith(path) for path in mounts)
    assert (container["terminationMessagePolicy"], spec["automountServiceAccountToken"]) == (
        "File",
        False,
    )
    assert container["ports"] == [{"name": "metrics", "containerPort": 9400, "protocol": "TCP"}]
    assert environment["COLDSTART_METRICS_PORT"] == "9400"


def test_torchrun_kills_before_kubernetes_does():
    run = cluster_run(podTemplate={"terminationGracePeriodSeconds": 30})
    job = manifests("Job", run)[-1]
    assert template_of(job)["spec"]["terminationGracePeriodSeconds"] == 30
    assert int(environment_of(job)["PET_SHUTDOWN_TIMEOUT"]) < 30


def test_a_stage_without_gpus_asks_for_none():
    run = cluster_run(sft={"dataset": DATASET, "resources": {"gpusPerNode": 0}})
    assert container_of(manifests("Job", run)[-1])["resources"] == {}


@both
def test_what_the_user_adds_is_there(name):
    extra = {
        "labels": {"team": "a"},
        "annotations": {"example.com/x": "y"},
        "nodeSelector": {"gpu": "h200"},
        "tolerations": [{"key": "gpu", "operator": "Exists"}],
        "affinity": {"nodeAffinity": {}},
        "priorityClassName": "high",
        "schedulerName": "other",
        "runtimeClassName": "nvidia",
        "serviceAccountName": "trainer",
        "imagePullSecrets": ["pull"],
        "env": [{"name": "HF_HOME", "value": "/hub"}, {"name": "A", "value": "b"}],
        "secrets": ["hub-token"],
        "volumes": [{"name": "hub", "persistentVolumeClaim": {"claimName": "hub"}}],
        "volumeMounts": [{"name": "hub", "mountPath": "/hub"}],
    }
    job = manifests(name, cluster_run(podTemplate=extra, image="mine:1"))[-1]
    template, container = template_of(job), container_of(job)
    assert template["metadata"]["labels"]["team"] == "a"
    assert template["metadata"]["annotations"] == extra["annotations"]
    for key in ("nodeSelector", "tolerations", "affinity", "priorityClassName", "schedulerName"):
        assert template["spec"][key] == extra[key]
    assert template["spec"]["imagePullSecrets"] == [{"name": "pull"}]
    assert len(environment_of(job)) == len(container["env"])
    assert (environment_of(job)["HF_HOME"], environment_of(job)["A"]) == ("/hub", "b")
    assert container["envFrom"] == [{"secretRef": {"name": "hub-token"}}]
    assert extra["volumes"][0] in template["spec"]["volumes"]
    assert extra["volumeMounts"][0] in container["volumeMounts"]
    assert container["image"] == "mine:1"
    check(as_pod(template))


ENV = "spec.podTemplate.env[0]"
VOLUME = "spec.podTemplate.volumes[0]"
MOUNT = "spec.podTemplate.volumeMounts[0]"
A_VOLUME = [{"name": "v", "emptyDir": {}}]


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ({"env": [{"name": "COLDSTART_ORDER", "value": "{}"}]}, f"{ENV}.name: COLDSTART_ORDER is"),
        ({"env": [{"name": "PET_NNODES", "value": "9"}]}, f"{ENV}.name: PET_NNODES is not"),
        ({"env": [{"name": "RANK", "value": "0"}]}, f"{ENV}.name: RANK is not"),
        ({"env": [{"name": "A", "value": 1}]}, f"{ENV}.value: must be a string"),
        ({"env": [{"value": "x"}]}, f"{ENV}.name: must be the name"),
        ({"env": [{"name": "A=B", "value": "x"}]}, f"{ENV}.name: must be the name"),
        ({"env": [{"name": "A", "val": "x"}]}, f"{ENV}.val: unknown key"),
        ({"env": [{"name": "A"}, {"name": "A"}]}, "spec.podTemplate.env[1].name: A is there twice"),
        (
            {"imagePullSecrets": ["a", "b", "a"]},
            "spec.podTemplate.imagePullSecrets[2]: a is there twice",
        ),
        ({"env": [{"name": "A", "valueFrom": {"exec": {}}}]}, f"{ENV}.valueFrom: must hold one of"),
        ({"env": [{"name": "A", "value": "", "valueFrom": {}}]}, f"{ENV}: has both"),
        (
            {"labels": {"coldstart.dev/run": "x"}},
            "spec.podTemplate.labels['coldstart.dev/run']: is",
        ),
        ({"labels": {"app.kubernetes.io/name": "x"}}, "spec.podTemplate.labels['app."),
        ({"labels": {"kueue.x-k8s.io/queue-name": "x"}}, "spec.podTemplate.labels['kueue"),
        ({"labels": {"training.kubeflow.org/replica-type": "x"}}, "spec.podTemplate.labels['tr"),
        ({"labels": {"a b": "x"}}, "spec.podTemplate.labels['a b']: is not a Kubernetes label"),
        ({"labels": {"a": "x" * 64}}, "spec.podTemplate.labels['a']: is not a Kubernetes label"),
        ({"annotations": {"coldstart.dev/x": ""}}, "spec.podTemplate.annotations["),
        (
            {
                "annotations": {
                    "container.apparmor.security.beta.kubernetes.io/pytorch": "unconfined"
                }
            },
            "spec.podTemplate.annotations[",
        ),
        ({"nodeSelector": {"a": "b c"}}, "spec.podTemplate.nodeSelector['a']"),
        ({"volumes": [{"name": "h", "hostPath": {"path": "/"}}]}, f"{VOLUME}: must hold"),
        ({"volumes": [{"name": "storage", "emptyDir": {}}]}, f"{VOLUME}.name: storage is there"),
        ({"volumes": [{"name": "A", "emptyDir": {}}]}, f"{VOLUME}.name: must be a DNS label"),
        ({"volumes": [{"name": "a"}]}, f"{VOLUME}: must hold"),
        ({"volumeMounts": [{"name": "storage", "mountPath": "/x"}]}, f"{MOUNT}.name: is not one"),
        (
            {"volumes": A_VOLUME, "volumeMounts": [{"name": "v", "mountPath": "/storage/"}]},
            f"{MOUNT}.mountPath: '/storage/' covers /storage",
        ),
        (
            {"volumes": A_VOLUME, "volumeMounts": [{"name": "v", "mountPath": "/dev"}]},
            f"{MOUNT}.mountPath: '/dev' covers /dev/",
        ),
        (
            {
                "volumes": A_VOLUME,
                "volumeMounts": [{"name": "v", "mountPath": "/dev/./termination-log"}],
            },
            f"{MOUNT}.mountPath: '/dev/./termination-log' covers /dev/termination-log",
        ),
        (
            {"volumes": A_VOLUME, "volumeMounts": [{"name": "v", "mountPath": "/"}]},
            f"{MOUNT}.mountPath: '/' covers ",
        ),
        (
            {"volumes": A_VOLUME, "volumeMounts": [{"name": "v", "mountPath": "x/../y"}]},
            f"{MOUNT}.mountPath: must be an absolute path",
        ),
        ({"tolerations": [{"keys": "a"}]}, "spec.podTemplate.tolerations[0].keys: unknown key"),
        ({"affinity": {"node": {}}}, "spec.podTemplate.affinity.node: unknown key"),
        ({"serviceAccountName": "A B"}, "spec.podTemplate.serviceAccountName: must be the name"),
        ({"secrets": ["ok", "not ok"]}, "spec.podTemplate.secrets[1]: must be the name"),
    ],
)
@both
def test_what_the_user_may_not_set_is_refused_by_the_name_of_its_field(name, template, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        manifests(name, cluster_run(podTemplate=template))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"storage": {}}, "spec.storage.claimName: is required on a cluster"),
        ({"storage": {"claimName": "Runs!"}}, "spec.storage.claimName: must be the name of an obj"),
        ({"storage": {"claimName": "r", "subPath": "/a"}}, "spec.storage.subPath: must be"),
        ({"storage": {"claimName": "r", "subPath": "a/../.."}}, "spec.storage.subPath: must be"),
        (
            {"sft": {"dataset": DATASET, "resources": {"memory": "lots"}}},
            "spec.sft.resources.memory: must be a Kubernetes quantity",
        ),
        ({"scheduling": {"queueName": "a b"}}, "spec.scheduling: kueue.x-k8s.io/queue-name must"),
    ],
)
@both
def test_what_no_cluster_can_carry_out_is_refused(name, spec, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        manifests(name, cluster_run(**spec))


def test_an_order_that_no_environment_holds_is_refused():
    run = cluster_run(podTemplate={"annotations": {"note": "n" * 150_000}})
    with pytest.raises(ValueError, match=r"^spec: takes \d+ bytes"):
        manifests("Job", run)


def test_a_formula_in_a_prompt_is_not_taken_for_a_variable():
    run = cluster_run(conversation={"system": "cost: $$5 or $(HOME), \\$é, {$x$}"})
    text = order_text(order_of(run))
    assert "$" not in text
    assert text.isascii()
    assert StageOrder.parse(json.loads(text)) == order_of(run)


@pytest.mark.parametrize(
    ("run", "stage", "attempt", "name"),
    [
        ("quickstart", Stage.SFT, 1, "quickstart-sft-1"),
        ("a" * 40, Stage.SFT, 12, "a" * 40 + "-sft-12"),
    ],
)
def test_a_child_is_called_by_run_stage_and_attempt(run, stage, attempt, name):
    assert child_name(run, stage, attempt) == name


def test_names_that_are_cut_fit_and_stay_apart():
    runs = ["a" * 40, "a" * 39 + "b", "a" * 30 + "-" * 9 + "c"]
    names = [child_name(run, Stage.EVALUATION, 10**n) for run in runs for n in range(9)]
    assert len(set(names)) == len(names)
    for name in names:
        # As many as there may be: 512 machines are a master and workers 0 to 510.
        assert len(f"{name}-worker-510") <= 63
        assert re.fullmatch(r"[a-z][-a-z0-9]*[a-z0-9]", name)


def test_our_own_mounts_are_all_guarded():
    for path in MOUNTS.values():
        template = {"volumes": A_VOLUME, "volumeMounts": [{"name": "v", "mountPath": path}]}
        with pytest.raises(ValueError, match="covers"):
            overrides.check(cluster_run(podTemplate=template), Stage.SFT, MOUNTS)


def test_a_backend_that_does_not_exist_is_a_key_error():
    with pytest.raises(KeyError):
        backend("TrainJob")
