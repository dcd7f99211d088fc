"""The lines that a stage reports its numbers in."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from coldstart.schema import Contract

MAX_SECONDS = 1e11
"""The latest time that a line may tell, about the year 5138; calendars end later."""

MAX_STEPS = 10**12
"""A greater number of steps is nonsense."""


class Progress(Contract):
    """One line of a stage's `metrics.jsonl`: how far it is, and its numbers at that point."""

    time: Annotated[float, Field(ge=0, le=MAX_SECONDS)]
    """Seconds since the epoch."""
    attempt: Annotated[int, Field(ge=1)]
    """Which attempt wrote it."""
    phase: Literal["load", "distill", "train", "probe", "save", "evaluate"]
    """What the stage is doing."""
    done: Annotated[int, Field(ge=0, le=MAX_STEPS)] = 0
    """Optimizer updates (train), questions (distill) or problems (probe, evaluate), done."""
    total: Annotated[int, Field(ge=0, le=MAX_STEPS)] = 0
    """How many there will be; 0 where it is not known."""
    label: str = ""
    """What is evaluated: `checkpoint/benchmark`."""
    values: dict[str, float] = {}
    """Numbers by their names in the table; of a histogram, the mean since the numbers before.

    A labelled one is called `reward_mean{accuracy}`, with the labels' values in the table's order.
    """
