"""The base model of the quickstart, a tiny Qwen2.5-VL with two skills; it has not seen the task.

Its pre-training reads the digits of a picture and adds digits given as text. It never shows the
question, nor a picture together with a sum: joining the two skills is left to the stages after it.
"""

import json
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from digits import (
    CELL,
    DIGITS_PER_PICTURE,
    QUESTION,
    Source,
    additions,
    careful_response,
    conclusion,
    guessed_response,
    spaced,
)
from PIL import Image
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer
from transformers import (
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Tokenizer,
)
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

SYSTEM_PROMPT = r"Please reason step by step, and put your final answer within \boxed{}."
READING = "Read the digits."
ADDING = "Add {digits}."
VOCABULARY = 400
MIN_PIXELS, MAX_PIXELS = CELL**2, 16 * CELL**2  # one image token, 16 image tokens
STEPS, BATCH, PEAK_LEARNING_RATE, WARMUP = 450, 64, 3e-3, 50

SPECIAL_TOKENS = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
]
# Qwen2.5-VL's own template for images and text, with the marks that assistant-only losses need.
CHAT_TEMPLATE = r"""
{%- macro body(content) -%}
{%- if content is string %}{{ content }}{% else %}{% for part in content -%}
{%- if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>
{%- elif 'text' in part %}{{ part['text'] }}{% endif %}
{%- endfor %}{% endif %}
{%- endmacro -%}
{%- for message in messages -%}
{%- if loop.first and message['role'] != 'system' -%}
{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}
{%- endif -%}
{{ '<|im_start|>' + message['role'] + '\n' }}
{%- if message['role'] == 'assistant' -%}
{%- generation -%}{{ body(message['content']) + '<|im_end|>\n' }}{%- endgeneration -%}
{%- else -%}
{{ body(message['content']) + '<|im_end|>\n' }}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""


class Qwen2_5_VLProcessor(transformers.Qwen2_5_VLProcessor):  # noqa: N801
    """The stock processor without its video half, which needs torchvision.

    The name is the stock one because it is written to disk as `processor_class`: from a name that
    it does not know, `AutoProcessor` returns the bare tokenizer and says nothing.
    """

    def __init__(
        self,
        image_processor: Any = None,
        tokenizer: Any = None,
        chat_template: str | None = None,
    ) -> None:
        super().__init__(  # type: ignore[no-untyped-call]
            image_processor, tokenizer, None, chat_template=chat_template
        )


def messages(request: str, response: str, *, with_picture: bool) -> list[dict[str, Any]]:
    """Return a conversation in the form of every stage, with the paper's system prompt."""
    picture = [{"type": "image"}] if with_picture else []
    return [
        {"role": "system", "content": SYSTEM_PROMPT},
        {"role": "user", "content": [*picture, {"type": "text", "text": request}]},
        {"role": "assistant", "content": response},
    ]


def trained_tokenizer(texts: Iterable[str]) -> Qwen2Tokenizer:
    """Train byte-level BPE on the texts with Qwen's own pre-tokenizer, which keeps digits apart."""
    backend = Qwen2Tokenizer().backend_tokenizer
    trainer = BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    model = json.loads(backend.to_str())["model"]
    merges: Any = [tuple(merge) for merge in model["merges"]]
    return Qwen2Tokenizer(
        vocab=model["vocab"],
        merges=merges,
        pad_token="<|endoftext|>",  # noqa: S106 -- a token of text, no secret
        eos_token="<|im_end|>",  # noqa: S106
        extra_special_tokens=SPECIAL_TOKENS[1:],
    )


def built_processor(seed: int) -> Qwen2_5_VLProcessor:
    """Make the processor; its tokenizer is the only part that knows the texts of all stages."""
    rng = np.random.default_rng([seed, 10])
    texts = [SYSTEM_PROMPT, "system\n", "user\n", "assistant\n"] * 100
    for digits in rng.integers(10, size=(500, DIGITS_PER_PICTURE)).tolist():
        texts += [READING, ADDING.format(digits=spaced(digits)), QUESTION]
        texts += [careful_response(digits), guessed_response(rng)]
    image_processor = Qwen2VLImageProcessorPil(min_pixels=MIN_PIXELS, max_pixels=MAX_PIXELS)
    return Qwen2_5_VLProcessor(image_processor, trained_tokenizer(texts), CHAT_TEMPLATE)


