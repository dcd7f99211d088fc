"""SIGKILL at file operations and at random moments of every stage: nothing is torn or lost."""

import random
from functools import partial
from pathlib import Path

import forked
import pytest
from faults.interposing import (
    NONE,
    Action,
    Fault,
    Operation,
    arm,
    happened,
    loaded,
    recorded,
)
from faults.undisturbed import (
    goes_on,
    kills,
    log,
    require_whole_or_none,
    result_file,
)
from stage_attempts import again

from coldstart.layout import output

COUNTS = {"sft": 86, "grpo": 30, "distill": 35, "evaluation": 53}
"""Kills at file operations of each stage: of every kind, and of GRPO's those that SFT lacks."""

POINTS = [(stage, number) for stage, count in COUNTS.items() for number in range(count)]
SEED = 7


@pytest.mark.parametrize(("stage", "number"), POINTS, ids=[f"{s}-{n:03}" for s, n in POINTS])
def test_killed_at_a_file_operation_it_goes_on_as_if_never_stopped(
    stage, number, disturb, tmp_path
):
    case, whole = disturb(stage)
    known = disturb("sft")[1].operations if stage == "grpo" else ()
    fault = kills(whole.operations, COUNTS[stage], SEED, known)[number]
    print(fault)
    given = case.order(tmp_path / "runs")
    assert case.attempt(given, fault) == -9, log(given)
    assert happened(result_file(given))
    require_whole_or_none(given)
    goes_on(case, again(given), whole)


MOMENTS = [(stage, number) for stage in COUNTS for number in range(3)]


@pytest.mark.parametrize(("stage", "number"), MOMENTS, ids=[f"{s}-{n}" for s, n in MOMENTS])
def test_killed_at_any_moment_it_goes_on_as_if_never_stopped(stage, number, disturb, tmp_path):
    """By the clock, so that kills fall between file operations, too; twice in a row."""
    case, whole = disturb(stage)
    generator = random.Random(number)
    given = case.order(tmp_path / "runs")
    for _ in range(2):
        killed(given, generator.uniform(0, whole.seconds))
        require_whole_or_none(given)
        given = again(given)
    goes_on(case, given, whole)


def killed(given, seconds):
    """Kill an attempt so many seconds after its start, unless it has ended by then."""
    loaded()
    prepare = partial(arm, NONE, Path(given.storage), Path(f"{result_file(given)}.operations"))
    (process,) = forked.ranks(given, result_file(given), prepare=prepare)
    process.join(seconds)
    process.kill()
    process.join()


RECOVERY = 6


@pytest.mark.parametrize("number", range(RECOVERY))
def test_killed_while_it_clears_up_after_a_kill_it_goes_on_as_if_never_stopped(
    number, disturb, tmp_path
):
    """The first attempt leaves a torn checkpoint and a damaged one, which the second sees to."""
    case, whole = disturb("sft")
    given = case.order(tmp_path / "first", keepCheckpoints=2)
    torn(case, given)
    assert case.attempt(again(given)) == 0
    operations = recorded(result_file(again(given)))
    began = [op.path for op in operations].index("run/sft/checkpoints/damaged-checkpoint-2")
    clearing = [op for op in operations[: began + 1] if op.path.startswith("run/sft/checkpoints/")]
    operation = clearing[number * len(clearing) // RECOVERY]
    given = case.order(tmp_path / "runs", keepCheckpoints=2)
    torn(case, given)
    given = again(given)
    way = random.Random(number).choice([Action.KILL_BEFORE, Action.KILL_AFTER])
    assert case.attempt(given, Fault(operation, way)) == -9, log(given)
    require_whole_or_none(given, damaged=frozenset({"checkpoint-2"}))
    goes_on(case, again(given), whole)


def torn(case, given):
    """Kill an attempt in its third save, and damage its second checkpoint."""
    operation = Operation("fsync", "run/sft/checkpoints/checkpoint-3/optimizer.pt")
    assert case.attempt(given, Fault(operation, Action.KILL_BEFORE)) == -9, log(given)
    weights = output(given).checkpoints / "checkpoint-2" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
