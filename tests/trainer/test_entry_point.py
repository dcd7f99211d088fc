"""`python -m coldstart_trainer`: every ending becomes a result with its code, in its place."""

import errno
import fcntl
import json
import os
import subprocess
import sys
import time

import pytest
from stage_attempts import (
    carried_out,
    environment,
    lines,
    order,
    read_result,
    start,
    wait_for_update,
)

from coldstart.layout import output
from coldstart.stage import ORDER_ENV, failure
from coldstart.status import ErrorCode
from coldstart_trainer import __main__ as entry
from coldstart_trainer import errors
from coldstart_trainer.termination import Terminated


def run_with(text):
    return subprocess.run(
        [sys.executable, "-m", "coldstart_trainer"],
        env=os.environ | {ORDER_ENV: text},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "COLDSTART_ORDER is not set"),
        ("{", "COLDSTART_ORDER is not JSON"),
        ('{"stage": "sft"}', "COLDSTART_ORDER: run: is required"),
        ("[]", "COLDSTART_ORDER: document: "),
    ],
)
def test_without_an_order_it_ends_with_2_and_a_line(text, message):
    done = run_with(text)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_a_bad_input_is_refused_before_torch_is_imported(tmp_path):
    given = order("sft", tmp_path / "runs", "nowhere", "rows.jsonl")
    code = (
        "import sys; from coldstart_trainer.__main__ import main; code = main(); "
        "sys.exit(99 if 'torch' in sys.modules else code)"
    )
    result = tmp_path / "result.json"
    done = subprocess.run([sys.executable, "-c", code], env=environment(given, result), check=False)
    assert done.returncode == ErrorCode.MODEL_INVALID.exit_code
    found = read_result(result)
    assert found.error.code is ErrorCode.MODEL_INVALID
    assert found.error.message.startswith("spec.model.name: there is no directory")
    assert (found.run, found.stage, found.attempt) == (given.run, given.stage, given.attempt)


def test_a_model_without_processor(tiny_model, tiny_rows, tmp_path):
    import shutil

    bare = shutil.copytree(tiny_model, tmp_path / "bare")
    (bare / "processor_config.json").unlink()
    code, result = carried_out(
        order("sft", tmp_path / "runs", bare, tiny_rows), tmp_path / "result.json"
    )
    assert code == 2
    assert result.error.code is ErrorCode.MODEL_INVALID
    assert "no image processor" in result.error.message


def test_a_data_set_that_is_not_there(tiny_model, tmp_path):
    code, result = carried_out(
        order("sft", tmp_path / "runs", tiny_model, "gone.jsonl"), tmp_path / "result.json"
    )
    assert code == 2
    assert result.error.code is ErrorCode.DATASET_NOT_FOUND
    assert result.error.message.startswith("spec.sft.dataset.name: there is no file")


@pytest.mark.fault(37)
def test_a_disk_that_is_full(tiny_model, tiny_rows, tmp_path):
    """No file may grow beyond 200 kB, so the model of 0.9 MB cannot be saved."""
    given = order("sft", tmp_path / "runs", tiny_model, tiny_rows)
    limited = ("prlimit", "--fsize=200000", sys.executable)
    code, result = carried_out(given, tmp_path / "result.json", command=limited)
    assert code == 2
    assert result.error.code is ErrorCode.STORAGE_FULL
    assert str(tmp_path / "runs") in result.error.message
    assert not list(output(given).checkpoints.glob("checkpoint-*"))


@pytest.mark.fault(37)
def test_an_output_that_cannot_be_written(tiny_model, tiny_rows, tmp_path):
    given = order("sft", tmp_path / "runs", tiny_model, tiny_rows)
    (tmp_path / "runs").touch()
    code, result = carried_out(given, tmp_path / "result.json")
    assert code == 2
    assert result.error.code is ErrorCode.STORAGE_UNWRITABLE
    assert str(tmp_path / "runs") in result.error.message


def test_told_to_end_before_it_trains_it_ends_at_once(tiny_model, tiny_rows, tmp_path):
    given = order("sft", tmp_path / "runs", tiny_model, tiny_rows)
    process = start(given, tmp_path / "result.json")
    while not lines(given):
        assert process.poll() is None
        time.sleep(0.01)
    process.terminate()
    assert process.wait(timeout=60) == 143
    error = read_result(tmp_path / "result.json").error
    assert (error.code, error.message) == (ErrorCode.TERMINATED, "was told to end")


@pytest.mark.slow
def test_a_final_that_is_there_is_reported_without_torch(tiny_model, tiny_rows, tmp_path):
    given = order("sft", tmp_path / "runs", tiny_model, tiny_rows, maxSteps=2)
    code, first = carried_out(given, tmp_path / "1.json")
    assert (code, first.error) == (0, None)
    assert (first.checkpoint.location, first.checkpoint.step) == ("run/sft/final", 2)
    check = (
        "import sys; from coldstart_trainer.__main__ import main; code = main(); "
        "sys.exit(99 if 'torch' in sys.modules else code)"
    )
    second = given.model_copy(update={"attempt": 2})
    done = subprocess.run(
        [sys.executable, "-c", check], env=environment(second, tmp_path / "2.json"), check=False
    )
    assert done.returncode == 0
    found = read_result(tmp_path / "2.json")
    assert found.checkpoint == first.checkpoint
    assert found.metrics == first.metrics
    assert found.attempt == 2


