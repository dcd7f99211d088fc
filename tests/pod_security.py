"""PodSecurity *restricted*, as the Pod Security Standards have it; tells what a pod breaks."""

from collections.abc import Iterator

RESTRICTED_VOLUMES = {
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "persistentVolumeClaim",
    "projected",
    "secret",
}
PROFILES = {"RuntimeDefault", "Localhost"}


def violations(template: dict) -> list[str]:
    """What the standard forbids in a pod, or in the template of one."""
    spec = template["spec"]
    found = [key for key in ("hostNetwork", "hostPID", "hostIPC") if spec.get(key)]
    annotations = template.get("metadata", {}).get("annotations", {})
    found += [key for key in annotations if "apparmor" in key]
    for volume in spec.get("volumes", ()):
        found += [f"volume {key}" for key in volume.keys() - {"name"} - RESTRICTED_VOLUMES]
    pod = spec.get("securityContext", {})
    if pod.get("sysctls"):
        found.append("sysctls")
    if pod.get("windowsOptions", {}).get("hostProcess"):
        found.append("hostProcess")
    kinds = ("containers", "initContainers", "ephemeralContainers")
    containers = [one for kind in kinds for one in spec.get(kind, ())]
    for container in containers:
        found += [f"{container['name']}: {what}" for what in _container(container, pod)]
    return found


def _container(container: dict, pod: dict) -> Iterator[str]:
    own = container.get("securityContext", {})
    both, capabilities = {**pod, **own}, own.get("capabilities", {})
    rules = {
        "privileged": not own.get("privileged"),
        "allowPrivilegeEscalation": own.get("allowPrivilegeEscalation") is False,
        "capabilities.drop": "ALL" in capabilities.get("drop", ()),
        "capabilities.add": set(capabilities.get("add", ())) <= {"NET_BIND_SERVICE"},
        "runAsNonRoot": both.get("runAsNonRoot") is True,
        "runAsUser": both.get("runAsUser") != 0,
        "seccompProfile": both.get("seccompProfile", {}).get("type") in PROFILES,
        "appArmorProfile": both.get("appArmorProfile", {}).get("type") in {None, *PROFILES},
        "hostProcess": not own.get("windowsOptions", {}).get("hostProcess"),
        "host of a probe": not any(_hosts(container)),
        "procMount": own.get("procMount", "Default") == "Default",
        "seLinuxOptions": not both.get("seLinuxOptions"),
        "hostPort": not any(port.get("hostPort") for port in container.get("ports", ())),
    }
    return (name for name, kept in rules.items() if not kept)


def _hosts(container: dict) -> Iterator[str]:
    """The hosts that the kubelet would be sent to: by 1.34 and later, to its own pod alone."""
    probes = [container.get(f"{kind}Probe") for kind in ("liveness", "readiness", "startup")]
    for action in (*probes, *container.get("lifecycle", {}).values()):
        for way in ("httpGet", "tcpSocket"):
            yield (action or {}).get(way, {}).get("host", "")
