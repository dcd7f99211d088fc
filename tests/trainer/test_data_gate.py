"""The gate on equal rows: what it refuses, what it only tells, and when it looks at all."""

import json
import logging
import subprocess
import sys

import pytest
import yaml
from data_rows import ASKED, drawing, row, write
from stage_attempts import environment, order, read_result

from coldstart.stage import StageOrder
from coldstart.status import ErrorCode
from coldstart_trainer import __main__ as entry
from coldstart_trainer.check import gate
from coldstart_trainer.sources import DataError


@pytest.fixture
def judge(tmp_path):
    """Judge an order of SFT whose sets have these rows."""

    def call(checks=None, **sets):
        spec = {"model": {"name": "m"}, "dataChecks": checks or {}}
        for use, rows in sets.items():
            write(tmp_path, use, rows)
            dataset = {"dataset": {"name": f"{use}.jsonl"}}
            benchmarks = {"benchmarks": [{"name": "test"} | dataset]}
            spec |= {"evaluation": benchmarks} if use == "test" else {use: dataset}
        gate.judge(ordered(spec, tmp_path))

    return call


def ordered(spec, folder):
    return StageOrder.parse(
        {
            "run": {"name": "run", "uid": "u"},
            "stage": "sft",
            "attempt": 1,
            "spec": spec,
            "inputs": [{"name": "base", "location": "m"}],
            "storage": str(folder / "runs"),
            "workdir": str(folder),
        }
    )


LEAK = {
    "sft": [row("Own?"), row(images=[drawing(1)])],
    "test": [row(ASKED.upper(), images=[drawing(1)])],
}
REPEAT = {"sft": [row(), row("Else?"), row()]}
CLEAN = {
    "sft": [row(images=[drawing(1)]), row(images=[drawing(1)], response="Thus \\boxed{7}.")],
    "grpo": [row(images=[drawing(1)])],
    "test": [row(images=[drawing(2)]), row(ASKED + "!", images=[drawing(1)])],
}


@pytest.mark.parametrize(
    ("sets", "check", "words"),
    [
        (LEAK, "leakage", "1 row of benchmark test also in training data (test.jsonl, row 0 = "),
        (REPEAT, "duplicates", "1 row of sft equal to an earlier one (sft.jsonl, row 2 = "),
    ],
)
def test_equal_rows_are_refused(judge, sets, check, words):
    with pytest.raises(DataError, match=r"set it to warn$") as raised:
        judge({check: "refuse"}, **sets)
    assert raised.value.code is ErrorCode.DATASET_INVALID
    assert str(raised.value).startswith(f"spec.dataChecks.{check}: {words}sft.jsonl, row ")


@pytest.mark.parametrize(
    ("sets", "checks", "told"),
    [
        (LEAK, {}, 1),
        (LEAK, {"leakage": "ignore", "duplicates": "refuse"}, 0),
        (REPEAT, {}, 1),
        (REPEAT, {"leakage": "refuse", "duplicates": "ignore"}, 0),
        (CLEAN, {}, 0),
        (CLEAN, {"leakage": "refuse", "duplicates": "refuse"}, 0),
    ],
)
def test_what_is_not_refused_is_told_or_not(judge, caplog, sets, checks, told):
    with caplog.at_level(logging.WARNING):
        judge(checks, **sets)
    assert len(caplog.records) == told


def test_nothing_is_read_where_both_are_ignored(judge, tmp_path):
    (tmp_path / "sft.jsonl").mkdir()
    spec = {
        "model": {"name": "m"},
        "sft": {"dataset": {"name": "sft.jsonl"}},
        "dataChecks": {"leakage": "ignore", "duplicates": "ignore"},
    }
    gate.judge(ordered(spec, tmp_path))


def test_a_set_that_cannot_be_read_matters_only_where_something_is_refused(judge, caplog):
    sets = {"sft": [row(), row()], "test": []}
    judge(**sets)
    assert [record.getMessage().split(":")[0] for record in caplog.records] == [
        "dataChecks.duplicates",
        "dataChecks",
    ]
    with pytest.raises(DataError, match=r"spec\.evaluation\.benchmarks\[0\]\.dataset"):
        judge({"leakage": "refuse"}, **sets)


