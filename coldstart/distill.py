"""The section of a run's spec that makes cold-start data with a teacher; nothing is asked here."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from coldstart.dataset import Dataset
from coldstart.endpoint import BaseUrl, Variable
from coldstart.schema import Contract, Name, Positive, Share
from coldstart.spec import Resources, StageSpec


class Teacher(Contract):
    """Who answers: a model behind an OpenAI-compatible endpoint, or one that the stage serves."""

    base_url: BaseUrl | None = None
    """Where the endpoint is, as `https://host/v1`; requests go to `chat/completions` below it.
    Absent: the stage serves the model itself, with vLLM over all GPUs of its `resources`."""
    model: Name
    """What the endpoint calls the model. Without `baseUrl` a hub id, or a directory: beside the
    run.yaml on one machine, in the storage on a cluster."""
    revision: Name | None = None
    """Without `baseUrl`, the commit of a hub id; always set it, since a branch moves."""
    api_key_env: Variable | None = None
    """The environment variable that holds the endpoint's key; absent: none is sent. On a cluster it
    comes from a secret in `podTemplate.secrets` or `podTemplate.env`."""
    gpu_memory_utilization: Annotated[float, Field(gt=0, le=1)] = 0.9
    """Without `baseUrl`, the share of each GPU's memory that vLLM takes."""

    @model_validator(mode="after")
    def _is_here_or_elsewhere(self) -> Self:
        if self.base_url and self.revision:
            raise ValueError("revision is given, but what is behind baseUrl has its own")
        if not self.base_url and self.api_key_env:
            raise ValueError("apiKeyEnv is given, but without baseUrl nobody asks for a key")
        return self

    @property
    def identity(self) -> str:
        """What tells its answers from another's."""
        return f"{self.model}@{self.revision}" if self.revision else self.model


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
    """What a stage runs on that asks a teacher: one process, and a teacher's GPUs."""

    nodes: Annotated[int, Field(ge=1, le=1)] = 1
    """Machines (pods)."""
    gpus_per_node: Annotated[int, Field(ge=0, le=64)] = 0
    """GPUs that a teacher without `baseUrl` is spread over; 0 serves it on the CPU."""

    @property
    def processes_per_node(self) -> int:
        """One, which starts what the teacher needs."""
        return 1


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

    @model_validator(mode="after")
    def _gpus_have_a_use(self) -> Self:
        if self.teacher.base_url and self.resources.gpus_per_node:
            raise ValueError(
                "resources.gpusPerNode is given, but the teacher is behind baseUrl: leave one of "
                "the two out"
            )
        return self
