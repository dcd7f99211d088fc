"""Real processes, killed and told to end: what was reached is kept, and goes on exactly."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import forked
import pytest
from safetensors.torch import load_file
from stage_attempts import (
    again,
    environment,
    here,
    lines,
    losses,
    order,
    read_result,
    start,
    wait_for,
    wait_for_update,
)

from coldstart.checkpoint import verify
from coldstart.layout import output
from coldstart.status import ErrorCode

pytestmark = pytest.mark.slow

TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone")


LATE = """
import pathlib, time
from length_reward import score as other
seen = []
def score(completions, **columns):
    "Sleeps in the third batch, the trial included."
    seen.append(len(completions))
    if len(seen) == 3:
        pathlib.Path(__file__).with_name("asleep").touch()
        time.sleep(600)
    return other(completions)
"""


def last_step(given):
    steps = [
        int(path.name.split("-")[1]) for path in output(given).checkpoints.glob("checkpoint-*")
    ]
    return max(steps, default=0)


def weights(given):
    tensors = load_file(output(given).final / "model.safetensors")
    return {name: value.flatten().tolist() for name, value in tensors.items()}


@pytest.mark.parametrize("stage", ["sft", "grpo"])
def test_told_to_end_it_saves_after_the_step(stage, tiny_model, tiny_rows, tmp_path):
    given = order(stage, tmp_path / "runs", tiny_model, tiny_rows, epochs=500, saveSteps=10_000)
    (process,) = forked.ranks(given, tmp_path / "result.json")
    wait_for_update(given, process, 3)
    process.terminate()
    time.sleep(0.01)
    process.terminate()
    assert forked.ended([process]) == [143]
    error = read_result(tmp_path / "result.json").error
    assert error.code is ErrorCode.TERMINATED
    step = last_step(given)
    assert step >= 3
    assert f"saved at update {step}" in error.message
    verify(output(given).checkpoints / f"checkpoint-{step}")


def test_torchrun_told_to_end_lets_it_save(tiny_model, tiny_rows, tmp_path):
    given = order("sft", tmp_path / "runs", tiny_model, tiny_rows, epochs=500, saveSteps=10_000)
    process = start(given, tmp_path / "result.json", command=(*TORCHRUN, "--nproc-per-node=1"))
    wait_for_update(given, process, 3)
    process.terminate()
    assert process.wait(timeout=120) != 0
    assert read_result(tmp_path / "result.json").error.code is ErrorCode.TERMINATED
    verify(output(given).checkpoints / f"checkpoint-{last_step(given)}")


def test_scores_that_are_under_way_are_given_up(tiny_model, tiny_rows, tmp_path):
    """They would take ten minutes, and are no error of the reward's: torchrun signals the whole
    process group, and the reward's process is in it at first.
    """
    given = order(
        "grpo",
        tmp_path / "runs",
        tiny_model,
        tiny_rows,
        updatesPerStep=1,
        rewards=[{"name": "late:score", "timeoutSeconds": 900}],
    )
    (tmp_path / "workdir" / "late.py").write_text(LATE)
    process = start(given, tmp_path / "result.json", command=(*TORCHRUN, "--nproc-per-node=1"))
    wait_for_update(given, process, 1)
    wait_for(tmp_path / "workdir" / "asleep", process)
    process.terminate()
    process.wait(timeout=120)
    error = read_result(tmp_path / "result.json").error
    assert (error.code, error.message) == (
        ErrorCode.TERMINATED,
        "was told to end; saved at update 1",
    )
    assert len(losses(given)) == 1
    counted = [line["values"] for line in lines(given) if line["phase"] == "train"]
    assert {values.get("reward_errors_total", 0.0) for values in counted} == {0.0}


def test_it_does_not_outlive_torchrun(tiny_model, tiny_rows, tmp_path):
    given = order("sft", tmp_path / "runs", tiny_model, tiny_rows, epochs=500, saveSteps=10_000)
    process = start(given, tmp_path / "result.json", command=(*TORCHRUN, "--nproc-per-node=1"))
    wait_for_update(given, process, 3)
    process.kill()
    process.wait()
    end = time.monotonic() + 60
    while not (tmp_path / "result.json").exists() and time.monotonic() < end:
        time.sleep(0.1)
    assert read_result(tmp_path / "result.json").error.code is ErrorCode.TERMINATED
    verify(output(given).checkpoints / f"checkpoint-{last_step(given)}")


def test_two_processes_train_are_stopped_and_go_on_exactly(tiny_model, tiny_rows, tmp_path):
    """Two nodes without GPUs are two processes; both are told to end, one of them first."""
    section = {"resources": {"nodes": 2, "gpusPerNode": 0}, "epochs": 4}
    command = (*TORCHRUN, "--nproc-per-node=2")
    whole = order("sft", tmp_path / "whole", tiny_model, tiny_rows, **section)
    assert start(whole, tmp_path / "whole.json", command=command).wait(timeout=300) == 0
    counted = sum_of_tokens(whole)
    state = output(whole).checkpoints / f"checkpoint-{last_step(whole)}" / "trainer_state.json"
    assert counted == json.loads(state.read_text())["num_input_tokens_seen"]
    given = order("sft", tmp_path / "runs", tiny_model, tiny_rows, **section)
    for update in (5, 10):
        process = start(given, tmp_path / f"{given.attempt}.json", command=command)
        wait_for_update(given, process, update)
        process.terminate()
        process.wait(timeout=120)
        assert read_result(tmp_path / f"{given.attempt}.json").error.code is ErrorCode.TERMINATED
        given = again(given)
    assert start(given, tmp_path / "last.json", command=command).wait(timeout=300) == 0
    assert losses(given) == losses(whole)
    assert weights(given) == weights(whole)


def test_two_nodes_find_each_other_by_the_environment(tiny_model, tiny_rows, tmp_path):
    """As PyTorchJob sets it, with one process on each."""
    section = {"resources": {"nodes": 2, "gpusPerNode": 0}, "maxSteps": 2, "probe": {"size": 0}}
    alone = order("sft", tmp_path / "alone", tiny_model, tiny_rows, maxSteps=2, probe={"size": 0})
    here(alone)
    given = order("sft", tmp_path / "runs", tiny_model, tiny_rows, **section)
    port = free_port()
    nodes = []
    for rank in range(2):
        rendezvous = {
            "PET_NNODES": "2",
            "PET_NPROC_PER_NODE": "1",
            "PET_NODE_RANK": str(rank),
            "PET_MASTER_ADDR": "127.0.0.1",
            "PET_MASTER_PORT": str(port),
        }
        result = tmp_path / f"result-{rank}.json"
        variables = environment(given, result) | rendezvous
        with Path(f"{result}.log").open("ab") as log:
            command = [sys.executable, "-m", "coldstart_trainer.launch"]
            nodes.append(subprocess.Popen(command, env=variables, stdout=log, stderr=log))
    assert [node.wait(timeout=300) for node in nodes] == [0, 0]
    assert read_result(tmp_path / "result-0.json").checkpoint.step == 2
    assert not (tmp_path / "result-1.json").exists()
    for update, (loss, norm, _) in losses(alone).items():
        assert losses(given)[update][:2] == pytest.approx((loss, norm), abs=1e-5)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_a_process_that_is_lost_is_a_reason_to_try_again(tiny_model, tiny_rows, tmp_path):
    section = {"resources": {"nodes": 2, "gpusPerNode": 0}, "epochs": 500, "saveSteps": 10_000}
    given = order("sft", tmp_path / "runs", tiny_model, tiny_rows, **section)
    process = start(given, tmp_path / "result.json", command=(*TORCHRUN, "--nproc-per-node=2"))
    wait_for_update(given, process, 3)
    children = subprocess.run(
        ["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=True
    ).stdout.split()
    ranks = {int(pid): environ_of(pid)["RANK"] for pid in children if "RANK" in environ_of(pid)}
    (second,) = [pid for pid, rank in ranks.items() if rank == "1"]
    os.kill(second, signal.SIGKILL)
    assert process.wait(timeout=120) != 0
    code = read_result(tmp_path / "result.json").error.code
    assert code in (ErrorCode.WORKER_LOST, ErrorCode.TERMINATED)
    assert code.retryable


def sum_of_tokens(given):
    """What the processes of an attempt have seen together, as it was last reported."""
    found = {}
    for line in lines(given):
        found |= {k: v for k, v in line["values"].items() if k.startswith("tokens_total{")}
    return sum(found.values())


def environ_of(pid):
    pairs = Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0")
    return dict(pair.split("=", 1) for pair in pairs if "=" in pair)
