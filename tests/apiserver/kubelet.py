"""The stand-in for scheduler and kubelet: moves pods as scripted, or runs them as processes."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Protocol

from apiserver.access import Access
from apiserver.errors import ApiError
from apiserver.objects import now
from apiserver.scripts import FOREVER, Attempt, Behaviour, Script, attempt_of

MESSAGE_BYTES = 4096
NODE = "node-1"


class Runner(Protocol):
    """Carries pods out as processes of this machine."""

    async def run(self, pod: dict[str, Any], log: Any) -> tuple[int, bytes]:
        """Run a pod's main container to its end: exit code, termination message."""

    def stop(self, pod: dict[str, Any]) -> None:
        """Ask it to end."""


class Kubelet:
    """One node with room for everything.

    Args:
        api: the server, or a client of one.
        script: what pods do.
        runner: carries out the pods for which the script says nothing.
    """

    def __init__(self, api: Access, script: Script, runner: Runner | None = None) -> None:
        self.api = api
        self.script = script
        self.runner = runner
        self._known: dict[str, Behaviour | None] = {}
        """By UID of the pods that have been started; none for processes."""
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._stopping: set[str] = set()
        self._begun: dict[str, str] = {}
        """When the containers of a pod were started, by its UID."""
        self.errors: list[BaseException] = []
        """What went wrong in a task, where nobody would see it; a test should find it empty."""

    def attempt(self, pod: Mapping[str, Any]) -> Attempt:
        """Which attempt a pod belongs to."""
        labels = pod["metadata"].get("labels") or {}
        owners = pod["metadata"].get("ownerReferences") or [{"name": ""}]
        kind = labels.get("training.kubeflow.org/replica-type")
        index = int(
            labels.get("training.kubeflow.org/replica-index")
            or labels.get("batch.kubernetes.io/job-completion-index")
            or 0
        ) + (1 if kind == "worker" else 0)
        name = pod["metadata"]["name"]
        return attempt_of(pod, pod, job=owners[0]["name"], index=index, pod=name)

    def see(self, kind: str, pod: Mapping[str, Any]) -> None:
        """Take notice of a pod that was added, changed or deleted."""
        uid = pod["metadata"]["uid"]
        if kind == "DELETED":
            self._forget(uid)
            return
        if uid not in self._known:
            self._start(pod)
        if pod["metadata"].get("deletionTimestamp"):
            self._stop(pod)

    def close(self) -> None:
        """Stop everything at once."""
        for timer in self._timers.values():
            timer.cancel()
        for task in self._tasks.values():
            task.cancel()

    def finish(self, pod: Mapping[str, Any], behaviour: Behaviour) -> None:
        """End a pod as a behaviour says, now."""
        self._end(pod, behaviour)

    def begin(self, pod: Mapping[str, Any]) -> None:
        """Have a pod run, now."""
        self._run(pod, FOREVER)

    def _start(self, pod: Mapping[str, Any]) -> None:
        uid, phase = pod["metadata"]["uid"], pod.get("status", {}).get("phase")
        if phase in {"Succeeded", "Failed"}:
            self._known[uid] = Behaviour()
            return
        attempt = self.attempt(pod)
        behaviour = self.script(attempt)
        self._known[uid] = behaviour
        if behaviour is None and self.runner is None:
            behaviour = self._known[uid] = Behaviour()
        if behaviour is None:
            self._tasks[uid] = asyncio.ensure_future(self._process(pod))
            self._tasks[uid].add_done_callback(self._over)
            return
        if behaviour.unschedulable:
            self._patch(pod, {"conditions": [_unscheduled(behaviour.unschedulable)]})
            return
        if behaviour.waiting:
            reason, message = behaviour.waiting
            self._place(pod)
            state = {"waiting": {"reason": reason, "message": message}}
            self._patch(pod, {"containerStatuses": _containers(pod, state)})
        if behaviour.pending is not None and not behaviour.waiting:
            self._after(uid, behaviour.pending, lambda: self._run(pod, behaviour))

    def _after(self, uid: str, seconds: float, action: Any) -> None:
        self._timers[uid] = asyncio.get_running_loop().call_later(seconds, action)

    def _place(self, pod: Mapping[str, Any]) -> None:
        namespace, name = pod["metadata"]["namespace"], pod["metadata"]["name"]
        self._try(lambda: self.api.bind(name, NODE, namespace))

    def _run(self, pod: Mapping[str, Any], behaviour: Behaviour) -> None:
        uid = pod["metadata"]["uid"]
        self._begin(pod, behaviour.address)
        if behaviour.log:
            self.api.logs[pod["metadata"]["namespace"], pod["metadata"]["name"]] = behaviour.log
        if behaviour.running is not None and uid not in self._stopping:
            self._after(uid, behaviour.running, lambda: self._end(pod, behaviour))

    def _begin(self, pod: Mapping[str, Any], address: str) -> None:
        self._place(pod)
        time = self._begun[pod["metadata"]["uid"]] = now()
        status = {
            "phase": "Running",
            "startTime": time,
            "podIP": address,
            "hostIP": "127.0.0.1",
            "containerStatuses": _containers(pod, {"running": {"startedAt": time}}, ready=True),
            "conditions": [
                {"type": kind, "status": "True", "lastTransitionTime": time}
                for kind in ("PodScheduled", "Initialized", "ContainersReady", "Ready")
            ],
        }
        self._patch(pod, status)

    def _end(self, pod: Mapping[str, Any], behaviour: Behaviour) -> None:
        attempt = self.attempt(pod)
        message = behaviour.message(attempt) if callable(behaviour.message) else behaviour.message
        data = message.encode() if isinstance(message, str) else message or b""
        if attempt.index:
            data = b""
        if behaviour.reason == "Evicted":
            text = "The node was low on resource: memory."
            disruption = {"type": "DisruptionTarget", "status": "True", "reason": "EvictedByNode"}
            status: dict[str, Any] = {"phase": "Failed", "reason": "Evicted", "message": text}
            conditions = [{**disruption, "message": text, "lastTransitionTime": now()}]
            self._patch(pod, {**status, "conditions": conditions, "containerStatuses": None})
            return
        self._terminated(pod, behaviour.exit_code, data, behaviour.reason)

    def _terminated(
        self, pod: Mapping[str, Any], code: int, message: bytes, reason: str = ""
    ) -> None:
        time = now()
        terminated = {
            "exitCode": code,
            "reason": reason or ("Error" if code else "Completed"),
            "startedAt": self._begun.get(pod["metadata"]["uid"], time),
            "finishedAt": time,
            "message": message[:MESSAGE_BYTES].decode(errors="replace"),
        }
        if not message:
            del terminated["message"]
        phase = "Failed" if code else "Succeeded"
        statuses = _containers(pod, {"terminated": terminated})
        self._patch(pod, {"phase": phase, "containerStatuses": statuses})

    def _stop(self, pod: Mapping[str, Any]) -> None:
        """SIGTERM: the container ends with 143 unless it is a process, then the pod is gone."""
        uid = pod["metadata"]["uid"]
        if uid in self._stopping:
            return
        self._stopping.add(uid)
        behaviour = self._known.get(uid)
        if uid in self._tasks:
            assert self.runner is not None
            self.runner.stop(dict(pod))
            return
        if behaviour is None or behaviour.lost:
            return
        if timer := self._timers.pop(uid, None):
            timer.cancel()
        self._after(uid, behaviour.shutdown, lambda: self._leave(pod))

    def _leave(self, pod: Mapping[str, Any]) -> None:
        namespace, name = pod["metadata"]["namespace"], pod["metadata"]["name"]
        current = self.api.find("pods", name, namespace)
        if current and current["metadata"]["uid"] == pod["metadata"]["uid"]:
            if current["status"].get("phase") == "Running":
                self._terminated(pod, 143, b"")
            self.api.delete("pods", name, namespace, grace=0)

    async def _process(self, pod: Mapping[str, Any]) -> None:
        assert self.runner is not None
        place = (pod["metadata"]["namespace"], pod["metadata"]["name"])

        def log(text: str) -> None:
            self.api.logs[place] = self.api.logs.get(place, "") + text

        self._begin(pod, "127.0.0.1")
        code, message = await self.runner.run(dict(pod), log)
        uid = pod["metadata"]["uid"]
        self._tasks.pop(uid, None)
        self._known[uid] = Behaviour()
        self._terminated(pod, code, message)
        if uid in self._stopping:
            self._leave(pod)

    def _over(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()):
            self.errors.append(error)

    def _patch(self, pod: Mapping[str, Any], status: dict[str, Any]) -> None:
        metadata = pod["metadata"]
        body = {"metadata": {"uid": metadata["uid"]}, "status": status}
        name, namespace = metadata["name"], metadata["namespace"]
        self._try(lambda: self.api.patch("pods", name, body, namespace, subresource="status"))

    def _try(self, write: Any) -> None:
        """Write; a pod that is gone, or another of the same name, is left alone."""
        try:
            write()
        except ApiError as error:
            if error.code not in {404, 409} and "metadata.uid" not in error.message:
                raise

    def _forget(self, uid: str) -> None:
        if timer := self._timers.pop(uid, None):
            timer.cancel()
        self._stopping.discard(uid)
        self._known.pop(uid, None)
        self._begun.pop(uid, None)


def _containers(
    pod: Mapping[str, Any], state: dict[str, Any], *, ready: bool = False
) -> list[dict[str, Any]]:
    return [
        {
            "name": one["name"],
            "image": one.get("image", ""),
            "imageID": "",
            "ready": ready,
            "started": ready,
            "restartCount": 0,
            "state": state,
            "lastState": {},
        }
        for one in pod["spec"]["containers"]
    ]


def _unscheduled(message: str) -> dict[str, Any]:
    return {
        "type": "PodScheduled",
        "status": "False",
        "reason": "Unschedulable",
        "message": message,
        "lastTransitionTime": now(),
    }
