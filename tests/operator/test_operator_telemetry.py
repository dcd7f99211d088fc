"""What the operator tells of itself: health, readiness, metrics, log lines, exit codes."""

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from datetime import UTC, datetime, timedelta

import pytest
from apiserver.crds import reasoningruns
from apiserver.faults import Fault, silence
from apiserver.scripts import FOREVER, failing, scripted
from click.testing import CliRunner
from command_world import until
from operating import SFT_ONLY, condition, holds, run_starts, world
from prometheus_client.parser import text_string_to_metric_families

from coldstart.status import (
    ErrorCode,
    RunStatus,
    StageError,
    StageState,
    StageStatus,
    Verdict,
)
from coldstart_operator import health as health_module
from coldstart_operator import metrics
from coldstart_operator.__main__ import main
from coldstart_operator.cache import Key
from coldstart_operator.health import Health
from coldstart_operator.logs import JsonLines

PREFIX = "coldstart_operator_"
START = datetime(2026, 1, 1, tzinfo=UTC)


def page(port, path):
    """The status and the text of a page."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as problem:
        return problem.code, problem.read().decode()


def becomes(port, path, status, words, seconds=30):
    """Wait until a page has a status and says something."""
    end = time.monotonic() + seconds
    while (found := page(port, path))[0] != status or words not in found[1]:
        assert time.monotonic() < end, found
        time.sleep(0.05)


# Health


@pytest.fixture
def clock(monkeypatch):
    """The time that `health` sees, as a list of one number."""
    now = [1000.0]
    monkeypatch.setattr(health_module, "monotonic", lambda: now[0])
    return now


RUN = ("reasoningruns", Key("ml", "r"))

SEEN = {
    "nothing is expected": ([], []),
    "it was told": ([("expect", *RUN, 5), ("seen", *RUN, 5)], []),
    "a later version was told": ([("expect", *RUN, 5), ("seen", *RUN, 9)], []),
    "it is gone": ([("expect", *RUN, 5), ("gone", *RUN)], []),
    "it was not told": ([("expect", *RUN, 5)], ["watch streams"]),
    "an older version was told": ([("expect", *RUN, 5), ("seen", *RUN, 4)], ["watch streams"]),
    "something later was told": (
        [("expect", *RUN, 5), ("seen", "reasoningruns", Key("ml", "s"), 7)],
        [],
    ),
    "something earlier was told": (
        [("expect", *RUN, 5), ("seen", "reasoningruns", Key("ml", "s"), 4)],
        ["watch streams"],
    ),
    "another stream told": (
        [("expect", *RUN, 5), ("seen", "pytorchjobs", Key("ml", "s"), 7)],
        ["watch streams"],
    ),
    "another namespace's stream told": (
        [("expect", *RUN, 5), ("seen", "reasoningruns", Key("web", "s"), 7)],
        ["watch streams"],
    ),
    "the first of several is not forgotten": (
        [("expect", *RUN, 5), ("expect", *RUN, 8), ("seen", *RUN, 5)],
        [],
    ),
}


@pytest.mark.parametrize("name", SEEN)
def test_health_waits_for_what_has_to_be_told(clock, name):
    events, expected = SEEN[name]
    health = Health(limit=180, heard=lambda: clock[0], busy=lambda: 0.0)
    for call, *arguments in events:
        getattr(health, call)(*arguments)
    clock[0] += 179
    assert health.problems() == []
    clock[0] += 2
    assert len(health.problems()) == len(expected)
    assert all(words in text for words, text in zip(expected, health.problems(), strict=True))


def test_health_sees_an_api_server_that_is_silent_and_a_worker_that_hangs(clock):
    health = Health(limit=180, heard=lambda: 1000.0, busy=lambda: clock[0] - 1000)
    clock[0] += 181
    silent, busy = health.problems()
    assert "has not answered for 181 s" in silent
    assert "at one run for 181 s" in busy


def test_health_tells_how_long_it_has_waited(clock):
    health = Health(limit=180, heard=lambda: 990.0, busy=lambda: 3.0)
    assert health.silences() == {"api_server": 10, "watch": 0, "worker": 3}
    health.expect(*RUN, 5)
    clock[0] += 7
    health.expect("reasoningruns", Key("ml", "s"), 6)
    assert health.silences() == {"api_server": 17, "watch": 7, "worker": 3}


def test_a_silent_stream_of_the_jobs_makes_health_red(tmp_path):
    options = ("--unhealthy-after", "1", "--resync", "0.5")
    with (
        world(tmp_path, scripted({("sft", 1): FOREVER})) as w,
        w.process(*options) as operator,
    ):
        health, _ = operator.ports()
        w.apply(**SFT_ONLY)
        w.until(run_starts, seconds=30)
        becomes(health, "/readyz", 200, "ok")
        w.server.faults.add(silence("pytorchjobs", times=None))
        w.controllers.finish("r-sft-1")
        assert holds(w.end(seconds=30), "Succeeded")  # the LISTs carry it
        becomes(health, "/healthz", 500, "pytorchjobs")
        becomes(health, "/readyz", 500, "pytorchjobs")


def test_before_it_has_read_what_there_is_it_is_not_ready_and_ends_when_told(tmp_path):
    with world(tmp_path) as w:
        w.server.faults.add(Fault(None, None, drop=True, times=None))
        with w.process() as operator:
            health, _ = operator.ports()
            becomes(health, "/readyz", 500, "has not read yet")
            assert page(health, "/healthz") == (200, "ok\n")
            operator.process.send_signal(signal.SIGTERM)
            assert operator.process.wait(20) == 0


@pytest.fixture
def deep_recursion():
    """The test's API server reads and writes what is nested deep, as a real one does."""
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(20_000)
    yield
    sys.setrecursionlimit(limit)


