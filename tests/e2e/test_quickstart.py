"""The quickstart as a user runs it, without its cold start, and with a broken reward."""

import json
import os
import re
import shutil
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import pytest
import yaml
from prometheus import free_port, prometheus, put_in, queries
from quickstart_build import EXAMPLE

from coldstart.metrics import PREFIX, TABLE

LEAST_GAIN = 0.10
SECRET = "hf_DoNotWriteThisAnywhere"
"""The hub's token, which every process here has."""


def command(*arguments: str, cwd: Path) -> str:
    environment = os.environ | {"HF_TOKEN": SECRET}
    done = subprocess.run(
        arguments, cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert SECRET not in done.stdout + done.stderr
    return done.stdout


def coldstart(*arguments: str, cwd: Path) -> str:
    return command(sys.executable, "-m", "coldstart", *arguments, cwd=cwd)


def scores(run: str, folder: Path) -> dict:
    return json.loads(coldstart("report", run, "--json", cwd=folder))["checkpoints"]


def kinds(folder: Path, checkpoint: str) -> dict:
    place = folder / "runs/quickstart/evaluation" / checkpoint / "held-out-digits/results.json"
    return json.loads(place.read_text())["kinds"]


@pytest.fixture(scope="module")
def scraping(tmp_path_factory):
    """The port that the run serves its numbers on, and the Prometheus that reads it, if any."""
    port = free_port()
    if not shutil.which("prometheus"):
        yield port, None
        return
    place = tmp_path_factory.mktemp("prometheus")
    with prometheus(place, ("quickstart", [port], {}), every="2s") as server:
        yield port, server


@pytest.fixture(scope="module")
def folder(quickstart_build, scraping, tmp_path_factory) -> Path:
    """A copy of the example, made ready, its run finished."""
    folder = tmp_path_factory.mktemp("quickstart")
    for path in EXAMPLE.iterdir():
        if path.is_file():
            shutil.copy(path, folder)
    shutil.copytree(quickstart_build, folder / "build")
    command(sys.executable, "prepare.py", cwd=folder)  # finds it complete
    coldstart("run", "run.yaml", "--metrics-port", str(scraping[0]), cwd=folder)
    return folder


@pytest.mark.slow
def test_each_stage_lifts_accuracy(folder):
    found = scores("quickstart", folder)
    base, sft, grpo = found["base"], found["sft"], found["grpo"]
    assert base["high"] < sft["low"]
    assert grpo["accuracy"] >= sft["accuracy"] + LEAST_GAIN
    assert base["n"] == sft["n"] == grpo["n"] == 400


@pytest.mark.slow
def test_no_stage_writes_the_hubs_token(folder):
    files = [path for path in (folder / "runs").rglob("*") if path.is_file()]
    assert any(path.name == "report.html" for path in files)
    assert [path for path in files if SECRET.encode() in path.read_bytes()] == []


@pytest.mark.slow
def test_the_report_says_what_the_gain_is_made_of(folder):
    before, after = kinds(folder, "sft"), kinds(folder, "grpo")
    assert after["reasons"]["share"] > before["reasons"]["share"]
    assert before["reasons"]["accuracy"] > before["guesses"]["accuracy"]
    report = (folder / "runs/quickstart/report.html").read_text()
    assert "reasons" in report
    assert "guesses" in report


def surely_told(query: str) -> bool:
    """Whether every run of SFT, GRPO and evaluation has what a query asks for."""
    names = [re.sub("_(bucket|sum|count)$", "", name) for name in re.findall(r"(\w+)\{", query)]
    metrics = [TABLE[name.removeprefix(PREFIX)] for name in names]
    return not any(metric.needs or metric.stages == ("distill",) for metric in metrics)


@pytest.mark.slow
def test_a_dashboard_would_have_shown_it(folder, scraping):
    _, server = scraping
    if server is None:
        pytest.skip("prometheus is not installed")
    status = json.loads((folder / "runs/quickstart/status.json").read_text())["status"]
    began, ended = (
        datetime.fromisoformat(status[key]).timestamp() for key in ("startedAt", "finishedAt")
    )
    asked = [(title, query) for title, query in queries("training") if surely_told(query)]
    assert len(asked) > 30
    silent = [title for title, query in asked if not server.told(put_in(query), began, ended)]
    assert silent == []


@pytest.mark.slow
def test_with_a_reward_that_does_not_look_at_the_answer_the_gain_vanishes(folder):
    (folder / "broken.py").write_text(
        "def another_s_answer(completions, answer, **columns):\n"
        "    half = len(answer) // 2\n"
        "    asked = answer[half:] + answer[:half]\n"
        "    return [float(f'{{{gold}}}' in completion[0]['content'])\n"
        "            for completion, gold in zip(completions, asked)]\n"
    )
    document = yaml.safe_load((folder / "run.yaml").read_text())
    document["metadata"]["name"] = "broken"
    del document["spec"]["sft"]
    document["spec"]["grpo"] |= {
        "from": {"run": "quickstart", "stage": "sft"},
        "rewards": [{"name": "broken:another_s_answer"}],
        "gate": {},
    }
    (folder / "broken.yaml").write_text(yaml.safe_dump(document))
    coldstart("run", "broken.yaml", cwd=folder)
    found = scores("broken", folder)
    assert found["sft"] == scores("quickstart", folder)["sft"]
    assert found["grpo"]["accuracy"] < found["sft"]["accuracy"] + LEAST_GAIN


@pytest.mark.slow
def test_grpo_without_the_cold_start_stays_far_behind(folder):
    run = yaml.safe_load((folder / "run.yaml").read_text())
    run["spec"]["evaluation"]["checkpoints"] = ["grpo"]
    (folder / "scored-once.yaml").write_text(yaml.safe_dump(run))
    study = yaml.safe_load((folder / "study.yaml").read_text())
    study["spec"] = {"run": "scored-once.yaml", "matrix": {"stages": ["grpo"]}}
    (folder / "grpo-alone.yaml").write_text(yaml.safe_dump(study))
    coldstart("study", "grpo-alone.yaml", cwd=folder)
    (arm,) = json.loads((folder / "runs/quickstart-study.json").read_text())["rows"]
    assert (arm["arm"], arm["measures"][0]["responses"]) == ("grpo", 400)
    assert arm["measures"][0]["high"] < scores("quickstart", folder)["grpo"]["low"]


@pytest.mark.slow
def test_a_finished_run_is_not_run_again(folder):
    before = (folder / "runs/quickstart/status.json").read_bytes()
    coldstart("run", "run.yaml", cwd=folder)
    after = json.loads((folder / "runs/quickstart/status.json").read_text())
    assert json.loads(before)["status"]["stages"] == after["status"]["stages"]


@pytest.mark.slow
def test_kept_responses_are_graded_again_without_the_model(folder):
    shutil.move(folder / "build/model", folder / "moved-away")
    try:
        before = scores("quickstart", folder)
        coldstart("regrade", "quickstart", cwd=folder)
        assert scores("quickstart", folder) == before
    finally:
        shutil.move(folder / "moved-away", folder / "build/model")
