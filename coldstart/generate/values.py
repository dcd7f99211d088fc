"""The values of the Helm chart: names, types, defaults and meaning; the templates use them.

`values.yaml`, `values.schema.json` and the table in the chart's README are made from these models.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints

from coldstart import images
from coldstart.schema import Contract

Object = dict[str, Any]
"""A piece of a Kubernetes object; goes where it belongs as it is."""

Objects = tuple[Object, ...]
Strings = dict[str, str]

ImageTag = Annotated[str, StringConstraints(pattern=r"^([A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?$")]
ImageDigest = Annotated[str, StringConstraints(pattern=r"^(sha256:[0-9a-f]{64})?$")]
Repository = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9._:/-]*[a-z0-9])?$")]
Interval = Annotated[str, StringConstraints(pattern=r"^[1-9][0-9]*(ms|s|m|h)$")]
ResourceName = Annotated[
    str, StringConstraints(pattern=r"^([a-z0-9]([-a-z0-9.]*[a-z0-9])?)?$", max_length=253)
]
Namespace = Annotated[
    str, StringConstraints(pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", max_length=63)
]
PartOfName = Annotated[str, StringConstraints(pattern=r"^([a-z]([-a-z0-9]*[a-z0-9])?)?$")]


class TrainerImage(Contract):
    """The image of the pods of runs that name none in `spec.image`."""

    repository: Repository = images.TRAINER
    """Registry and repository."""
    tag: ImageTag = ""
    """The tag; empty: the chart's appVersion."""
    digest: ImageDigest = ""
    """`sha256:…`, instead of the tag."""


class Image(TrainerImage):
    """The operator's image."""

    repository: Repository = images.OPERATOR
    """Registry and repository."""
    pull_policy: Literal["IfNotPresent", "Always", "Never"] = "IfNotPresent"
    """When the kubelet pulls it."""


class Definitions(Contract):
    """The CustomResourceDefinition of a ReasoningRun."""

    enabled: bool = True
    """Install and upgrade it with the chart. Of several releases in a cluster, one does."""
    keep: bool = True
    """Leave it, and with it all runs, when the release is uninstalled."""


class Rbac(Contract):
    """What accounts may do."""

    create: bool = True
    """Give the operator's account the verbs that it needs: a ClusterRole, or with `watchNamespaces`
    a Role in each of them."""
    user_roles: bool = False
    """Let those who may `edit` or `view` a namespace do so with its ReasoningRuns."""


class ServiceAccount(Contract):
    """The operator's account."""

    create: bool = True
    """Make it."""
    name: ResourceName = ""
    """Its name; empty: that of the Deployment, or `default` where none is made."""
    annotations: Strings = Field(default_factory=dict)
    """Annotations of the account."""


class CertManager(Contract):
    """A certificate by cert-manager, which renews it."""

    enabled: bool = True
    """Have cert-manager make it. If off, `secretName` and `caBundle` are needed."""
    issuer_ref: Object = Field(default_factory=dict)
    """An issuer of yours (`name`, `kind`, `group`); empty: one of the chart's that signs for
    itself."""


class Webhook(Contract):
    """The admission webhook, which refuses at once what the operator would refuse later."""

    enabled: bool = False
    """Serve it, and have the API server ask it."""
    failure_policy: Literal["Ignore", "Fail"] = "Ignore"
    """What becomes of a run while nobody answers: taken and judged by the operator, or refused."""
    timeout_seconds: Annotated[int, Field(ge=1, le=30)] = 5
    """How long the API server waits for an answer."""
    cert_manager: CertManager = CertManager()
    secret_name: ResourceName = ""
    """The Secret with `tls.crt` and `tls.key`; empty: one that cert-manager makes."""
    ca_bundle: str = ""
    """Base64 of the PEM certificates that the API server trusts, without cert-manager."""


class ServiceMonitor(Contract):
    """Scraping of the operator by the Prometheus Operator, through a Service."""

    enabled: bool = False
    """Make a Service and a ServiceMonitor."""
    interval: Interval = "30s"
    """Between two scrapes."""
    labels: Strings = Field(default_factory=dict)
    """Labels by which a Prometheus selects it."""


class PodMonitor(Contract):
    """Scraping of the pods of all runs by the Prometheus Operator."""

    enabled: bool = False
    """Make a PodMonitor."""
    interval: Interval = "15s"
    """Between two scrapes."""
    labels: Strings = Field(default_factory=dict)
    """Labels by which a Prometheus selects it."""


class PrometheusRule(Contract):
    """Alerts on runs and on the operator, for the Prometheus Operator."""

    enabled: bool = False
    """Make a PrometheusRule of each file in `rules/`."""
    labels: Strings = Field(default_factory=dict)
    """Labels by which a Prometheus selects them."""


