"""A run of three stages, one of them retried and one suspended and resumed, and what it comes to.

Nothing moves before the run's status says what has happened so far, so every operator that carries
it through writes the same, however slow it is and however often it is killed.
"""

from apiserver.faults import WRITES
from apiserver.scripts import KILLED, Behaviour, scripted
from operating import run_starts, stage

SPEED = 10
"""How much faster than the world the operator's clock runs: what is pending is said after 5 s."""

SCRIPT = scripted({}, Behaviour(pending=None, shutdown=1.0))
"""Pods wait until the story lets them run, and take time to end: 10 s of the operator's."""

WRITES_MADE = (
    "status starts sft attempt 1",
    "create r-sft-1",
    "status sft attempt 1 is pending",
    "status sft attempt 1 is running",
    "status sft tries again in 0 s",
    "event AttemptFailed sft",
    "status starts sft attempt 2",
    "create r-sft-2",
    "status sft attempt 2 is pending",
    "status sft attempt 2 is running",
    "event StageSucceeded sft has succeeded",
    "status starts grpo attempt 1",
    "create r-grpo-1",
    "status grpo attempt 1 is pending",
    "status grpo attempt 1 is running",
    "status suspends grpo attempt 1",
    "delete r-grpo-1",
    "status grpo attempt 1 is stopping",
    "status suspended",
    "event Suspended grpo is suspended",
    "status starts grpo attempt 2",
    "create r-grpo-2",
    "status grpo attempt 2 is pending",
    "status grpo attempt 2 is running",
    "event StageSucceeded grpo has succeeded",
    "status starts evaluation attempt 1",
    "create r-evaluation-1",
    "status evaluation attempt 1 is pending",
    "status evaluation attempt 1 is running",
    "status evaluation has succeeded",
    "event Succeeded evaluation has succeeded",
)
"""Every write of an operator that nothing happens to, as `said` has it."""

CHILDREN = {
    "r-sft-1": (1, 0),
    "r-sft-2": (1, 0),
    "r-grpo-1": (1, 1),
    "r-grpo-2": (1, 0),
    "r-evaluation-1": (1, 0),
}
"""How often each job comes into being and goes."""

STAGES = {
    "sft": ("Succeeded", 2, 1, "r-sft-2", "r/sft/final"),
    "grpo": ("Succeeded", 2, 0, "r-grpo-2", "r/grpo/final"),
    "evaluation": ("Succeeded", 1, 0, "r-evaluation-1", None),
}
"""State, attempt, failures, job and checkpoint of each stage in the end."""

CONDITIONS = {
    "Accepted": ("True", "SpecValid"),
    "Queued": ("False", "NotWaiting"),
    "Running": ("False", "NoStageRuns"),
    "Suspended": ("False", "NotSuspended"),
    "Succeeded": ("True", "AllStagesSucceeded"),
    "Failed": ("False", "AllStagesSucceeded"),
}

JOBS = ("kubeflow.org", "pytorchjobs")


def said(request):
    """What a write says, in few words; empty for any other request."""
    if request.verb not in WRITES:
        return ""
    body = request.body or {}
    if request.target == "reasoningruns/status":
        words = body["status"].get("message") or ", ".join(sorted(body["status"]))
        return f"status {words.partition(':')[0]}"
    if request.resource == "events":
        return f"event {body['reason']} {body['message'].partition(':')[0]}"
    return f"{request.verb} {request.name or body['metadata']['name']}"


def carried_out(w):
    """The story, from the run's creation to its end."""
    w.apply()
    _runs(w, "sft", 1)
    w.controllers.finish("r-sft-1", KILLED)
    _runs(w, "sft", 2)
    w.controllers.finish("r-sft-2")
    _runs(w, "grpo", 1)
    w.server.patch("reasoningruns", "r", {"spec": {"suspend": True}})
    w.until(lambda run: stage(run, "grpo")["state"] == "Suspended", seconds=60)
    w.server.patch("reasoningruns", "r", {"spec": {"suspend": False}})
    _runs(w, "grpo", 2)
    w.controllers.finish("r-grpo-2")
    _runs(w, "evaluation", 1)
    w.controllers.finish("r-evaluation-1")
    w.end(seconds=60)


def _runs(w, name, attempt):
    """Let an attempt run once its run says that it is pending; wait until the run says that."""
    words = f"{name} attempt {attempt} is pending"
    w.until(lambda run: run.get("status", {}).get("message") == words, seconds=60)
    w.controllers.begin(f"r-{name}-{attempt}")
    w.until(lambda run: run_starts(run, name, attempt), seconds=60)


def children(w):
    """How often each job has come into being and gone, by the server's own history."""
    found = {}
    for change in w.server.call(lambda: list(w.server.store.collection(JOBS).history)):
        born, gone = found.get(change.entry.object["metadata"]["name"], (0, 0))
        born, gone = born + (change.type == "ADDED"), gone + (change.type == "DELETED")
        found[change.entry.object["metadata"]["name"]] = (born, gone)
    return found


def stages(w):
    """How each stage stands."""
    return {
        entry["name"]: (
            entry["state"],
            entry["attempt"],
            entry["failures"],
            entry["child"],
            (entry.get("checkpoint") or {}).get("location"),
        )
        for entry in w.run()["status"]["stages"]
    }


def conditions(w):
    """What the run says of itself."""
    found = w.run()["status"]["conditions"]
    return {item["type"]: (item["status"], item["reason"]) for item in found}
