"""The kinds of job that a stage can be, each with what is needed to make and to read one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from coldstart.children import job, pytorchjob
from coldstart.plan import Child
from coldstart.run import ReasoningRun
from coldstart.stage import StageOrder

Manifest = dict[str, Any]
"""An object, as Kubernetes has it in JSON."""


@dataclass(frozen=True)
class Resource:
    """Where the API server has a kind of object."""

    group: str
    version: str
    plural: str
    kind: str

    @property
    def api_version(self) -> str:
        """Group and version, as objects have them."""
        return f"{self.group}/{self.version}" if self.group else self.version


@dataclass(frozen=True)
class Backend:
    """One kind of job; both functions are pure."""

    name: Literal["PyTorchJob", "Job"]
    """What `spec.backend` and `status.backend` call it."""
    resource: Resource
    """The object that stands for an attempt."""
    manifests: Callable[[ReasoningRun, StageOrder, str], list[Manifest]]
    """`(run, order, image)` to the objects of an attempt, in the order in which they are created.

    The last is the job: while it is not there, the attempt does not exist. That another is there
    already is success, if the run's UID owns it. Raises ValueError, which begins with the field,
    for a spec that no cluster can carry out."""
    observe: Callable[[Manifest, Sequence[Manifest], datetime], Child | None]
    """`(job, pods, now)` to what the plan needs to know; None for a job that is not ours.

    Never raises, whatever the objects hold. Delete a job with propagation `Foreground`: then it
    is there, as `Stopping`, until its pods have ended. A failed job counts as running while pods
    of it may still write: look again when one of them changes, or after a few seconds."""


BACKENDS = (
    Backend(
        "PyTorchJob",
        Resource("kubeflow.org", "v1", "pytorchjobs", "PyTorchJob"),
        pytorchjob.manifests,
        pytorchjob.observe,
    ),
    Backend("Job", Resource("batch", "v1", "jobs", "Job"), job.manifests, job.observe),
)
"""Every backend; `spec.backend: Auto` takes the first that the cluster serves."""


def backend(name: str) -> Backend:
    """The backend of a name.

    Raises:
        KeyError: there is none.
    """
    found = next((item for item in BACKENDS if item.name == name), None)
    if found is None:
        raise KeyError(name)
    return found
