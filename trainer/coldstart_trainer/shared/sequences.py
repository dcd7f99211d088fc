"""Padded rows of fine-tuning as one packed row, each a sequence of its own; no model is run.

What follows a sequence's last label is left out: nothing before it sees it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from coldstart_trainer.shared.forward import Row
from coldstart_trainer.shared.rows import Parts, token_positions, unseen_image

IGNORED = -100
"""The label of a token that is not learnt."""

PIXELS = ("pixel_values", "image_grid_thw")


@dataclass(frozen=True)
class Packed:
    """A row, and what the batch was that it is made of."""

    row: Row
    tokens: int
    """Tokens of the batch without its padding."""
    padded_tokens: int
    """The same with it: what a pass over the batch computes."""


def pack(model: Any, batch: Mapping[str, Tensor], *, need_image: bool = False) -> Packed:
    """The packed row of a batch as TRL's collators make it, padded on either side.

    Args:
        model: of transformers, unwrapped: it says where its tokens stand (`get_rope_index`).
        batch: `input_ids`, `attention_mask` and `labels`, each (B, L), and of the images
            `pixel_values` and `image_grid_thw`, if there are any. Without a single label, one
            token that is not learnt is scored, since every process must run its model equally
            often.
        need_image: let an image that nothing looks at stand in where the batch has none, so that
            the vision tower takes part, as it does in other processes.
    """
    ids, present = batch["input_ids"], batch["attention_mask"].bool()
    pixels = {key: batch[key] for key in PIXELS if key in batch}
    positions = token_positions(model, ids, present, pixels)
    image = getattr(model.config, "image_token_id", IGNORED)
    parts = Parts()
    for index, there in enumerate(present):
        own, where = ids[index][there], positions[:, index, there]
        targets = batch["labels"][index][there][1:]
        learnt = targets != IGNORED
        length = _needed(pad(learnt, (0, 1)) | (own == image))
        if length:
            scored = learnt.nonzero().flatten()
            parts.add_sequence(own[:length], where[:, :length], scored, targets[learnt])
    if not any(len(targets) for targets in parts.targets):
        _stand_in(parts, ids[0][present[0]][:1], positions[:, 0, present[0]][:, :1])
    if need_image and lacks_image(model, batch):
        pixels = parts.add_unseen_image(model, positions.shape[0])
    return Packed(parts.row(pixels), int(present.sum()), present.numel())


def lacks_image(model: Any, batch: Mapping[str, Tensor]) -> bool:
    """Whether the batch leaves out a vision tower that the model has."""
    return hasattr(model.config, "vision_config") and "pixel_values" not in batch


def with_unseen_image(model: Any, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The batch, which has no image, with one in a further row that nothing is learnt of."""
    ids, pixels = unseen_image(model, batch["input_ids"].device)
    added = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "labels": torch.full_like(ids, IGNORED),
        "mm_token_type_ids": (ids == model.config.image_token_id).int(),
    }
    made = {}
    for name, row in added.items():
        rows = batch.get(name, torch.zeros_like(batch["input_ids"]))
        filler = IGNORED if name == "labels" else 0
        filled = pad(row, (0, rows.shape[1] - len(row)), value=filler)
        made[name] = torch.cat([rows, filled[None].to(rows.dtype)])
    return {**batch, **made, **pixels}


def _needed(wanted: Tensor) -> int:
    """How many tokens of a sequence there are up to its last that is scored, or of an image."""
    found = wanted.nonzero()
    return int(found[-1]) + 1 if len(found) else 0


def _stand_in(parts: Parts, token: Tensor, position: Tensor) -> None:
    first, ignored = torch.zeros_like(token), torch.full_like(token, IGNORED)
    parts.add_sequence(token, position, first, ignored)
