"""Faults 39 to 45: specs, edits, names, numbers and clocks that nobody thought of."""

import copy
import json
import random
import time
from datetime import UTC, datetime, timedelta

import pytest
import yaml
from apiserver.errors import ApiError
from apiserver.scripts import FOREVER, KILLED, Behaviour, scripted
from builders import NOW, make_run
from earlier import lacking
from faults.proxied import faulty
from faults.verdicts import healthz, no_rule_was_broken, well_ended
from operating import MANIFEST, SFT_ONLY, condition, ended, holds, run_starts, stage
from oracles import requests_per_run

from coldstart.children.backend import BACKENDS
from coldstart.generate.rules import MUTABLE
from coldstart.plan import Child, ChildState, Start, Stop, Wait
from coldstart.spec import Stage
from coldstart.status import RunStatus, StageError, StageState, StageStatus
from coldstart_operator.reconcile import decide
from coldstart_operator.sight import Found, Sight
from coldstart_operator.statuses import merge_patch

CRD = yaml.safe_load(MANIFEST.read_text())

# Edits


def model(draw, spec):
    spec["model"]["name"] = f"m{draw.random()}"


def learning_rate(draw, spec):
    spec["sft"]["learningRate"] = draw.uniform(1e-6, 1e-3)


def epochs(draw, spec):
    spec["sft"]["epochs"] = draw.randint(4, 9)


def dataset(draw, spec):
    spec["grpo"]["dataset"]["name"] = f"d{draw.random()}"


def another_stage(draw, spec):
    del spec[draw.choice(["sft", "grpo"])]


def claim(draw, spec):
    spec["storage"]["claimName"] = f"c{draw.randint(0, 9)}"


def backend(draw, spec):
    spec["backend"] = "Job"


def environment(draw, spec):
    spec["podTemplate"] = {"env": [{"name": "A", "value": str(draw.random())}]}


def suspend(draw, spec):
    spec["suspend"] = not spec.get("suspend", False)


def retry(draw, spec):
    spec["retry"] = {"limit": draw.randint(3, 9), "backoffSeconds": 0}


def lifetime(draw, spec):
    spec["ttlSecondsAfterFinished"] = draw.randint(3600, 10**6)


def queue(draw, spec):
    spec["scheduling"] = {"queueName": f"q{draw.randint(0, 9)}"}


EDITS = (
    model,
    learning_rate,
    epochs,
    dataset,
    another_stage,
    claim,
    backend,
    environment,
    suspend,
    retry,
    lifetime,
    queue,
)

PHASES = {
    "starting": lambda run: stage(run, "sft").get("state") == "Starting",
    "running": run_starts,
    "backoff": lambda run: stage(run, "sft").get("state") == "Backoff",
    "grpo": lambda run: run_starts(run, "grpo"),
    "ended": ended,
}
FIRST = {
    "starting": {("sft", 1): Behaviour(pending=None)},
    "running": {("sft", 1): Behaviour(running=None, shutdown=0.05)},
    "backoff": {("sft", 1): KILLED},
    "grpo": {("grpo", 1): Behaviour(running=None, shutdown=0.05)},
    "ended": {},
}


def edited(w, draw):
    """Edit the run once: what the API server takes is mutable, and the rest it refuses by name."""
    before = w.run()["spec"]
    spec = copy.deepcopy(before)
    draw.choice(EDITS)(draw, spec)
    try:
        after = w.server.patch("reasoningruns", "r", {"spec": merge_patch(before, spec)})["spec"]
    except ApiError as error:
        return error.code == 422 and "spec" in error.message
    changed = {key for key in after | before if after.get(key) != before.get(key)}
    started = "startedAt" in (w.run().get("status") or {})
    return not started or changed <= set(MUTABLE)


@pytest.mark.fault(40)
@pytest.mark.parametrize("number", range(3))
@pytest.mark.parametrize("phase", PHASES)
def test_random_edits_act_or_are_refused_and_the_run_ends_well(tmp_path, phase, number, seed):
    draw = random.Random(f"{seed} {phase} {number}")
    with faulty(tmp_path, scripted(FIRST[phase])) as w, w.operator():
        slow = {"limit": 3, "backoffSeconds": 3600 if phase == "backoff" else 0}
        before = w.apply(evaluation=None, retry=slow)["spec"]
        w.until(PHASES[phase], seconds=60)
        for _ in range(8):
            assert edited(w, draw)
            time.sleep(draw.choice([0, 0, 0.05, 0.2]))
        w.controllers.script = scripted({})
        quick = {"limit": 3, "backoffSeconds": 0, "maxBackoffSeconds": 1}
        gone = dict.fromkeys(w.run()["spec"].keys() - before.keys())
        w.server.patch("reasoningruns", "r", {"spec": {**gone, **before, "retry": quick}})
        for _ in range(200):
            if ended(w.run()):
                break
            for name in ("sft", "grpo"):
                w.controllers.finish(f"r-{name}-1")
            time.sleep(0.1)
        run = w.end(seconds=60)
        assert holds(run, "Succeeded")
        assert run["spec"]["model"] == before["model"]
        w.until(
            lambda run: run["status"]["observedGeneration"] == run["metadata"]["generation"],
            seconds=60,
        )
        no_rule_was_broken(w)