def test_nothing_is_fetched_for_a_warning(tmp_path, caplog, monkeypatch):
    """A published benchmark is for a later stage; what is refused has to be looked at."""
    import datasets

    def fetch(*_arguments, **_options):
        raise OSError("fetched")

    monkeypatch.setattr(datasets, "load_dataset", fetch)
    write(tmp_path, "sft", [row("Own?")])
    spec = {
        "model": {"name": "m"},
        "sft": {"dataset": {"name": "sft.jsonl"}},
        "evaluation": {"benchmarks": [{"name": "mathvista"}]},
    }
    gate.judge(ordered(spec, tmp_path))
    assert not caplog.records
    with pytest.raises(DataError, match="fetched"):
        gate.judge(ordered(spec | {"dataChecks": {"leakage": "refuse"}}, tmp_path))


def test_a_stage_ends_before_torch_is_imported_and_before_anything_is_trained(
    tiny_model, tiny_rows, tmp_path
):
    given = order("sft", tmp_path / "runs", tiny_model, tiny_rows)
    document = given.document()
    document["spec"]["dataChecks"] = {"leakage": "refuse"}
    document["spec"]["evaluation"] = {"benchmarks": [{"dataset": {"name": str(tiny_rows)}}]}
    code = (
        "import sys; from coldstart_trainer.__main__ import main; code = main(); "
        "sys.exit(99 if 'torch' in sys.modules else code)"
    )
    result = tmp_path / "result.json"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment(StageOrder.parse(document), result),
        check=False,
    )
    assert done.returncode == ErrorCode.DATASET_INVALID.exit_code
    assert read_result(result).error.message.startswith(
        "spec.dataChecks.leakage: 24 rows of benchmark test also in training data"
    )


def test_only_the_first_training_stage_is_judged_and_only_until_it_has_saved(tmp_path):
    from coldstart.layout import output

    spec = {
        "model": {"name": "m"},
        "sft": {"dataset": {"name": "d"}},
        "grpo": {"dataset": {"name": "d"}},
        "evaluation": {"benchmarks": [{"dataset": {"name": "d"}}]},
    }
    first = ordered(spec, tmp_path)
    assert entry._begins_training(first, output(first))
    for stage in ("grpo", "evaluation"):
        later = StageOrder.parse(first.document() | {"stage": stage})
        assert not entry._begins_training(later, output(later))
    alone = {key: spec[key] for key in ("model", "evaluation")}
    scored = StageOrder.parse(first.document() | {"stage": "evaluation", "spec": alone})
    assert not entry._begins_training(scored, output(scored))


def test_the_command_checks_in_a_process_of_its_own(tmp_path, monkeypatch):
    """Its exit code, its document, its page, and what it says where it cannot work."""
    from click.testing import CliRunner

    from coldstart.cli import main

    monkeypatch.chdir(tmp_path)
    for name, rows in LEAK.items():
        write(tmp_path, name, rows)
    run = {
        "apiVersion": "coldstart.dev/v1alpha1",
        "kind": "ReasoningRun",
        "metadata": {"name": "r"},
        "spec": {
            "model": {"name": "m"},
            "sft": {"dataset": {"name": "sft.jsonl"}},
            "evaluation": {"benchmarks": [{"dataset": {"name": "test.jsonl"}}]},
        },
    }
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(run))
    # Beside the run.yaml, a file may be called as a library is.
    (tmp_path / "datasets.py").write_text("raise RuntimeError")
    command = ["data", "check", "run.yaml", "--json", "--report", "page.html"]
    done = CliRunner().invoke(main, command)
    found = json.loads(done.stdout)
    assert done.exit_code == 1
    assert "leakage" in [finding["kind"] for finding in found["findings"]]
    assert "data:image" not in done.stdout
    assert "data:image" in (tmp_path / "page.html").read_text()
