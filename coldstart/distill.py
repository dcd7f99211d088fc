"""The section of a run's spec that makes cold-start data with a teacher; nothing is asked here."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, field_validator

from coldstart.dataset import Dataset
from coldstart.endpoint import Endpoint
from coldstart.schema import Contract, Positive, Share
from coldstart.spec import Resources, StageSpec


class Teacher(Endpoint):
    """Who answers: a model behind an OpenAI-compatible endpoint, as vLLM serves it."""


PatternName = Literal["distilled-cot", "reflection-cot", "caption-cot", "self-critic-cot"]
"""How a row of cold-start data is made."""


class PatternShare(Contract):
    """One pattern and its share of the samples."""

    name: PatternName
    """`distilled-cot`: the teacher's answer as it is. `reflection-cot`: a wrong and a right path
    of the teacher, joined by a turn that looks again. `caption-cot`: a description of the images,
    then reasoning from it. `self-critic-cot`: an answer, its critique, a refined answer."""
    weight: Annotated[float, Field(gt=0, le=1000, allow_inf_nan=False)] = 1.0
    """Its share of the samples, relative to the other patterns' weights."""


class YieldGate(Contract):
    """What the distilled rows must come to before fine-tuning may start."""

    min_yield: Share | None = None
    """Least share of the questions that have a row."""
    min_rows: Positive | None = None
    """Least number of rows."""


class TeacherResources(Resources):
    """What a stage runs on whose model is behind an endpoint: one process without a GPU."""

    nodes: Annotated[int, Field(ge=1, le=1)] = 1
    """Machines (pods)."""
    gpus_per_node: Annotated[int, Field(ge=0, le=0)] = 0
    """None."""


class Distill(StageSpec):
    """Making cold-start data: a teacher answers questions, and right answers become rows."""

    resources: TeacherResources = TeacherResources()
    """What the stage runs on."""
    dataset: Dataset
    """The questions, with their gold answers. Those that do not fit the conversation are dropped
    and counted before the teacher is asked."""
    teacher: Teacher
    """Who answers."""
    patterns: Annotated[tuple[PatternShare, ...], Field(min_length=1, max_length=4)] = (
        PatternShare(name="distilled-cot"),
    )
    """How rows are made; each sample's pattern is drawn by weight. The prompts are Coldstart's
    own."""
    samples: Annotated[int, Field(ge=1, le=256)] = 4
    """The most samples of one question."""
    temperature: Annotated[float, Field(ge=0, le=10)] = 1.0
    """Sampling temperature."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Sample from the smallest set of tokens with this much probability."""
    max_completion_tokens: Positive | None = None
    """Where one answer of the teacher ends; absent: the conversation's."""
    keep: Literal["first", "all", "shortest"] = "first"
    """Which of a question's right samples become rows: the first, after which the question is
    asked no more, all of them, or the shortest."""
    keep_wrong: bool = False
    """For ablations: samples that the grader finds wrong become rows as well. Those that were cut
    short, or state no answer, never do."""
    concurrency: Annotated[int, Field(ge=1, le=4096)] = 64
    """The most requests that are open at once."""
    request_timeout_seconds: Annotated[float, Field(gt=0, le=86_400)] = 600.0
    """How long one request may take."""
    request_retries: Annotated[int, Field(ge=0, le=100)] = 6
    """How often a request is repeated after a time-out, a lost connection, an unreadable answer,
    or status 408, 409, 425, 429 or 5xx; after that it is counted as failed."""
    gate: YieldGate = YieldGate()
    """What the rows must come to before fine-tuning may start."""

    OPERATIONAL: ClassVar[frozenset[str]] = StageSpec.OPERATIONAL | {
        "concurrency",
        "requestTimeoutSeconds",
        "requestRetries",
        "gate",
    }

    @field_validator("patterns")
    @classmethod
    def _patterns_differ(cls, value: tuple[PatternShare, ...]) -> tuple[PatternShare, ...]:
        names = [pattern.name for pattern in value]
        if len(set(names)) != len(names):
            raise ValueError("names a pattern twice")
        return value
