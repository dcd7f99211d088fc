"""The GRPO stage on groups: shared or not the same; pixels once; equal rewards teach nothing."""

import pytest
import torch
from safetensors.torch import load_file
from stage_attempts import here, lines, losses, order

from coldstart.layout import output
from coldstart.status import ErrorCode
from coldstart_trainer import grpo
from coldstart_trainer.errors import StageFailure
from coldstart_trainer.shared import attention

SHORT = {"maxSteps": 2, "probe": {"size": 0}, "saveSteps": 100}
FLAT = "def score(completions, **_):\n    return [0.5] * len(completions)\n"
HALF = """
def score(completions, answer, **_):
    'Tells completions apart for every other problem only.'
    return [float(i) if int(a) % 2 else 0.0 for i, a in enumerate(answer)]
"""


@pytest.fixture
def given(tiny_model, tiny_rows, tmp_path):
    """The function that makes an order; `reward` is the source of its reward function."""

    def made(reward="", **section):
        if reward:
            section["rewards"] = [{"name": "made:score"}]
        order_ = order("grpo", tmp_path / "runs", tiny_model, tiny_rows, **(SHORT | section))
        (tmp_path / "workdir" / "made.py").write_text(reward)
        return order_

    return made


@pytest.fixture
def batches(monkeypatch):
    """What each sampling step hands to its updates, and the rows that it was asked for."""
    seen = []
    original = grpo.Trainer._generate_and_score_completions

    def generate(self, inputs):
        made = original(self, inputs)
        seen.append((made, list(self.rollout.rows)))
        return made

    monkeypatch.setattr(grpo.Trainer, "_generate_and_score_completions", generate)
    return seen


@pytest.mark.parametrize(
    ("micro", "loss"),
    [
        (2, {"kl": 0.1}),
        (4, {"kl": 0.0, "type": "dr_grpo"}),
        (8, {"kl": 0.1, "type": "dapo"}),
        (4, {"kl": 0.0, "type": "cispo"}),
        (8, {"kl": 0.0, "type": "vespo"}),
        (4, {"kl": 0.0, "type": "luspo"}),
    ],
)
def test_sharing_changes_no_loss(tiny_model, tiny_rows, tmp_path, micro, loss):
    """With several groups in a micro-batch, with one, with halves of one; by each type of loss."""
    section = SHORT | {"microBatchSize": micro, "loss": loss, "gradientCheckpointing": True}
    found = []
    for shared in (True, False):
        storage = tmp_path / str(shared)
        storage.mkdir()
        attempt = order(
            "grpo", storage / "runs", tiny_model, tiny_rows, sharedPrompt=shared, **section
        )
        here(attempt)
        found.append(losses(attempt))
    assert found[0].keys() == found[1].keys() == {1, 2}
    for update, values in found[0].items():
        assert values[:2] == pytest.approx(found[1][update][:2], rel=1e-4, abs=1e-6)


def test_an_image_is_opened_and_processed_once_a_sampling_step(given, monkeypatch):
    from PIL import Image
    from transformers.models.qwen2_vl import image_processing_pil_qwen2_vl as processing

    opened, processed = [], []
    open_, process = Image.open, processing.Qwen2VLImageProcessorPil._preprocess

    def count_opened(*arguments, **options):
        opened.append(1)
        return open_(*arguments, **options)

    def count_processed(self, images, *arguments, **options):
        processed.append(len(images))
        return process(self, images, *arguments, **options)

    attempt = given(maxSteps=4, heldOut=0)  # two sampling steps of four prompts, two updates each
    before = grpo.Trainer.train

    def train(self, *arguments, **options):
        monkeypatch.setattr(Image, "open", count_opened)
        monkeypatch.setattr(processing.Qwen2VLImageProcessorPil, "_preprocess", count_processed)
        return before(self, *arguments, **options)

    monkeypatch.setattr(grpo.Trainer, "train", train)
    here(attempt)
    assert sum(processed) == 8
    assert len(opened) == 8 + 4  # the loader looks one batch ahead


