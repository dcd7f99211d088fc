"""Fixtures: a tiny untrained model of each kind, and a few rows for it, all made by code."""

import copy
import io
import json
import os
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest

# Set before torch is imported: beside a busy neighbour two threads wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

QUICKSTART = Path(__file__).parents[1] / "examples" / "quickstart"
ROWS = 24


# As in the templates of Qwen2.5 and Qwen3: the first takes no content but strings, the second
# silently reads nothing where the content is no string.
QWEN2_TEMPLATE = """
{%- for message in messages -%}
{{ '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""
QWEN3_TEMPLATE = """
{%- for message in messages -%}
{%- set content = message.content if message.content is string else '' -%}
{{ '<|im_start|>' + message.role + '\\n' }}
{%- if message.role == 'assistant' and loop.last %}{{ '<think>\\n\\n</think>\\n\\n' }}{% endif -%}
{{ content + '<|im_end|>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""

SIZES = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 32,
    "max_position_embeddings": 1024,
    "initializer_range": 0.1,
    "tie_word_embeddings": True,
}
"""Of a language model; the head is 32 wide because vLLM's CPU attention takes none narrower."""


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory) -> Path:
    """The directory of the quickstart's model before its pre-training; random, made in seconds."""
    recipe, processor = _recipe()
    directory = tmp_path_factory.mktemp("tiny-model")
    recipe.built_model(processor.tokenizer, 0).save_pretrained(directory)
    processor.save_pretrained(directory)
    return directory


@pytest.fixture(scope="session")
def tiny_qwen3_vl(tmp_path_factory) -> Path:
    """The directory of a random Qwen3-VL: patches of 16 pixels, one deepstack layer."""
    import transformers
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    from coldstart_trainer.model import image_only_class

    recipe, processor = _recipe()
    directory = tmp_path_factory.mktemp("tiny-qwen3-vl")
    token = processor.tokenizer.get_vocab()
    config = transformers.Qwen3VLConfig(
        text_config=SIZES
        | _tokens(processor.tokenizer)
        | {
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 3.0,
                "mrope_section": [6, 5, 5],
                "mrope_interleaved": True,  # as released models say; vLLM reads it
            }
        },
        vision_config={
            "depth": 2,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_heads": 2,
            "out_hidden_size": SIZES["hidden_size"],
            "num_position_embeddings": 16,
            "deepstack_visual_indexes": [0],
            "initializer_range": 0.1,
        },
        tie_word_embeddings=True,
        image_token_id=token["<|image_pad|>"],
        video_token_id=token["<|video_pad|>"],
        vision_start_token_id=token["<|vision_start|>"],
        vision_end_token_id=token["<|vision_end|>"],
    )
    _random(transformers.Qwen3VLForConditionalGeneration, config).save_pretrained(directory)
    images = Qwen2VLImageProcessorPil(min_pixels=32**2, max_pixels=16 * 32**2, patch_size=16)
    made = image_only_class("qwen3_vl")(images, processor.tokenizer, recipe.CHAT_TEMPLATE)
    made.save_pretrained(directory)
    return directory


@pytest.fixture(scope="session")
def tiny_qwen2(tmp_path_factory) -> Path:
    """The directory of a random Qwen2, a text model."""
    import transformers

    sizes = {key: value for key, value in SIZES.items() if key != "head_dim"}
    kind = (transformers.Qwen2Config, transformers.Qwen2ForCausalLM)
    return _text_model(tmp_path_factory.mktemp("tiny-qwen2"), *kind, sizes, QWEN2_TEMPLATE)


@pytest.fixture(scope="session")
def tiny_qwen3(tmp_path_factory) -> Path:
    """The directory of a random Qwen3, a text model whose template adds empty thoughts."""
    import transformers

    kind = (transformers.Qwen3Config, transformers.Qwen3ForCausalLM)
    return _text_model(tmp_path_factory.mktemp("tiny-qwen3"), *kind, SIZES, QWEN3_TEMPLATE)


@pytest.fixture(scope="session")
def tiny_rows(tmp_path_factory) -> Path:
    """`rows.jsonl` with a picture beside it per row; `rows.parquet` next to it holds the same."""
    import datasets

    directory = tmp_path_factory.mktemp("tiny-rows")
    rows = []
    for number in range(ROWS):
        name = f"{number}.png"
        (directory / name).write_bytes(png(28 * (1 + number % 3), 28, number))
        rows.append(
            {
                "id": f"q{number}",
                "images": [name],
                "problem": "What is the sum of the digits?",
                "answer": str(number),
                "response": f"I read {number}. The sum is \\boxed{{{number}}}.",
            }
        )
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (directory / "rows.jsonl").write_text(lines)
    features = datasets.Features(
        {key: datasets.Value("string") for key in rows[0]}
        | {"images": datasets.List(datasets.Image())}
    )
    embedded = [
        row | {"images": [{"bytes": (directory / row["images"][0]).read_bytes(), "path": None}]}
        for row in rows
    ]
    datasets.Dataset.from_list(embedded, features=features).to_parquet(directory / "rows.parquet")
    return directory / "rows.jsonl"


@pytest.fixture(scope="session")
def tiny_texts(tmp_path_factory) -> Path:
    """Rows without pictures: `texts.jsonl`, with sums to do."""
    directory = tmp_path_factory.mktemp("tiny-texts")
    rows = []
    for number in range(ROWS):
        digits = [number % 10] * (1 + number % 3)
        rows.append(
            {
                "id": f"t{number}",
                "problem": f"Add {' '.join(map(str, digits))}.",
                "answer": str(sum(digits)),
                "response": f"The sum is \\boxed{{{sum(digits)}}}.",
            }
        )
    (directory / "texts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return directory / "texts.jsonl"


def png(width: int, height: int, seed: int = 0, mode: str = "RGB") -> bytes:
    """A picture of coloured noise."""
    import numpy as np
    from PIL import Image

    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).convert(mode).save(buffer, format="PNG")
    return buffer.getvalue()


@cache
def _recipe():
    """The quickstart's module that makes models, and the processor that it makes."""
    sys.path.insert(0, str(QUICKSTART))
    try:
        import tiny_model as recipe
    finally:
        sys.path.remove(str(QUICKSTART))
    return recipe, recipe.built_processor(0)


def _tokens(tokenizer) -> dict[str, Any]:
    return {
        "vocab_size": len(tokenizer),
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }


def _random(model, config):
    import torch

    torch.manual_seed(0)
    return model(config)


def _text_model(directory, config, model, sizes, template) -> Path:
    tokenizer = copy.deepcopy(_recipe()[1].tokenizer)
    tokenizer.chat_template = template
    rope = {"rope_parameters": {"rope_type": "default", "rope_theta": 3.0}}
    _random(model, config(**sizes, **_tokens(tokenizer), **rope)).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory
