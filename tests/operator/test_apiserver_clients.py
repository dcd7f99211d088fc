"""The clients that users and the operator have work against the stand-in API server."""

import asyncio
import os
import shutil
import subprocess

import pytest
import yaml
from apiserver import crds
from apiserver.threaded import running_server
from kubernetes.aio import client, config, watch

RUN = {
    "apiVersion": "coldstart.dev/v1alpha1",
    "kind": "ReasoningRun",
    "metadata": {"name": "r"},
    "spec": {"model": {"name": "m"}},
}
WHERE = ("coldstart.dev", "v1alpha1", "default", "reasoningruns")

COLUMNS = [
    {"name": "Phase", "type": "string", "jsonPath": ".status.phase"},
    {
        "name": "Done",
        "type": "string",
        "jsonPath": '.status.conditions[?(@.type=="Succeeded")].status',
    },
    {"name": "Message", "type": "string", "jsonPath": ".status.message", "priority": 1},
    {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"},
]


@pytest.fixture
def server():
    with running_server() as server:
        crd = crds.reasoningruns()
        crd["spec"]["versions"][0]["additionalPrinterColumns"] = COLUMNS
        crd["spec"]["names"] |= {"shortNames": ["rrun"], "categories": ["all"]}
        server.create("customresourcedefinitions", crd)
        yield server


def test_the_aio_client_creates_patches_watches_and_deletes(server, tmp_path):
    async def main():
        await config.load_kube_config(str(server.kubeconfig(tmp_path / "kubeconfig")))
        async with client.ApiClient() as api:
            custom, core = client.CustomObjectsApi(api), client.CoreV1Api(api)
            made = await custom.create_namespaced_custom_object(*WHERE, RUN)
            status = {"status": {"phase": "x"}}
            await custom.patch_namespaced_custom_object_status(*WHERE, "r", status)
            with pytest.raises(client.ApiException) as refused:
                await custom.create_namespaced_custom_object(*WHERE, RUN)
            assert refused.value.status == 409
            events = []
            version = made["metadata"]["resourceVersion"]
            async with watch.Watch() as stream:
                listing = custom.list_namespaced_custom_object
                more = {"resource_version": version, "timeout_seconds": 5}
                async for event in stream.stream(listing, *WHERE, **more):
                    events.append((event["type"], event["object"]["status"]["phase"]))
                    break
            assert events == [("MODIFIED", "x")]
            pod = {"metadata": {"name": "p"}, "spec": {"containers": [{"name": "a"}]}}
            made = await core.create_namespaced_pod("default", pod)
            assert made.status.phase == "Pending"
            found = await core.list_namespaced_pod("default", label_selector="a=b")
            assert found.items == []
            await custom.delete_namespaced_custom_object(*WHERE, "r")
        assert server.find("reasoningruns", "r") is None

    asyncio.run(main())


@pytest.fixture
def kubectl(server, tmp_path):
    program = shutil.which("kubectl")
    if program is None:
        pytest.skip("no kubectl on PATH")
    kubeconfig = server.kubeconfig(tmp_path / "kubeconfig")

    def call(*arguments, given=None, code=0):
        done = subprocess.run(
            [program, *arguments],
            input=yaml.safe_dump(given) if given else None,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env={**os.environ, "KUBECONFIG": str(kubeconfig), "HOME": str(tmp_path)},
        )
        assert done.returncode == code, done.stderr
        return done.stdout + done.stderr

    return call


def test_kubectl_applies_twice_without_a_change(server, kubectl):
    assert "r created" in kubectl("apply", "-f", "-", given=RUN)
    assert "r unchanged" in kubectl("apply", "-f", "-", given=RUN)
    changed = {**RUN, "spec": {"model": {"name": "other"}}}
    assert "+    name: other" in kubectl("diff", "-f", "-", given=changed, code=1)
    assert "r configured" in kubectl("apply", "-f", "-", given=changed)
    assert server.get("reasoningruns", "r")["metadata"]["generation"] == 2
    assert server.requests.writes("reasoningruns")[-1].body["spec"] == changed["spec"]


def test_kubectl_applies_on_the_server_side(server, kubectl):
    for _ in range(2):
        kubectl("apply", "--server-side", "-f", "-", given=RUN)
    found = server.get("reasoningruns", "r")
    assert [one["manager"] for one in found["metadata"]["managedFields"]] == ["kubectl"]
    assert found["metadata"]["generation"] == 1


def test_kubectl_prints_the_definition_s_columns(server, kubectl):
    server.create("reasoningruns", RUN)
    done = {"type": "Succeeded", "status": "True"}
    status = {"phase": "Running", "message": "waits", "conditions": [done]}
    server.set_status("reasoningruns", "r", status)
    head, row = kubectl("get", "rrun").splitlines()
    assert head.split() == ["NAME", "PHASE", "DONE", "AGE"]
    assert row.split()[:3] == ["r", "Running", "True"]
    assert "waits" in kubectl("get", "rrun", "-o", "wide")
    assert "reasoningrun.coldstart.dev/r" in kubectl("get", "all", "-o", "name")
    kubectl("apply", "-f", "-", given={**RUN, "metadata": {"name": "s"}})
    server.set_status("reasoningruns", "s", {"conditions": [done]})
    assert "condition met" in kubectl("wait", "--for=condition=Succeeded", "rrun/s")


def test_kubectl_deletes_and_waits(server, kubectl):
    server.create("reasoningruns", RUN)
    owner = server.get("reasoningruns", "r")
    reference = {"apiVersion": owner["apiVersion"], "kind": "ReasoningRun", "name": "r"}
    reference["uid"] = owner["metadata"]["uid"]
    child = {"metadata": {"name": "m", "ownerReferences": [reference]}}
    server.create("configmaps", child)
    assert "deleted" in kubectl("delete", "rrun", "r", "--timeout=10s")
    server.wait("configmaps", "m", lambda found: found is None)
    assert "NotFound" in kubectl("get", "rrun", "r", code=1)


def test_kubectl_is_told_of_unknown_fields(server, kubectl):
    crd = crds.minimal("x.dev", "Thing", "things")
    crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"] = {
        "type": "object",
        "properties": {"known": {"type": "string"}},
    }
    kubectl("apply", "-f", "-", given=crd)
    kubectl("wait", "--for=condition=Established", "crd/things.x.dev")
    thing = {"apiVersion": "x.dev/v1", "kind": "Thing", "metadata": {"name": "t"}}
    text = kubectl("apply", "-f", "-", given={**thing, "spec": {"no": 1}}, code=1)
    assert 'unknown field "spec.no"' in text
    kubectl("apply", "-f", "-", given={**thing, "spec": {"known": "x"}})


def test_kubectl_shows_logs_and_applies_built_in_kinds(server, kubectl):
    pod = {"metadata": {"name": "p"}, "spec": {"containers": [{"name": "a", "image": "x"}]}}
    server.create("pods", pod)
    server.set_log("p", "hello\n")
    assert kubectl("logs", "p") == "hello\n"
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "d"},
        "spec": {
            "selector": {"matchLabels": {"a": "b"}},
            "template": {
                "metadata": {"labels": {"a": "b"}},
                "spec": {"containers": [{"name": "a", "image": "x"}]},
            },
        },
    }
    kubectl("apply", "-f", "-", given=deployment)
    deployment["spec"]["replicas"] = 2
    kubectl("apply", "-f", "-", given=deployment)
    assert server.get("deployments", "d")["spec"]["replicas"] == 2
