"""What the operator process is told when it starts; nothing of it changes afterwards."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from coldstart.children.pod import IMAGE


@dataclass(frozen=True)
class Settings:
    """One operator's settings; times are seconds."""

    namespaces: tuple[str, ...] = ()
    """The namespaces that it works in; empty: all of them."""
    image: str = IMAGE
    """The trainer's image for runs that name none."""
    host: str = "0.0.0.0"  # noqa: S104 - the kubelet and Prometheus come from outside the pod
    """The address that health and metrics are served on."""
    health_port: int = 8080
    """`/healthz` and `/readyz`; 0 takes any free port."""
    metrics_port: int = 9090
    """`/metrics`; 0 takes any free port."""
    webhook_port: int = 0
    """The admission webhook, if there is a `webhook_cert`; 0 takes any free port."""
    webhook_cert: Path | None = None
    """The directory of the webhook's `tls.crt` and `tls.key`; None: there is no webhook."""
    workers: int = 16
    """Runs that are worked on at the same time."""
    lookers: int = 8
    """Running or waiting children that are looked at closely at the same time."""
    resync: float = 300.0
    """Between two full LISTs, which find what the watch streams have missed."""
    progress: float = 30.0
    """Between two looks at a running stage's metrics; at least 15 in earnest."""
    explain: float = 5.0
    """Before a pending child is asked for the first time what it waits for; doubles to `progress`
    times 2."""
    cosmetic: float = 5.0
    """Between two writes of a status in which only texts and progress differ."""
    backoff: float = 0.5
    """After the first failure; doubles with each."""
    max_backoff: float = 120.0
    """The longest wait after a failure."""
    unavailable: float = 10.0
    """Between two looks whether the cluster serves a backend that it lacked."""
    lost_pod: float = 60.0
    """So long after a pod should have ended it is taken for lost with its node."""
    heartbeat: float = 20.0
    """The API server is asked for a sign of life after this long without one."""
    unhealthy: float = 180.0
    """So long without the API server or the watch streams makes `/healthz` red."""
