"""The two trainers that grpo_update.py compares, with a model and a batch of given shapes.

Stock is TRL's GRPOTrainer, ours is the stage's; both get the same weights, prompts, completions and
advantages, through the same loss. Nothing is sampled here.
"""

from __future__ import annotations

import math
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import torch
from torch import Tensor
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration
from trl import GRPOConfig, GRPOTrainer

from coldstart.dataset import Dataset
from coldstart.spec import GRPO
from coldstart_trainer.policy.groups import GroupTrainer

QUICKSTART = Path(__file__).resolve().parents[1] / "examples" / "quickstart"
WORDS = (20, 300)
"""The range of tokens that stand for text; the tokenizer's special ones come before it."""


@dataclass(frozen=True)
class Shapes:
    """A model and a batch."""

    hidden: int = 256
    layers: int = 5
    heads: int = 4
    key_heads: int = 2
    inner: int = 768
    vision_hidden: int = 160
    vision_depth: int = 4
    vision_inner: int = 320
    vision_heads: int = 4
    grid: int = 64
    """Sides of the image in patches; four patches make a token."""
    text: int = 76
    """Tokens of the prompt around the image."""
    completion: int = 256
    group: int = 8

    @property
    def prompt(self) -> int:
        """Tokens of the prompt, the image's and its marks' included."""
        return self.grid**2 // 4 + 2 + self.text


def processor() -> Any:
    """The quickstart's processor."""
    sys.path.insert(0, str(QUICKSTART))
    try:
        import tiny_model  # noqa: PLC0415 - the example is no package
    finally:
        sys.path.remove(str(QUICKSTART))
    return tiny_model.built_processor(0)


def model(shapes: Shapes, tokenizer: Any, seed: int = 0) -> Any:
    """A Qwen2.5-VL of these shapes with random weights."""
    token = tokenizer.get_vocab()
    torch.manual_seed(seed)
    head = shapes.hidden // shapes.heads
    third = head // 2 // 3
    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": shapes.hidden,
            "intermediate_size": shapes.inner,
            "num_hidden_layers": shapes.layers,
            "num_attention_heads": shapes.heads,
            "num_key_value_heads": shapes.key_heads,
            "max_position_embeddings": 8192,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1e4,
                "mrope_section": [head // 2 - 2 * third, third, third],
            },
            "tie_word_embeddings": True,
            "bos_token_id": None,
            "eos_token_id": token["<|im_end|>"],
            "pad_token_id": token["<|endoftext|>"],
        },
        vision_config={
            "depth": shapes.vision_depth,
            "hidden_size": shapes.vision_hidden,
            "intermediate_size": shapes.vision_inner,
            "num_heads": shapes.vision_heads,
            "out_hidden_size": shapes.hidden,
            "fullatt_block_indexes": list(range(1, shapes.vision_depth, 2)),
        },
        tie_word_embeddings=True,
        image_token_id=token["<|image_pad|>"],
        video_token_id=token["<|video_pad|>"],
        vision_start_token_id=token["<|vision_start|>"],
        vision_end_token_id=token["<|vision_end|>"],
    )
    made: Any = Qwen2_5_VLForConditionalGeneration
    return made(config)


def batch(shapes: Shapes, config: Any, device: str, seed: int = 1) -> dict[str, Any]:
    """One group as the trainers buffer it, but for the pixels, which `pixels` has."""
    generator = torch.Generator().manual_seed(seed)
    words = shapes.text - 6
    prompt = torch.cat(
        [
            torch.randint(*WORDS, (6,), generator=generator),
            torch.tensor([config.vision_start_token_id]),
            torch.full((shapes.grid**2 // 4,), config.image_token_id),
            torch.tensor([config.vision_end_token_id]),
            torch.randint(*WORDS, (words,), generator=generator),
        ]
    )
    ids = prompt.expand(shapes.group, -1)
    completions = torch.randint(*WORDS, (shapes.group, shapes.completion), generator=generator)
    mask = torch.ones_like(completions)
    made = {
        "prompt_ids": ids,
        "prompt_mask": torch.ones_like(ids),
        "completion_ids": completions,
        "completion_mask": mask,
        "advantages": torch.randn(shapes.group, generator=generator),
        "num_items_in_batch": mask.sum(),
        "old_per_token_logps": torch.full(completions.shape, -math.log(WORDS[1])),
    }
    return {key: value.to(device) for key, value in made.items()}


def pixels(shapes: Shapes, seed: int = 2) -> dict[str, Tensor]:
    """The image of the prompt."""
    generator = torch.Generator().manual_seed(seed)
    return {
        "pixel_values": torch.randn((shapes.grid**2, 3 * 2 * 14 * 14), generator=generator),
        "image_grid_thw": torch.tensor([[1, shapes.grid, shapes.grid]]),
    }


def with_pixels(given: dict[str, Any], image: dict[str, Tensor], *, ours: bool) -> dict[str, Any]:
    """The batch as one of the trainers takes it: with its image once, or for every completion."""
    count, device = len(given["completion_ids"]), given["completion_ids"].device
    if ours:
        return given | {"pixel_values": [image] * count}
    ids = torch.cat([given["prompt_ids"], given["completion_ids"]], 1)
    start = given["prompt_ids"][0]
    image_token = start.mode().values  # an image's token is by far the most frequent
    return given | {
        "pixel_values": torch.cat([image["pixel_values"]] * count).to(device),
        "image_grid_thw": torch.cat([image["image_grid_thw"]] * count).to(device),
        "num_images": [1] * count,
        "mm_token_type_ids": (ids == image_token).int(),
    }


def trainer(
    shapes: Shapes, policy: Any, processing: Any, *, ours: bool, checkpointing: bool, gpu: bool
) -> Any:
    """A trainer that is ready to compute losses on the device."""
    config = GRPOConfig(
        output_dir=tempfile.mkdtemp(),
        use_cpu=not gpu,
        bf16=gpu,
        report_to="none",
        per_device_train_batch_size=shapes.group,
        num_generations=shapes.group,
        max_completion_length=shapes.completion,
        gradient_checkpointing=checkpointing,
        gradient_checkpointing_kwargs={"use_reentrant": False},
        beta=0.0,
        loss_type="bnpo",
        disable_tqdm=True,
    )
    rows = datasets.Dataset.from_list([{"prompt": [{"role": "user", "content": "?"}]}])
    options: dict[str, Any] = {
        "model": policy,
        "reward_funcs": [lambda completions, **_: [0.0] * len(completions)],
        "args": config,
        "train_dataset": rows,
        "processing_class": processing,
    }
    if ours:
        spec = GRPO(
            dataset=Dataset(name="none"),
            group_size=shapes.group,
            micro_batch_size=shapes.group,
            prompts_per_step=1,
            updates_per_step=1,
        )
        made: Any = GroupTrainer(spec=spec, **options)
        assert not made.unshared, made.unshared
    else:
        made = GRPOTrainer(**options)
    made.current_gradient_accumulation_steps = 1
    made.model.to(config.device).train()
    if checkpointing:  # what the Trainer does when it begins to train
        made.model.gradient_checkpointing_enable(config.gradient_checkpointing_kwargs)
    return made
