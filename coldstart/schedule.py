"""How many steps a training stage takes, from its spec and the number of rows; pure arithmetic."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from coldstart.spec import GRPO, SFT


def held_out_rows(rows: int, share: float) -> int:
    """How many of the rows are kept from training: the whole part of the share.

    At least one, so that a small data set still has something to evaluate and to probe, unless
    that would leave nothing to train on.
    """
    return min(max(1, int(rows * share)), rows - 1) if share and rows else 0


def sft_steps(spec: SFT, rows: int) -> int:
    """Optimizer updates of a fine-tuning stage over `rows` trained rows.

    A last pass that `epochs` cuts short is rounded up to a whole update. 51,019 rows in batches
    of 64 are 798 updates a pass and 2,394 in three, where rounding down would give 2,391.
    """
    return _bounded(ceil(sft_steps_per_pass(spec, rows) * spec.epochs), spec.max_steps)


def sft_steps_per_pass(spec: SFT, rows: int) -> int:
    """Optimizer updates of one pass, as transformers' Trainer counts them.

    It rounds up three times: rows to micro-batches, those to an equal number for each process,
    those to updates, of which the last of a pass may be a smaller one.
    """
    batches = ceil(rows / spec.micro_batch_size)
    return ceil(ceil(batches / spec.resources.world_size) / accumulation(spec))


@dataclass(frozen=True)
class GRPOSteps:
    """The length of a GRPO stage."""

    sampling: int
    """Times that completions are sampled."""
    updates: int
    """Optimizer updates."""
    completions: int
    """Completions that are sampled in all."""


def grpo_steps(spec: GRPO, rows: int) -> GRPOSteps:
    """The length of a GRPO stage over `rows` trained prompts.

    Prompts that do not fill a last sampling step are left out of that pass, as in the paper's
    code: 31,818 prompts are 62 steps of 512 a pass.
    """
    sampling = ceil(grpo_samplings_per_pass(spec, rows) * spec.epochs)
    updates = _bounded(sampling * spec.updates_per_step, spec.max_steps)
    sampling = ceil(updates / spec.updates_per_step)
    return GRPOSteps(sampling, updates, sampling * spec.completions_per_step)


def grpo_samplings_per_pass(spec: GRPO, rows: int) -> int:
    """Sampling steps of one pass over `rows` prompts; 0 where they do not fill one."""
    return rows // spec.prompts_per_step


def accumulation(spec: SFT | GRPO) -> int:
    """Forward passes of each process that make one optimizer update."""
    total = spec.batch_size if isinstance(spec, SFT) else spec.completions_per_update
    return total // (spec.micro_batch_size * spec.resources.world_size)


def _bounded(steps: int, limit: int | None) -> int:
    return steps if limit is None else min(steps, limit)
