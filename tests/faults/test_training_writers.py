"""Two attempts of a stage in one directory: the later waits until the earlier writes no more."""

import os
import signal
import time
from functools import partial
from pathlib import Path

import forked
import pytest
from faults.interposing import NONE, arm, loaded
from faults.undisturbed import log, result_file
from stage_attempts import again, read_result, wait_for

from coldstart.layout import output
from coldstart.status import ErrorCode

STAGES = ("distill", "sft", "grpo", "evaluation")
ENDINGS = {"by itself": None, "told to end": signal.SIGTERM, "killed": signal.SIGKILL}


def started(given):
    """An attempt that has begun to write."""
    loaded()
    prepare = partial(arm, NONE, Path(given.storage), Path(f"{result_file(given)}.operations"))
    (process,) = forked.ranks(given, result_file(given), prepare=prepare)
    return process


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("stage", STAGES)
def test_a_second_attempt_waits_and_ends_as_ever(stage, ending, disturb, tmp_path):
    """As where torchrun was killed: its worker saves, and the next attempt has begun."""
    case, whole = disturb(stage)
    given = case.order(tmp_path / "runs")
    first = started(given)
    wait_for(output(given).metrics, first)
    os.kill(first.pid, signal.SIGSTOP)
    second = started(again(given))
    wait_for(output(given).attempt(2) / "process-0.json", second)
    before = Path(f"{result_file(given)}.operations").stat().st_size
    time.sleep(1)
    assert second.poll() is None, "it did not wait"
    assert Path(f"{result_file(given)}.operations").stat().st_size == before
    if ENDINGS[ending]:
        os.kill(first.pid, ENDINGS[ending])
    os.kill(first.pid, signal.SIGCONT)
    codes = forked.ended([first, second])
    assert codes[1] == 0, log(again(given))
    outcome = case.outcome(given, read_result(result_file(again(given))))
    assert outcome == whole.outcome
    if codes[0] == 0 and stage != "evaluation":
        ended = [read_result(result_file(one)).checkpoint for one in (given, again(given))]
        assert ended[0] == ended[1], "the later attempt made another final checkpoint"


def test_an_attempt_that_never_ends_is_named_and_the_next_one_is_tried_again(
    disturb, tmp_path, monkeypatch
):
    from coldstart_trainer import __main__ as entry

    monkeypatch.setattr(entry, "GRACE_SECONDS", 0.5)
    case, _ = disturb("sft")
    given = case.order(tmp_path / "runs")
    first = started(given)
    wait_for(output(given).metrics, first)
    os.kill(first.pid, signal.SIGSTOP)
    error = entry.attempt(again(given), 0).error
    first.kill()
    first.join()
    assert (error.code, error.code.retryable) == (ErrorCode.WORKER_LOST, True)
    assert "writer.lock" in error.message
