"""Rows of fine-tuning, packed: scores and gradients of the padded ones, for every kind of model."""

from dataclasses import replace

import pytest
import torch
from packed_models import END, IMAGE, KINDS, OF_KIND, START, WORDS, built, pixels

from coldstart_trainer.shared import forward
from coldstart_trainer.shared.layout import Group, Layout
from coldstart_trainer.shared.sequences import IGNORED, pack

RAGGED = [(3, [(4, 8)], 5, 7), (1, [], 2, 1), (2, [(4, 4), (8, 8)], 1, 12), (9, [], 1, 3)]
"""For each row words, images, words, and how many words are learnt at its end."""
TEXT = [(3, [], 4, 2), (1, [], 1, 9), (6, [], 0, 1)]


def padded(rows, side="right", seed=1):
    """A batch of random words and pixels, as TRL's collators make it."""
    generator = torch.Generator().manual_seed(seed)
    words = [row_of_words(row, generator) for row in rows]
    width = max(map(len, words)) + 1
    ids, mask = torch.zeros((2, len(rows), width), dtype=torch.long)
    labels = torch.full_like(ids, IGNORED)
    for place, (own, (*_, learnt)) in enumerate(zip(words, rows, strict=True)):
        start = width - len(own) if side == "left" else 0
        ids[place, start : start + len(own)], mask[place, start : start + len(own)] = own, 1
        labels[place, start + len(own) - learnt : start + len(own)] = own[-learnt:]
    images = [side for row in rows for side in row[1]]
    return {"input_ids": ids, "attention_mask": mask, "labels": labels, **pixels(images, generator)}


def row_of_words(row, generator):
    before, images, after, learnt = row
    parts = [torch.randint(WORDS, (before,), generator=generator)]
    for height, width in images:
        pads = torch.full((height * width // 4,), IMAGE)
        parts += [torch.tensor([START]), pads, torch.tensor([END])]
    return torch.cat([*parts, torch.randint(WORDS, (after + learnt,), generator=generator)])


def outcome(model, given, **options):
    """Log-probabilities and entropies of what is learnt, and every gradient of their sum."""
    found = model(**given, fused_lm_head=True, **options)
    learnt = found.label_mask
    scores = found.log_probs[learnt], found.entropy[learnt]
    weights = torch.linspace(-1, 1, len(scores[0]))
    model.zero_grad()
    ((scores[0] + 0.1 * scores[1]) * weights).sum().backward()
    gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    return scores, gradients


def assert_equal(model, given, **options):
    marked = {"mm_token_type_ids": (given["input_ids"] == IMAGE).int()}
    dense = given | (marked if hasattr(model.config, "vision_config") else {})
    expected, wanted = outcome(model, dense, use_cache=False)
    found, made = outcome(model, forward.inputs(pack(model, given, **options).row))
    for one, other in zip(expected, found, strict=True):
        assert torch.allclose(one, other, atol=1e-5)
    assert wanted.keys() <= made.keys()
    for name, gradient in made.items():
        difference = (gradient - wanted.get(name, 0 * gradient)).norm()
        assert difference <= 1e-4 * gradient.norm() + 1e-6, name


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_every_kind_of_model(kind, checkpointing):
    model = built(kind)
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    assert_equal(model, padded(RAGGED if kind in OF_KIND else TEXT))


@pytest.mark.parametrize("kind", OF_KIND)
@pytest.mark.parametrize("rows", [RAGGED[:1], TEXT], ids=["one", "text"])
def test_one_row_and_rows_without_images(kind, rows):
    assert_equal(built(kind), padded(rows))


@pytest.mark.parametrize("kind", ["qwen2_5_vl", "qwen3"])
def test_padding_on_the_left(kind):
    assert_equal(built(kind), padded(RAGGED if kind in OF_KIND else TEXT, side="left"))


@pytest.mark.parametrize("kind", OF_KIND)
def test_with_an_image_that_nothing_looks_at(kind):
    model = built(kind)
    assert_equal(model, padded(TEXT), need_image=True)
    tower = [p.grad for name, p in model.named_parameters() if "visual" in name]
    assert all(gradient is not None and not gradient.any() for gradient in tower)


def test_several_spans_of_labels():
    """A conversation of several turns: not all between the first and last label is learnt."""
    given = padded(RAGGED)
    given["labels"][0, -8:-5] = IGNORED
    given["labels"][2, -6] = IGNORED
    assert_equal(built("qwen2_5_vl"), given)


def test_what_follows_the_last_label_is_left_out_unless_it_is_an_image():
    given = padded([(2, [], 3, 2), (1, [(4, 4)], 0, 6)])
    given["labels"][1] = IGNORED
    given["labels"][1, 1] = START  # learnt before the image
    model = built("qwen2_5_vl")
    assert_equal(model, given)
    packed = pack(model, given)
    assert packed.row.layout.groups == (Group(6), Group(6))
    assert (packed.tokens, packed.padded_tokens) == (7 + 13, 2 * 14)
    assert len(packed.row.targets) == 3


def test_rows_without_labels_are_left_out():
    model, given = built("qwen2_5_vl"), padded(TEXT)
    given["labels"][1] = IGNORED
    assert_equal(model, given)
    assert len(pack(model, given).row.layout.groups) == 2


@pytest.mark.parametrize("rows", [RAGGED, TEXT], ids=["mixed", "text"])
def test_without_any_label_the_model_still_takes_part(rows):
    model, given = built("qwen2_5_vl"), padded(rows)
    given["labels"][:] = IGNORED
    found = model(**forward.inputs(pack(model, given).row), fused_lm_head=True)
    assert not found.label_mask.any()
    found.log_probs.sum().backward()
    gradients = [p.grad for n, p in model.named_parameters() if "language_model" in n]
    assert all(gradient is not None and not gradient.any() for gradient in gradients)


def test_rows_that_see_each_other_are_told_apart():
    """What the layout is for: one sequence in place of several has other scores."""
    model, given = built("qwen2_5_vl"), padded(RAGGED)
    row = pack(model, given).row
    expected = forward.score(model, row).log_probs
    joined = replace(row, layout=Layout((Group(row.layout.length),)))
    assert (forward.score(model, joined).log_probs - expected).abs().max() > 1e-2
