"""A vision-language model on rows without images, alone and mixed with rows that have some."""

import json

import pytest
from stage_attempts import here, order

SHORT = {"maxSteps": 2, "probe": {"size": 0}}


@pytest.mark.parametrize("stage", ["sft", "grpo"])
def test_a_vision_model_may_be_trained_on_text(stage, tiny_model, tiny_texts, tmp_path, caplog):
    given = order(stage, tmp_path / "runs", tiny_model, tiny_texts, **SHORT)
    assert here(given).checkpoint.step == 2
    assert f"spec.{stage}.dataset: no row of {tiny_texts} has an image" in caplog.text
    assert f"spec.{stage}.dataset.columns.images ('images')" in caplog.text


@pytest.mark.parametrize("stage", ["sft", "grpo"])
def test_rows_with_and_without_images_may_be_mixed(
    stage, tiny_model, tiny_rows, tiny_texts, tmp_path, caplog
):
    lines = [*tiny_rows.read_text().splitlines()[:8], *tiny_texts.read_text().splitlines()[:16]]
    mixed = [json.loads(line) for line in lines]
    # An image's path may lead nowhere but below its file or the run.yaml; a link there may.
    (tmp_path / "pictures").symlink_to(tiny_rows.parent)
    for row in mixed:
        row["images"] = [f"pictures/{name}" for name in row.get("images", ())]
    (tmp_path / "mixed.jsonl").write_text("".join(json.dumps(row) + "\n" for row in mixed))
    given = order(stage, tmp_path / "runs", tiny_model, tmp_path / "mixed.jsonl", **SHORT)
    assert here(given).checkpoint.step == 2
    assert "has an image" not in caplog.text
