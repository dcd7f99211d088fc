"""The chart, rendered by Helm's engine: every object right, alone and with the others."""

import copy
import itertools
import re
import shlex
import shutil

import helm_python
import pytest
import yaml
from charting import CHART, SWITCHES, merged, mistakes, of_kind, rendered, texts

from coldstart import __version__, images
from coldstart.children.pod import IMAGE, METRICS_PORT, METRICS_PORT_NAME
from coldstart.generate.crd import definition
from coldstart.generate.rendered import manifests
from coldstart_operator.__main__ import main
from coldstart_operator.settings import Settings
from coldstart_operator.sight import LABEL

NAMESPACES = {"everywhere": {}, "in two": {"watchNamespaces": ["ml", "vision"]}}
OWN_CERTIFICATE = {
    "webhook": {
        "enabled": True,
        "failurePolicy": "Fail",
        "certManager": {"enabled": False},
        "secretName": "tls",
        "caBundle": "QQ==",
    }
}
PEER = {"podSelector": {"matchLabels": {"app": "prometheus"}}}
PLACED = {
    "nameOverride": "cs",
    "fullnameOverride": "training",
    "commonLabels": {"team": "vision", "app.kubernetes.io/name": "mine"},
    "image": {"repository": "r.example:5000/a/b", "digest": "sha256:" + "0" * 64},
    "trainerImage": {"tag": "2"},
    "imagePullSecrets": [{"name": "pull"}],
    "serviceAccount": {"name": "robot", "annotations": {"a": "b"}},
    "logLevel": "debug",
    "extraArgs": ["--resync=600"],
    "extraEnv": [{"name": "HTTPS_PROXY", "value": "http://proxy:3128"}],
    "extraEnvFrom": [{"configMapRef": {"name": "env"}}],
    "extraVolumes": [{"name": "ca", "configMap": {"name": "ca"}}],
    "extraVolumeMounts": [{"name": "ca", "mountPath": "/etc/ca"}],
    "resources": {"limits": {"cpu": "1"}},
    "podLabels": {"app.kubernetes.io/component": "mine", "mesh": "no"},
    "podAnnotations": {"a": "b"},
    "deploymentAnnotations": {"a": "b"},
    "nodeSelector": {"kubernetes.io/arch": "amd64"},
    "tolerations": [{"operator": "Exists"}],
    "affinity": {"nodeAffinity": {}},
    "topologySpreadConstraints": [
        {"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway"}
    ],
    "priorityClassName": "system-cluster-critical",
    "terminationGracePeriodSeconds": 60,
    "dashboards": {"namespace": "grafana", "annotations": {"grafana_folder": "Coldstart"}},
    "networkPolicy": {"metricsFrom": [PEER], "extraEgress": [{"ports": [{"port": 3128}]}]},
    "podDisruptionBudget": {"maxUnavailable": 0},
    "webhook": {"certManager": {"issuerRef": {"name": "ca", "kind": "ClusterIssuer"}}},
}
ON = merged(*(value for key, value in SWITCHES.items() if not key.startswith("no")))
ON = merged(ON, {"crds": {"enabled": False}})
OFF = merged(*(value for key, value in SWITCHES.items() if key.startswith("no")))
CASES = {
    "defaults": {},
    **SWITCHES,
    "all on": ON,
    "all off": merged(OFF, {"crds": {"enabled": False}}),
    "own certificate": OWN_CERTIFICATE,
    "placed": PLACED,
    "placed, all on": merged(ON, PLACED),
    "nothing": {"resources": None, "nodeSelector": None, "global": {"of": "a parent"}},
    "long": {"fullnameOverride": "a" * 40 + "-b"},
}
MATRIX = [
    pytest.param(merged(CASES[case], NAMESPACES[where]), id=f"{case}, {where}")
    for case, where in itertools.product(CASES, NAMESPACES)
]


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    """The chart with a dashboard and a file of alerts more."""
    folder = tmp_path_factory.mktemp("chart") / "coldstart"
    shutil.copytree(CHART, folder)
    for name, text in {
        "dashboards/a.json": '{\n  "title": "{{run}}",\n  "panels": []\n}\n',
        "rules/a.yaml": "groups:\n- name: g\n  rules:\n"
        "  - alert: A\n    expr: up == 0\n    annotations: {summary: '{{ $labels.run }}'}\n",
    }.items():
        file = folder / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
    return folder


