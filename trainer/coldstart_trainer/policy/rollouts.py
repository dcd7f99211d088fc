"""A sampling step's completions in groups: which groups teach anything, and how they are dealt out.

Nothing here samples or trains.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from coldstart_trainer.policy.pictures import Pixels

EQUAL = 1e-6
"""Rewards that differ by no more are equal: sums of weighted rewards are rounded (NVIDIA-NeMo/RL
#4158), and a test of the mean overlooks continuous ones (OpenRLHF/OpenRLHF#1270)."""


@dataclass
class Rollout:
    """Completions of one process, in blocks of a group; one entry of each list for each."""

    rows: list[dict[str, Any]]
    """What was asked."""
    prompt_ids: list[list[int]]
    """The prompts' tokens."""
    completion_ids: list[list[int]]
    """The completions' tokens, the ending one included."""
    completions: list[Any]
    """The completions as TRL hands them to rewards."""
    logprobs: list[list[float]] | None
    """The sampler's log-probabilities, where it gives them."""
    pixels: list[Pixels]
    """The prompts' images; the same object for the whole group."""
    rewards: Tensor
    """(B, rewards): what each reward function gave; NaN where it had nothing to say."""
    group: int
    """Completions of a group."""

    def flat_groups(self, weights: Tensor) -> Tensor:
        """(groups,), bool: those whose weighted rewards are all equal."""
        return without_variance(totals(self.rewards, weights), self.group)

    def take(self, place: int, other: Rollout, source: int) -> None:
        """Put a group of another rollout in the place of one of this."""
        here = slice(place * self.group, (place + 1) * self.group)
        there = slice(source * self.group, (source + 1) * self.group)
        for name in ("rows", "prompt_ids", "completion_ids", "completions", "logprobs", "pixels"):
            if (mine := getattr(self, name)) is not None:
                mine[here] = getattr(other, name)[there]
        self.rewards[here] = other.rewards[there]


def totals(rewards: Tensor, weights: Tensor) -> Tensor:
    """The weighted sum of each completion's rewards, as TRL adds them up; NaN where all are NaN.

    Args:
        rewards: (B, rewards).
        weights: (rewards,).
    """
    unscored = rewards.isnan().all(1)
    return (rewards * weights.to(rewards)).nansum(1).masked_fill(unscored, torch.nan)


def without_variance(rewards: Tensor, group: int) -> Tensor:
    """(groups,), bool: groups whose greatest and least reward, NaN aside, are equal.

    Args:
        rewards: (B,), in blocks of `group`.
        group: completions of a group.
    """
    grouped = rewards.view(-1, group)
    greatest = grouped.nan_to_num(nan=-torch.inf).amax(1)
    least = grouped.nan_to_num(nan=torch.inf).amin(1)
    return (greatest - least).nan_to_num(nan=-torch.inf, neginf=-torch.inf) <= EQUAL


def micro_batches(
    batch: dict[str, Any], count: int, group: int, generator: torch.Generator | None = None
) -> list[dict[str, Any]]:
    """A sampling step's batch in shuffled order, cut into equal parts, groups left whole.

    TRL shuffles single completions, which scatters a group over several updates.

    Args:
        batch: tensors (B, ...) and lists of B entries, in blocks of `group`; scalars go to each.
        count: parts; B / count is a multiple or a divisor of `group`.
        group: completions of a group.
        generator: of the order; torch's own where there is none.
    """
    size = len(batch["completion_ids"])
    blocks = torch.randperm(size // group, generator=generator)
    order = (blocks[:, None] * group + torch.arange(group)).flatten()
    parts: Sequence[Tensor] = order.chunk(count)
    return [{key: _chosen(value, part) for key, value in batch.items()} for part in parts]


def _chosen(value: Any, indices: Tensor) -> Any:
    if isinstance(value, Tensor):
        return value[indices.to(value.device)] if value.ndim else value
    if isinstance(value, list):
        return [value[index] for index in indices.tolist()]
    return value
