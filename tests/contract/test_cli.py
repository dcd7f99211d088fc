"""The command line: exit codes, files written, and what is refused before anything is."""

import json
import os
import socket
import subprocess
import sys
import time

import pytest
import yaml
from click.testing import CliRunner

from coldstart.cli import main

RUN = {
    "apiVersion": "coldstart.dev/v1alpha1",
    "kind": "ReasoningRun",
    "metadata": {"name": "r"},
    "spec": {
        "model": {"name": "m"},
        "sft": {"dataset": {"name": "sft.jsonl"}},
        "grpo": {"dataset": {"name": "rl.jsonl"}},
    },
}


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(RUN))
    return tmp_path


def call(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.mark.parametrize("command", [[], *[[name] for name in main.commands]])
def test_every_command_has_help(command):
    result = call(*command, "--help")
    assert result.exit_code == 0
    assert "Usage:" in result.output


def test_help_answers_at_once():
    """No heavy package is imported for it; the time is told, not judged: machines differ."""
    program = "import sys; sys.argv = ['coldstart', '--help']; import coldstart.cli as c\n"
    program += (
        "try: c.main()\n"
        "except SystemExit: print(sorted({'torch', 'pydantic', 'rich', 'yaml'} & set(sys.modules)))"
    )
    begun = time.monotonic()
    found = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    print(f"{time.monotonic() - begun:.2f} s")
    assert found.stdout.splitlines()[-1] == "[]"


def test_validate_says_what_will_happen(here):
    result = call("validate", "run.yaml")
    assert (result.exit_code, "sft -> grpo" in result.output) == (0, True)


@pytest.mark.parametrize("command", ["validate", "render", "run"])
def test_a_mistake_is_one_line_and_exit_code_2(here, command):
    (here / "run.yaml").write_text(yaml.safe_dump(RUN | {"speck": 1}))
    result = call(command, "run.yaml")
    assert result.exit_code == 2
    assert result.stderr == "run.yaml: speck: unknown key; did you mean spec?\n"
    assert not (here / "runs").exists()


def test_a_stage_that_the_file_does_not_have_is_refused(here):
    result = call("run", "run.yaml", "--stage", "evaluation")
    assert (result.exit_code, result.stderr) == (
        2,
        "--stage evaluation: run.yaml has no spec.evaluation\n",
    )


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"resources": {"nodes": 2}}, "spec.grpo.resources.nodes: is 2"),
        ({"rollout": {"engine": "vllm"}}, "spec.grpo.rollout.engine: vLLM is not installed: pip"),
        ({"dataset": {"name": "gone.jsonl"}}, "spec.grpo.dataset.name: there is no file"),
        (
            {"dataset": {"name": "org/data", "imageDir": "gone"}},
            "spec.grpo.dataset.imageDir: there is no directory",
        ),
        ({"probe": {"dataset": {"name": "./gone"}}}, "spec.grpo.probe.dataset.name: there is no"),
    ],
)
def test_what_a_later_stage_would_stop_at_is_told_before_the_first_one(here, section, message):
    grpo = {"dataset": {"name": "org/hub-id"}} | section
    spec = {"model": {"name": "m"}, "sft": {"dataset": {"name": "org/hub-id"}}, "grpo": grpo}
    (here / "run.yaml").write_text(yaml.safe_dump(RUN | {"spec": spec}))
    result = call("run", "run.yaml")
    assert result.exit_code == 2
    assert result.stderr.startswith(f"run.yaml: {message}")
    assert len(result.stderr.splitlines()) == 1
    assert not (here / "runs").exists()


def test_an_unwritable_directory_is_named(here):
    (here / "sft.jsonl").write_text("")
    (here / "rl.jsonl").write_text("")
    result = call("run", "run.yaml", "--dir", "sft.jsonl")
    assert result.exit_code == 2
    (here / "closed").mkdir(mode=0o500)
    if os.geteuid() != 0:
        assert "cannot be written" in call("run", "run.yaml", "--dir", "closed").stderr


