"""Pixels held once for each prompt: rows of a group share one decoded image, one processed tensor.

TRL 1.16 fetches, decodes and processes an image for every completion of its group, and fetches the
rows of a sampling step again at each of its updates (huggingface/trl, `_generate_and_score_
completions` and `RepeatSampler`): ten times the host memory at ten completions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

Pixels = dict[str, Tensor]
"""`pixel_values` (patches, patch size) and `image_grid_thw` (images, 3) of a prompt; or nothing."""


class RepeatedRows(Dataset[dict[str, Any]]):
    """Rows of which the sampler asks for the same ones many times in a row: each is fetched once.

    Those that are fetched together are kept until others are asked for.
    """

    def __init__(self, rows: Any) -> None:
        self.rows = rows
        self.fetched: dict[int, dict[str, Any]] = {}

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """The rows, by reference: a row that is asked for twice is one object."""
        wanted = list(dict.fromkeys(indices))
        if self.fetched.keys() != set(wanted):
            self.fetched = dict(zip(wanted, self.rows.__getitems__(wanted), strict=True))
        return [self.fetched[index] for index in indices]


def by_prompt(fields: Mapping[str, Any], images: Sequence[Sequence[Any] | None]) -> list[Pixels]:
    """What a processor made of the images of several prompts, taken apart by prompt.

    Each part has memory of its own, so that what is left of a sampling step is all that is kept.

    Args:
        fields: the processor's `pixel_values` and `image_grid_thw`, or neither.
        images: of each prompt.
    """
    if fields.get("pixel_values") is None:
        return [{} for _ in images]
    grids = torch.as_tensor(fields["image_grid_thw"])
    patches = torch.as_tensor(fields["pixel_values"])
    counts = [len(pictures or ()) for pictures in images]
    per_prompt = torch.split(grids, counts)
    sizes = [int(part.prod(1).sum()) for part in per_prompt]
    return [
        {"pixel_values": pixels.clone(), "image_grid_thw": grid.clone()} if len(grid) else {}
        for pixels, grid in zip(torch.split(patches, sizes), per_prompt, strict=True)
    ]
