"""Responses of a checkpoint on a benchmark, and what they add up to; no model is needed for it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, JsonValue

from coldstart.schema import Contract, Digest, Name


class Sample(Contract):
    """One response, as it was sampled, with its grade; a line of `samples.jsonl`."""

    id: Name
    """The problem: its `id` column, or its row number."""
    sample: Annotated[int, Field(ge=0)] = 0
    """Which of the responses to this problem."""
    problem: str
    """The question."""
    images: tuple[Name, ...] = ()
    """SHA-256 of each image's thumbnail, `<hash>.png` in `evaluation/images`."""
    gold: str
    """The gold answer."""
    choices: tuple[str, ...] = ()
    """The options, where the data set has a column of them."""
    response: str
    """The raw completion."""
    tokens: Annotated[int, Field(ge=0)]
    """Its length."""
    truncated: bool
    """Whether it reached the length limit."""
    boxed: bool
    """Whether it holds a closed `\\boxed{}`."""
    extracted: str | None = None
    """The answer that was found."""
    outcome: Name
    """`correct`, `wrong`, `no_answer`, … as the grader calls it."""

    @property
    def correct(self) -> bool:
        """Whether it counts as right."""
        return self.outcome == "correct"


class Reflection(Contract):
    """How often responses reflect, and whether that goes with being right (recipe: MAYE)."""

    ratio: float | None = None
    """Share of responses with a reflection word."""
    ratio_correct: float | None = None
    """Share of them among the right responses."""
    ratio_wrong: float | None = None
    """Share of them among the wrong responses."""
    accuracy_reflecting: float | None = None
    """Accuracy of the responses that reflect."""
    accuracy_not_reflecting: float | None = None
    """Accuracy of the others."""
    words: dict[str, int] = {}
    """Responses with each word."""


class KindResult(Contract):
    """The responses of one kind."""

    share: float
    """Share of all responses."""
    accuracy: float | None = None
    """Share of right ones among them."""
    n: int
    """How many there are."""


class BenchmarkResult(Contract):
    """What the responses of one checkpoint on one benchmark add up to; `results.json`."""

    schema_version: Literal[1] = 1
    """The version of this document."""
    checkpoint: Literal["base", "sft", "grpo"]
    """Whose responses."""
    digest: Digest | None = None
    """The checkpoint's manifest digest; absent for the base model."""
    benchmark: Name
    """On what."""
    matcher: Name = "rule"
    """What graded them."""
    accuracy: float
    """Share of right responses."""
    low: float
    """Lower end of its 95 % interval."""
    high: float
    """Upper end of its 95 % interval."""
    n: int
    """Responses."""
    problems: int
    """Problems."""
    boxed_share: float
    """Share of responses with a closed box."""
    truncated_share: float
    """Share of responses that reached the length limit."""
    mean_tokens: float
    """Mean length."""
    outcomes: dict[str, int]
    """Responses by the grader's outcome."""
    reflection: Reflection
    """Reflection ratios."""
    kinds: dict[str, KindResult] = {}
    """Responses by kind, where the spec names kinds."""
    decoding: dict[str, JsonValue] = {}
    """How they were sampled."""
    dropped: dict[str, int] = {}
    """Problems not asked, by reason."""
