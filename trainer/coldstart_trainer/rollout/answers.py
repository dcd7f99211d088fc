"""What a vLLM server answers, read: foreign words until they have the shape that vLLM gives them.

It asks nothing and knows no model; whether completions are those of the prompts is in `prompts`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final, Self, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    StringConstraints,
    Tag,
    ValidationError,
    model_validator,
)

from coldstart import foreign
from coldstart.status import ErrorCode

_SHOWN: Final = 200
"""Characters of a server's words that a message has room for."""

Count = Annotated[int, Field(ge=0)]
TokenName = Annotated[str, StringConstraints(pattern=r"^(token_id:)?[0-9]{1,10}$")]
"""A token, as vLLM writes it when asked for tokens' numbers."""


class AnswerError(ValueError):
    """An answer that vLLM does not give."""


class Unreadable(AnswerError):
    """An answer that is no JSON, as that of a connection which was cut."""


class _Answer(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)


class Model(_Answer):
    """One that is served."""

    id: str
    root: str | None = None
    max_model_len: Count | None = None


class Models(_Answer):
    """`/v1/models`."""

    data: list[Model] = Field(min_length=1)


class _ModelConfig(_Answer):
    logprobs_mode: str


class _ParallelConfig(_Answer):
    worker_extension_cls: str | None = None


class Settings(_Answer):
    """Flags that the server was started with."""

    model: _ModelConfig = Field(alias="model_config")
    parallel: _ParallelConfig = Field(alias="parallel_config")
    weight_transfer_config: dict[str, Any] | None = None


class ServerInfo(_Answer):
    """`/server_info`."""

    vllm_config: Settings


class WorldSize(_Answer):
    """`/get_world_size`."""

    world_size: int = Field(ge=1, le=1 << 16)


class Results(_Answer):
    """`/collective_rpc`: what each worker returned."""

    results: list[Any] = Field(min_length=1)


class Holdings(_Answer):
    """What each worker holds, as `readback` tells it."""

    class Worker(_Answer):
        """One of them."""

        worker: Count
        rank: Count
        size: int = Field(ge=1)
        shapes: dict[str, list[Count]]
        dtypes: dict[str, str]

        @model_validator(mode="after")
        def _one_of_them(self) -> Self:
            if self.rank >= self.size:
                raise ValueError(f"rank {self.rank} of {self.size}")
            return self

    results: list[Worker] = Field(min_length=1)

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        workers = {each.worker for each in self.results}
        if len(workers) != len(self.results):
            raise ValueError("a worker that is told of twice")
        return self


class Digests(_Answer):
    """Digests of parts of each worker's weights."""

    results: list[list[str]]


class _Place(_Answer):
    length: Count


class _Placeholders(_Answer):
    image: list[_Place]


class _Features(_Answer):
    mm_placeholders: _Placeholders


class Rendered(_Answer):
    """`/v1/chat/completions/render`: images as the server's model takes them."""

    features: _Features


class _Listed(_Answer):
    """Log-probabilities of `/v1/completions`."""

    tokens: list[TokenName]
    token_logprobs: list[float]
    top_logprobs: list[dict[TokenName, float] | None]

    @model_validator(mode="after")
    def _one_each(self) -> Self:
        if not len(self.tokens) == len(self.token_logprobs) == len(self.top_logprobs):
            raise ValueError("lists of different lengths")
        return self


class _Entry(_Answer):
    token: TokenName
    logprob: float


class _Position(_Entry):
    top_logprobs: list[_Entry]


class _Content(_Answer):
    """Log-probabilities of `/inference/v1/generate`."""

    content: list[_Position]


def _form(value: Any) -> str:
    return "content" if isinstance(value, dict) and "content" in value else "listed"


class _Choice(_Answer):
    token_ids: list[Count]
    logprobs: Annotated[
        Annotated[_Listed, Tag("listed")] | Annotated[_Content, Tag("content")],
        Discriminator(_form),
    ]


class _PromptedChoice(_Choice):
    prompt_token_ids: list[Count]


class Generated(_Answer):
    """`/inference/v1/generate`: completions of a prompt with images."""

    choices: list[_Choice] = Field(min_length=1)


class Completions(_Answer):
    """`/v1/completions`: those of prompts, each with its prompt."""

    choices: list[_PromptedChoice] = Field(min_length=1)


SHAPES: Final[Mapping[str, tuple[type[_Answer], ErrorCode]]] = {
    "/v1/models": (Models, ErrorCode.INVALID_ORDER),
    "/server_info": (ServerInfo, ErrorCode.INVALID_ORDER),
    "/get_world_size": (WorldSize, ErrorCode.INVALID_ORDER),
    "/collective_rpc": (Results, ErrorCode.SAMPLER_MISMATCH),
    "/v1/chat/completions/render": (Rendered, ErrorCode.SAMPLER_MISMATCH),
    "/v1/completions": (Completions, ErrorCode.SAMPLER_MISMATCH),
    "/inference/v1/generate": (Generated, ErrorCode.SAMPLER_MISMATCH),
}
"""What is read of an answer, by the question's path, and what it means if it is something else."""

Shape = TypeVar("Shape", bound=_Answer)


def document(data: bytes) -> Any:
    """The JSON of an answer.

    Raises:
        Unreadable: it is none.
    """
    try:
        return foreign.parsed(data)
    except ValueError as error:
        raise Unreadable(f"what came is no JSON: {shown(str(error))}") from error


def shaped(shape: type[Shape], found: Any) -> Shape:
    """An answer in its shape.

    Raises:
        AnswerError: it has another one.
    """
    try:
        return shape.model_validate(found)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"])) or "it"
        raise AnswerError(f"{shown(place)}: {shown(first['msg'])}") from error


def digests(found: Any, counts: Sequence[int]) -> list[list[str]]:
    """The digests of each worker, as many as were asked for.

    Raises:
        AnswerError: they are others.
    """
    results = shaped(Digests, found).results
    if [*map(len, results)] != [*counts]:
        raise AnswerError(f"digests of {[*map(len, results)]} weights, not of {[*counts]}"[:_SHOWN])
    return results


def shown(text: str) -> str:
    """Foreign words as a message may have them: one line, and not a long one."""
    line = "".join(sign if sign.isprintable() else " " for sign in text[: 4 * _SHOWN])
    return " ".join(line.split())[:_SHOWN]
