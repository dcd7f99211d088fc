"""Stand-ins for the job controllers, the scheduler, the kubelet and Kueue, beside an ApiServer.

    async with ApiServer() as server, Controllers(server, scripted({("sft", 1): failing(137)})):
        ...

They watch PyTorchJobs, Jobs and pods, and act directly on the server's objects: their requests
are neither in the record nor hit by faults. For a server in a thread use `running_controllers`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Self

from apiserver.batch import Batch
from apiserver.errors import ApiError
from apiserver.kubelet import Kubelet, Runner
from apiserver.parts import warn
from apiserver.scripts import Attempt, Behaviour, Script, attempt_of, scripted
from apiserver.server import ApiServer
from apiserver.store import Change, Place
from apiserver.training import Training

Key = tuple[str, str]

_POD: Key = ("", "pods")
_TRAINING: Key = ("kubeflow.org", "pytorchjobs")
_BATCH: Key = ("batch", "jobs")


class Controllers:
    """All of them; `async with` starts and stops them.

    Args:
        server: where the jobs are.
        script: what the pods of each attempt do; `scripted({...})` makes one from a table.
        runner: carries out as processes the pods for which the script returns None.
        seconds: how long after a change a job is looked at.
        jobs: whether Jobs are carried out; not where a kube-controller-manager does that.
        training: whether PyTorchJobs are; not where Kubeflow's training operator does that.
    """

    def __init__(
        self,
        server: ApiServer,
        script: Script | None = None,
        runner: Runner | None = None,
        seconds: float = 0.0,
        *,
        jobs: bool = True,
        training: bool = True,
    ) -> None:
        self.server = server
        self.script = script or scripted({})
        self.kubelet = Kubelet(server, self._behaviour, runner)
        self.seconds = seconds
        self.errors = self.kubelet.errors
        """What went wrong inside a stand-in; a test should find it empty."""
        self._kinds: dict[Key, Training | Batch | None]
        self._kinds = {
            _TRAINING: Training(server) if training else None,
            _BATCH: Batch(server) if jobs else None,
        }
        """Who carries out each kind; where it is none, jobs still queue, as for Kueue."""
        self._pods: dict[str, dict[str, Mapping[str, Any]]] = {}
        """The pods of each owner's UID, by their own."""
        self._due: dict[tuple[Key, Place], float] = {}
        self._timers: dict[Any, asyncio.TimerHandle] = {}
        self._queued: dict[str, float] = {}

    async def __aenter__(self) -> Self:
        self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Begin with what is there."""
        for key, entry in self.server.store.everything():
            self._see(key, "ADDED", entry.object)
        self.server.store.listeners.append(self._changed)

    def stop(self) -> None:
        """Act no more; what runs as a process is killed."""
        if self._changed in self.server.store.listeners:
            self.server.store.listeners.remove(self._changed)
        for timer in self._timers.values():
            timer.cancel()
        self.kubelet.close()

    def _behaviour(self, attempt: Attempt) -> Behaviour | None:
        """What the script says, which a test may exchange."""
        return self.script(attempt)

    # What a test does

    def suspend(self, job: str, namespace: str = "default", *, value: bool = True) -> None:
        """Suspend or resume a job as Kueue would."""
        resource = "pytorchjobs" if self._registered() else "jobs"
        if resource == "pytorchjobs" and self.server.find(resource, job, namespace):
            body: dict[str, Any] = {"spec": {"runPolicy": {"suspend": value}}}
        else:
            resource, body = "jobs", {"spec": {"suspend": value}}
        self.server.patch(resource, job, body, namespace)

    def resume(self, job: str, namespace: str = "default") -> None:
        """Admit a job as Kueue would."""
        self.suspend(job, namespace, value=False)

    def finish(
        self, job: str, behaviour: Behaviour | None = None, namespace: str = "default"
    ) -> None:
        """End the running pods of a job now, by default with success."""
        self._each(job, namespace, lambda pod: self.kubelet.finish(pod, behaviour or Behaviour()))

    def begin(self, job: str, namespace: str = "default") -> None:
        """Have the pending pods of a job run now, until they are finished."""
        self._each(job, namespace, self.kubelet.begin)

    def _each(self, job: str, namespace: str, action: Callable[[Mapping[str, Any]], None]) -> None:
        """Do something with every pod of a job."""
        namespace = self.server.namespace(namespace)

        def act() -> None:
            for pods in list(self._pods.values()):
                for pod in list(pods.values()):
                    owner = pod["metadata"]["ownerReferences"][0]["name"]
                    if owner == job and pod["metadata"]["namespace"] == namespace:
                        action(pod)

        self.server.call(act)

    def _registered(self) -> bool:
        return any(one.key == _TRAINING for one in self.server.registry)

    # Following the server

    def _changed(self, key: Key, change: Change) -> None:
        self._see(key, change.type, change.entry.object)

    def _see(self, key: Key, kind: str, document: Mapping[str, Any]) -> None:
        if key in self._kinds and kind != "DELETED":
            metadata = document["metadata"]
            self._later(key, (metadata["namespace"], metadata["name"]))
        elif key == _POD:
            asyncio.get_running_loop().call_soon(self._pod, kind, document)

    def _pod(self, kind: str, pod: Mapping[str, Any]) -> None:
        metadata = pod["metadata"]
        for owner in metadata.get("ownerReferences") or ():
            pods = self._pods.setdefault(owner["uid"], {})
            if kind == "DELETED":
                pods.pop(metadata["uid"], None)
                if not pods:
                    del self._pods[owner["uid"]]
            else:
                pods[metadata["uid"]] = pod
            key = {"PyTorchJob": _TRAINING, "Job": _BATCH}.get(owner["kind"])
            if key in self._kinds:
                self._later(key, (metadata["namespace"], owner["name"]))
        self._guard(lambda: self.kubelet.see(kind, pod))

    def _later(self, key: Key, place: Place, seconds: float | None = None) -> None:
        """Look at a job soon; an earlier appointment stands."""
        loop = asyncio.get_running_loop()
        at = loop.time() + (self.seconds if seconds is None else seconds)
        if self._due.get((key, place), at + 1) <= at:
            return
        if earlier := self._timers.pop((key, place), None):
            earlier.cancel()
        self._due[key, place] = at
        self._timers[key, place] = loop.call_at(at, self._look, key, place)

    def _look(self, key: Key, place: Place) -> None:
        self._timers.pop((key, place), None)
        self._due.pop((key, place), None)
        entry = self.server.store.collection(key).entries.get(place)
        if entry is None:
            return
        self._guard(lambda: self._reconcile(key, place, entry.object))

    def _reconcile(self, key: Key, place: Place, job: Mapping[str, Any]) -> None:
        behaviour = self.script(self._attempt(job)) or Behaviour()
        uid = job["metadata"]["uid"]
        if behaviour.queued is not None and uid not in self._queued:
            self._queued[uid] = behaviour.queued
            self.suspend(place[1], place[0])
            loop = asyncio.get_running_loop()
            admit = lambda: self._guard(lambda: self.resume(place[1], place[0]))  # noqa: E731
            self._timers[uid] = loop.call_later(behaviour.queued, admit)
            return
        kind = self._kinds[key]
        if kind is None:
            return
        if behaviour.refused:
            reason = "FailedCreatePod" if key == _TRAINING else "FailedCreate"
            warn(self.server, job, reason, f"Error creating: {behaviour.refused}")
            self._later(key, place, 0.2)
            return
        pods = list(self._pods.get(uid, {}).values())
        again = kind.reconcile(job, pods)
        if again is not None:
            self._later(key, place, again)

    def _attempt(self, job: Mapping[str, Any]) -> Attempt:
        replicas = job["spec"].get("pytorchReplicaSpecs")
        template = job["spec"].get("template") or {}
        if replicas:
            template = (replicas.get("Master") or next(iter(replicas.values()))).get("template", {})
        return attempt_of(job, template, job=job["metadata"]["name"])

    def _guard(self, action: Any) -> None:
        """Do it; what a race with the test explains is let pass, the rest is kept to be seen."""
        try:
            action()
        except ApiError as error:
            if error.code not in {404, 409}:
                self.errors.append(error)
        except Exception as error:  # noqa: BLE001 - inside a loop's callback nobody would see it
            self.errors.append(error)


@contextmanager
def running_controllers(
    server: ApiServer, *arguments: Any, **options: Any
) -> Iterator[Controllers]:
    """Controllers beside a server that runs in another thread."""
    controllers = Controllers(server, *arguments, **options)
    server.call(controllers.start)
    try:
        yield controllers
    finally:
        server.call(controllers.stop)
    assert not controllers.errors, controllers.errors