# Schemas of before, huge and strange specs


@pytest.mark.fault(41, 48)
def test_an_older_definition_that_prunes_what_is_written_does_not_make_health_red(tmp_path):
    of_stages = ("child", "gpuSeconds", "wastedGpuSeconds", "attemptStartedAt")
    crd = lacking("backend", "progress", "startedAt", of_stages=of_stages)
    with faulty(tmp_path, scripted({}, FOREVER), crd=False) as w:
        w.server.create("customresourcedefinitions", crd)
        with w.process("--resync", "20", speed=40) as operator:
            health, _ = operator.ports()
            w.apply(**SFT_ONLY)
            w.until(run_starts, seconds=60)
            end = time.monotonic() + 10  # nearly seven of the operator's minutes
            while time.monotonic() < end:
                code, text = healthz(health)
                assert code == 200, text
                time.sleep(0.2)


STRANGE = {
    "unicode": {"podTemplate": {"env": [{"name": "A", "value": "日本語 \U0001f600 \u202e"}]}},
    "quantities": {
        "podTemplate": {
            "resources": {"requests": {"cpu": "500m", "memory": "1.5Gi", "a.b/c": "2e3"}}
        }
    },
    "empty maps": {"podTemplate": {}, "scheduling": {}, "conversation": {}},
    "empty texts in maps": {"podTemplate": {"env": [{"name": "A", "value": ""}]}},
    "free arguments": {
        "sft": {"dataset": {"name": "d"}, "trainerArgs": {"a": None, "b": {}, "c": [[], ""]}}
    },
}


@pytest.mark.fault(42)
@pytest.mark.parametrize("backend_", ["PyTorchJob", "Job"])
@pytest.mark.parametrize("name", STRANGE)
def test_a_strange_spec_goes_to_its_end(tmp_path, name, backend_):
    with faulty(tmp_path) as w, w.operator():
        w.apply(**{**SFT_ONLY, **STRANGE[name], "backend": backend_})
        run = w.until(lambda run: ended(run) or holds_not(run, "Accepted"), seconds=30)
        if not ended(run):  # what Kubernetes would not take is said by its field
            assert "spec." in condition(run, "Accepted")["message"]
            return
        well_ended(w)


def holds_not(run, type_):
    return (condition(run, type_) or {}).get("status") == "False"


HUGE = {"letters": "ä" * 480_000, "many": list(range(110_000)), "deep": {"a": ["é" * 200] * 2000}}


@pytest.mark.fault(42)
@pytest.mark.parametrize("name", HUGE)
def test_a_spec_of_nearly_a_mebibyte_is_told_of_and_holds_up_nobody(tmp_path, name):
    with faulty(tmp_path) as w, w.operator():
        section = {"dataset": {"name": "d"}, "trainerArgs": {"a": HUGE[name]}}
        w.apply("huge", **{**SFT_ONLY, "sft": section})
        run = w.until(lambda run: condition(run, "Accepted"), "huge", 30)
        assert holds_not(run, "Accepted")
        assert "spec" in condition(run, "Accepted")["message"]
        assert len(json.dumps(run["status"])) < 20_000
        w.apply("good", **SFT_ONLY)
        well_ended(w, "good")
        assert [item for item in w.quiet() if item.target != "events"] == []


# Limits and crowds


@pytest.mark.fault(43)
@pytest.mark.parametrize("backend_", ["PyTorchJob", "Job"])
def test_names_at_their_limits(tmp_path, backend_):
    namespace, names = "n" * 63, ["r" * 40, "r" * 39 + "s", "a" + "-" * 38 + "a"]
    gang = {"dataset": {"name": "d"}, "resources": {"nodes": 2}}
    with faulty(tmp_path, scripted({("sft", 1): KILLED})) as w:
        w.server.create("namespaces", {"metadata": {"name": namespace}})
        with w.operator():
            for name in names:
                w.apply(name, namespace, **{**SFT_ONLY, "backend": backend_, "sft": gang})
            for name in names:
                run = w.server.wait("reasoningruns", name, ended, namespace, 40)
                assert holds(run, "Succeeded"), run["status"]
                assert stage(run, "sft")["attempt"] == 2
        made = w.created({"PyTorchJob": "pytorchjobs", "Job": "jobs"}[backend_])
        assert len(set(made)) == 2 * len(names)
        assert all(len(name) <= 50 for name in made)
        labels = [
            value for pod in w.server.list("pods") for value in pod["metadata"]["labels"].values()
        ]
        assert all(len(value) <= 63 for value in labels)


