"""A worker of two that dies or hangs: the other does not wait for ever, and the gang is retried."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import forked
import pytest
from faults.interposing import loaded
from stage_attempts import environment, order, read_result, wait_for_update

from coldstart.layout import output
from coldstart.status import RETRYABLE_FROM, ErrorCode

DEADLINE = 12
"""Seconds that a worker waits for another here; the default is half an hour."""

GANG = {
    "resources": {"nodes": 2, "gpusPerNode": 0},
    "epochs": 500,
    "saveSteps": 10_000,
    "probe": {"size": 0},
    "trainerArgs": {"ddp_timeout": DEADLINE},
}

PATIENCE = 100
"""Seconds after which a gang that has not ended is taken to hang; the machine may be busy."""

WAYS = {"dies": signal.SIGKILL, "hangs": signal.SIGSTOP}


@pytest.fixture
def gang(tiny_model, tiny_rows, tmp_path):
    loaded()  # the other tests of a process fork from the same server
    return lambda stage: order(stage, tmp_path / "runs", tiny_model, tiny_rows, **GANG)


@pytest.mark.parametrize("lost", [0, 1])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("stage", ["sft", "grpo"])
def test_the_other_worker_ends_within_its_deadline(stage, way, lost, gang, tmp_path):
    given = gang(stage)
    result = tmp_path / "result.json"
    workers = forked.ranks(given, result, world=2)
    wait_for_update(given, workers[0], 2)
    time.sleep(random.Random(f"{stage} {way} {lost}").uniform(0, 0.3))
    os.kill(workers[lost].pid, WAYS[way])
    try:
        workers[1 - lost].join(PATIENCE)
        code = workers[1 - lost].exitcode
    finally:
        for worker in workers:
            worker.kill()
            worker.join()
    log = Path(f"{result}.log").read_text()[-3000:]
    assert code == ErrorCode.WORKER_LOST.exit_code, log
    failed = result if lost else output(given).attempt(given.attempt) / "failure-1.json"
    error = read_result(failed).error
    assert error.code is ErrorCode.WORKER_LOST, log
    assert error.message.startswith("another process of the stage is gone or hangs"), error


@pytest.mark.parametrize(("stage", "way", "lost"), [("sft", "hangs", 0), ("grpo", "hangs", 1)])
def test_torchrun_ends_the_gang_with_a_code_to_retry(stage, way, lost, gang, tmp_path):
    """As on a cluster and by `coldstart run`, where the one that hangs must be killed, too."""
    given = gang(stage)
    result = tmp_path / "result.json"
    variables = environment(given, result) | {"PET_SHUTDOWN_TIMEOUT": "10"}
    command = [sys.executable, "-m", "coldstart_trainer.launch", "--standalone"]
    with Path(f"{result}.log").open("ab") as log:
        process = subprocess.Popen(
            [*command, "--nproc-per-node=2"], env=variables, stdout=log, stderr=log
        )
    wait_for_update(given, process, 1)
    os.kill(worker_of(process.pid, lost), WAYS[way])
    try:
        code = process.wait(PATIENCE)
    finally:
        process.kill()
    text = Path(f"{result}.log").read_text()[-3000:]
    assert code >= RETRYABLE_FROM, text
    if result.exists():
        assert read_result(result).error.code is ErrorCode.WORKER_LOST, text


def worker_of(launcher, rank):
    """The process that torchrun has started for a rank."""
    children = Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()
    wanted = f"RANK={rank}".encode()
    [found] = [
        int(pid)
        for pid in children
        if wanted in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    ]
    return found