@pytest.mark.slow
def test_the_lock_says_that_it_is_alive(tiny_model, tiny_rows, tmp_path):
    given = order("sft", tmp_path / "runs", tiny_model, tiny_rows, epochs=200)
    process = start(given, tmp_path / "result.json")
    wait_for_update(given, process, 1)
    with output(given).alive.open("rb") as stream:
        with pytest.raises(BlockingIOError):
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        process.kill()
        process.wait()
        fcntl.flock(stream, fcntl.LOCK_EX)


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (errors.StageFailure(ErrorCode.NON_FINITE, "said"), ErrorCode.NON_FINITE, "said"),
        (Terminated("saved at update 3"), ErrorCode.TERMINATED, "saved at update 3"),
        (Terminated(), ErrorCode.TERMINATED, "was told to end"),
        (OSError(errno.ENOSPC, "No space left", "/x"), ErrorCode.STORAGE_FULL, "/x is full"),
        (OSError(errno.EDQUOT, "quota", "/x"), ErrorCode.STORAGE_FULL, "/x is full"),
        (
            RuntimeError("I/O error: No space left on device (os error 28)"),
            ErrorCode.STORAGE_FULL,
            "is full",
        ),
        (PermissionError(errno.EACCES, "no", "/x"), ErrorCode.STORAGE_UNWRITABLE, "/x"),
        (OSError(errno.EROFS, "read-only", "/x"), ErrorCode.STORAGE_UNWRITABLE, "/x"),
        (
            RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed"),
            ErrorCode.STORAGE_UNWRITABLE,
            "cannot be written",
        ),
        (
            RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 4 vs 3"),
            ErrorCode.STORAGE_UNWRITABLE,
            "cannot be written",
        ),
        (
            RuntimeError("basic_ios::clear: iostream error"),
            ErrorCode.STORAGE_UNWRITABLE,
            "cannot be written",
        ),
        (
            RuntimeError("Error while serializing: I/O error: Read-only file system (os error 30)"),
            ErrorCode.STORAGE_UNWRITABLE,
            "cannot be written",
        ),
        (MemoryError(), ErrorCode.OUT_OF_MEMORY, "lower microBatchSize"),
        (
            RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate"),
            ErrorCode.OUT_OF_MEMORY,
            "lower microBatchSize",
        ),
        (
            RuntimeError("gloo/transport/tcp/pair.cc:534] Connection closed by peer [::1]:1"),
            ErrorCode.WORKER_LOST,
            "another process of the stage is gone",
        ),
        (
            RuntimeError("[gloo/tcp/unbound_buffer.cc:129] Timed out waiting 12000ms for send"),
            ErrorCode.WORKER_LOST,
            "or hangs",
        ),
        (KeyError("surprise"), ErrorCode.INTERNAL, "KeyError: 'surprise'"),
    ],
)
def test_what_ended_it_as_a_code_and_a_sentence(error, code, message, tmp_path):
    found, said = errors.classify(error, tmp_path)
    assert found is code
    assert message in said


def test_torchs_own_errors(tmp_path):
    import torch

    assert errors.classify(torch.OutOfMemoryError("CUDA out of memory. Tried"), tmp_path)[0] is (
        ErrorCode.OUT_OF_MEMORY
    )
    lost = torch.distributed.DistBackendError("NCCL error")
    assert errors.classify(lost, tmp_path)[0] is ErrorCode.WORKER_LOST


@pytest.fixture
def given(tmp_path):
    return order("sft", tmp_path / "runs", "model", "rows.jsonl")


def test_the_result_is_written_where_nothing_can_be_renamed_onto(given, tmp_path, monkeypatch):
    target = tmp_path / "termination-log"
    target.write_text("an older, longer text" * 100)
    (tmp_path / "termination-log.partial").mkdir()
    monkeypatch.setenv("COLDSTART_RESULT", str(target))
    entry.report(failure(given, ErrorCode.INTERNAL, "said"), given, 0)
    assert read_result(target).error.message == "said"


def test_the_first_process_tells_why_another_failed(given, tmp_path, monkeypatch):
    target = tmp_path / "result.json"
    monkeypatch.setenv("COLDSTART_RESULT", str(target))
    entry.report(failure(given, ErrorCode.TERMINATED, "told to end"), given, 2)
    entry.report(failure(given, ErrorCode.OUT_OF_MEMORY, "rank 1 had too little"), given, 1)
    assert not target.exists()
    entry.report(failure(given, ErrorCode.TERMINATED, "told to end"), given, 0)
    assert read_result(target).error.code is ErrorCode.OUT_OF_MEMORY
    entry.report(failure(given, ErrorCode.DATASET_INVALID, "row 3"), given, 0)
    assert read_result(target).error.message == "row 3"


def test_a_result_that_cannot_be_written_is_in_the_log(given, tmp_path, monkeypatch, caplog):
    (tmp_path / "file").touch()
    monkeypatch.setenv("COLDSTART_RESULT", str(tmp_path / "file" / "result.json"))
    entry.report(failure(given, ErrorCode.INTERNAL, "said"), given, 0)
    assert '"message":"said"' in caplog.text


def test_an_order_has_camel_case_keys_only(given):
    document = given.document()
    document["schema_version"] = document.pop("schemaVersion")
    with pytest.raises(ValueError, match="schema_version: unknown key"):
        entry.read_order(json.dumps(document))


def test_once_it_is_known_how_an_attempt_ended_sigterm_changes_nothing():
    """The result is being written: ended there, the attempt would have none."""
    program = (
        "import os, signal\n"
        "from coldstart_trainer.termination import TERMINATION\n"
        "TERMINATION.install()\n"
        "TERMINATION.settle()\n"
        "os.kill(os.getpid(), signal.SIGTERM)\n"
        "assert TERMINATION.requested\n"
        "TERMINATION.install()\n"
        "TERMINATION.requested = False\n"
        "os.kill(os.getpid(), signal.SIGTERM)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], stderr=subprocess.PIPE, check=False)
    assert b"Terminated" in done.stderr
    assert b"AssertionError" not in done.stderr
