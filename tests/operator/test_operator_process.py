"""The operator as the process that it is: started, asked, told to end, killed, started again."""

import http.server
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from contextlib import contextmanager

import pytest
from apiserver.faults import Fault, answer, delay, error, silence
from apiserver.scripts import FOREVER, KILLED, scripted
from operating import SFT_ONLY, all_succeeded_once, holds, stage, world
from serving import in_threads


def page(port, path, seconds=5):
    """The status and the text of a page."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=seconds) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as problem:
        return problem.code, problem.read().decode()


def sample(text, name, **labels):
    """The sum of the samples of a metric that have these labels."""
    total = 0.0
    for line in text.splitlines():
        found = re.fullmatch(rf"{name}(?:{{(.*)}})? (\S+)", line)
        told = dict(re.findall(r'(\w+)="([^"]*)"', found[1] or "")) if found else {}
        if found and labels.items() <= told.items():
            total += float(found[2])
    return total


def test_a_process_works_tells_and_ends(tmp_path):
    with world(tmp_path, scripted({("sft", 1): KILLED})) as w, w.process() as operator:
        health, metrics = operator.ports()
        w.apply()
        assert holds(w.end(seconds=20), "Succeeded")
        assert page(health, "/healthz") == (200, "ok\n")
        text = page(metrics, "/metrics")[1]
        prefix = "coldstart_operator_"
        assert sample(text, f"{prefix}runs", phase="Succeeded") == 1
        assert sample(text, f"{prefix}attempts_total") == 4
        assert sample(text, f"{prefix}attempts_total", stage="sft") == 2
        assert sample(text, f"{prefix}attempt_failures_total", code="WorkerLost") == 1
        assert sample(text, f"{prefix}stage_seconds_count", result="succeeded") == 3
        assert sample(text, f"{prefix}handoff_seconds_count") == 2
        assert sample(text, f"{prefix}reconcile_seconds_count") > 5
        patched = {"verb": "patch", "resource": "reasoningruns", "code": "200"}
        assert sample(text, f"{prefix}api_requests_total", **patched) > 5
        begun = time.monotonic()
        operator.process.send_signal(signal.SIGTERM)
        assert operator.process.wait(10) == 0
        assert time.monotonic() - begun < 5
        about = [line for line in operator.lines() if line.get("stage")]
        first = about[0]
        assert (first["run"], first["stage"], first["attempt"]) == ("r", "sft", 1)
        assert {"time", "level", "logger", "message"} <= first.keys()


def test_a_process_ends_soon_while_the_api_server_hangs(tmp_path):
    with world(tmp_path) as w, w.process() as operator:
        operator.ports()
        w.apply(**SFT_ONLY)
        w.end(seconds=20)
        w.server.faults.add(Fault("patch", seconds=60, times=None))
        w.apply("s", **SFT_ONLY)
        time.sleep(0.5)
        begun = time.monotonic()
        operator.process.send_signal(signal.SIGTERM)
        operator.process.wait(10)
        assert time.monotonic() - begun < 8


def test_no_credentials_are_an_error_in_words(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "coldstart_operator"],
        env=os.environ | {"KUBECONFIG": str(tmp_path / "none")},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 1
    assert "no cluster" in done.stderr
    assert "Traceback" not in done.stderr


class EmptyCluster(http.server.BaseHTTPRequestHandler):
    """Answers as one, and keeps who asked for what."""

    asked = {}
    answers = {}
    empty = {
        "items": [],
        "metadata": {"resourceVersion": "1"},
        "versions": [],
        "groups": [],
        "resources": [],
    }

    def do_GET(self):
        path = self.path.partition("?")[0]
        self.asked[path] = self.headers.get("Authorization")
        body = json.dumps(self.answers.get(path, self.empty)).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def operated(tmp_path):
    """A function: an operator process of a server that answers as a handler class does."""

    @contextmanager
    def found(handler):
        with in_threads() as start, world(tmp_path) as w:
            server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
            start(server)
            w.server.port = server.server_address[1]
            with w.process() as operator:
                operator.ports()
                yield operator

    return found


def test_every_request_says_who_asks(operated):
    class Asked(EmptyCluster):
        asked = {}

    with operated(Asked):
        deadline = time.monotonic() + 10
        while not {"/apis", "/apis/batch/v1/jobs"} <= Asked.asked.keys():
            assert time.monotonic() < deadline, Asked.asked
            time.sleep(0.05)
    assert set(Asked.asked.values()) == {"Bearer test"}


def test_told_to_end_just_when_the_watch_is_lost_it_ends(operated):
    """kopf fails by `/api`, and still asks for `/apis`."""
    lost = threading.Event()

    class Broken(EmptyCluster):
        answers = {"/api": {}}

        def do_GET(self):
            if self.path == "/apis":
                time.sleep(0.2)
            super().do_GET()
            if self.path == "/api":
                lost.set()

    with operated(Broken) as operator:
        assert lost.wait(10)
        operator.process.send_signal(signal.SIGTERM)
        assert operator.process.wait(10) == 0


def test_a_killed_operator_goes_on_where_it_was(tmp_path):
    with world(tmp_path, scripted({("grpo", 1): FOREVER})) as w:
        with w.process() as operator:
            w.apply()
            w.until(lambda run: stage(run, "grpo").get("state") == "Running", seconds=20)
            operator.kill()
        w.controllers.finish("r-grpo-1")
        with w.process():
            all_succeeded_once(w, ["r"])


def test_restarting_changes_nothing_in_live_runs(tmp_path):
    with world(tmp_path, scripted({}, FOREVER)) as w:
        names = [f"r{number}" for number in range(10)]
        with w.process():
            for name in names:
                w.apply(name)
            for name in names:
                w.until(lambda run: stage(run, "sft").get("state") == "Running", name, 20)
            time.sleep(0.5)
        before = len(w.writes())
        with w.process() as operator:
            operator.ports()
            time.sleep(1.5)
        assert len(w.writes()) == before


def test_a_run_deleted_while_nobody_watches_leaves_nothing(tmp_path):
    with world(tmp_path, scripted({}, FOREVER)) as w:
        with w.process():
            w.apply()
            w.until(lambda run: stage(run, "sft").get("state") == "Running", seconds=20)
        w.server.delete("reasoningruns", "r")
        w.server.wait("pytorchjobs", "r-sft-1", lambda job: job is None)
        with w.process() as operator:
            operator.ports()
            time.sleep(0.5)
            assert w.jobs() == []


@pytest.mark.fault(19)
def test_health_is_red_when_the_streams_do_not_tell_what_was_written(tmp_path):
    options = ("--unhealthy-after", "2", "--resync", "1")
    with world(tmp_path) as w, w.process(*options) as operator:
        health, _ = operator.ports()
        w.apply(**SFT_ONLY)
        w.end(seconds=20)
        time.sleep(0.3)
        assert page(health, "/healthz")[0] == 200
        w.server.faults.add(silence("reasoningruns", times=None))
        w.apply("s", **SFT_ONLY)
        assert holds(w.end("s", 20), "Succeeded")  # the LISTs carry it
        deadline = time.monotonic() + 8
        while page(health, "/healthz")[0] == 200:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        status, text = page(health, "/healthz")
        assert status == 500
        assert "watch streams" in text


def test_health_is_red_when_the_api_server_is_gone_and_green_when_it_is_back(tmp_path):
    with world(tmp_path) as w, w.process("--unhealthy-after", "2", "--resync", "0.5") as operator:
        health, _ = operator.ports()
        assert page(health, "/healthz")[0] == 200
        w.server.faults.add(Fault(None, None, drop=True, times=None))
        deadline = time.monotonic() + 8
        while page(health, "/healthz")[0] == 200:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert "has not answered" in page(health, "/healthz")[1]
        w.server.faults.clear()
        while page(health, "/healthz")[0] == 500:
            assert time.monotonic() < deadline + 8
            time.sleep(0.1)


LOST = {
    "an error in a stream": [error("reasoningruns", 500)],
    "a list that has expired": [
        answer("list", "reasoningruns", 410, reason="Expired"),
        error("reasoningruns", 410),
    ],
}


@pytest.mark.parametrize("case", LOST)
def test_a_process_whose_watch_fails_begins_anew(tmp_path, case):
    with world(tmp_path) as w, w.process() as operator:
        health, metrics = operator.ports()
        faults = w.server.faults
        while not w.server.requests.of("watch", "reasoningruns"):
            time.sleep(0.05)
        for fault in LOST[case]:
            faults.add(fault)
        w.apply(**SFT_ONLY)
        while not any("begins anew" in line["message"] for line in operator.lines()):
            time.sleep(0.05)
        # Who asks meanwhile waits.
        assert page(health, "/healthz", seconds=30) == (200, "ok\n")
        assert page(metrics, "/metrics")[0] == 200
        assert holds(w.end(seconds=60), "Succeeded")
        assert operator.process.poll() is None


def test_health_stays_green_where_the_streams_tell_before_the_api_server_answers(tmp_path):
    options = ("--unhealthy-after", "2", "--resync", "1")
    with world(tmp_path) as w, w.process(*options) as operator:
        health, _ = operator.ports()
        w.server.faults.add(delay("patch", "reasoningruns/status", 0.3, after=True))
        w.apply(**SFT_ONLY)
        assert holds(w.end(seconds=30), "Succeeded")
        time.sleep(3)
        assert page(health, "/healthz") == (200, "ok\n")