class Dashboards(Contract):
    """Dashboards for Grafana, as ConfigMaps that its sidecar finds."""

    enabled: bool = False
    """Make a ConfigMap of each file in `dashboards/`."""
    labels: Strings = Field(default_factory=lambda: {"grafana_dashboard": "1"})
    """Labels by which the sidecar finds them."""
    annotations: Strings = Field(default_factory=dict)
    """Annotations, for instance `grafana_folder`."""
    namespace: Annotated[str, StringConstraints(pattern=r"^([a-z0-9]([-a-z0-9]*[a-z0-9])?)?$")] = ""
    """Where the sidecar looks; empty: the release's namespace."""


Port = Annotated[int, Field(ge=1, le=65_535)]


class NetworkPolicy(Contract):
    """Whom the operator talks to, and who may talk to it."""

    enabled: bool = False
    """Let nothing through but metrics, webhook and probes to it, and from it DNS, the API server
    and the metrics of runs."""
    metrics_from: Objects = ()
    """NetworkPolicyPeers that may scrape the operator; empty: everybody."""
    api_server_ports: Annotated[tuple[Port, ...], Field(min_length=1)] = (443, 6443)
    """The ports of the API server; it has no pods that a policy could name."""
    extra_egress: Objects = ()
    """Further rules, for instance to a proxy."""


class PodDisruptionBudget(Contract):
    """What an eviction of the operator's pod has to respect."""

    enabled: bool = False
    """Make a PodDisruptionBudget."""
    max_unavailable: Annotated[int, Field(ge=0, le=1)] = 1
    """1: a node may be drained, runs go on meanwhile. 0: it may not, until somebody deletes the
    pod."""


def _pod_security() -> Object:
    return {
        "runAsNonRoot": True,
        "runAsUser": 65532,
        "runAsGroup": 65532,
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def _container_security() -> Object:
    return {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def _resources() -> Object:
    return {"requests": {"cpu": "50m", "memory": "128Mi"}, "limits": {"memory": "512Mi"}}


class Values(Contract):
    """The values of the chart."""

    name_override: PartOfName = ""
    """Instead of the chart's name, in labels and names."""
    fullname_override: PartOfName = ""
    """Instead of release and chart, as the beginning of every name."""
    common_labels: Strings = Field(default_factory=dict)
    """Labels of every object and of the operator's pod."""
    image: Image = Image()
    trainer_image: TrainerImage = TrainerImage()
    image_pull_secrets: Objects = ()
    """Secrets for the operator's image, as `{name: …}`. A run names its own in
    `spec.podTemplate.imagePullSecrets`."""
    crds: Definitions = Definitions()
    watch_namespaces: tuple[Namespace, ...] = ()
    """The namespaces that the operator works in, with a Role in each and no rights elsewhere; they
    must exist. Empty: all namespaces."""
    rbac: Rbac = Rbac()
    service_account: ServiceAccount = ServiceAccount()
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """What the operator's log leaves out."""
    extra_args: tuple[str, ...] = ()
    """Further options of `python -m coldstart_operator`, for instance `--resync=600`."""
    extra_env: Objects = ()
    """Further environment variables of the operator, for instance a proxy's."""
    extra_env_from: Objects = ()
    """ConfigMaps and Secrets whose keys become environment variables."""
    extra_volumes: Objects = ()
    """Further volumes of the pod."""
    extra_volume_mounts: Objects = ()
    """Where they are mounted in the container."""
    resources: Object = Field(default_factory=_resources)
    """What the container asks for and gets at most."""
    pod_security_context: Object = Field(default_factory=_pod_security)
    """The pod's security context; meets PodSecurity *restricted*."""
    security_context: Object = Field(default_factory=_container_security)
    """The container's security context; meets PodSecurity *restricted*."""
    pod_labels: Strings = Field(default_factory=dict)
    """Labels of the pod."""
    pod_annotations: Strings = Field(default_factory=dict)
    """Annotations of the pod."""
    deployment_annotations: Strings = Field(default_factory=dict)
    """Annotations of the Deployment."""
    node_selector: Strings = Field(default_factory=lambda: {"kubernetes.io/os": "linux"})
    """Labels of the nodes that it may run on."""
    tolerations: Objects = ()
    """Taints of nodes that it may run on all the same."""
    affinity: Object = Field(default_factory=dict)
    """Which nodes, and whose company, it prefers."""
    topology_spread_constraints: Objects = ()
    """How it is spread; there is one pod."""
    priority_class_name: ResourceName = ""
    """The pod's PriorityClass."""
    termination_grace_period_seconds: Annotated[int, Field(ge=1, le=3600)] = 30
    """How long the pod may take to end."""
    webhook: Webhook = Webhook()
    service_monitor: ServiceMonitor = ServiceMonitor()
    pod_monitor: PodMonitor = PodMonitor()
    prometheus_rule: PrometheusRule = PrometheusRule()
    dashboards: Dashboards = Dashboards()
    network_policy: NetworkPolicy = NetworkPolicy()
    pod_disruption_budget: PodDisruptionBudget = PodDisruptionBudget()
