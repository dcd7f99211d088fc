"""Batches of prompts and completions as packed rows, and scores back as batches; no model is run.

A prompt stands in the row without its last token, each completion with that token before it and
without its own last one: every token of a segment then has exactly one next token to score, and
the row is as short as it can be.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from coldstart_trainer.shared.forward import Row
from coldstart_trainer.shared.layout import Group, Layout

VISION_TOKENS = ("vision_start_token_id", "image_token_id", "vision_end_token_id")


@dataclass(frozen=True)
class Batch:
    """Completions as TRL has them, in blocks of `share` that continue the same prompt."""

    prompt_ids: Tensor
    """(B, P), padded on the left."""
    prompt_mask: Tensor
    """(B, P): 1 where there is a token."""
    completion_ids: Tensor
    """(B, C), padded on the right."""
    completion_mask: Tensor
    """(B, C): 1 where there is a token to score; a row of zeros is left out."""
    share: int
    """Completions of a block; divides B."""
    images: Sequence[dict[str, Tensor]]
    """For each block the `pixel_values` and `image_grid_thw` of its prompt, or nothing."""

    @property
    def blocks(self) -> int:
        """How many blocks there are."""
        return len(self.prompt_ids) // self.share


@dataclass(frozen=True)
class Packed:
    """A row, and what brings its scores back into the shape of the batch."""

    row: Row
    mask: Tensor
    """(B, C), bool: the completions' tokens that are scored, in the order of the row."""
    dense_tokens: int
    """Tokens that the same batch has without sharing."""

    def unpacked(self, scores: Tensor) -> Tensor:
        """Scores of the row, (1, N), as (B, C), with 0 where there is no token."""
        flat = scores.flatten()
        if not self.mask.any():  # a stand-in was scored; its graph is kept, its value not
            return flat.new_zeros(self.mask.shape) + 0 * flat.sum()
        return flat.new_zeros(self.mask.shape).masked_scatter(self.mask, flat)


def pack(model: Any, batch: Batch, *, need_image: bool = False) -> Packed:
    """The packed row of a batch.

    Args:
        model: of transformers, unwrapped: it says where its tokens stand (`get_rope_index`).
        batch: of whole blocks. Blocks without a token to score are left out; if all are, one token
            of the first stands in, since every process must run its model equally often.
        need_image: let an image that nothing looks at stand in where the row has none, so that the
            vision tower takes part, as it does in other processes.

    Raises:
        ValueError: a prompt ends in an image, so that its last token cannot be doubled.
    """
    lengths = batch.completion_mask.sum(1).tolist()
    mask = batch.completion_mask.bool()
    if not any(lengths):
        lengths[0] = 1
    kept = [block for block in range(batch.blocks) if any(_own(lengths, block, batch.share))]
    firsts = torch.tensor([block * batch.share for block in kept], device=mask.device)
    images = [batch.images[block] for block in kept] if batch.images else []
    pixels = joined(images)
    prompts, present = batch.prompt_ids[firsts], batch.prompt_mask[firsts].bool()
    _refuse_final_image(model, prompts)
    positions = token_positions(model, prompts, present, pixels)
    parts = Parts()
    for place, block in enumerate(kept):
        tokens = prompts[place][present[place]]
        where = positions[:, place, present[place]]
        completions = [
            batch.completion_ids[index][: lengths[index]]
            for index in range(block * batch.share, (block + 1) * batch.share)
            if lengths[index]
        ]
        parts.add(tokens, where, completions)
    dense = sum(
        len(own) * int(present[place].sum()) + sum(own)
        for place, block in enumerate(kept)
        if (own := [length for length in _own(lengths, block, batch.share) if length])
    )
    if need_image and not pixels and hasattr(model.config, "vision_config"):
        pixels = parts.add_unseen_image(model, positions.shape[0])
    return Packed(parts.row(pixels), mask, dense)


