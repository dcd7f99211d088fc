"""Small models of every kind whose rows can be packed, batches for them, and the dense scores."""

from dataclasses import dataclass, field

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText
from trl.trainer.utils import add_fused_lm_head

from coldstart_trainer.shared import forward
from coldstart_trainer.shared.rows import Batch, pack

IMAGE, START, END, WORDS = 90, 91, 92, 90
"""Tokens: an image's, those around it, and how many words there are before them."""

TEXT = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "vocab_size": 96,
    "initializer_range": 0.3,
    "bos_token_id": None,
    "eos_token_id": None,
}
MULTIMODAL_ROPE = {"rope_type": "default", "rope_theta": 100.0, "mrope_section": [2, 1, 1]}
VISION = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "depth": 2,
    "num_heads": 2,
    "patch_size": 4,
    "out_hidden_size": 32,
}
OF_KIND = {
    "qwen2_vl": {"embed_dim": 16, "hidden_size": 32, "mlp_ratio": 2},
    "qwen2_5_vl": {"fullatt_block_indexes": [1], "window_size": 16},
    "qwen3_vl": {"deepstack_visual_indexes": [0, 1], "num_position_embeddings": 64},
}
KINDS = (*OF_KIND, "qwen2", "qwen3")


def built(kind, seed=0, **text):
    """A model with random weights, which takes packed rows too; its head divides by 0.9."""
    torch.manual_seed(seed)
    if kind in OF_KIND:
        config = AutoConfig.for_model(
            kind,
            text_config=TEXT | {"rope_parameters": MULTIMODAL_ROPE} | text,
            vision_config=VISION | OF_KIND[kind],
            image_token_id=IMAGE,
            vision_start_token_id=START,
            vision_end_token_id=END,
            video_token_id=93,
        )
        model = AutoModelForImageTextToText.from_config(config, attn_implementation="sdpa")
    else:
        rope = {"rope_type": "default", "rope_theta": 100.0}
        config = AutoConfig.for_model(kind, **(TEXT | {"rope_parameters": rope} | text))
        model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa")
    add_fused_lm_head(model, temperature=0.9, outputs=("log_probs", "entropy"))
    forward.prepare(model)
    return model.float().train()


@dataclass
class Prompt:
    """How many words stand before and after the images, and the images' sides in patches."""

    before: int = 3
    images: list = field(default_factory=lambda: [(4, 8)])
    after: int = 5


def batch(prompts, group=4, longest=7, share=None, seed=1):
    """Completions of ragged lengths to prompts with random words and pixels."""
    generator = torch.Generator().manual_seed(seed)
    rows, images = [], []
    for prompt in prompts:
        parts = [torch.randint(WORDS, (prompt.before,), generator=generator)]
        for height, width in prompt.images:
            pads = torch.full((height * width // 4,), IMAGE)
            parts += [torch.tensor([START]), pads, torch.tensor([END])]
        parts.append(torch.randint(WORDS, (prompt.after,), generator=generator))
        rows += [torch.cat(parts)] * group
        images.append(pixels(prompt.images, generator))
    width = max(map(len, rows))
    ids, mask = torch.zeros((2, len(rows), width), dtype=torch.long)
    for place, row in enumerate(rows):
        ids[place, width - len(row) :], mask[place, width - len(row) :] = row, 1
    lengths = torch.randint(1, longest + 1, (len(rows), 1), generator=generator)
    completion_mask = (torch.arange(longest) < lengths).long()
    completions = torch.randint(WORDS, (len(rows), longest), generator=generator)
    share = share or group
    per_block = [each for each in images for _ in range(group // share)]
    return Batch(ids, mask, completions * completion_mask, completion_mask, share, per_block)


def pixels(sides, generator):
    """Random pixels of images; nothing for none."""
    if not sides:
        return {}
    patches = sum(height * width for height, width in sides)
    return {
        "pixel_values": torch.randn((patches, 3 * 2 * 4 * 4), generator=generator),
        "image_grid_thw": torch.tensor([[1, *side] for side in sides]),
    }


def dense_scores(model, given):
    """Log-probabilities and entropies as TRL computes them: every prompt for every completion."""
    ids = torch.cat([given.prompt_ids, given.completion_ids], 1)
    mask = torch.cat([given.prompt_mask, given.completion_mask], 1)
    keep = given.completion_ids.size(1)
    labels = ids.masked_fill(mask == 0, -100)
    labels[:, :-keep] = -100
    images = [each for each in given.images for _ in range(given.share) if each]
    fields = {k: torch.cat([each[k] for each in images]) for k in (images[0] if images else ())}
    if hasattr(model.config, "vision_config"):
        fields["mm_token_type_ids"] = (ids == IMAGE).int()
    found = model(input_ids=ids, attention_mask=mask, labels=labels, fused_lm_head=True, **fields)
    return found.log_probs[:, -keep:], found.entropy[:, -keep:]


def shared_scores(model, given, core=None, **options):
    """The same from one packed row."""
    packed = pack(core or model, given, **options)
    found = forward.score(model, packed.row)
    return packed.unpacked(found.log_probs), packed.unpacked(found.entropy)


def gradients(model, scores):
    """The gradients of all parameters for a loss that weights every token differently."""
    logps, entropies = scores
    weights = torch.linspace(-1, 1, logps.numel()).view_as(logps)
    model.zero_grad()
    ((logps + 0.1 * entropies) * weights).sum().backward()
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
