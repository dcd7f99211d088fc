"""Fine-tuning on packed rows against padded ones: time, memory and the loss of one micro-batch.

Usage: python benchmarks/sft_packing.py [--rows 8] [--repeats 7] [--save] [--json]

A random Qwen2.5-VL of about 5 million parameters; rows with images of different sizes, and without,
and responses of ragged lengths. Both ways run in turn: forward, loss, backward; making the packed
row is counted in. What is kept for the backward pass is counted by storage, once each.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration
from trl.trainer.utils import add_fused_lm_head

from coldstart_trainer.shared import forward
from coldstart_trainer.shared.sequences import IGNORED, Packed, pack

RESULT = Path(__file__).parent / "results" / "sft_packing.md"
WORDS, IMAGE, START, END = 2000, 2000, 2001, 2002
IMAGE_SIDES, NO_IMAGE = (8, 12, 16, 24, 32), 0.25
"""Sides of the images in patches, and the share of rows without one."""
PROMPT, MEDIAN_RESPONSE, SPREAD, LONGEST = 60, 120, 0.8, 600
"""Tokens of a prompt beside its image, and of responses, which are log-normal."""

Pass = Callable[[], tuple[float, dict[str, Tensor]]]
"""Forward, loss and backward: the loss and the gradients."""


def built_model() -> Any:
    """A Qwen2.5-VL with random weights, which takes padded rows and packed ones."""
    torch.manual_seed(0)
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [12, 10, 10]}
    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": 2004,
            "hidden_size": 256,
            "intermediate_size": 768,
            "num_hidden_layers": 5,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "rope_parameters": rope,
            "tie_word_embeddings": True,
            "bos_token_id": None,
            "eos_token_id": None,
        },
        vision_config={
            "depth": 2,
            "hidden_size": 128,
            "intermediate_size": 256,
            "num_heads": 4,
            "out_hidden_size": 256,
            "fullatt_block_indexes": [1],
        },
        tie_word_embeddings=True,
        image_token_id=IMAGE,
        video_token_id=2003,
        vision_start_token_id=START,
        vision_end_token_id=END,
    )
    made: Any = Qwen2_5_VLForConditionalGeneration
    model = made(config).train()
    add_fused_lm_head(model, outputs=("log_probs", "entropy", "is_top1"))
    forward.prepare(model)
    return model


def micro_batch(rows: int, seed: int) -> dict[str, Tensor]:
    """Rows as TRL's collator pads them."""
    generator = torch.Generator().manual_seed(seed)
    words, learnt, grids = [], [], []
    for _ in range(rows):
        text = torch.randint(WORDS, (PROMPT,), generator=generator)
        if torch.rand((), generator=generator) >= NO_IMAGE:
            chosen = torch.randint(len(IMAGE_SIDES), (2,), generator=generator).tolist()
            height, width = (IMAGE_SIDES[place] for place in chosen)
            grids.append([1, height, width])
            pads = torch.full((height * width // 4,), IMAGE)
            text = torch.cat([torch.tensor([START]), pads, torch.tensor([END]), text])
        factor = (SPREAD * torch.randn((), generator=generator)).exp()
        response = min(LONGEST, max(4, int(MEDIAN_RESPONSE * factor)))
        words.append(torch.cat([text, torch.randint(WORDS, (response,), generator=generator)]))
        learnt.append(response)
    width = max(map(len, words))
    ids, mask = torch.zeros((2, rows, width), dtype=torch.long)
    labels = torch.full_like(ids, IGNORED)
    for place, (own, count) in enumerate(zip(words, learnt, strict=True)):
        ids[place, : len(own)], mask[place, : len(own)] = own, 1
        labels[place, len(own) - count : len(own)] = own[-count:]
    patches = sum(height * width for _, height, width in grids)
    return {
        "input_ids": ids,
        "attention_mask": mask,
        "labels": labels,
        "mm_token_type_ids": (ids == IMAGE).int(),
        "pixel_values": torch.randn((patches, 3 * 2 * 14 * 14), generator=generator),
        "image_grid_thw": torch.tensor(grids),
    }


def passes(model: Any, batch: dict[str, Tensor]) -> dict[str, Pass]:
    """One pass over the batch each way, with TRL's loss."""

    def learnt(fields: dict[str, Any]) -> tuple[float, dict[str, Tensor]]:
        model.zero_grad()
        found = model(**fields, fused_lm_head=True)
        loss = -found.log_probs.sum() / found.label_mask.sum()
        loss.backward()
        gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
        return loss.item(), gradients

    return {
        "padded": lambda: learnt({**batch, "use_cache": False}),
        "packed": lambda: learnt(forward.inputs(pack(model, batch).row)),
    }


def errors(both: dict[str, Pass]) -> tuple[float, float]:
    """How far apart the losses are, and relatively the gradients of the worst parameter."""
    expected, wanted = both["padded"]()
    found, made = both["packed"]()
    differences = [
        float((made[name] - gradient).norm() / gradient.norm())
        for name, gradient in wanted.items()
        if gradient.any()
    ]
    return abs(found - expected), max(differences)


def kept_bytes(once: Pass) -> int:
    """Bytes that a pass keeps from its forward for its backward part, parameters aside."""
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, torch.nn.Parameter):
            storage = tensor.untyped_storage()
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        once()
    return sum(kept.values())


def seconds(both: dict[str, Pass], repeats: int) -> dict[str, float]:
    """The median time of each, run in turn, after one that does not count."""
    taken: dict[str, list[float]] = {name: [] for name in both}
    for number in range(repeats + 1):
        for name, once in both.items():
            begun = time.perf_counter()
            once()
            if number:
                taken[name].append(time.perf_counter() - begun)
    return {name: statistics.median(times) for name, times in taken.items()}


def measured(options: argparse.Namespace) -> dict[str, float]:
    """What is printed."""
    model, batch = built_model(), micro_batch(options.rows, options.seed)
    packed: Packed = pack(model, batch)
    loss_error, grad_error = errors(passes(model, batch))
    kept = {name: kept_bytes(once) for name, once in passes(model, batch).items()}
    plain = seconds(passes(model, batch), options.repeats)
    model.gradient_checkpointing_enable({"use_reentrant": False})
    again = seconds(passes(model, batch), options.repeats)
    return {
        "speedup": round(plain["padded"] / plain["packed"], 3),
        "speedup_checkpointing": round(again["padded"] / again["packed"], 3),
        "activations_ratio": round(kept["packed"] / kept["padded"], 3),
        "loss_error": loss_error,
        "grad_error": grad_error,
        "padding_ratio": round(1 - packed.row.layout.length / packed.padded_tokens, 3),
        "padded_seconds": round(plain["padded"], 3),
        "packed_seconds": round(plain["packed"], 3),
    }


PAGE = """\
# Fine-tuning without padding

`{command}`: one micro-batch of
{rows} rows of ragged lengths, forward, loss and backward, packed and padded in turn, medians of
{repeats}; a random Qwen2.5-VL of {millions:.1f} million parameters in fp32. A micro-batch with more
padding gains more, one without gains nothing.

Measured on {day} on {cores} CPU cores ({machine}; load average of its last minute: {load:.1f}),
with Python {python}, {versions}.

| measure | found |
|---|---|
| time padded / packed | {speedup} |
| the same with gradient checkpointing | {speedup_checkpointing} |
| kept for the backward pass, packed / padded | {activations_ratio} |
| share of the padded micro-batch that is not computed | {padding_ratio} |
| difference of the losses | {loss_error:.1e} |
| greatest relative difference of a gradient | {grad_error:.1e} |
"""


def page(found: dict[str, float], options: argparse.Namespace) -> str:
    """The kept result, in Markdown."""
    command = f"python benchmarks/sft_packing.py --rows {options.rows} --repeats {options.repeats}"
    return PAGE.format(
        **found,
        command=command,
        rows=options.rows,
        repeats=options.repeats,
        millions=sum(p.numel() for p in built_model().parameters()) / 1e6,
        day=f"{datetime.now(UTC):%Y-%m-%d}",
        cores=os.cpu_count(),
        machine=platform.machine(),
        load=os.getloadavg()[0],
        python=platform.python_version(),
        versions=", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "trl")),
    )


def main() -> None:
    """Measure, and show it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--rows", type=int, default=8, help="rows of the micro-batch")
    parser.add_argument("--repeats", type=int, default=7, help="passes each way; at least 5")
    parser.add_argument("--seed", type=int, default=0, help="draws the rows")
    parser.add_argument("--save", action="store_true", help=f"keep the table as {RESULT.name}")
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    options = parser.parse_args()
    found = measured(options)
    for name, value in found.items():
        print(f"{name:24} {value:g}")
    if options.save:
        RESULT.write_text(page(found, options))
    if options.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