@pytest.mark.fault(43)
def test_two_hundred_runs_at_once_cost_a_few_calls_each(tmp_path):
    names = [f"r{number:03d}" for number in range(200)]
    with faulty(tmp_path, scripted({("grpo", 1): FOREVER})) as w:
        with w.operator(workers=16, progress=600.0):
            w.watched("reasoningruns", "pytorchjobs")
            for name in names:
                w.apply(name, evaluation=None)
            for name in names:
                w.until(lambda run: run_starts(run, "grpo"), name, 120)
            calls = requests_per_run(w.server)
            assert max(calls.values()) < 25
            end = time.monotonic() + 60
            while w.quiet(1.0):
                assert time.monotonic() < end
            assert w.quiet(5.0) == []  # while they run nothing is asked for
            for name in names:
                w.controllers.finish(f"{name}-grpo-1")
            for name in names:
                assert holds(w.end(name, 120), "Succeeded")
        assert len(w.created()) == len(set(w.created())) == 400
        lists = list(w.requests.of("list", "reasoningruns"))
        assert len(lists) < 10
        no_rule_was_broken(w)


# Clocks

SKEWS = pytest.mark.parametrize(
    "skew", [timedelta(hours=-1), timedelta(hours=1), timedelta(days=400)], ids=str
)


def looked(status, state, now, **changes):
    """What is decided for a run with a status and a child."""
    run = make_run(**changes).model_copy(update={"status": status})
    child = [] if state is None else [Found(BACKENDS[0], {}, Child(Stage.SFT, 1, state))]
    return decide(run, Sight(tuple(child), (), {}, ()), now)


@pytest.mark.fault(44)
@SKEWS
def test_a_backoff_that_another_clock_has_written_ends_in_its_time(skew):
    error = StageError(code="WorkerLost", message="m")
    retry_at = NOW + skew + timedelta(seconds=30)
    entry = StageStatus(
        name="sft", state=StageState.BACKOFF, attempt=1, failures=1, retry_at=retry_at, error=error
    )
    status, now, waited = RunStatus(stages=(entry,), started_at=NOW + skew), NOW, 0.0
    retry = {"limit": 3, "backoffSeconds": 30, "maxBackoffSeconds": 60}
    while isinstance((decision := looked(status, None, now, retry=retry)).action, Wait):
        status = decision.status
        assert decision.action.seconds > 0
        waited += decision.action.seconds
        now += timedelta(seconds=decision.action.seconds)
        assert waited < 120
    assert decision.action == Start(Stage.SFT, 2)


@pytest.mark.fault(44)
@SKEWS
def test_a_deadline_that_another_clock_has_begun_is_not_put_off(skew):
    entry = StageStatus(
        name="sft", state=StageState.RUNNING, attempt=1, attempt_started_at=NOW + skew
    )
    status, now, waited = RunStatus(stages=(entry,), started_at=NOW + skew), NOW, 0.0
    sft = {"dataset": {"name": "d"}, "timeoutSeconds": 60}
    while isinstance((decision := looked(status, ChildState.RUNNING, now, sft=sft)).action, Wait):
        status = decision.status
        waited += decision.action.seconds
        now += timedelta(seconds=decision.action.seconds)
        assert waited < 120
    assert isinstance(decision.action, Stop)


@pytest.mark.fault(44)
@SKEWS
@pytest.mark.parametrize("state", [item for item in StageState if item.live])
def test_no_clock_makes_a_duration_negative(skew, state):
    entry = StageStatus(
        name="sft", state=state, attempt=1, attempt_started_at=NOW + skew, started_at=NOW + skew
    )
    status = RunStatus(stages=(entry,), started_at=NOW + skew)
    decision = looked(status, None, NOW)
    after = decision.status.stage("sft")
    assert after.gpu_seconds >= after.wasted_gpu_seconds >= 0
    assert not isinstance(decision.action, Wait) or (decision.action.seconds or 0) >= 0


@pytest.mark.fault(44)
@pytest.mark.parametrize("hours", [-1, 1])
def test_an_operator_whose_clock_is_wrong_takes_over(tmp_path, hours):
    """Every time that is recorded is an hour off when the next operator comes."""
    with faulty(tmp_path, scripted({("sft", 1): KILLED, ("sft", 2): FOREVER})) as w:
        with w.operator():
            w.apply(**SFT_ONLY)
            w.until(lambda run: run_starts(run, attempt=2))
        text = json.dumps(w.run()["status"])
        for time_ in {item for item in text.split('"') if item[:4].isdecimal() and "T" in item}:
            moved = datetime.fromisoformat(time_) + timedelta(hours=hours)
            text = text.replace(time_, moved.astimezone(UTC).isoformat().replace("+00:00", "Z"))
        w.server.set_status("reasoningruns", "r", json.loads(text))
        with w.operator():
            w.watched("reasoningruns", "pytorchjobs")
            w.controllers.finish("r-sft-2")
            run = well_ended(w, attempts={"sft": 2}, failures={"sft": 1})
        assert stage(run, "sft")["gpuSeconds"] >= 0
