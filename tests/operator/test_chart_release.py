"""Releases of the chart as Helm makes them: runs live through upgrade, rollback and uninstall.

There is no kubelet: the operator is started here with what the Deployment tells it, and stopped
while Helm replaces it, as `Recreate` has it.
"""

import shutil
from contextlib import contextmanager

import helm_python
import pytest
import yaml
from apiserver.remote import Remote
from apiserver.scripts import FOREVER, scripted
from charting import CHART
from operating import holds, install, run_starts, stage, world

from coldstart.children.pod import IMAGE
from coldstart_operator.__main__ import main

RELEASE = "chart"
NAME = "chart-coldstart-operator"
DEFINITION = "reasoningruns.coldstart.dev"


@contextmanager
def helm(w):
    """Helm in the world's namespace; what it leaves installed goes, cluster-wide roles included."""
    # A typed client keeps releases: it speaks protobuf, which the server in process does not.
    driver = None if isinstance(w.server, Remote) else "memory"
    config = w.server.kubeconfig(w.directory / "helm.kubeconfig")
    namespace = w.server.namespace("default")
    found = helm_python.Config(
        kubeconfig_path=str(config), namespace=namespace, storage_driver=driver
    )
    with found:
        try:
            yield found
        finally:
            if found.list():
                found.uninstall(RELEASE)


@contextmanager
def pod(w):
    """The operator of the release, with what its Deployment tells it."""
    (container,) = w.server.get("deployments", NAME)["spec"]["template"]["spec"]["containers"]
    told = main.make_context("operator", list(container["args"])).params
    with w.operator(image=told["image"], namespaces=told["namespaces"]):
        yield


def install_chart(w, release, chart=CHART, **values):
    release.install(str(chart), RELEASE, values, namespace=w.server.namespace("default"))
    if all(item.plural != "reasoningruns" for item in w.server.registry):
        install(w.server)  # tells those who follow a real server that it is served


def child(w, number=1):
    """UID and image of an attempt of the first stage."""
    job = w.server.get("pytorchjobs", f"r-sft-{number}")
    template = job["spec"]["pytorchReplicaSpecs"]["Master"]["template"]
    return job["metadata"]["uid"], template["spec"]["containers"][0]["image"]


def objects(w):
    """What there is of the release."""
    kinds = ("deployments", "serviceaccounts", "clusterroles", "clusterrolebindings")
    return [kind for kind in kinds if w.server.find(kind, NAME)]


@pytest.mark.fault(47)
def test_runs_live_through_upgrade_rollback_and_uninstall(tmp_path):
    with world(tmp_path, scripted({("sft", 1): FOREVER}), crd=False) as w, helm(w) as release:
        install_chart(w, release)
        with pod(w):
            uid = w.apply(grpo=None)["metadata"]["uid"]
            w.until(run_starts)
        before = child(w)
        assert before[1] == IMAGE

        release.upgrade(str(CHART), RELEASE, {"trainerImage": {"tag": "next"}})
        with pod(w):
            w.until(lambda run: holds(run, "Running"))
        assert child(w) == before

        release.rollback(RELEASE)
        (container,) = w.server.get("deployments", NAME)["spec"]["template"]["spec"]["containers"]
        assert f"--image={IMAGE}" in container["args"]
        assert [item["revision"] for item in release.history(RELEASE)] == [1, 2, 3]

        release.uninstall(RELEASE)
        assert objects(w) == []
        assert w.run()["metadata"]["uid"] == uid
        assert holds(w.run(), "Running")
        assert child(w) == before

        install_chart(w, release, trainerImage={"tag": "next"})
        with pod(w):
            w.controllers.finish("r-sft-1")
            assert holds(w.end(), "Succeeded")
        evaluation = w.server.get("pytorchjobs", "r-evaluation-1")
        assert ":next" in yaml.safe_dump(evaluation)
        assert (w.run()["metadata"]["uid"], stage(w.run(), "sft")["attempt"]) == (uid, 1)


def earlier(folder):
    """A chart of an earlier version, whose definition has one field less."""
    shutil.copytree(CHART, folder)
    file = folder / "files" / "crd-spec.yaml"
    spec = yaml.safe_load(file.read_text())
    del at(spec)["ttlSecondsAfterFinished"]
    file.write_text(yaml.safe_dump(spec))
    metadata = folder / "Chart.yaml"
    metadata.write_text(metadata.read_text().replace("version: ", "version: 0.0.9-", 1))
    return folder


def at(spec):
    """The fields of a run's spec in a definition."""
    schema = spec["versions"][0]["schema"]["openAPIV3Schema"]
    return schema["properties"]["spec"]["properties"]


@pytest.mark.fault(47)
def test_an_upgrade_brings_the_new_definition_and_uninstall_leaves_it(tmp_path):
    with world(tmp_path, scripted({("sft", 1): FOREVER}), crd=False) as w, helm(w) as release:
        release.install(
            str(earlier(tmp_path / "earlier")), RELEASE, {}, namespace=w.server.namespace("default")
        )
        old = w.server.get("customresourcedefinitions", DEFINITION)
        assert "ttlSecondsAfterFinished" not in at(old["spec"])

        release.upgrade(str(CHART), RELEASE, {})
        new = w.server.get("customresourcedefinitions", DEFINITION)
        assert "ttlSecondsAfterFinished" in at(new["spec"])
        assert new["metadata"]["uid"] == old["metadata"]["uid"]

        release.uninstall(RELEASE)
        left = w.server.get("customresourcedefinitions", DEFINITION)
        assert left["metadata"]["uid"] == old["metadata"]["uid"]


def test_an_older_chart_can_leave_the_newer_definition(tmp_path):
    with world(tmp_path, crd=False) as w, helm(w) as release:
        install_chart(w, release)
        new = w.server.get("customresourcedefinitions", DEFINITION)
        old = str(earlier(tmp_path / "earlier"))
        release.upgrade(old, RELEASE, {"crds": {"enabled": False}})
        left = w.server.get("customresourcedefinitions", DEFINITION)
        assert left["spec"] == new["spec"]
        assert "0.0.9" in w.server.get("deployments", NAME)["metadata"]["labels"]["helm.sh/chart"]


def test_a_definition_that_is_not_kept_goes_with_the_release(tmp_path):
    with world(tmp_path, crd=False) as w, helm(w) as release:
        values = {"crds": {"keep": False}}
        release.install(str(CHART), RELEASE, values, namespace=w.server.namespace("default"))
        release.uninstall(RELEASE)
        w.server.wait("customresourcedefinitions", DEFINITION, lambda found: found is None)


def test_values_that_are_refused_leave_the_release_as_it_was(tmp_path):
    with world(tmp_path, crd=False) as w, helm(w) as release:
        install_chart(w, release)
        before = w.server.get("deployments", NAME)["metadata"]["generation"]
        with pytest.raises(helm_python.HelmError, match="replicas"):
            release.upgrade(str(CHART), RELEASE, {"replicas": 2})
        assert w.server.get("deployments", NAME)["metadata"]["generation"] == before
        assert [item["status"] for item in release.history(RELEASE)] == ["deployed"]
