"""Steps from row counts, against the paper's own counts (docs of the recipe, 2 and 3)."""

import pytest

from coldstart.schedule import (
    GRPOSteps,
    accumulation,
    grpo_samplings_per_pass,
    grpo_steps,
    held_out_rows,
    sft_steps,
    sft_steps_per_pass,
)
from coldstart.spec import GRPO, SFT

DATASET = {"name": "rows.jsonl"}


def sft(**changes):
    paper = {"batchSize": 64, "microBatchSize": 1, "epochs": 3, "resources": {"gpusPerNode": 4}}
    return SFT.parse({"dataset": DATASET, **paper, **changes})


def grpo(**changes):
    paper = {
        "promptsPerStep": 512,
        "groupSize": 10,
        "updatesPerStep": 4,
        "epochs": 2,
        "microBatchSize": 10,
        "resources": {"gpusPerNode": 8},
    }
    return GRPO.parse({"dataset": DATASET, **paper, **changes})


@pytest.mark.parametrize(
    ("rows", "share", "held"),
    [
        (51_534, 0.01, 515),
        (31_818, 0.002, 63),
        (10, 0.01, 1),
        (2, 0.9, 1),
        (1, 0.5, 0),
        (100, 0.0, 0),
    ],
)
def test_held_out_rows(rows, share, held):
    assert held_out_rows(rows, share) == held


def test_the_papers_sft_takes_the_upper_end_of_its_2391_to_2394_steps():
    assert held_out_rows(51_534, 0.01) == 515
    assert sft_steps_per_pass(sft(), 51_534 - 515) == 798
    assert sft_steps(sft(), 51_534 - 515) == 2_394
    assert accumulation(sft()) == 16


def test_the_papers_grpo_takes_124_steps_496_updates_634880_rollouts():
    assert grpo_samplings_per_pass(grpo(), 31_818) == 62
    assert grpo_steps(grpo(), 31_818) == GRPOSteps(124, 496, 634_880)
    assert accumulation(grpo()) == 16


def test_holding_out_the_presets_rows_changes_no_step_of_grpo():
    assert grpo_steps(grpo(), 31_818 - held_out_rows(31_818, 0.002)).updates == 496


@pytest.mark.parametrize(
    ("rows", "changes", "steps"),
    [
        (64, {"epochs": 1}, 1),
        (65, {"epochs": 1}, 2),
        (1, {"epochs": 1}, 1),
        (128, {"epochs": 0.5}, 1),
        (128, {"epochs": 0.75}, 2),
        (6_400, {"maxSteps": 7}, 7),
        (64, {"maxSteps": 7}, 3),
        (100, {"epochs": 1, "microBatchSize": 8}, 2),
        (9, {"epochs": 1, "batchSize": 4, "resources": {"gpusPerNode": 0}}, 3),
    ],
)
def test_sft_steps(rows, changes, steps):
    assert sft_steps(sft(**changes), rows) == steps


@pytest.mark.parametrize(
    ("rows", "changes", "steps"),
    [
        (511, {}, GRPOSteps(0, 0, 0)),
        (1_023, {"epochs": 1}, GRPOSteps(1, 4, 5_120)),
        (1_024, {"epochs": 0.5}, GRPOSteps(1, 4, 5_120)),
        (31_818, {"maxSteps": 6}, GRPOSteps(2, 6, 10_240)),
        (31_818, {"maxSteps": 8}, GRPOSteps(2, 8, 10_240)),
    ],
)
def test_grpo_steps(rows, changes, steps):
    assert grpo_steps(grpo(**changes), rows) == steps
