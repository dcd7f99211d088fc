"""How far the sampler's log-probabilities are from the trainer's, and what follows from it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch

from coldstart.status import ErrorCode
from coldstart_trainer.errors import StageFailure


def mismatched(
    sampled: torch.Tensor,
    trained: torch.Tensor,
    mask: torch.Tensor,
    *,
    bound: float,
    action: Literal["stop", "mask"],
    summed: Callable[[torch.Tensor], torch.Tensor] = lambda value: value,
) -> torch.Tensor:
    """The completions to leave out of the loss, as one truth value each.

    There are some only if the mean over all tokens of the sampling step is above the bound: then
    those whose own mean is.

    Args:
        sampled: log-probabilities of the sampler, a row for each completion; NaN where it has none.
        trained: those of the trainer for the same tokens.
        mask: 1 for the tokens that count.
        bound: greatest mean difference, in nats per token (rollout.maxMismatch).
        action: what to do above it (rollout.onMismatch).
        summed: adds a tensor up over all processes.

    Raises:
        StageFailure: SamplerMismatch, if the action is to stop.
    """
    counted = mask.bool() & ~torch.isnan(sampled)
    distance = torch.where(counted, (sampled - trained).abs(), 0.0)
    sums, counts = distance.sum(dim=1), counted.sum(dim=1)
    total, tokens = summed(torch.stack([sums.sum(), counts.sum().to(sums.dtype)])).tolist()
    mean = total / max(tokens, 1.0)
    if mean <= bound:
        return torch.zeros_like(counts, dtype=torch.bool)
    if action == "stop":
        raise StageFailure(
            ErrorCode.SAMPLER_MISMATCH,
            f"vLLM's log-probabilities are {mean:.3g} nats per token from the trainer's, more than "
            f"spec.grpo.rollout.maxMismatch ({bound:g}): wrong prompts or stale weights do that; "
            "a higher value, or onMismatch: mask, trains on regardless",
        )
    return sums / counts.clamp(min=1) > bound
