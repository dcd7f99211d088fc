"""Packed rows give the scores and gradients of dense ones, for every kind of model and batch."""

import copy

import pytest
import torch
from packed_models import (
    IMAGE,
    KINDS,
    OF_KIND,
    Prompt,
    batch,
    built,
    dense_scores,
    gradients,
    shared_scores,
)

from coldstart_trainer.shared.rows import pack

ONE = [Prompt()]
TWO = [Prompt(before=1, images=[(4, 4)], after=9), Prompt(images=[(8, 4)], after=2)]
SEVERAL = [Prompt(images=[(4, 4), (8, 8)]), Prompt(images=[(2, 2), (4, 2), (2, 8)], after=1)]
MIXED = [Prompt(), Prompt(before=6, images=[]), Prompt(images=[(4, 4)])]
TEXT = [Prompt(before=6, images=[]), Prompt(before=2, images=[], after=9)]


def assert_equal(model, given, dense=None, **options):
    """The same log-probabilities, entropies and gradients, whichever way they are computed."""
    expected = dense_scores(dense or model, given)
    found = shared_scores(model, given, **options)
    mask = given.completion_mask.bool()
    for one, other in zip(expected, found, strict=True):
        assert torch.allclose(one[mask], other[mask], atol=1e-5)
        assert not other[~mask].any()
    masked = tuple(scores * given.completion_mask for scores in expected)
    wanted, made = gradients(model, masked), gradients(model, found)
    assert wanted.keys() == made.keys()
    for name, gradient in wanted.items():
        assert (made[name] - gradient).norm() <= 1e-4 * gradient.norm() + 1e-6, name


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_every_kind_of_model(kind, checkpointing):
    model = built(kind)
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    assert_equal(model, batch(TWO if kind in OF_KIND else TEXT))


@pytest.mark.parametrize("kind", OF_KIND)
@pytest.mark.parametrize(
    "prompts", [ONE, SEVERAL, MIXED, TEXT], ids=["1", "several", "mix", "text"]
)
def test_every_kind_of_prompt(kind, prompts):
    assert_equal(built(kind), batch(prompts))


def test_parts_of_a_group():
    assert_equal(built("qwen2_5_vl"), batch(TWO, group=6, share=2))


def test_a_prompt_of_one_token():
    given = batch([Prompt(before=1, images=[], after=0)])
    assert_equal(built("qwen2"), given)
    assert pack(built("qwen2"), given).row.layout.groups[0].prefix == 0


@pytest.mark.parametrize("part", ["visual", "language_model"])
def test_frozen_parts(part):
    model = built("qwen2_5_vl")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(part not in name)
    assert_equal(model, batch(TWO))


@pytest.mark.parametrize("checkpointing", [False, True])
def test_adapters(checkpointing):
    from peft import LoraConfig, get_peft_model

    base = built("qwen2_5_vl")
    adapter = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    model = get_peft_model(base, adapter).train()
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
        model.enable_input_require_grads()
    assert_equal(model, batch(TWO), core=base)


def test_completions_that_are_masked():
    given = batch(MIXED)
    given.completion_mask[[1, 6]] = 0  # one of the first group, one of the second
    assert_equal(built("qwen2_5_vl"), given)


def test_groups_that_are_masked_cost_nothing():
    model, given = built("qwen2_5_vl"), batch(TWO)
    given.completion_mask[:4] = 0
    assert_equal(model, given)
    row = pack(model, given).row
    assert len(row.layout.groups) == 1
    assert len(row.pixels["image_grid_thw"]) == 1


def test_where_all_is_masked_the_model_still_takes_part():
    model, given = built("qwen2_5_vl"), batch(TWO)
    given.completion_mask[:] = 0
    made = gradients(model, shared_scores(model, given))
    assert len(made) == len(list(model.parameters()))
    assert not any(gradient.any() for gradient in made.values())


@pytest.mark.parametrize("kind", OF_KIND)
def test_an_unseen_image_changes_nothing_and_lets_the_vision_tower_take_part(kind):
    model, given = built(kind), batch(TEXT)
    without = gradients(model, shared_scores(model, given))
    made = gradients(model, shared_scores(model, given, need_image=True))
    seen = {name for name in made if "visual" in name}
    assert seen == {name for name, _ in model.named_parameters() if "visual" in name}
    assert not any(made[name].any() for name in seen)
    for name in without.keys() - seen:
        assert torch.allclose(made[name], without[name], atol=1e-6)


def test_the_vision_tower_runs_once_a_group():
    model, given = built("qwen2_5_vl"), batch(TWO)
    patches = []
    model.model.visual.register_forward_pre_hook(lambda _m, given: patches.append(len(given[0])))
    shared_scores(model, given)
    assert patches == [16 + 32]


def test_the_row_is_as_short_as_it_can_be():
    given = batch(TWO)
    row = pack(built("qwen2_5_vl"), given).row
    prompts = given.prompt_mask[::4].sum().item()
    assert row.layout.length == prompts - 2 + given.completion_mask.sum().item()


def test_a_packed_row_leaves_no_positions_behind():
    """The model keeps `rope_deltas` of its last dense batch; a packed row must not change it."""
    model, given = built("qwen2_5_vl"), batch(TWO)
    dense_scores(model, given)
    before = copy.deepcopy(model.model.rope_deltas)
    shared_scores(model, batch(ONE))
    assert torch.equal(model.model.rope_deltas, before)


def test_a_wrong_position_is_seen():
    """Positions that ignore how images compress them give other scores."""
    model, given = built("qwen2_5_vl"), batch(ONE)
    packed = pack(model, given)
    wrong = torch.arange(packed.row.layout.length).expand_as(packed.row.position_ids)
    packed.row.position_ids.copy_(wrong)
    from coldstart_trainer.shared import forward

    found = packed.unpacked(forward.score(model, packed.row).log_probs)
    expected, _ = dense_scores(model, given)
    mask = given.completion_mask.bool()
    assert (found - expected)[mask].abs().max() > 1e-3


def test_a_prompt_that_ends_in_an_image_is_refused():
    given = batch([Prompt(after=0)])
    given.prompt_ids[:, -1] = IMAGE
    with pytest.raises(ValueError, match="ends in an image"):
        pack(built("qwen2_5_vl"), given)


def test_generation_is_as_before():
    """A prepared model's own attention is untouched: padding, caches, positions."""
    model, given = built("qwen2_5_vl").eval(), batch(TWO)
    images = [each for each in given.images for _ in range(4)]
    asked = {
        "input_ids": given.prompt_ids,
        "attention_mask": given.prompt_mask,
        "mm_token_type_ids": (given.prompt_ids == IMAGE).int(),
        **{key: torch.cat([each[key] for each in images]) for key in images[0]},
    }
    settings = {"max_new_tokens": 4, "do_sample": False, "pad_token_id": 0}
    packed = model.generate(**asked, **settings)
    model.config.get_text_config()._attn_implementation = "sdpa"
    assert torch.equal(packed, model.generate(**asked, **settings))