@pytest.mark.parametrize("values", MATRIX)
def test_every_object_is_right(values, filled):
    assert list(mistakes(rendered(values, filled))) == []


def test_there_need_be_no_dashboards_and_no_alerts(filled, tmp_path):
    without = shutil.ignore_patterns("dashboards", "rules")
    objects = rendered(ON, shutil.copytree(filled, tmp_path / "coldstart", ignore=without))
    assert list(mistakes(objects)) == []
    assert not of_kind(objects, "ConfigMap") + of_kind(objects, "PrometheusRule")


def test_lint_has_nothing_to_say():
    for values in (None, ON, OWN_CERTIFICATE, merged(ON, PLACED, NAMESPACES["in two"])):
        found = helm_python.lint(CHART, values, strict=True)
        assert [one["error"] for one in found["messages"]] == ["icon is recommended"]


def broken(change):
    """What is wrong with the objects of the chart after a change to them."""
    objects = copy.deepcopy(rendered(ON))
    change({item["kind"]: item for item in objects})
    return list(mistakes(objects))


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda o: o["Deployment"]["spec"].update(replica=2), "replica"),
        (lambda o: o["Deployment"]["spec"]["selector"]["matchLabels"].update(a="b"), "selects"),
        (
            lambda o: o["Deployment"]["spec"]["template"]["spec"].update(hostNetwork=True),
            "hostNetwork",
        ),
        (lambda o: o["Service"]["metadata"].pop("namespace"), "namespace is None"),
        (lambda o: o["Service"]["metadata"]["labels"].pop("helm.sh/chart"), "no label"),
        (lambda o: o["ClusterRoleBinding"]["roleRef"].update(name="other"), "no role"),
        (lambda o: o["ClusterRoleBinding"]["subjects"][0].update(name="other"), "is for other"),
        (lambda o: o["ServiceMonitor"]["spec"]["endpoints"][0].update(ports=1), "ports"),
        (lambda o: o["Certificate"]["spec"]["privateKey"].update(size="256"), "size"),
        (lambda o: o["PodDisruptionBudget"]["metadata"].update(name="a" * 64), "too long"),
    ],
)
def test_a_mistake_is_seen(change, found):
    assert any(found in one for one in broken(change))