def test_pixels_are_held_once_a_prompt(given, batches):
    here(given())
    ((batch, _),) = batches
    assert len(batch["pixel_values"]) == 16
    assert len({id(each) for each in batch["pixel_values"]}) == 4


def test_nothing_is_learnt_from_groups_whose_rewards_are_equal(given, batches, tiny_model):
    attempt = given(FLAT, loss={"kl": 0.5}, weightDecay=0)
    here(attempt)
    ((batch, _),) = batches
    assert not batch["completion_mask"].any()
    assert batch["num_items_in_batch"] == 0
    assert all(values[:2] == (0, 0) for values in losses(attempt).values())
    old, new = (load_file(d / "model.safetensors") for d in (tiny_model, output(attempt).final))
    assert all(torch.equal(old[name], new[name]) for name in old)


def test_they_may_be_kept(given, batches):
    here(given(FLAT, zeroVariance="keep", maxSteps=1))
    ((batch, _),) = batches
    assert batch["completion_mask"].any(1).all()


def test_they_are_left_out_one_by_one(given, batches):
    here(given(HALF, maxSteps=1))
    ((batch, rows),) = batches
    odd = torch.tensor([int(row["answer"]) % 2 == 1 for row in rows])
    assert odd.any()
    assert not odd.all()
    assert torch.equal(batch["completion_mask"].any(1), odd)


def test_other_prompts_take_their_places(given, batches):
    attempt = given(HALF, refillLimit=8, maxSteps=1)
    here(attempt)
    ((batch, rows),) = batches
    assert all(int(row["answer"]) % 2 for row in rows)
    assert batch["completion_mask"].any(1).all()
    group = attempt.spec.grpo.group_size
    for place in range(0, len(rows), group):
        assert len({row["id"] for row in rows[place : place + group]}) == 1


def test_refilling_ends_at_its_limit(given, batches):
    here(given(FLAT, refillLimit=2, maxSteps=1))
    ((batch, _),) = batches
    assert not batch["completion_mask"].any()


def test_completions_that_are_too_long_may_be_left_out(given, batches):
    conversation = {"maxCompletionTokens": 3}
    for truncated, kept in (("mask", False), ("keep", True)):
        batches.clear()
        here(given(conversation=conversation, truncated=truncated, maxSteps=1, zeroVariance="keep"))
        ((batch, _),) = batches
        full = batch["completion_ids"].size(1) == 3
        assert full
        assert bool(batch["completion_mask"].all(1).any()) is kept
        import shutil

        shutil.rmtree(output(given()).root)


def test_wrong_log_probabilities_end_the_stage_before_its_first_update(given, monkeypatch):
    """Attention that overlooks the prompt, say because a library changed how it is called."""
    original = attention.attend

    def blind(query, key, value, layout, scale):
        return original(query, torch.zeros_like(key), value, layout, scale)

    monkeypatch.setattr(attention, "attend", blind)
    attempt = given()
    with pytest.raises(StageFailure, match=r"spec\.grpo\.sharedPrompt: .* differ") as caught:
        here(attempt)
    assert caught.value.code is ErrorCode.SELF_CHECK_FAILED
    assert not losses(attempt)


def test_the_tolerance_of_the_check_is_the_users(given, monkeypatch):
    here(given(selfCheckTolerance=1e-3, maxSteps=1))
    with pytest.raises(StageFailure, match="at most 1e-12"):
        here(given(selfCheckTolerance=1e-12, maxSteps=1))


def test_a_model_that_cannot_share_is_told_and_trained_without(given, tiny_model, tmp_path, caplog):
    import json
    import shutil

    copy = tmp_path / "model"
    shutil.copytree(tiny_model, copy)
    config = json.loads((copy / "config.json").read_text())
    config["text_config"]["attention_dropout"] = 0.1
    (copy / "config.json").write_text(json.dumps(config))
    attempt = given(maxSteps=1)
    inputs = [attempt.inputs[0].model_copy(update={"location": str(copy)})]
    attempt = attempt.model_copy(update={"inputs": tuple(inputs)})
    here(attempt)
    assert "each prompt is computed anew for every completion: it has dropout" in caplog.text
    assert len(lines(attempt)) > 1