def built_model(tokenizer: Qwen2Tokenizer, seed: int) -> Qwen2_5_VLForConditionalGeneration:
    """Build 230,000 random parameters in the shape of Qwen2.5-VL.

    The stock rotary base of a million and initializer range of 0.02 are made for wide, deep models:
    at this size nothing is learnt with the first, and learning is far slower with the second.
    """
    torch.manual_seed(seed)
    hidden, head = 64, 32
    token = tokenizer.get_vocab()
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": hidden,
        "intermediate_size": 4 * hidden,
        "num_hidden_layers": 2,
        "num_attention_heads": hidden // head,
        "num_key_value_heads": 1,
        "max_position_embeddings": 1024,
        "initializer_range": 0.1,
        "rope_parameters": {"rope_type": "default", "rope_theta": 3.0, "mrope_section": [4, 6, 6]},
        "tie_word_embeddings": True,
        "bos_token_id": None,
        "eos_token_id": token["<|im_end|>"],
        "pad_token_id": token["<|endoftext|>"],
    }
    vision = {
        "depth": 2,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_heads": 2,
        "out_hidden_size": hidden,
        "fullatt_block_indexes": [1],
        "initializer_range": 0.1,
    }
    config = Qwen2_5_VLConfig(
        text_config=text,
        vision_config=vision,
        tie_word_embeddings=True,
        image_token_id=token["<|image_pad|>"],
        video_token_id=token["<|video_pad|>"],
        vision_start_token_id=token["<|vision_start|>"],
        vision_end_token_id=token["<|vision_end|>"],
    )
    return Qwen2_5_VLForConditionalGeneration(config)  # type: ignore[no-untyped-call]


def lesson(
    processor: Qwen2_5_VLProcessor, source: Source, rng: np.random.Generator
) -> dict[str, torch.Tensor]:
    """Return one batch: half of it reads the digits of a picture, half adds digits of a text."""
    pictures: list[Image.Image] = []
    conversations = []
    for drawing, _ in zip(source.drawings(rng), range(BATCH // 2), strict=False):
        pictures.append(drawing.picture)
        response = f"{spaced(drawing.digits)}."
        conversations.append(messages(READING, response, with_picture=True))
    for index in rng.integers(len(source.combinations), size=BATCH // 2):
        digits = source.combinations[index]
        request = ADDING.format(digits=spaced(digits))
        response = f"{additions(digits)}. {conclusion(digits)}"
        conversations.append(messages(request, response, with_picture=False))
    batch = processor(
        text=processor.apply_chat_template(conversations),
        images=pictures,
        padding=True,
        padding_side="right",
        return_tensors="pt",
    )
    # Nothing is learnt but the assistant's turn, the last of each conversation.
    starts = batch["input_ids"] == processor.tokenizer.convert_tokens_to_ids("<|im_start|>")
    turns = starts.cumsum(dim=1)
    learnt = (turns == turns.amax(dim=1, keepdim=True)) & (batch["attention_mask"] == 1)
    return {**batch, "labels": batch["input_ids"].masked_fill(~learnt, -100)}


def pretrain(
    model: Qwen2_5_VLForConditionalGeneration,
    processor: Qwen2_5_VLProcessor,
    source: Source,
    seed: int,
    report: Callable[[str], None],
) -> None:
    """Teach both skills with plain next-token prediction and a cosine schedule."""
    rng = np.random.default_rng([seed, 11])
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK_LEARNING_RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min(1.0, (step + 1) / WARMUP) * (1 + math.cos(math.pi * step / STEPS)) / 2,
    )
    model.train()
    for step in range(1, STEPS + 1):
        loss = model(**lesson(processor, source, rng)).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % 100 == 0:
            report(f"pre-training step {step}/{STEPS}, loss {loss.item():.3f}")


def write_base_model(
    folder: Path, source: Source, seed: int, report: Callable[[str], None]
) -> None:
    """Write a plain Hugging Face folder, loadable by stock classes."""
    processor = built_processor(seed)
    model = built_model(processor.tokenizer, seed)
    pretrain(model, processor, source, seed, report)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    # Where torchvision is installed, the stock processor looks for its video half as well.
    video = {
        "video_processor_type": "Qwen2VLVideoProcessor",
        "processor_class": "Qwen2_5_VLProcessor",
    }
    (folder / "video_preprocessor_config.json").write_text(json.dumps(video, indent=2) + "\n")
