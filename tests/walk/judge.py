"""What a story may never have led to, and what it has to come to when nobody disturbs any more."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from datetime import datetime
from typing import Any

from apiserver.faults import WRITES
from oracles import JOBS, at_rest, violations
from walk.clock import CLOCK
from walk.fates import FINAL, GOOD, RETRIED
from walk.world import World

STORM = 40
"""Writes to one run and its jobs within a minute that are too many, whatever happens."""

QUIET = 700.0
"""Seconds in which every run is looked at anew, by two full LISTs."""

ROUNDS = 12
"""How often people help what cannot go on by itself; each time a run is a step further."""

Object = dict[str, Any]


def wrong(world: World) -> list[str]:
    """What is wrong at any moment."""
    now = (world.server.store.version, len(world.server.requests))
    if now == world.judged and not world.mistakes:
        return []
    world.judged = now
    found = violations(world.server, allowed=world.allowed)
    found += [f"the API server: {error!r}" for error in world.server.errors]
    found += [f"a controller: {error!r}" for error in world.controllers.errors]
    found += world.mistakes
    return [*found, *_storms(world)]


def _storms(world: World) -> Iterator[str]:
    """Runs that were written again and again."""
    minutes: Counter[tuple[str, int]] = Counter()
    for one in world.server.requests.of():
        if one.verb in WRITES and one.resource != "events":
            minutes[one.name or one.body["metadata"]["name"], int(one.at // 60)] += 1
    for (name, minute), count in minutes.items():
        if count > STORM:
            yield f"{name} was written {count} times in minute {minute}"


def settled(world: World) -> list[str]:
    """Let all faults end, and say what is wrong when everything has come to rest."""
    world.mend()
    world.let(QUIET)
    return wrong(world) + [text for run in world.runs() for text in _waits(world, run)]


def _waits(world: World, run: Object) -> Iterator[str]:
    """Whether a run that goes no further has a reason to, and says so."""
    name, status = run["metadata"]["name"], run.get("status") or {}
    if run["metadata"].get("deletionTimestamp") or ended(run):
        return
    message = status.get("message", "")
    if not status.get("stages"):
        if _condition(run, "Accepted").get("status") != "False":
            yield f"run {name} has no stages: {status}"
        return
    stage = next(one for one in status["stages"] if one["state"] != "Succeeded")
    state = stage["state"]
    if state == "Suspended" and run["spec"].get("suspend"):
        return
    if state == "Backoff" and datetime.fromisoformat(stage["retryAt"]) > CLOCK.now():
        return
    held = _condition(run, "Queued").get("reason") in ("EarlierRunEnds", "JobChanged")
    if held or message.startswith("waits for spec.") or "waits for an earlier attempt" in message:
        return
    live = [job for job in world.jobs(name) if job["metadata"]["name"] == stage.get("child")]
    if state in ("Starting", "Running", "Stopping") and live and not _over(live[0]):
        return
    yield f"run {name} goes no further, and nothing holds it: {stage}, {message!r}"


def _condition(thing: Object, type_: str) -> Object:
    found = (thing.get("status") or {}).get("conditions") or ()
    return next((one for one in found if one["type"] == type_), {})


def _over(job: Object) -> bool:
    return any(
        _condition(job, type_).get("status") == "True" for type_ in ("Succeeded", "Complete")
    )


def ended(run: Object) -> bool:
    """Whether a run has a terminal condition."""
    return any(_condition(run, type_).get("status") == "True" for type_ in ("Succeeded", "Failed"))


def finished(world: World) -> list[str]:
    """Help everything to its end, and say what is wrong then."""
    world.well = True
    for _ in range(ROUNDS):
        world.help()
        world.let(QUIET)
        left = [run for run in world.runs() if not ended(run) and not _orphan(world, run)]
        if not left:
            break
    found = [f"run {run['metadata']['name']} does not end: {run.get('status')}" for run in left]
    found += wrong(world) + at_rest(world.server, orphaned=world.disowned)
    for run in world.runs():
        found += _accounts(world, run)
    return found + _still(world)


def _orphan(world: World, run: Object) -> bool:
    """Whether a run waits for another one that will not come, or not end well."""
    return (run.get("status") or {}).get("message", "").startswith("waits for spec.")


def _still(world: World) -> list[str]:
    """What is written although nothing has changed."""
    before = len(world.server.requests)
    world.let(QUIET)
    late = [one for one in list(world.server.requests)[before:] if one.verb in WRITES]
    return [f"at rest, {one.agent} wrote {one.verb} {one.target} {one.name}" for one in late]


def _accounts(world: World, run: Object) -> Iterator[str]:
    """Whether the attempts of a run are the jobs that it had, and ended as they should."""
    uid, name = run["metadata"]["uid"], run["metadata"]["name"]
    made: dict[str, list[int]] = defaultdict(list)
    for key in JOBS:
        for change in world.server.store.collection(key).history:
            labels = change.entry.object["metadata"].get("labels") or {}
            if change.type == "ADDED" and labels.get("coldstart.dev/run-uid") == uid:
                number = int(labels["coldstart.dev/attempt"])
                made[labels["coldstart.dev/stage"]].append(number)
    for stage in (run.get("status") or {}).get("stages") or ():
        numbers = made.pop(stage["name"], [])
        if max(numbers, default=0) > stage["attempt"]:
            yield f"run {name}: {stage['name']} is at {stage['attempt']}, but made {numbers}"
        if not world.touched[uid] and name not in world.allowed:
            yield from _expected(world, run, stage, numbers)
    if made:
        yield f"run {name}: made {dict(made)}, of which its status tells nothing"


def _expected(world: World, run: Object, stage: Object, numbers: list[int]) -> Iterator[str]:
    """Whether a stage that nobody meddled with ended as its attempts did, no more and no less."""
    where = f"run {run['metadata']['name']}, {stage['name']}"
    if numbers != list(range(1, stage["attempt"] + 1)):
        yield f"{where}: {stage['attempt']} attempts, but made {numbers}"
        return
    uid, limit = run["metadata"]["uid"], run["spec"]["retry"]["limit"]
    fates = [world.fate_of.get((uid, stage["name"], one), "well") for one in numbers]
    # Evaluations have no gate; what hangs was helped to a good end.
    gated = {"refused"} if stage["name"] == "evaluation" else set()
    fates = [one if one in (GOOD | RETRIED | FINAL) - gated else "well" for one in fates]
    story = f"{where}: {fates}, but {stage}"
    if any(one not in RETRIED for one in fates[:-1]):
        yield f"tried again for no reason: {story}"
        return
    if not fates:
        return
    if fates[-1] in GOOD:
        state, failures = "Succeeded", len(fates) - 1
    elif fates[-1] in FINAL:
        state, failures = "Failed", len(fates) - 1
    else:
        state, failures = "Failed", limit
        if len(fates) != limit + 1:
            yield f"not tried as often as it may be: {story}"
    if (stage["state"], stage.get("failures", 0)) != (state, failures):
        yield f"should be {state} after {failures} failures: {story}"