def test_a_check_of_data_needs_the_trainer(here, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    result = call("data", "check", "run.yaml")
    assert result.exit_code == 2
    assert "is not installed: pip install 'coldstart-operator[trainer]'" in result.stderr


def test_a_page_that_cannot_be_written_is_told_before_the_check(here):
    result = call("data", "check", "run.yaml", "--report", "gone/page.html")
    assert result.exit_code == 2
    assert result.stderr.startswith("--report gone/page.html: there is no directory ")


def test_the_findings_about_data_are_told_in_lines(capsys):
    from rich.console import Console

    from coldstart.cli.data import _show
    from coldstart.findings import DataReport

    shown = {"dataset": "sft", "id": "\x1b[31m[red]", "place": "a.jsonl, row 3"}
    report = {
        "datasets": [
            {
                "label": "sft",
                "role": "sft",
                "field": "spec.sft.dataset",
                "name": "a.jsonl",
                "rows": 1200,
                "images": 7,
                "licence": "cc-by-4.0",
                "lengths": [
                    {
                        "what": "prompt",
                        "unit": "tokens",
                        "width": 2,
                        "counts": [0, 1200],
                        "longest": 3,
                    }
                ],
            }
        ],
        "findings": [
            {
                "kind": "duplicates",
                "level": "warning",
                "datasets": ["sft"],
                "rows": 1,
                "text": "equal to an earlier one",
                "examples": [{"rows": [shown, shown], "note": "the same"}],
            }
        ],
        "notes": ["not all"],
    }
    _show(DataReport.parse(report), Console(width=120))
    out = capsys.readouterr().out
    assert "1,200" in out
    assert "3 tokens" in out
    assert "warning: sft: 1 row equal to an earlier one" in out
    assert "a.jsonl, row 3 (id \\x1b[31m[red]) = a.jsonl, row 3" in out
    assert out.endswith("note: not all\n\n1 finding, mistakes: 0\n")


def test_render_prints_the_orders_with_every_resolved_value(here):
    result = call("render", "--orders", "run.yaml")
    sft, grpo = yaml.safe_load_all(result.output)
    assert sft["inputs"] == [{"name": "base", "location": "m"}]
    assert grpo["inputs"] == [{"name": "sft", "location": "r/sft/final"}]
    assert grpo["spec"]["grpo"]["loss"]["clipHigh"] == 0.3


@pytest.mark.parametrize(
    ("options", "spec", "kinds"),
    [
        ([], {}, ["PyTorchJob", "PyTorchJob"]),
        ([], {"backend": "Job"}, ["Job", "Job"]),
        (["--backend", "Job"], {"backend": "PyTorchJob"}, ["Job", "Job"]),
    ],
)
def test_render_prints_the_objects_that_a_cluster_would_get(here, options, spec, kinds):
    spec = RUN["spec"] | {"storage": {"claimName": "runs"}} | spec
    (here / "run.yaml").write_text(yaml.safe_dump(RUN | {"spec": spec}))
    result = call("render", "run.yaml", *options)
    assert result.exit_code == 0
    found = list(yaml.safe_load_all(result.output))
    assert [item["kind"] for item in found] == kinds
    assert [item["metadata"]["name"] for item in found] == ["r-sft-1", "r-grpo-1"]
    assert not any("ownerReferences" in item["metadata"] for item in found)


def test_render_names_what_a_cluster_lacks(here):
    result = call("render", "run.yaml")
    assert result.exit_code == 2
    assert result.stderr.startswith("run.yaml: spec.storage.claimName: is required on a cluster")


@pytest.mark.parametrize("preset", ["paper-7b", "paper-3b"])
def test_init_writes_a_file_that_is_valid_and_never_writes_over_one(here, preset):
    assert call("init", "new.yaml", "--preset", preset).exit_code == 0
    text = (here / "new.yaml").read_text()
    assert text.count("#") > 40
    assert call("validate", "new.yaml").exit_code == 0
    refused = call("init", "new.yaml")
    assert (refused.exit_code, "exists" in refused.stderr) == (2, True)
    assert (here / "new.yaml").read_text() == text


@pytest.mark.parametrize("command", ["report", "compare", "regrade"])
def test_a_run_that_is_not_there_is_named(here, command):
    result = call(command, "absent")
    assert (result.exit_code, "absent: no such run in runs" in result.stderr) == (2, True)


def test_the_document_that_validate_accepts_is_the_one_that_render_shows(here):
    order = next(yaml.safe_load_all(call("render", "--orders", "run.yaml").output))
    json.dumps(order)
    assert order["spec"]["model"] == RUN["spec"]["model"]


def test_a_port_that_is_taken_is_refused_before_anything_is_written(here):
    with socket.create_server(("", 0)) as listener:
        port = listener.getsockname()[1]
        result = call("run", "run.yaml", "--metrics-port", port)
    assert result.exit_code == 2
    assert f"--metrics-port {port}: Address already in use" in result.output
    assert "choose another" in result.output
    assert not (here / "runs").exists()