def test_an_object_that_is_nested_without_end_keeps_nobody_from_working(tmp_path, deep_recursion):
    affinity = json.loads('{"a":' * 2000 + "1" + "}" * 2000)
    with world(tmp_path, crd=False) as w:
        w.server.create("customresourcedefinitions", reasoningruns())
        w.apply("deep", podTemplate={"affinity": affinity}, **SFT_ONLY)
        w.apply("plain", **SFT_ONLY)
        with w.process():
            assert holds(w.end("plain", 30), "Succeeded")
            refused = w.until(lambda run: condition(run, "Accepted"), "deep", 30)
        assert condition(refused, "Accepted")["reason"] == "InvalidSpec"


# Metrics


def value(name, **labels):
    """A sample of this process; 0 where there is none."""
    return metrics.REGISTRY.get_sample_value(PREFIX + name, labels) or 0.0


def entry(state, **more):
    return StageStatus(name="sft", state=state, attempt=1, **more)


LOST = StageError(code=ErrorCode.WORKER_LOST, message="")
RAN = {"started_at": START, "finished_at": START + timedelta(seconds=90)}
REFUSED = Verdict(name="maxLoss", observed=2, threshold=1, passed=False)
PASSED = Verdict(name="minAccuracy", observed=1, threshold=0.5, passed=True)

TALLIES = {
    "a success": (
        entry(StageState.RUNNING),
        entry(StageState.SUCCEEDED, gpu_seconds=360, **RAN),
        {
            ("stage_seconds_count", ("result", "succeeded")): 1,
            ("stage_seconds_sum", ("result", "succeeded")): 90,
            ("gpu_seconds_total", ("use", "useful")): 360,
        },
    ),
    "an attempt that is lost": (
        entry(StageState.RUNNING, gpu_seconds=10, wasted_gpu_seconds=10),
        entry(StageState.BACKOFF, failures=1, error=LOST, gpu_seconds=50, wasted_gpu_seconds=50),
        {
            ("attempt_failures_total", ("code", "WorkerLost")): 1,
            ("gpu_seconds_total", ("use", "wasted")): 40,
        },
    ),
    "the last attempt": (
        entry(StageState.RUNNING, failures=3),
        entry(StageState.FAILED, failures=3, error=LOST, **RAN),
        {
            ("attempt_failures_total", ("code", "WorkerLost")): 1,
            ("stage_seconds_count", ("result", "failed")): 1,
            ("stage_seconds_sum", ("result", "failed")): 90,
        },
    ),
    "a gate that refuses": (
        entry(StageState.RUNNING),
        entry(
            StageState.FAILED,
            gates=(PASSED, REFUSED),
            error=StageError(code=ErrorCode.GATE_REFUSED, message=""),
        ),
        {
            ("gate_refusals_total", ("check", "maxLoss")): 1,
            ("attempt_failures_total", ("code", "GateRefused")): 1,
        },
    ),
    "a clock that went back": (
        entry(StageState.RUNNING),
        entry(StageState.SUCCEEDED, started_at=START, finished_at=START - timedelta(hours=1)),
        {("stage_seconds_count", ("result", "succeeded")): 1},
    ),
    "nothing": (entry(StageState.RUNNING), entry(StageState.RUNNING), {}),
}

COUNTED = (
    ("stage_seconds_count", "result", ("succeeded", "failed")),
    ("stage_seconds_sum", "result", ("succeeded", "failed")),
    ("gpu_seconds_total", "use", ("useful", "wasted")),
    ("attempt_failures_total", "code", ("WorkerLost", "GateRefused")),
    ("gate_refusals_total", "check", ("maxLoss", "minAccuracy")),
)


@pytest.mark.parametrize("name", TALLIES)
def test_what_happens_to_a_stage_is_counted_once(name):
    old, new, expected = TALLIES[name]
    keys = [(metric, (label, each)) for metric, label, values in COUNTED for each in values]

    def counts():
        return {key: value(key[0], stage="sft", **dict([key[1]])) for key in keys}

    before = counts()
    metrics.tally(RunStatus(stages=(old,)), RunStatus(stages=(new,)))
    metrics.tally(RunStatus(stages=(new,)), RunStatus(stages=(new,)))
    after = counts()
    grown = {key: after[key] - before[key] for key in keys if after[key] != before[key]}
    assert grown == pytest.approx(expected)