class Parts:
    """A row in the making."""

    def __init__(self) -> None:
        self.ids: list[Tensor] = []
        self.positions: list[Tensor] = []
        self.scored: list[Tensor] = []
        self.targets: list[Tensor] = []
        self.groups: list[Group] = []
        self.length = 0

    def add(self, prompt: Tensor, positions: Tensor, completions: list[Tensor]) -> None:
        """A prompt, (P,), the positions of its tokens, (3 or 1, P), and its completions."""
        last, after = positions[:, -1:], positions.max() + 1
        self._put(prompt[:-1], positions[:, :-1])
        for completion in completions:
            length = len(completion)
            run = torch.arange(length - 1, device=prompt.device) + after
            self.scored.append(torch.arange(length, device=prompt.device) + self.length)
            self.targets.append(completion)
            self._put(
                torch.cat([prompt[-1:], completion[:-1]]),
                torch.cat([last, run.expand(len(positions), -1)], dim=1),
            )
        segments = tuple(len(completion) for completion in completions)
        self.groups.append(Group(len(prompt) - 1, segments))

    def add_sequence(self, ids: Tensor, positions: Tensor, scored: Tensor, targets: Tensor) -> None:
        """A sequence of its own.

        Args:
            ids: (S,), its tokens.
            positions: (3 or 1, S), their positions.
            scored: (N,), which of its tokens, counted from its first, have a next one to score.
            targets: (N,), those next tokens.
        """
        self.scored.append(scored + self.length)
        self.targets.append(targets)
        self._put(ids, positions)
        self.groups.append(Group(len(ids)))

    def add_unseen_image(self, model: Any, axes: int) -> dict[str, Tensor]:
        """The smallest image as a group of its own; returns its pixels."""
        ids, pixels = unseen_image(model, self.ids[0].device)
        self._put(ids, torch.arange(len(ids), device=ids.device).expand(axes, -1))
        self.groups.append(Group(len(ids)))
        return pixels

    def _put(self, ids: Tensor, positions: Tensor) -> None:
        self.ids.append(ids)
        self.positions.append(positions)
        self.length += len(ids)

    def row(self, pixels: dict[str, Tensor]) -> Row:
        """What was added."""
        positions = torch.cat(self.positions, dim=1)
        return Row(
            input_ids=torch.cat(self.ids)[None],
            position_ids=positions if len(positions) == 1 else positions[:, None],
            layout=Layout(tuple(self.groups)),
            scored=torch.cat(self.scored),
            targets=torch.cat(self.targets),
            pixels=pixels,
        )


def _own(lengths: list[int], block: int, share: int) -> list[int]:
    return lengths[block * share : (block + 1) * share]


def joined(images: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The pixels of several prompts, one after the other; a prompt may come more than once."""
    there = [each for each in images if each]
    return {key: torch.cat([each[key] for each in there]) for key in (there[0] if there else ())}


def unseen_image(model: Any, device: torch.device) -> tuple[Tensor, dict[str, Tensor]]:
    """The smallest image that the model takes, black: its tokens, (3,), and its pixels."""
    config, vision = model.config, model.config.vision_config
    side = vision.spatial_merge_size
    channels = getattr(vision, "in_channels", None) or vision.in_chans
    patch = channels * vision.temporal_patch_size * vision.patch_size**2
    return torch.tensor([getattr(config, name) for name in VISION_TOKENS], device=device), {
        "pixel_values": torch.zeros((side * side, patch), device=device),
        "image_grid_thw": torch.tensor([[1, side, side]], device=device),
    }


def token_positions(model: Any, ids: Tensor, present: Tensor, pixels: dict[str, Tensor]) -> Tensor:
    """Positions of padded rows' tokens: (3, n, L) where they are multimodal, else (1, n, L)."""
    if not hasattr(model.config, "vision_config"):
        return (present.cumsum(1) - 1).clamp(min=0)[None]
    found, _ = model.base_model.get_rope_index(
        input_ids=ids,
        mm_token_type_ids=(ids == model.config.image_token_id).int(),
        image_grid_thw=pixels.get("image_grid_thw"),
        attention_mask=present,
    )
    positions: Tensor = found
    return positions


def _refuse_final_image(model: Any, prompts: Tensor) -> None:
    image = getattr(model.config, "image_token_id", None)
    if image is not None and bool((prompts[:, -1] == image).any()):
        raise ValueError("a prompt ends in an image: the chat template must end in text")
