"""The section of a run's spec that scores checkpoints on benchmarks; nothing is scored here."""

from __future__ import annotations

import re
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, StringConstraints, field_validator, model_validator

from coldstart.benchmarks import NAMES as PUBLISHED
from coldstart.benchmarks import published
from coldstart.dataset import Columns, Dataset
from coldstart.endpoint import Endpoint
from coldstart.schema import Contract, Name, Positive
from coldstart.spec import CheckpointName, From, ModelSpec

# Not `\w`: to an API server that is ASCII, to pydantic every letter there is.
_BENCHMARK = r"^[A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9])?$"


class Decoding(Contract):
    """How an evaluation samples its responses."""

    temperature: Annotated[float, Field(ge=0, le=10)] = 0.0
    """0 decodes greedily."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Sample from the smallest set of tokens with this much probability."""
    samples: Annotated[int, Field(ge=1, le=1024)] = 1
    """Responses per problem."""
    max_completion_tokens: Positive | None = None
    """Absent: the conversation's."""


class Benchmark(Contract):
    """One set of problems that checkpoints are compared on."""

    name: Annotated[str, StringConstraints(pattern=_BENCHMARK, max_length=128)] = "test"
    """`mathvista`, `mathverse`, `mathvision`, `mathvision-testmini`, `wemath` and `geometry3k` are
    the published sets, read in their released layout; any other name is what the report calls a
    set of your own."""
    dataset: Dataset | None = None
    """The problems with their gold answers. Of a published set: where it is, if not on the hub;
    its columns are known."""

    @model_validator(mode="after")
    def _has_rows(self) -> Self:
        if self.dataset is None and published(self.name) is None:
            raise ValueError(
                f"{self.name} is no published benchmark ({', '.join(PUBLISHED)}), so dataset is "
                "required"
            )
        return self

    @model_validator(mode="after")
    def _columns_are_known(self) -> Self:
        if published(self.name) and self.dataset and self.dataset.columns != Columns():
            raise ValueError(
                f"{self.name} is read in its released layout, so dataset.columns has no say; give "
                "a set of your own another name"
            )
        return self

    @property
    def rows(self) -> Dataset:
        """Where the problems come from."""
        known = published(self.name)
        if known is not None:
            return known.dataset(self.dataset)
        assert self.dataset is not None
        return self.dataset


class ResponseKind(Contract):
    """A class of responses that the report counts apart, such as those that reason."""

    name: Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9-]*$", max_length=40)]
    """What the report calls it."""
    pattern: Name
    """A regular expression; a response in which it is found is of the first such kind."""

    @field_validator("pattern")
    @classmethod
    def _compiles(cls, value: str) -> str:
        try:
            re.compile(value)
        except (re.error, OverflowError, RecursionError) as error:
            raise ValueError(f"is not a regular expression: {error}") from error
        return value


class JudgeModel(Endpoint):
    """A model behind an OpenAI-compatible endpoint, as vLLM serves it, that judges answers."""

    prompt: Name | None = None
    """A file with another prompt, beside the run.yaml on one machine, in the storage on a cluster;
    absent: Coldstart's own."""
    concurrency: Annotated[int, Field(ge=1, le=1024)] = 16
    """The most requests that are open at once."""
    timeout_seconds: Annotated[float, Field(gt=0, le=3600)] = 120.0
    """How long one request may take; then it is repeated, as after status 429 or 5xx."""


RESERVED = ("base", "distill", "sft", "grpo", "low", "high", "images", "superseded")
"""What is called so already, among checkpoints, numbers or directories."""


