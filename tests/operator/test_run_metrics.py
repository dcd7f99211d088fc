"""What Prometheus is told of single runs: which runs, which labels, whatever their status is."""

import time
from datetime import UTC, datetime, timedelta

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from scraping import families, lint

from coldstart_operator import explain
from coldstart_operator import run_metrics as module
from coldstart_operator.cache import Key
from coldstart_operator.run_metrics import RunSeries, Told

START = datetime(2026, 1, 1, tzinfo=UTC)
PREFIX = "coldstart_operator_run_"


def document(*stages, conditions=(), **status):
    named = [{"type": kind, "status": value, "reason": why} for kind, value, why in conditions]
    return {"status": {"stages": list(stages), "conditions": named, **status}}


def page(*runs):
    registry = CollectorRegistry()
    registry.register(RunSeries(lambda: runs))
    return generate_latest(registry).decode()


ORDER = ("run_namespace", "run", "stage", "phase", "reason", "use")


def samples(text, name):
    found = {}
    for sample in families(text)[PREFIX + name].samples:
        assert sample.labels.keys() <= set(ORDER)
        found[tuple(sample.labels[key] for key in ORDER if key in sample.labels)] = sample.value
    return found


SFT = {
    "name": "sft",
    "state": "Succeeded",
    "attempt": 2,
    "startedAt": START.isoformat(),
    "finishedAt": (START + timedelta(hours=2)).isoformat(),
    "gpuSeconds": 100,
    "wastedGpuSeconds": 30.5,
}
GRPO = {"name": "grpo", "state": "Running", "attempt": 1, "startedAt": START.isoformat()}


def test_a_run_is_told_of_stage_by_stage():
    text = page((Key("ml", "r"), "GRPORunning", Told.of(document(SFT, GRPO))))
    assert samples(text, "info") == {("ml", "r", "grpo", "GRPORunning", ""): 1}
    assert samples(text, "finished_timestamp_seconds") == {}
    assert samples(text, "stage_attempts") == {("ml", "r", "sft"): 2, ("ml", "r", "grpo"): 1}
    took = samples(text, "stage_seconds")
    assert took["ml", "r", "sft"] == 7200
    assert took["ml", "r", "grpo"] == pytest.approx(time.time() - START.timestamp(), abs=60)
    used = samples(text, "gpu_seconds")
    assert used["ml", "r", "sft", "useful"] == 69.5
    assert used["ml", "r", "sft", "wasted"] == 30.5
    assert lint(text) == ""


WAITING = ("Queued", "True", "WaitsToStart")
REASONS = {
    "it works": ([("Queued", "False", "NotWaiting")], "Running", "sft attempt 1 is running", ""),
    "a failure": ([("Failed", "True", "GateRefused")], "Failed", "no", "GateRefused"),
    "a spec": ([("Accepted", "False", "InvalidSpec"), WAITING], "Waiting", "no", "InvalidSpec"),
    "a quota": ([WAITING], "Starting", "quota: FailedCreate: exceeded quota: gpus", "quota"),
    "an image": ([WAITING], "Starting", "image pull: pod p: ErrImagePull x:1", "image pull"),
    "a node": ([WAITING], "Starting", "node lost: pod p was on n", "node lost"),
    "a queue": ([WAITING], "Starting", "queued: waits for admission by queue q", "queued"),
    "a retry": ([WAITING], "Backoff", "sft tries again in 9 s: exceeded quota", "Backoff"),
    "a refusal": (
        [("Queued", "True", "Forbidden")],
        "Starting",
        'pods "x" is forbidden: violates PodSecurity "restricted:latest"',
        "PodSecurity",
    ),
    "no backend": (
        [("Queued", "True", "BackendUnavailable")],
        "Waiting",
        "the cluster serves no Job",
        "BackendUnavailable",
    ),
    "nothing to say": ([WAITING], "Starting", "sft attempt 1 is pending", "WaitsToStart"),
}


@pytest.mark.parametrize("name", REASONS)
def test_a_reason_is_one_of_a_few(name):
    conditions, state, message, expected = REASONS[name]
    entry = {"name": "sft", "state": state}
    assert Told.of(document(entry, conditions=conditions, message=message)).reason == expected


def test_every_word_for_a_cause_is_found_again():
    for subject in explain._SUBJECTS:
        assert explain.cause(f"{subject}: and more") == subject
    assert explain.cause("pod p: CrashLoopBackOff") == ""


@pytest.mark.parametrize(
    "status",
    [
        None,
        "text",
        {"stages": "text"},
        {"stages": [None, 1, {"name": "other", "attempt": 3}, {"name": ["sft"]}]},
        {"finishedAt": "yesterday", "conditions": [{"type": "Failed", "status": "True"}]},
    ],
)
def test_no_status_raises_or_makes_a_series_up(status):
    assert Told.of({"status": status}) == Told()


def test_numbers_that_are_none_are_left_out():
    odd = SFT | {"gpuSeconds": "many", "wastedGpuSeconds": float("nan"), "startedAt": 5}
    (mark,) = Told.of(document(odd)).stages
    assert (mark.used, mark.wasted, mark.started) == (0.0, 0.0, None)


def test_a_long_reason_is_cut():
    told = Told.of(document(conditions=[("Failed", "True", "x" * 1000)]))
    assert len(told.reason) == module._LABEL


def test_a_run_that_ended_long_ago_is_not_told_of():
    now = time.time()
    runs = [
        (Key("ml", name), "Succeeded", Told(finished=when))
        for name, when in (("new", now - 60), ("old", now - module.RECENT - 60), ("live", None))
    ]
    assert {labels[1] for labels in samples(page(*runs), "info")} == {"new", "live"}
    assert samples(page(*runs), "finished_timestamp_seconds") == {("ml", "new"): now - 60}


def test_of_too_many_runs_those_that_go_on_are_told_of(monkeypatch):
    monkeypatch.setattr(module, "MOST", 3)
    now = time.time()
    ended = [(Key("ml", f"e{age}"), "Failed", Told(finished=now - age)) for age in (30, 10, 20)]
    live = [(Key("ml", f"l{number}"), "SFTRunning", Told()) for number in (1, 2)]
    assert {labels[1] for labels in samples(page(*ended, *live), "info")} == {"l1", "l2", "e10"}
