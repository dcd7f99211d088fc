"""The chart as Helm's own engine renders it, and what is asked of every object that it makes."""

import contextlib
import functools
from pathlib import Path

import kube_schema
import yaml
from helm_python import Chart
from pod_security import violations

CHART = Path(__file__).parent.parent / "charts" / "coldstart"

SWITCHES = {
    "crds": {"crds": {"enabled": True}},
    "no keep": {"crds": {"enabled": True, "keep": False}},
    "no rbac": {"rbac": {"create": False}},
    "user roles": {"rbac": {"userRoles": True}},
    "no account": {"serviceAccount": {"create": False}},
    "webhook": {"webhook": {"enabled": True}},
    "service monitor": {"serviceMonitor": {"enabled": True}},
    "pod monitor": {"podMonitor": {"enabled": True}},
    "rules": {"prometheusRule": {"enabled": True}},
    "dashboards": {"dashboards": {"enabled": True}},
    "policy": {"networkPolicy": {"enabled": True}},
    "budget": {"podDisruptionBudget": {"enabled": True}},
}
"""What can be turned on or off."""

CLUSTER_WIDE = {
    "ClusterRole",
    "ClusterRoleBinding",
    "CustomResourceDefinition",
    "ValidatingWebhookConfiguration",
}

KNOWN = {
    "Issuer": {"selfSigned": {}},
    "Certificate": {
        "secretName": "",
        "commonName": "",
        "dnsNames": [],
        "issuerRef": {"group": "", "kind": "", "name": ""},
        "privateKey": {"algorithm": "", "size": 0, "rotationPolicy": ""},
    },
    "ServiceMonitor": {
        "selector": {"matchLabels": {}},
        "endpoints": [{"port": "", "interval": ""}],
    },
    "PodMonitor": {
        "namespaceSelector": {"any": True, "matchNames": []},
        "selector": {"matchExpressions": [{"key": "", "operator": ""}]},
        "podMetricsEndpoints": [
            {
                "port": "",
                "interval": "",
                "relabelings": [{"action": "", "sourceLabels": [], "regex": ""}],
            }
        ],
    },
    "PrometheusRule": {"groups": [{"name": "", "rules": []}]},
}
"""The fields that we use of cert-manager's and the Prometheus Operator's own kinds, by type;
Kubernetes' schemas do not have them, and their projects' schemas are on no registry."""


def merged(*values):
    """Values over values, as `-f a -f b` has it."""
    found = {}
    for one in values:
        for key, value in one.items():
            inner = isinstance(value, dict) and isinstance(found.get(key), dict)
            found[key] = merged(found[key], value) if inner else value
    return found


def texts(values=None, chart=CHART, name="coldstart", namespace="ops"):
    """What the chart renders to, by the template's name."""
    with contextlib.closing(Chart.load(chart)) as loaded:
        found = loaded.render(values or {}, name=name, namespace=namespace)
    return {path.rpartition("/")[2]: text for path, text in found.items()}


def rendered(values=None, chart=CHART, name="coldstart", namespace="ops"):
    """The objects that the chart renders to; without the definition, unless that is asked for."""
    files = texts(merged({"crds": {"enabled": False}}, values or {}), chart, name, namespace)
    del files["NOTES.txt"]
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    documents = (one for text in files.values() for one in yaml.load_all(text, Loader=loader))
    return [one for one in documents if one is not None]


def of_kind(objects, kind):
    """The objects of a kind."""
    return [item for item in objects if item["kind"] == kind]


def unknown(value, known, path="spec"):
    """The fields of a spec that its kind does not have, or has as another type."""
    if not isinstance(value, type(known)):
        yield path
    elif isinstance(known, dict) and known:
        for key, inner in value.items():
            if key in known:
                yield from unknown(inner, known[key], f"{path}.{key}")
            else:
                yield f"{path}.{key}"
    elif isinstance(known, list) and known:
        for index, inner in enumerate(value):
            yield from unknown(inner, known[0], f"{path}[{index}]")


SELECTING = {
    "Deployment": ("selector", "matchLabels"),
    "Service": ("selector",),
    "ServiceMonitor": ("selector", "matchLabels"),
    "PodDisruptionBudget": ("selector", "matchLabels"),
    "NetworkPolicy": ("podSelector", "matchLabels"),
}
"""Where a kind says which pods it is about; a ServiceMonitor's Service has the pod's labels too."""

LABELS = {
    f"app.kubernetes.io/{name}"
    for name in ("name", "instance", "version", "component", "part-of", "managed-by")
} | {"helm.sh/chart"}


def mistakes(objects, namespace="ops"):
    """What is wrong with the objects of a release, each by itself and one with another."""
    for item in objects:
        where = f"{item['kind']} {item['metadata'].get('name')}"
        yield from (f"{where}: {text}" for text in _alone(item, namespace))
    yield from _together(objects)


def _alone(item, namespace):
    if item["kind"] in KNOWN:
        yield from unknown(item["spec"], KNOWN[item["kind"]])
    else:
        try:
            kube_schema.check(item)
        except kube_schema.jsonschema.ValidationError as error:
            yield error.message
    metadata = item["metadata"]
    yield from (f"has no label {label}" for label in LABELS - metadata.get("labels", {}).keys())
    if (item["kind"] in CLUSTER_WIDE) != ("namespace" not in metadata):
        yield f"namespace is {metadata.get('namespace')}"
    if len(metadata["name"]) > 63:
        yield "the name is too long for a label"
    if item["kind"] == "Deployment":
        yield from violations(item["spec"]["template"])


def _together(objects):
    ids = [
        (item["kind"], item["metadata"].get("namespace"), item["metadata"]["name"])
        for item in objects
    ]
    yield from (f"twice: {one}" for one in set(ids) if ids.count(one) > 1)
    (deployment,) = of_kind(objects, "Deployment")
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    for item in objects:
        name, spec = item["metadata"]["name"], item.get("spec", {})
        keys = SELECTING.get(item["kind"])
        wanted = functools.reduce(dict.get, keys, spec) if keys else {}
        if not wanted.items() <= labels.items():
            yield f"{item['kind']} {name} selects other pods than the operator's"
        if "roleRef" in item:
            role = item["roleRef"]
            place = item["metadata"].get("namespace")
            if (role["kind"], place, role["name"]) not in ids:
                yield f"{item['kind']} {name}: no role {role['name']}"
            (subject,) = item["subjects"]
            account = deployment["spec"]["template"]["spec"]["serviceAccountName"]
            if subject["name"] != account:
                yield f"{item['kind']} {name}: is for {subject['name']}, the pod is {account}"
