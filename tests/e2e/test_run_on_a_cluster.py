"""The quickstart by `kubectl apply`: real kubectl, operator and trainer, and one SIGKILL.

Only the cluster stands in: an API server and a PyTorchJob controller in this process, whose pods
are processes of this machine, and a directory for the claim. The file is the example's own with
fewer steps and rows (`shortened`); with COLDSTART_WHOLE_QUICKSTART=1 it is applied as it is.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from apiserver.processes import Processes, mapped
from kubectl import Kubectl, needs_kubectl
from operating import World, ended, holds, stage, world
from quickstart_build import EXAMPLE

from coldstart.checkpoint import verify
from coldstart.files import json_lines
from coldstart.stage import MANIFEST, StageResult

WHOLE = bool(os.environ.get("COLDSTART_WHOLE_QUICKSTART"))
SECONDS = 3600 if WHOLE else 840
"""How long the run may take on a busy machine."""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(SECONDS + 60), needs_kubectl]

PROBLEMS = 400 if WHOLE else 30
"""How many the evaluation asks of each checkpoint."""

ATTEMPTS = {"sft": 1, "grpo": 2, "evaluation": 1}
"""How many each stage takes: the first of GRPO is killed."""


def shortened(document):
    """The example's run with fewer steps and rows, no wait before a retry, and an open gate.

    After so few steps nothing is learnt that the accuracy gate could ask for; it still judges.
    """
    spec = document["spec"]
    spec["sft"] |= {"maxSteps": 50, "evalSteps": 50, "saveSteps": 50, "probe": {"size": 16}}
    spec["grpo"] |= {"maxSteps": 5, "saveSteps": 2, "probe": {"size": 16}}
    spec["grpo"]["gate"] = {"minAccuracy": 0}
    spec["evaluation"]["benchmarks"][0]["dataset"]["limit"] = PROBLEMS
    spec["retry"] = {"backoffSeconds": 0}
    return document


@dataclass
class Finished:
    """The run after its end, and what can still be asked."""

    w: World
    kubectl: Kubectl
    storage: Path

    @property
    def run(self):
        return self.w.run("quickstart")

    def terminated(self, name, attempt):
        """How the container of an attempt ended."""
        pod = self.w.server.get("pods", f"quickstart-{name}-{attempt}-master-0")
        return pod["status"]["containerStatuses"][0]["state"]["terminated"]

    def results(self, name):
        """Where the responses of a checkpoint are, and what they add up to."""
        return self.storage / "quickstart/evaluation" / name / "held-out-digits"

    def coldstart(self, *arguments):
        """What a command of ours prints, told where the cluster is."""
        config = self.w.server.kubeconfig(self.w.directory / "user.config")
        namespace = self.w.server.namespace("default")
        done = subprocess.run(
            [sys.executable, "-m", "coldstart", *arguments, "--namespace", namespace],
            cwd=self.w.directory,
            env=os.environ | {"KUBECONFIG": str(config), "COLUMNS": "200"},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


def kill_in_the_middle(w, storage):
    """SIGKILL the process that trains in the first attempt of GRPO, once it has saved."""
    place = storage / "quickstart" / "grpo"
    end = time.monotonic() + SECONDS
    while not list(place.glob(f"checkpoints/checkpoint-*/{MANIFEST}")):
        run = w.run("quickstart")
        assert not ended(run), run["status"]["message"]
        assert time.monotonic() < end, "GRPO saves no checkpoint"
        time.sleep(0.05)
    signed = json.loads((place / "attempt-1" / "process-0.json").read_text())
    os.kill(signed["group"], signal.SIGKILL)


@pytest.fixture(scope="module")
def finished(quickstart_build, tmp_path_factory):
    """The run, applied and gone through its stages; nothing of it is changed by a test."""
    directory = tmp_path_factory.mktemp("cluster")
    storage = directory / "claim"
    shutil.copytree(quickstart_build, storage / "build")
    file = EXAMPLE / "run.yaml"
    if not WHOLE:
        file = directory / "run.yaml"
        document = yaml.safe_load((EXAMPLE / "run.yaml").read_text())
        file.write_text(yaml.safe_dump(shortened(document)))
    with world(directory, lambda _: None) as w:
        runner = Processes(mapped(storage), os.environ | {"HF_HUB_OFFLINE": "1"})
        w.controllers.kubelet.runner = runner
        kubectl = Kubectl(w.server, directory)
        kubectl("apply", "-f", file)
        options = ("--for=condition=Succeeded", f"--timeout={SECONDS}s")
        with w.process(), kubectl.meanwhile("wait", *options, "rrun/quickstart"):
            kill_in_the_middle(w, storage)
            run = w.until(ended, "quickstart", SECONDS)
            assert holds(run, "Succeeded"), run["status"]["message"]
        yield Finished(w, kubectl, storage)


def test_it_is_shown_as_succeeded(finished):
    row = finished.kubectl("get", "rrun", "quickstart").splitlines()[1].split()
    assert row[:2] == ["quickstart", "Succeeded"]
    assert finished.w.created() == [
        f"quickstart-{name}-{attempt + 1}"
        for name, attempts in ATTEMPTS.items()
        for attempt in range(attempts)
    ]


def test_what_the_status_tells_came_as_termination_messages(finished):
    for name, attempt in ATTEMPTS.items():
        told = StageResult.parse(json.loads(finished.terminated(name, attempt)["message"]))
        entry = stage(finished.run, name)
        assert (told.run.uid, told.attempt) == (finished.run["metadata"]["uid"], attempt)
        assert entry["metrics"] == told.metrics
        if name != "evaluation":
            assert entry["checkpoint"] == told.checkpoint.document()
    assert not list(finished.storage.rglob("result.json"))


def test_the_checkpoints_are_on_the_storage(finished):
    parents = {}
    for name in ("sft", "grpo"):
        told = stage(finished.run, name)["checkpoint"]
        assert told["location"] == f"quickstart/{name}/final"
        manifest = verify(finished.storage / told["location"], told["digest"])
        assert manifest.step == told["step"] > 0
        parents[name] = manifest.parent
    assert parents["grpo"] == stage(finished.run, "sft")["checkpoint"]["digest"]


def test_the_gates_have_judged(finished):
    for name, check, metric in (
        ("sft", "minBoxedShare", "probe_boxed_share"),
        ("grpo", "minAccuracy", "probe_accuracy"),
    ):
        entry = stage(finished.run, name)
        gates = {verdict["name"]: verdict for verdict in entry["gates"]}
        assert gates.keys() == {"checkpoint", check}
        assert all(verdict["passed"] for verdict in gates.values())
        assert gates[check]["observed"] == entry["metrics"][metric]
        asked = finished.run["spec"][name]["gate"][check]
        assert gates[check]["threshold"] == asked <= gates[check]["observed"]


def test_the_accuracies_are_those_of_the_results(finished):
    told = stage(finished.run, "evaluation")["metrics"]
    for name in ("base", "sft", "grpo"):
        place = finished.results(name)
        results = json.loads((place / "results.json").read_text())
        assert told[f"accuracy_{name}"] == results["accuracy"]
        lines = (place / "samples.jsonl").read_text().splitlines()
        assert len(lines) == results["n"] == PROBLEMS


def test_a_killed_stage_goes_on_from_its_checkpoint(finished):
    killed = finished.terminated("grpo", 1)
    assert killed["exitCode"] == 137
    assert "message" not in killed
    entry = stage(finished.run, "grpo")
    assert (entry["attempt"], entry["failures"]) == (2, 1)
    lines = [
        line
        for line in json_lines(finished.storage / "quickstart/grpo/metrics.jsonl")
        if line["phase"] == "train"
    ]
    first, second = ([one["done"] for one in lines if one["attempt"] == n] for n in (1, 2))
    total = finished.run["spec"]["grpo"]["maxSteps"]
    assert first[0] == 0
    assert 0 < second[0] <= first[-1] < second[-1] == total


def test_times_are_those_of_the_processes(finished):
    for name, attempt in ATTEMPTS.items():
        terminated = finished.terminated(name, attempt)
        assert terminated["startedAt"] < terminated["finishedAt"]
        assert stage(finished.run, name)["gpuSeconds"] == 0  # it asks for none


def test_the_report_says_what_is_on_the_storage(finished):
    found = json.loads(finished.coldstart("report", "quickstart", "--json"))["checkpoints"]
    assert list(found) == ["base", "sft", "grpo"]
    page = finished.w.directory / "page.html"
    table = finished.coldstart("report", "quickstart", "--output", str(page))
    for name, told in found.items():
        results = json.loads((finished.results(name) / "results.json").read_text())
        for key in ("accuracy", "low", "high", "n"):
            assert told[key] == pytest.approx(results[key])
        assert f"{results['accuracy']:.1%}".replace("%", " %") in table
    assert page.read_bytes() == (finished.storage / "quickstart/report.html").read_bytes()
    assert len(finished.w.server.list("pods")) == sum(ATTEMPTS.values())  # the reader's is gone


def test_status_and_logs_are_told(finished):
    assert "Succeeded" in finished.coldstart("status", "quickstart")
    last = finished.coldstart("logs", "quickstart", "--stage", "grpo")
    first = finished.coldstart("logs", "quickstart", "--stage", "grpo", "--attempt", "1")
    for number, text in ((1, first), (2, last)):
        assert text == finished.kubectl("logs", f"quickstart-grpo-{number}-master-0")
    assert "coldstart_trainer" in last
    assert "exitcode: -9" in first


@pytest.mark.skipif(not WHOLE, reason="COLDSTART_WHOLE_QUICKSTART is not set: too few steps")
def test_each_stage_lifts_accuracy_on_a_cluster(finished):
    told = stage(finished.run, "evaluation")["metrics"]
    assert told["accuracy_base"] < 0.1 < told["accuracy_sft"]
    assert told["accuracy_grpo"] > told["accuracy_sft"] + 0.1
