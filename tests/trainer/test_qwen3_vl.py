"""Qwen3-VL through the training stages, a few updates each; their rules are tested elsewhere."""

import pytest
from stage_attempts import here, losses, order

SHORT = {"maxSteps": 2, "probe": {"size": 0}}


@pytest.mark.parametrize("stage", ["sft", "grpo"])
def test_it_is_trained(stage, tiny_qwen3_vl, tiny_rows, tmp_path):
    given = order(stage, tmp_path / "runs", tiny_qwen3_vl, tiny_rows, **SHORT)
    assert here(given).checkpoint.step == 2
    assert sorted(losses(given)) == [1, 2]
