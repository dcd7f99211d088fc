"""What people and Kueue do to a run and to what belongs to it, by name."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from walk.fates import FATES
from walk.world import World, kind_of

PREFIX = "coldstart.dev/"
NO_LABELS = {f"{PREFIX}{key}": None for key in ("run", "stage", "attempt", "run-uid")}

Deed = Callable[[World, str], None]


def _edit(patch: dict[str, Any], world: World, run: str) -> None:
    world.patch_run(run, patch)


def _set(suspend: bool, world: World, run: str) -> None:
    world.patch_run(run, {"spec": {"suspend": suspend}})


def _delete_job(how: str, world: World, run: str) -> None:
    if job := world.job(run):
        name = job["metadata"]["name"]
        world.attempt(lambda: world.server.delete(kind_of(job), name, propagation=how))


def _delete_pod(grace: int | None, world: World, run: str) -> None:
    pods = [one["metadata"]["name"] for one in world.server.list("pods")]
    mine = [name for name in pods if name.startswith(f"{run}-")]
    if mine:
        world.attempt(lambda: world.server.delete("pods", mine[-1], grace=grace))


def _change(metadata: dict[str, Any], world: World, run: str) -> None:
    if job := world.job(run):
        name = job["metadata"]["name"]
        world.changed.add(job["metadata"]["uid"])
        patch = {"metadata": metadata}
        world.attempt(lambda: world.server.patch(kind_of(job), name, patch))


def _disown(world: World, run: str) -> None:
    if job := world.job(run):
        world.allowed.add(run)
        world.disowned.add(job["metadata"]["name"])
        _change({"ownerReferences": None}, world, run)


def _end(fate: str, world: World, run: str) -> None:
    if job := world.job(run):
        world.do(lambda: world.controllers.finish(job["metadata"]["name"], FATES[fate]))


def _kueue(value: bool, world: World, run: str) -> None:
    if job := world.job(run):
        name = job["metadata"]["name"]
        world.attempt(lambda: world.controllers.suspend(name, value=value))


def _labels(**labels: str | None) -> Deed:
    return partial(_change, {"labels": {PREFIX + key: value for key, value in labels.items()}})


DEEDS: dict[str, Deed] = {
    "suspend it": partial(_set, True),
    "resume it": partial(_set, False),
    "more retries": partial(_edit, {"spec": {"retry": {"limit": 4}}}),
    "no retries": partial(_edit, {"spec": {"retry": {"limit": 0}}}),
    "a deadline": partial(_edit, {"spec": {"sft": {"timeoutSeconds": 40}}}),
    "a short life": partial(_edit, {"spec": {"ttlSecondsAfterFinished": 30}}),
    "another learning rate": partial(_edit, {"spec": {"sft": {"learningRate": 0.5}}}),
    "delete its job": partial(_delete_job, "Background"),
    "delete its job, and wait": partial(_delete_job, "Foreground"),
    "delete its pod": partial(_delete_pod, None),
    "delete its pod by force": partial(_delete_pod, 0),
    "take its job's labels": partial(_change, {"labels": NO_LABELS}),
    "take its job's run": _labels(run=None),
    "give its job to b": _labels(run="b"),
    "make its job attempt 7": _labels(attempt="7"),
    "make its job grpo": _labels(stage="grpo"),
    "disown its job": _disown,
    "end its job well": partial(_end, "well"),
    "kill its job": partial(_end, "killed"),
    "evict its pod": partial(_end, "evicted"),
    "have its job fail for good": partial(_end, "bad data"),
    "have Kueue evict it": partial(_kueue, True),
    "have Kueue admit it": partial(_kueue, False),
}
