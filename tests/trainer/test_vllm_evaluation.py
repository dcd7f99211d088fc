"""Evaluation by a real vLLM on the CPU: the same task as with `generate`, kills, two processes."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from stage_attempts import again, environment, read_result, stage_order
from vllm_model import DIGITS_BY_VLLM, NEEDS_VLLM, vllm_model

from coldstart import layout
from coldstart.files import json_lines
from coldstart.results import BenchmarkResult
from coldstart.stage import RESULT_ENV
from coldstart.status import ErrorCode
from coldstart.summary import read_samples

__all__ = ["vllm_model"]

pytestmark = [*NEEDS_VLLM, pytest.mark.slow]

LENGTH, ROWS = 8, 24
GREEDY = {"temperature": 0.0}
SAMPLED = {"temperature": 1.0, "samples": 2}


@pytest.fixture(scope="module")
def ordered(vllm_model, tiny_rows, conversation, tmp_path_factory):
    """Makes orders, each with a storage of its own unless it is given one."""

    def make(decoding, storage=None, *, length=LENGTH, **section):
        evaluation = DIGITS_BY_VLLM | {"decoding": decoding}
        spec = {
            "conversation": conversation.document() | {"maxCompletionTokens": length},
            "evaluation": evaluation | section,
        }
        storage = storage or tmp_path_factory.mktemp("runs")
        return stage_order("evaluation", vllm_model, storage, tiny_rows.parent, spec)

    return make


def start(order, *, nodes=1):
    """An attempt as a cluster starts it, by torchrun, its output in a file of the storage."""
    result = f"{order.storage}/result.json"
    command = [sys.executable, "-m", "coldstart_trainer.launch", "--standalone"]
    command += [f"--nproc-per-node={nodes}", "-m", "coldstart_trainer"]
    with Path(order.storage, "log.txt").open("ab") as log:
        process = subprocess.Popen(
            command, env=environment(order, result), stdout=log, stderr=subprocess.STDOUT
        )
    return process, result


def carried_out(order, *, nodes=1):
    process, result = start(order, nodes=nodes)
    process.wait(timeout=400)
    found = read_result(result)
    assert found.error is None, found.error
    return {(sample.id, sample.sample): sample for sample in read_samples(directory(order))}


def directory(order):
    return layout.RunLayout(Path(order.storage) / order.run.name).benchmark("base", "digits")


def wait_for_samples(order, process, count, seconds=300):
    path = layout.samples(directory(order))
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if len(list(json_lines(path))) >= count:
            return
        assert process.poll() is None, "it ended before"
        time.sleep(0.05)
    raise AssertionError(f"{count} samples were not there in {seconds} seconds")


@pytest.fixture(scope="module")
def sampled(ordered):
    order = ordered(SAMPLED)
    return order, carried_out(order)


def test_it_answers_as_generate_does(ordered):
    """An untrained model in fp32: nothing is near a tie, so greedy responses are the same."""
    by_vllm = carried_out(ordered(GREEDY))
    by_generate = carried_out(ordered(GREEDY, engine="transformers"))
    assert by_vllm == by_generate
    assert len(by_vllm) == ROWS


def test_responses_and_their_lengths_are_whole(sampled):
    order, found = sampled
    assert len(found) == ROWS * 2
    assert len({sample.response for sample in found.values()}) > ROWS
    assert all(0 < sample.tokens <= LENGTH for sample in found.values())
    result = BenchmarkResult.parse(json.loads(layout.results(directory(order)).read_text()))
    assert result.decoding["engine"] == "vllm"
    assert "batchSize" not in result.decoding
    told = [line["values"] for line in json_lines(order_metrics(order))]
    assert max(values.get("tokens_total{completion}", 0) for values in told) == sum(
        sample.tokens for sample in found.values()
    )


def order_metrics(order):
    return layout.output(order).metrics


def test_two_engines_make_the_responses_that_one_makes(ordered, sampled):
    order = ordered(SAMPLED, resources={"gpusPerNode": 0, "nodes": 2})
    assert carried_out(order, nodes=2) == sampled[1]


def test_what_has_ended_is_kept_whoever_is_told_to_end_or_killed(ordered, tmp_path):
    """The stage, vLLM, the stage; what was missing then comes out as it would have."""
    slow = {"length": 64, "concurrency": 2, "decoding": SAMPLED}
    whole = carried_out(ordered(**slow))
    order = ordered(**slow, storage=tmp_path)
    process, result = start(order)
    wait_for_samples(order, process, 4)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60)
    assert read_result(result).error.code is ErrorCode.TERMINATED
    kept = read_samples(directory(order))
    assert 4 <= len(kept) < len(whole)

    order = again(order)
    process, result = start(order)
    wait_for_samples(order, process, len(kept) + 4)
    for pid in vllms(order, process):
        os.kill(pid, signal.SIGKILL)
    process.wait(timeout=60)
    assert read_result(result).error.code is ErrorCode.WORKER_LOST

    order, kept = again(order), read_samples(directory(order))
    process, _ = start(order)
    wait_for_samples(order, process, len(kept) + 4)
    others = vllms(order, process)
    os.kill(worker(order), signal.SIGKILL)
    process.wait(timeout=60)
    wait_until_gone(others)

    assert carried_out(again(order)) == whole


def worker(order):
    """The process that torchrun started."""
    signature = layout.output(order).attempt(order.attempt) / "process-0.json"
    return int(json.loads(signature.read_text())["group"])


def vllms(order, launcher):
    """The processes of an attempt that are neither torchrun nor the stage."""
    found = [pid for pid in processes_of(order) if pid not in (launcher.pid, worker(order))]
    assert found, "vLLM has no process"
    return found


def processes_of(order):
    """Every process that has this attempt's environment."""
    mark = f"{RESULT_ENV}={order.storage}/".encode()
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if mark in path.read_bytes():
                found.append(int(path.parent.name))
    return found


def wait_until_gone(processes, seconds=60):
    end = time.monotonic() + seconds
    while any(Path(f"/proc/{pid}/environ").exists() and alive(pid) for pid in processes):
        assert time.monotonic() < end, "a process of vLLM outlives its stage"
        time.sleep(0.1)


def alive(pid):
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False
