"""The chart's values: each is used, and what cannot be meant is refused by name."""

import helm_python
import pytest
from charting import CHART, SWITCHES, merged, texts

from coldstart.generate.chart import section
from coldstart.generate.values import Values

OWN = {"certManager": {"enabled": False}, "secretName": "tls", "caBundle": "QQ=="}

OTHER = {
    "nameOverride": "x",
    "fullnameOverride": "x",
    "commonLabels": {"a": "b"},
    "image.repository": "x",
    "image.tag": "x",
    "image.digest": "sha256:" + "1" * 64,
    "image.pullPolicy": "Always",
    "trainerImage.repository": "x",
    "trainerImage.tag": "x",
    "trainerImage.digest": "sha256:" + "1" * 64,
    "imagePullSecrets": [{"name": "x"}],
    "crds.enabled": False,
    "crds.keep": False,
    "watchNamespaces": ["x"],
    "rbac.create": False,
    "rbac.userRoles": False,
    "serviceAccount.create": False,
    "serviceAccount.name": "x",
    "serviceAccount.annotations": {"a": "b"},
    "logLevel": "error",
    "extraArgs": ["--workers=2"],
    "extraEnv": [{"name": "A", "value": "b"}],
    "extraEnvFrom": [{"secretRef": {"name": "x"}}],
    "extraVolumes": [{"name": "x", "emptyDir": {}}],
    "extraVolumeMounts": [{"name": "x", "mountPath": "/x"}],
    "resources": {"limits": {"cpu": "2"}},
    "podSecurityContext": {"fsGroup": 1},
    "securityContext": {"runAsUser": 1},
    "podLabels": {"a": "b"},
    "podAnnotations": {"a": "b"},
    "deploymentAnnotations": {"a": "b"},
    "nodeSelector": {"a": "b"},
    "tolerations": [{"operator": "Exists"}],
    "affinity": {"podAffinity": {}},
    "topologySpreadConstraints": [{"maxSkew": 1}],
    "priorityClassName": "x",
    "terminationGracePeriodSeconds": 31,
    "webhook.enabled": False,
    "webhook.failurePolicy": "Fail",
    "webhook.timeoutSeconds": 6,
    "webhook.certManager.enabled": False,
    "webhook.certManager.issuerRef": {"name": "x"},
    "webhook.secretName": "x",
    "webhook.caBundle": "QUE=",
    "serviceMonitor.enabled": False,
    "serviceMonitor.interval": "31s",
    "serviceMonitor.labels": {"a": "b"},
    "podMonitor.enabled": False,
    "podMonitor.interval": "16s",
    "podMonitor.labels": {"a": "b"},
    "prometheusRule.enabled": False,
    "prometheusRule.labels": {"a": "b"},
    "dashboards.enabled": False,
    "dashboards.labels": {"a": "b"},
    "dashboards.annotations": {"a": "b"},
    "dashboards.namespace": "x",
    "networkPolicy.enabled": False,
    "networkPolicy.metricsFrom": [{"podSelector": {}}],
    "networkPolicy.apiServerPorts": [8443],
    "networkPolicy.extraEgress": [{}],
    "podDisruptionBudget.enabled": False,
    "podDisruptionBudget.maxUnavailable": 0,
}
"""Another value than the default, or than what `BASE` has, for each value."""

BASE = merged(*(one for key, one in SWITCHES.items() if not key.startswith("no")))
"""Everything is on."""


def paths(model, prefix=""):
    """Every value of the chart."""
    for name, info in model.model_fields.items():
        path, inner = f"{prefix}{info.alias or name}", section(info)
        yield from paths(inner, f"{path}.") if inner else [path]


def at(path, value):
    """Values with one of them set."""
    for key in reversed(path.split(".")):
        value = {key: value}
    return value


def test_every_value_has_a_case():
    assert list(OTHER) == list(paths(Values))


@pytest.fixture(scope="module")
def chart(tmp_path_factory):
    """The chart with a dashboard and a file of alerts, whether or not it has some itself."""
    folder = tmp_path_factory.mktemp("chart") / "coldstart"
    with helm_python.Chart.load(CHART) as loaded:
        loaded.save_dir(folder.parent)
    for name in ("dashboards/a.json", "rules/a.yaml"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("{}\n")
    return folder


@pytest.mark.parametrize("path", OTHER)
def test_every_value_is_used(path, chart):
    base = BASE
    if path == "webhook.certManager.enabled":
        base = merged(base, {"webhook": {"secretName": "tls", "caBundle": "QQ=="}})
    elif path == "webhook.caBundle":
        base = merged(base, {"webhook": OWN})
    assert texts(merged(base, at(path, OTHER[path])), chart) != texts(base, chart)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"replicas": 2}, "additional properties 'replicas'"),
        ({"image": {"name": "x"}}, "at '/image': additional properties 'name'"),
        ({"image": {"tag": 1.0}}, "at '/image/tag'"),
        ({"image": {"tag": "a b"}}, "at '/image/tag'"),
        ({"image": {"digest": "sha256:1"}}, "at '/image/digest'"),
        ({"image": {"pullPolicy": "Sometimes"}}, "at '/image/pullPolicy'"),
        ({"trainerImage": {"pullPolicy": "Always"}}, "additional properties 'pullPolicy'"),
        ({"trainerImage": {"repository": "UPPER"}}, "at '/trainerImage/repository'"),
        ({"watchNamespaces": "ml"}, "at '/watchNamespaces'"),
        ({"watchNamespaces": ["*"]}, "at '/watchNamespaces/0'"),
        ({"watchNamespaces": ["a" * 64]}, "at '/watchNamespaces/0'"),
        ({"crds": {"enabled": "yes"}}, "at '/crds/enabled'"),
        ({"rbac": None, "rbac ": {}}, "additional properties 'rbac '"),
        ({"logLevel": "loud"}, "at '/logLevel'"),
        ({"extraArgs": "--resync=1"}, "at '/extraArgs'"),
        ({"extraEnv": {"A": "b"}}, "at '/extraEnv'"),
        ({"nodeSelector": {"a": True}}, "at '/nodeSelector/a'"),
        ({"tolerations": {}}, "at '/tolerations'"),
        ({"terminationGracePeriodSeconds": 0}, "at '/terminationGracePeriodSeconds'"),
        ({"webhook": {"failurePolicy": "ignore"}}, "at '/webhook/failurePolicy'"),
        ({"webhook": {"timeoutSeconds": 31}}, "at '/webhook/timeoutSeconds'"),
        ({"serviceMonitor": {"interval": "30"}}, "at '/serviceMonitor/interval'"),
        ({"podMonitor": {"labels": ["a"]}}, "at '/podMonitor/labels'"),
        ({"networkPolicy": {"apiServerPorts": []}}, "at '/networkPolicy/apiServerPorts'"),
        ({"networkPolicy": {"apiServerPorts": [0]}}, "at '/networkPolicy/apiServerPorts/0'"),
        ({"podDisruptionBudget": {"maxUnavailable": 2}}, "at '/podDisruptionBudget"),
        ({"fullnameOverride": "Upper"}, "at '/fullnameOverride'"),
        ({"serviceAccount": {"name": "a_b"}}, "at '/serviceAccount/name'"),
        (
            {"webhook": {"enabled": True, "certManager": {"enabled": False}}},
            "set webhook.secretName and webhook.caBundle",
        ),
    ],
)
def test_what_cannot_be_meant_is_refused(values, said):
    with pytest.raises(helm_python.HelmError) as error:
        texts(values)
    assert said in str(error.value)