def test_runs_are_counted_by_phase_as_long_as_they_are_told():
    phases = ["Succeeded", "SFTRunning", "Succeeded"]
    end = metrics.count_runs(lambda: iter(phases))
    assert value("runs", phase="Succeeded") == 2
    phases.append("Failed")
    assert value("runs", phase="Failed") == 1
    end()
    assert value("runs", phase="Succeeded") == 0


TOLD = {
    "runs": "gauge",
    "stage_seconds": "histogram",
    "reconcile_seconds": "histogram",
    "reconcile_errors": "counter",
    "handoff_seconds": "histogram",
    "api_requests": "counter",
    "attempts": "counter",
    "attempt_failures": "counter",
    "gate_refusals": "counter",
    "gpu_seconds": "counter",
    "watch_events": "counter",
    "missed_changes": "counter",
    "admissions": "counter",
    "silence_seconds": "gauge",
    "run_info": "gauge",
    "run_finished_timestamp_seconds": "gauge",
    "run_stage_attempts": "gauge",
    "run_stage_seconds": "gauge",
    "run_gpu_seconds": "gauge",
}


def test_everything_that_is_promised_is_told(tmp_path):
    before = value("watch_events_total", resource="pytorchjobs")
    with world(tmp_path, scripted({("sft", 1): failing(2)})) as w, w.operator():
        w.apply(**SFT_ONLY)
        assert holds(w.end(), "Failed")
        # The operator hears of the status that it has written a moment later.
        until(lambda: 'run_info{phase="Failed"' in metrics.exposition().decode())
        families = {
            family.name: family
            for family in text_string_to_metric_families(metrics.exposition().decode())
        }
    assert {name: families[PREFIX + name].type for name in TOLD} == TOLD
    (info,) = families[PREFIX + "run_info"].samples
    assert all(families[PREFIX + name].documentation for name in TOLD)
    assert info.labels == {
        "run_namespace": "default",
        "run": "r",
        "stage": "sft",
        "phase": "Failed",
        "reason": "Internal",
    }
    assert {name for name in families if name.startswith(PREFIX)} == {PREFIX + n for n in TOLD}
    assert value("watch_events_total", resource="pytorchjobs") > before
    assert "process_resident_memory_bytes" in families


# Log lines


def line(record):
    return json.loads(JsonLines().format(record))


def test_a_log_line_says_what_it_is_about():
    logger = logging.getLogger("coldstart_operator.x")
    about = {"namespace": "ml", "run": "r", "stage": "sft", "attempt": 2}
    record = logger.makeRecord(
        logger.name, logging.INFO, "", 0, "a %s\nb", ("é",), None, extra=about
    )
    found = line(record)
    assert found == {
        "time": found["time"],
        "level": "info",
        "logger": "coldstart_operator.x",
        "message": "a é\nb",
        **about,
    }
    assert datetime.fromisoformat(found["time"]).tzinfo is UTC
    assert "\n" not in JsonLines().format(record)


PROGRAM = """
import sys, warnings
from coldstart_operator import __main__ as program

async def operate(*_, **__):
    warnings.warn("a warning of some library")
    raise {error}

program.operate = operate
program.main(["--health-port", "0"])
"""


def end_of(error):
    """Exit code and log of a process that ends by an error."""
    command = [sys.executable, "-c", PROGRAM.format(error=error)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stderr.splitlines()


def test_last_words_and_warnings_are_log_lines_too():
    code, lines = end_of("KeyError('surprise')")
    assert code == 1
    warned, last = (json.loads(text) for text in lines)
    assert (warned["level"], last["level"]) == ("warning", "critical")
    assert "a warning of some library" in warned["message"]
    assert "KeyError: 'surprise'" in last["error"]


@pytest.mark.parametrize(
    "options",
    [
        ("--namespace", "ML"),
        ("--namespace", ""),
        ("--health-port", "70000"),
        ("--workers", "0"),
        ("--resync", "0"),
        ("--unhealthy-after", "-1"),
        ("--log-level", "loud"),
    ],
    ids="=".join,
)
def test_options_that_make_no_sense_are_mistakes(options):
    done = CliRunner().invoke(main, options)
    assert done.exit_code == 2
    assert options[0] in done.output


def test_a_port_that_is_taken_is_an_error_in_words(tmp_path):
    with socket.socket() as taken, world(tmp_path) as w:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        config = w.server.kubeconfig(tmp_path / "kubeconfig")
        command = [sys.executable, "-m", "coldstart_operator", "--host", "127.0.0.1"]
        command += ["--metrics-port", "0", "--health-port", str(taken.getsockname()[1])]
        environment = os.environ | {"KUBECONFIG": str(config)}
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=60, check=False
        )
    assert done.returncode == 2
    assert f"port {command[-1]}: " in done.stderr
    assert "choose another" in done.stderr
    assert "Traceback" not in done.stderr
