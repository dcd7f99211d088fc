"""The order in which training sees its rows: a function of seed and pass, so a resume finds it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils.data import Sampler
from trl.trainer.utils import RepeatSampler


def permutation(length: int, seed: int, number: int) -> list[int]:
    """The order of the rows in one pass."""
    generator = torch.Generator().manual_seed(_mixed(seed, number))
    return torch.randperm(length, generator=generator).tolist()


class PassSampler(Sampler[int]):
    """Every row once, in another order in each pass.

    The pass is asked for when it begins, not counted or told: accelerate 1.15 loses `set_epoch` on
    its way to a sampler below a skipping and a sharding one, as in a resume on several processes.
    """

    def __init__(self, rows: Any, seed: int, current_pass: Callable[[], int]) -> None:
        self.rows, self.seed, self.current_pass = rows, seed, current_pass

    def __iter__(self) -> Iterator[int]:
        yield from permutation(len(self.rows), self.seed, self.current_pass())

    def __len__(self) -> int:
        return len(self.rows)


class GroupSampler(RepeatSampler):
    """TRL's sampler of prompts, each repeated for its group, in the order of the pass.

    TRL's own begins with the first pass's order whenever a process starts, so a run resumed in a
    later pass would see other prompts (TRL 1.16).
    """

    def __init__(
        self,
        rows: Any,
        *,
        group: int,
        prompts: int,
        repeats: int,
        seed: int,
        current_pass: Callable[[], int],
    ) -> None:
        super().__init__(rows, group, prompts, repeats, shuffle=True, seed=seed)
        self.pass_seed, self.current_pass = seed, current_pass

    def __iter__(self) -> Iterator[int]:
        self.generator.manual_seed(_mixed(self.pass_seed, self.current_pass()))
        yield from super().__iter__()  # type: ignore[no-untyped-call]


def _mixed(seed: int, number: int) -> int:
    return seed * 1_000_003 + number