class Reference(Contract):
    """A model that is scored beside the run's own."""

    name: CheckpointName
    """What results and report call it."""
    model: Name | None = None
    """A hub id, or a directory: beside the run.yaml on one machine, in the storage on a cluster. A
    checkpoint of ours is verified against its manifest; any other needs the files of a model."""
    revision: Name | None = None
    """The commit of a hub id; always set it, since a branch moves."""
    from_: From | None = Field(default=None, alias="from")
    """Another run's finished stage, in place of `model`."""

    @field_validator("name")
    @classmethod
    def _name_is_free(cls, value: str) -> str:
        if value in RESERVED:
            raise ValueError(f"is taken, as are {', '.join(RESERVED)}")
        return value

    @model_validator(mode="after")
    def _is_one_model(self) -> Self:
        if (self.model is None) == (self.from_ is None):
            raise ValueError("needs either model or from")
        if self.revision and not self.model:
            raise ValueError("revision is given without a model")
        return self


class Evaluation(ModelSpec):
    """Scoring of checkpoints on benchmarks."""

    from_: From | None = Field(default=None, alias="from")
    """Another run's finished stage to score beside this run's own."""
    benchmarks: Annotated[tuple[Benchmark, ...], Field(min_length=1, max_length=50)]
    """What the checkpoints are scored on."""
    references: Annotated[tuple[Reference, ...], Field(max_length=8)] = ()
    """Further models to score, whatever they were made from."""
    checkpoints: Annotated[tuple[CheckpointName, ...], Field(max_length=11)] = ()
    """Which checkpoints, `base`, `sft`, `grpo` or the name of a reference; absent: the references,
    the base model and every stage that the run has."""
    decoding: Decoding = Decoding()
    """How responses are sampled."""
    engine: Literal["transformers", "vllm"] = "transformers"
    """What generates them: `generate` on batches, or vLLM, where a response that has ended makes
    room for the next."""
    batch_size: Positive = 16
    """Responses that one process generates at once; with vLLM, `concurrency` says it."""
    concurrency: Annotated[int, Field(ge=1, le=16_384)] = 256
    """Responses that one vLLM engine generates at once."""
    gpu_memory_utilization: Annotated[float, Field(gt=0, le=1)] = 0.9
    """Share of each GPU's memory that vLLM takes."""
    tensor_parallel_size: Annotated[int, Field(ge=1, le=64)] = 1
    """GPUs that one vLLM engine is spread over; the others have engines of their own."""
    matcher: Literal["rule", "judge"] = "rule"
    """What says whether an answer is right: the rules that the reward has, or a model. The results
    name it and its version."""
    judge: JudgeModel | None = None
    """The model of the matcher `judge`; with `rule`, it is there for `coldstart regrade`."""
    response_kinds: Annotated[tuple[ResponseKind, ...], Field(max_length=20)] = ()
    """Classes of responses that the report counts apart, to show what a gain is made of."""

    OPERATIONAL: ClassVar[frozenset[str]] = ModelSpec.OPERATIONAL | {
        "concurrency",
        "gpuMemoryUtilization",
        "tensorParallelSize",
    }

    @field_validator("benchmarks")
    @classmethod
    def _benchmarks_differ(cls, value: tuple[Benchmark, ...]) -> tuple[Benchmark, ...]:
        names = [benchmark.name for benchmark in value]
        if len(set(names)) != len(names):
            raise ValueError("names a benchmark twice")
        return value

    @field_validator("references")
    @classmethod
    def _references_differ(cls, value: tuple[Reference, ...]) -> tuple[Reference, ...]:
        names = [reference.name for reference in value]
        if len(set(names)) != len(names):
            raise ValueError("names a reference twice")
        return value

    @field_validator("checkpoints")
    @classmethod
    def _checkpoints_differ(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(value)) != len(value):
            raise ValueError("names a checkpoint twice")
        return value

    @model_validator(mode="after")
    def _judge_is_known(self) -> Self:
        if self.matcher == "judge" and self.judge is None:
            raise ValueError("matcher is judge, but judge is not set")
        return self

    @model_validator(mode="after")
    def _engines_share_the_gpus(self) -> Self:
        processes = self.resources.processes_per_node
        if self.engine == "vllm" and processes % self.tensor_parallel_size:
            raise ValueError(
                f"resources has {processes} processes on a machine, which is not a multiple of "
                f"tensorParallelSize {self.tensor_parallel_size}"
            )
        return self