def test_the_definition_is_that_of_the_models_and_stays_unless_told_otherwise():
    (kept,) = of_kind(rendered(SWITCHES["crds"]), "CustomResourceDefinition")
    assert kept["spec"] == definition()["spec"]
    assert kept["metadata"]["name"] == definition()["metadata"]["name"]
    assert kept["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}
    (gone,) = of_kind(rendered(SWITCHES["no keep"]), "CustomResourceDefinition")
    assert "annotations" not in gone["metadata"]
    # Not where Helm installs definitions once and never again.
    assert not (CHART / "crds").exists()


def test_nothing_optional_is_on_by_default():
    kinds = sorted(item["kind"] for item in rendered())
    assert kinds == ["ClusterRole", "ClusterRoleBinding", "Deployment", "ServiceAccount"]


def test_some_namespaces_need_no_rights_elsewhere():
    objects = rendered(NAMESPACES["in two"])
    assert not of_kind(objects, "ClusterRole") + of_kind(objects, "ClusterRoleBinding")
    everywhere = of_kind(rendered(), "ClusterRole")[0]["rules"]
    wide = [rule for rule in everywhere if "customresourcedefinitions" in rule["resources"]]
    for kind in ("Role", "RoleBinding"):
        found = of_kind(objects, kind)
        assert [item["metadata"]["namespace"] for item in found] == ["ml", "vision"]
    for role in of_kind(objects, "Role"):
        assert role["rules"] == [rule for rule in everywhere if rule not in wide]
    (binding, _) = of_kind(objects, "RoleBinding")
    assert binding["subjects"][0]["namespace"] == "ops"


@pytest.mark.parametrize("where", NAMESPACES)
def test_the_operator_is_told_what_the_values_say(where, tmp_path):
    values = merged(ON, PLACED, NAMESPACES[where])
    (deployment,) = of_kind(rendered(values), "Deployment")
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    args = [item.replace("/etc/coldstart/webhook", str(tmp_path)) for item in container["args"]]
    told = main.make_context("operator", args).params
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert told["namespaces"] == tuple(NAMESPACES[where].get("watchNamespaces", ()))
    assert (told["image"], told["log_level"], told["resync"]) == (
        f"{images.TRAINER}:2",
        "debug",
        600,
    )
    assert ports == {
        "health": told["health_port"],
        "metrics": told["metrics_port"],
        "webhook": told["webhook_port"],
    }
    assert container["image"] == "r.example:5000/a/b@sha256:" + "0" * 64


def test_images_and_version_are_those_of_the_package():
    (deployment,) = of_kind(rendered(), "Deployment")
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    assert container["image"] == images.tagged(images.OPERATOR)
    told = main.make_context("operator", list(container["args"])).params
    assert told["image"] == IMAGE == Settings.image
    with helm_python.Chart.load(CHART) as chart:
        found = chart.metadata
    assert (found["version"], found["appVersion"]) == (__version__, __version__)


def test_labels_of_the_user_do_not_replace_ours():
    (deployment,) = of_kind(rendered(PLACED), "Deployment")
    for labels in (
        deployment["metadata"]["labels"],
        deployment["spec"]["template"]["metadata"]["labels"],
    ):
        assert labels["team"] == "vision"
        assert labels["app.kubernetes.io/name"] == "cs"
        assert labels["app.kubernetes.io/component"] == "operator"


def test_an_upgrade_of_the_chart_alone_restarts_nothing():
    (deployment,) = of_kind(rendered(), "Deployment")
    template = deployment["spec"]["template"]["metadata"]
    assert __version__ not in str(template)


def test_pods_of_runs_are_found_by_their_label_and_port():
    (monitor,) = of_kind(rendered(ON), "PodMonitor")
    assert monitor["spec"]["podMetricsEndpoints"][0]["port"] == METRICS_PORT_NAME
    assert monitor["spec"]["selector"]["matchExpressions"] == [{"key": LABEL, "operator": "Exists"}]
    assert monitor["spec"]["namespaceSelector"] == {"any": True}
    (some,) = of_kind(rendered(merged(ON, NAMESPACES["in two"])), "PodMonitor")
    assert some["spec"]["namespaceSelector"] == {"matchNames": ["ml", "vision"]}


@pytest.mark.parametrize(
    ("labels", "kept"),
    [
        ({"training_kubeflow_org_replica_type": "master"}, True),
        ({"training_kubeflow_org_replica_type": "worker"}, False),
        ({"batch_kubernetes_io_job_completion_index": "0"}, True),
        ({"batch_kubernetes_io_job_completion_index": "10"}, False),
        ({}, True),
    ],
)
def test_of_the_pods_of_an_attempt_the_one_that_serves_numbers_is_scraped(labels, kept):
    (monitor,) = of_kind(rendered(ON), "PodMonitor")
    (rule,) = monitor["spec"]["podMetricsEndpoints"][0]["relabelings"]
    found = [
        labels.get(name.removeprefix("__meta_kubernetes_pod_label_"), "")
        for name in rule["sourceLabels"]
    ]
    assert rule["action"] == "keep"
    assert bool(re.fullmatch(rule["regex"], ";".join(found))) == kept


def test_policy_lets_through_what_the_operator_does():
    (policy,) = of_kind(rendered(merged(ON, PLACED)), "NetworkPolicy")
    health, metrics = policy["spec"]["ingress"]
    assert {port["port"] for port in health["ports"]} == {"health", "webhook"}
    assert metrics == {"ports": [{"port": "metrics"}], "from": [PEER]}
    dns, server, runs, proxy = policy["spec"]["egress"]
    assert {port["port"] for port in dns["ports"]} == {53}
    assert [port["port"] for port in server["ports"]] == [443, 6443]
    assert [port["port"] for port in runs["ports"]] == [METRICS_PORT]
    assert proxy == {"ports": [{"port": 3128}]}
    (open_,) = of_kind(rendered(SWITCHES["policy"]), "NetworkPolicy")
    assert open_["spec"]["ingress"][1] == {"ports": [{"port": "metrics"}]}


def test_dashboards_and_alerts_are_taken_as_they_are(filled):
    values = merged(ON, {"dashboards": {"namespace": "grafana"}})
    objects = rendered(values, filled)
    found = {item["metadata"]["name"]: item for item in of_kind(objects, "ConfigMap")}
    board = found["coldstart-dashboard-a"]
    assert board["data"] == {"a.json": (filled / "dashboards" / "a.json").read_text()}
    assert board["metadata"]["namespace"] == "grafana"
    assert board["metadata"]["labels"]["grafana_dashboard"] == "1"
    rules = {item["metadata"]["name"]: item for item in of_kind(objects, "PrometheusRule")}
    assert rules["coldstart-a"]["spec"] == yaml.safe_load((filled / "rules/a.yaml").read_text())


def test_notes_say_what_to_do_next():
    notes = texts({"watchNamespaces": ["vision"], "crds": {"enabled": False}})["NOTES.txt"]
    assert "deployment/coldstart-operator" in notes
    assert "--namespace vision apply" in notes
    assert "crds.enabled is false" in notes
    assert "crds.enabled" not in texts()["NOTES.txt"]
    assert "failurePolicy is Fail" in texts(OWN_CERTIFICATE)["NOTES.txt"]


def test_release_is_the_beginning_of_names():
    for name, beginning in (
        ("coldstart", "coldstart"),
        ("coldstart-a", "coldstart-a"),
        ("a", "a-coldstart"),
    ):
        (deployment,) = of_kind(rendered(name=name), "Deployment")
        assert deployment["metadata"]["name"] == f"{beginning}-operator"


@pytest.mark.parametrize("page", ["README.md", "docs/cluster.md", "charts/coldstart/README.md"])
def test_helm_commands_in_pages_name_values_of_the_chart(page):
    text = (CHART.parents[1] / page).read_text().replace("\\\n", " ")
    commands = [line for line in text.splitlines() if line.startswith(("helm install", "helm upg"))]
    assert commands
    for words in map(shlex.split, commands):
        assert words[3] == "charts/coldstart" or words[3].startswith("oci://")
        settings = [words[at + 1] for at, word in enumerate(words) if word == "--set"]
        found = merged(*map(helm_python.parse_set_string, settings))
        assert list(mistakes(rendered(found, name=words[2]))) == []
        assert "--create-namespace" in words or words[1] != "install"


def test_manifests_are_the_chart_rendered():
    root = CHART.parents[1]
    found = dict(manifests(root))
    assert found.keys() == {"manifests/operator.yaml", "manifests/webhook.yaml"}
    for name, text in found.items():
        assert (root / name).read_text() == text, f"{name}: run make generate"


def test_manifests_differ_when_the_chart_does(tmp_path):
    shutil.copytree(CHART, tmp_path / "charts" / "coldstart")
    file = tmp_path / "charts" / "coldstart" / "templates" / "deployment.yaml"
    file.write_text(file.read_text().replace("replicas: 1", "replicas: 2"))
    assert all("replicas: 2" in text for _, text in manifests(tmp_path))
