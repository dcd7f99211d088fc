"""`coldstart run` with the real trainer on a tiny model: mistakes, kills, Ctrl-C, a full disk."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

SECRET = "hf_DoNotWriteThisAnywhere"
"""The hub's token, which every process here has."""

CPU = {"resources": {"gpusPerNode": 0}, "precision": "fp32"}


class Project:
    """A directory with a run.yaml, as a user has it."""

    def __init__(self, folder: Path, model: Path, rows: Path) -> None:
        self.folder = folder
        self.rows = rows
        self.document = {
            "apiVersion": "coldstart.dev/v1alpha1",
            "kind": "ReasoningRun",
            "metadata": {"name": "r"},
            "spec": {
                "model": {"name": str(model)},
                "conversation": {
                    "minPixels": 784,
                    "maxPixels": 12544,
                    "maxPromptTokens": 200,
                    "maxCompletionTokens": 16,
                },
                "sft": {
                    **CPU,
                    "dataset": {"name": str(rows)},
                    "heldOut": 0.1,
                    "maxSteps": 6,
                    "batchSize": 4,
                    "microBatchSize": 4,
                    "saveSteps": 2,
                    "learningRate": 1e-3,
                    "gradientCheckpointing": False,
                    "probe": {"size": 2},
                },
                "evaluation": {
                    **CPU,
                    "checkpoints": ["sft"],
                    "benchmarks": [{"dataset": {"name": str(rows), "limit": 4}}],
                },
                "retry": {"backoffSeconds": 0},
            },
        }

    def set(self, path: str, value) -> None:
        *parents, last = path.split(".")
        node = self.document["spec"]
        for key in parents:
            node = node[key]
        node[last] = value

    def command(self, *more: str) -> dict:
        (self.folder / "run.yaml").write_text(yaml.safe_dump(self.document))
        return {
            "args": [sys.executable, "-m", "coldstart", "run", "run.yaml", *more],
            "cwd": self.folder,
            "env": os.environ | {"HF_HUB_OFFLINE": "1", "HF_TOKEN": SECRET},
            "text": True,
        }

    def run(self, *more: str, **options) -> subprocess.CompletedProcess:
        done = subprocess.run(**self.command(*more), capture_output=True, check=False, **options)
        assert SECRET not in done.stdout + done.stderr
        return done

    def start(self, *more: str) -> subprocess.Popen:
        return subprocess.Popen(**self.command(*more), stdout=subprocess.DEVNULL)

    def status(self, stage: str) -> dict:
        status = json.loads((self.folder / "runs/r/status.json").read_text())["status"]
        return next(entry for entry in status["stages"] if entry["name"] == stage)

    def wait_for_update(self, update: int) -> None:
        metrics = self.folder / "runs/r/sft/metrics.jsonl"
        end = time.monotonic() + 120
        while time.monotonic() < end:
            lines = metrics.read_text().splitlines() if metrics.exists() else []
            done = [json.loads(line) for line in lines if line.endswith("}")]
            if any(line["phase"] == "train" and line["done"] >= update for line in done):
                return
            time.sleep(0.02)
        raise AssertionError("the update was not reached")


@pytest.fixture
def project(tmp_path, tiny_model, tiny_rows):
    """A project whose runs, however they end, leave no secret behind."""
    found = Project(tmp_path, tiny_model, tiny_rows)
    yield found
    assert written(tmp_path, SECRET) == []


