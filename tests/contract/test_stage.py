"""Orders and results: what fits in a termination message, and what a gate says."""

import json
import os
import subprocess
import sys

import pytest
from builders import NOW, make_run, result
from hypothesis import given
from hypothesis import strategies as st

from coldstart.order import build_order
from coldstart.plan import Parent
from coldstart.spec import Stage
from coldstart.stage import RESULT_BYTES, RunRef, StageResult, failure
from coldstart.status import ErrorCode, RunStatus, StageError, StageState, StageStatus


def order(run=None, stage=Stage.SFT, parents=None):
    return build_order(run or make_run(), stage, 1, parents or {}, storage="/runs", workdir="/work")


@given(
    message=st.text(max_size=4096),
    metrics=st.dictionaries(
        st.text(min_size=1, max_size=60),
        st.floats(allow_nan=False, allow_infinity=False),
        max_size=200,
    ),
    code=st.sampled_from(ErrorCode),
)
def test_a_result_always_fits_and_keeps_what_the_planner_needs(message, metrics, code):
    told = StageResult(
        run=RunRef(name="a" * 40, uid="u" * 512),
        stage=Stage.EVALUATION,
        attempt=1,
        metrics=metrics,
        error=StageError(code=code, message=message),
    )
    data = told.encode()
    assert len(data) <= RESULT_BYTES
    back = StageResult.parse(json.loads(data))
    assert (back.run, back.stage, back.error.code) == (told.run, told.stage, code)
    assert back.error.message == message or message.startswith(back.error.message)


def test_a_failure_names_its_order():
    told = failure(order(), ErrorCode.DATASET_INVALID, "x" * 9999)
    assert (told.run.name, told.stage, told.attempt) == ("r", Stage.SFT, 1)
    assert len(told.encode()) <= RESULT_BYTES


@pytest.mark.parametrize("code", ErrorCode)
def test_exit_codes_tell_permanent_from_retryable(code):
    assert 0 < code.exit_code < 256
    assert (code.exit_code >= 128) == code.retryable


def test_an_order_starts_from_the_stage_before_with_its_digest():
    run = make_run(evaluation={"benchmarks": [{"dataset": {"name": "t"}}]})
    [base] = order(run).inputs
    assert (base.name, base.location, base.digest) == ("base", "m", None)
    [unknown] = order(run, Stage.GRPO).inputs
    assert (unknown.location, unknown.digest) == ("r/sft/final", None)
    done = result().checkpoint
    entry = StageStatus(name="sft", state=StageState.SUCCEEDED, checkpoint=done)
    run = run.model_copy(update={"status": RunStatus(stages=(entry,), started_at=NOW)})
    [known] = order(run, Stage.GRPO).inputs
    assert known.digest == done.digest
    assert [i.name for i in order(run, Stage.EVALUATION).inputs] == ["base", "sft", "grpo"]


def test_an_order_without_sft_starts_from_the_base_model_or_from_another_run():
    assert [i.name for i in order(make_run(sft=None), Stage.GRPO).inputs] == ["base"]
    arm = make_run(
        sft=None,
        grpo={"dataset": {"name": "d"}, "from": {"run": "other"}},
        evaluation={"benchmarks": [{"dataset": {"name": "t"}}]},
    )
    parents = {("other", "sft"): Parent(finished=True, checkpoint=result().checkpoint)}
    [given] = order(arm, Stage.GRPO, parents).inputs
    assert (given.name, given.digest) == ("sft", result().checkpoint.digest)
    inputs = order(arm, Stage.EVALUATION, parents).inputs
    assert [(i.name, i.location) for i in inputs][:2] == [("base", "m"), ("sft", "r/sft/final")]


def test_the_contract_and_the_command_import_neither_torch_nor_kopf_nor_kubernetes():
    program = (
        "import sys, pkgutil, importlib, coldstart\n"
        "for found in pkgutil.walk_packages(coldstart.__path__, 'coldstart.'):\n"
        "    if not found.name.endswith('__main__'):\n"
        "        importlib.import_module(found.name)\n"
        "heavy = {'torch', 'kopf', 'kubernetes', 'transformers', 'trl', 'datasets'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    found = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"},
    )
    assert found.stdout.strip() == "[]"
