"""`coldstart study` as a user runs it; a stand-in for the trainer trains and scores."""

import json
import os
import signal
import subprocess
import sys
import time
from copy import deepcopy
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from coldstart.cli import main

HERE = Path(__file__).parents[1]
RUN = {
    "apiVersion": "coldstart.dev/v1alpha1",
    "kind": "ReasoningRun",
    "metadata": {"name": "r"},
    "spec": {
        "model": {"name": "m"},
        "sft": {"dataset": {"name": "rows.jsonl"}, "resources": {"gpusPerNode": 0}},
        "grpo": {"dataset": {"name": "rows.jsonl"}, "resources": {"gpusPerNode": 0}},
        "evaluation": {"benchmarks": [{"name": "t", "dataset": {"name": "rows.jsonl"}}]},
        "retry": {"limit": 0},
    },
}
PYTHONPATH = os.pathsep.join(
    [str(HERE / "stand_in_trainer"), str(HERE), os.environ.get("PYTHONPATH", "")]
)


def study(folder, *options, code=0):
    """What the command prints; the stages that it starts are the stand-in's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("PYTHONPATH", PYTHONPATH)
        patch.setenv("COLUMNS", "160")
        result = CliRunner().invoke(main, ["study", "study.yaml", *options])
    assert result.exit_code == code, result.output
    return result.output


def write(folder, matrix, script=None, scored=("base", "sft", "grpo")):
    document = {
        "apiVersion": "coldstart.dev/v1alpha1",
        "kind": "Study",
        "metadata": {"name": "s"},
        "spec": {"run": "run.yaml", "matrix": matrix},
    }
    (folder / "study.yaml").write_text(yaml.safe_dump(document))
    run = deepcopy(RUN)
    run["spec"]["evaluation"]["checkpoints"] = list(scored)
    (folder / "run.yaml").write_text(yaml.safe_dump(run))
    (folder / "rows.jsonl").touch()
    (folder / "script.json").write_text(json.dumps(script or {}))


def attempts(folder):
    """Every attempt that was made, by run and stage."""
    return sorted(str(p.parent.relative_to(folder / "runs")) for p in folder.rglob("order.json"))


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A study of three arms and two seeds, after its end; with what it printed."""
    folder = tmp_path_factory.mktemp("study")
    write(folder, {"stages": ["sft", "grpo", "sft+grpo"], "seeds": [0, 1]})
    return folder, study(folder)


def test_each_stage_is_run_once_and_goes_on_from_the_one_before(done):
    folder, _ = done
    made = attempts(folder)
    assert len(made) == 1 + 2 * 2 * 3  # the base model; each stage of each seed, and its scores
    assert all("attempt-1" in one for one in made)
    orders = [json.loads(path.read_text()) for path in folder.rglob("grpo/attempt-1/order.json")]
    starts = sorted(order["inputs"][0]["name"] for order in orders)
    assert starts == ["base", "base", "sft", "sft"]
    for order in orders:
        if order["inputs"][0]["name"] == "sft":
            owner = order["inputs"][0]["location"].split("/")[0]
            [given] = (folder / "runs" / owner).glob("sft/attempt-1/order.json")
            seed = json.loads(given.read_text())["spec"]["sft"]["seed"]
            assert seed == order["spec"]["grpo"]["seed"]


def test_it_ends_in_one_table(done):
    folder, text = done
    table = json.loads((folder / "runs/s.json").read_text())
    rows = {row["arm"]: row for row in table["rows"]}
    assert list(rows) == ["base", "sft", "grpo", "sft+grpo"]
    both = rows["sft+grpo"]["measures"][0]
    seeds = [seed["accuracy"] for seed in both["seeds"]]
    assert both["accuracy"] == pytest.approx(sum(seeds) / 2)
    assert both["low"] < both["accuracy"] < both["high"]
    assert both["overSeeds"]["low"] < min(seeds)
    assert rows["base"]["measures"][0].get("overSeeds") is None
    pairs = {(pair["first"], pair["second"]): pair for pair in table["pairs"]}
    assert pairs["sft", "sft+grpo"]["p"] < 0.001
    assert (pairs["sft", "sft+grpo"]["better"], pairs["sft", "sft+grpo"]["seeds"]) == (2, 2)
    assert "<h1>s</h1>" in (folder / "runs/s.html").read_text()
    page = (folder / "runs/s.md").read_text()
    for words in ("| sft+grpo | t | ", "sft → sft+grpo", "2 of 2 seeds", "gates were left out"):
        assert words in page
    assert "sft → sft+grpo" in text
    assert "reproduces" not in page + text
    assert "published" not in page + text