def written(folder: Path, secret: str) -> list[Path]:
    """The files below a folder that hold a secret: order, status, log, checkpoints, report."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return [path for path in files if secret.encode() in path.read_bytes()]


def test_a_secret_that_was_written_is_seen(tmp_path):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "log.txt").write_text(f"Authorization: Bearer {SECRET}\n")
    assert written(tmp_path, SECRET) == [tmp_path / "runs" / "log.txt"]


MISTAKES = [
    ("sft.dataset.name", "nothing.parquet", "spec.sft.dataset.name: there is no file"),
    ("sft.dataset.columns", {"problem": "question"}, "has no column 'question'"),
    ("model.name", "nowhere", "spec.model.name"),
    ("sft.resources", {"gpusPerNode": 1}, "spec.sft.resources.gpusPerNode is 1"),
    ("sft.trainerArgs", {"max_length": 3}, "spec.sft.trainerArgs.max_length"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("path", "value", "message"), MISTAKES, ids=[m[0] for m in MISTAKES])
def test_a_mistake_is_named_in_two_lines_and_mended_by_the_same_command(
    project, path, value, message
):
    if path == "sft.resources" and _gpus():
        pytest.skip("this machine has a GPU")
    good = json.loads(json.dumps(project.document))
    project.set(path, value)
    refused = project.run()
    assert refused.returncode == 2, refused.stdout + refused.stderr
    assert message in refused.stderr
    assert len(refused.stderr.splitlines()) <= 2
    if path == "sft.dataset.name":
        project.document = good
        assert project.run().returncode == 0


def _gpus() -> int:
    import torch

    return torch.cuda.device_count()


@pytest.mark.slow
def test_a_stage_killed_from_outside_is_tried_again_from_its_checkpoint(project):
    project.set("sft.maxSteps", 40)
    running = project.start()
    project.wait_for_update(4)
    worker = _worker(running.pid)
    os.kill(worker, signal.SIGKILL)
    assert running.wait(timeout=240) == 0
    entry = project.status("sft")
    assert (entry["state"], entry["attempt"], entry["failures"]) == ("Succeeded", 2, 1)
    log = (project.folder / "runs/r/sft/attempt-2/log.txt").read_text()
    assert "going on from" in log


@pytest.mark.slow
def test_ctrl_c_saves_and_the_same_command_goes_on(project):
    project.set("sft.maxSteps", 400)
    project.set("sft.saveSteps", 300)
    running = project.start()
    project.wait_for_update(3)
    running.send_signal(signal.SIGINT)
    assert running.wait(timeout=120) == 130
    [saved] = (project.folder / "runs/r/sft/checkpoints").glob("checkpoint-*")
    assert int(saved.name.removeprefix("checkpoint-")) >= 3
    project.set("sft.maxSteps", 400)
    done = project.run(timeout=400)
    assert done.returncode == 0, done.stdout + done.stderr
    assert project.status("sft")["attempt"] == 2
    assert project.status("sft")["failures"] == 0


@pytest.mark.slow
def test_a_second_command_on_the_same_run_is_refused(project):
    running = project.start()
    try:
        project.wait_for_update(1)
        second = project.run()
        assert second.returncode == 2
        assert f"another coldstart run works here (process {running.pid})" in second.stderr
    finally:
        assert running.wait(timeout=240) == 0


@pytest.mark.slow
def test_a_full_disk_is_named_and_what_was_there_is_whole(project):
    """No file may grow beyond 64 KiB: the checkpoint's weights do not fit, the status does."""

    def small_files() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (64 * 1024, resource.RLIM_INFINITY))

    full = project.run(preexec_fn=small_files)
    assert full.returncode == 2, full.stdout + full.stderr
    assert "StorageFull" in full.stderr
    assert not list((project.folder / "runs/r/sft/checkpoints").glob("*/coldstart.json"))
    done = project.run()
    assert done.returncode == 0, done.stdout + done.stderr


def _worker(engine: int) -> int:
    """The trainer's process below a `coldstart run`: child of its torchrun."""
    [launcher] = _children(engine)
    [worker] = _children(launcher)
    return worker


def _children(parent: int) -> list[int]:
    text = Path(f"/proc/{parent}/task/{parent}/children").read_text()
    return [int(number) for number in text.split()]


@pytest.mark.slow
def test_a_teacher_makes_rows_and_its_key_is_written_nowhere(project, monkeypatch):
    from fake_teacher import MODEL, completion, serving

    monkeypatch.setenv("TEACHER_KEY", "sk-secret")
    with serving(lambda _: completion("It is \\boxed{1}."), key="sk-secret") as (teacher, url):
        project.set(
            "distill",
            {
                "dataset": {"name": str(project.rows)},
                "teacher": {"baseUrl": url, "model": MODEL, "apiKeyEnv": "TEACHER_KEY"},
                "samples": 1,
                "keepWrong": True,
                "gate": {"minYield": 0.5},
            },
        )
        del project.document["spec"]["sft"], project.document["spec"]["evaluation"]
        done = project.run()
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(teacher.asked) == 24
    assert project.status("distill")["gates"][1]["observed"] == 1.0
    page = (project.folder / "runs/r/report.html").read_text()
    assert "<dd>distill</dd>" in page
    assert "questions with a row, at least" in page
    assert written(project.folder / "runs", "sk-secret") == []
    monkeypatch.delenv("TEACHER_KEY")
    refused = project.run()
    assert refused.returncode == 2
    assert "spec.distill.teacher.apiKeyEnv: the environment has no TEACHER_KEY" in refused.stderr