def test_a_finished_study_is_not_run_again(done):
    folder, _ = done
    before, page = attempts(folder), (folder / "runs/s.md").read_bytes()
    study(folder)
    assert attempts(folder) == before
    assert (folder / "runs/s.md").read_bytes() == page


def test_the_plan_is_shown_and_nothing_started(tmp_path):
    write(tmp_path, {"stages": ["sft", "sft+grpo"]})
    text = study(tmp_path, "--dry-run")
    assert "2 arms, 3 runs, called s-…: 2 trainings and distillations, 3 if nothing were" in text
    rendered = list(yaml.safe_load_all(study(tmp_path, "--render")))
    assert [run["kind"] for run in rendered] == ["ReasoningRun"] * 3
    assert not (tmp_path / "runs").exists()


def test_an_arm_that_fails_is_named_and_the_others_go_on(tmp_path):
    rates = {"sane": {}, "wild": {"sft": {"learningRate": 1.0}}}
    matrix = {"stages": ["sft", "sft+grpo"], "variants": {"rate": rates}}
    write(tmp_path, matrix, scored=["sft", "grpo"])
    text = study(tmp_path, code=1)
    assert "sft failed (DatasetInvalid): row 7 is torn" in text
    rows = {row["arm"]: row for row in json.loads((tmp_path / "runs/s.json").read_text())["rows"]}
    assert rows["sft+grpo, rate=sane"]["measures"]
    assert "row 7 is torn" in rows["sft, rate=wild"]["missing"][0]
    assert "has failed, which it starts from" in rows["sft+grpo, rate=wild"]["missing"][0]
    page = (tmp_path / "runs/s.md").read_text()
    assert "- sft, rate=wild: sft failed (DatasetInvalid): row 7 is torn" in page
    assert "no seed of both has scores" in page


def test_what_cannot_work_here_is_refused_before_anything_is_written(tmp_path):
    rows = {"here": {}, "gone": {"grpo": {"dataset": {"name": "gone.jsonl"}}}}
    write(tmp_path, {"variants": {"rows": rows}})
    text = study(tmp_path, code=2)
    assert "study.yaml: arm sft+grpo, rows=gone: spec.grpo.dataset.name: there is no file" in text
    assert not (tmp_path / "runs").exists()


def test_a_killed_study_goes_on_where_it_stopped(tmp_path):
    write(tmp_path, {}, {"grpo": {"steps": 9999, "sleep": 0.05}}, scored=["grpo"])
    process = subprocess.Popen(
        [sys.executable, "-m", "coldstart", "study", "study.yaml"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": PYTHONPATH},
        stdout=subprocess.DEVNULL,
    )
    end = time.monotonic() + 60
    while not list(tmp_path.glob("runs/s-grpo-*/grpo/saved.json")):
        assert time.monotonic() < end
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    finished = [one for one in attempts(tmp_path) if "/grpo/" not in one]
    (tmp_path / "script.json").write_text("{}")
    study(tmp_path)
    assert [one for one in attempts(tmp_path) if one in finished] == finished
    grpo = [one for one in attempts(tmp_path) if "/grpo/" in one]
    assert [one.rpartition("/")[2] for one in grpo] == ["attempt-1", "attempt-2"]
    (log,) = tmp_path.glob("runs/s-grpo-*/grpo/attempt-2/log.txt")
    assert int(log.read_text().split("step")[1].split()[0]) > 0
