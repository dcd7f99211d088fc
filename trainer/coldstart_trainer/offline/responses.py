"""Responses to rows by vLLM with continuous batching; nothing is graded or kept here.

Each response is a request of its own, with a seed of its own made of the spec's, its row and its
number, so a run that was killed asks for what is missing as it would have. Which requests share a
step of the engine changes rounding, as with any vLLM: on a GPU a response may differ all the same.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import datasets
import numpy as np
from transformers import AutoConfig, GenerationConfig

from coldstart.evaluation import Evaluation
from coldstart.spec import Conversation
from coldstart_trainer import conversation as chat
from coldstart_trainer.data import prompt_tokens
from coldstart_trainer.generation import Completion, Key, place
from coldstart_trainer.model import image_tokens, tokenizer_of
from coldstart_trainer.offline.mail import Mail
from coldstart_trainer.rollout.prompts import require_same_tokens, written_out
from coldstart_trainer.rollout.settings import EngineSettings
from coldstart_trainer.termination import TERMINATION, Terminated

if TYPE_CHECKING:
    from coldstart_trainer.offline.engine import Engine

BUNDLE = 1.0
"""Seconds over which responses that have ended are handed on together; a kill loses no more."""

AHEAD = 4
"""Requests of which one more is ready while the engine is full."""


@dataclass(frozen=True)
class Request:
    """One response that is asked for."""

    key: Key
    prompt: dict[str, Any]
    """As vLLM takes it: tokens with one for each image, and the images."""
    tokens: list[int]
    """The tokens as the model sees them."""


@dataclass
class Responses:
    """The responses of one checkpoint, from one engine that is started for the first of them."""

    name: str
    """What the run calls the checkpoint."""
    spec: Evaluation
    conversation: Conversation
    directory: Path
    """The checkpoint."""
    processor: Any
    images: int
    """Most images that a prompt has."""
    _engine: Engine | None = None
    _occasions: int = 0

    def rounds(
        self,
        rows: datasets.Dataset,
        done: Collection[Key],
        on_progress: Callable[[int, int], None],
    ) -> Iterator[list[Completion]]:
        """The responses that are missing, some at a time; the first process gets those of all.

        Raises:
            StageFailure: vLLM does not start, is gone, or sees other prompts than ours.
            Terminated: told to end; what had ended was handed on before.
        """
        rank, world = place()
        total = len(rows) * self.spec.decoding.samples
        self._occasions += 1
        mail = Mail(f"{self.name}/{self._occasions}")
        finished = len(done)
        on_progress(finished, total)
        with TERMINATION.deferred():
            for made in self._own(rows, done, rank, world):
                found = [made, *mail.received()] if rank == 0 else [made]
                if rank > 0:
                    mail.send(made)
                yield (completions := [one for some in found for one in some])
                finished += len(completions)
                on_progress(finished, total)
            if rank > 0:
                mail.send(None)
                mail.wait()
                return
            for made in mail.rest():
                yield made
                finished += len(made)
                on_progress(finished, total)
            if TERMINATION.requested:
                raise Terminated

    def close(self) -> None:
        """End the engine, if there is one."""
        if self._engine:
            self._engine.close()
            self._engine = None

    def _own(
        self, rows: datasets.Dataset, done: Collection[Key], rank: int, world: int
    ) -> Iterator[list[Completion]]:
        """Those of this process's engine: the first process of as many as share one has it."""
        size = self.spec.tensor_parallel_size
        if rank % size:
            return
        lengths = prompt_tokens(rows, self.processor, self.conversation)
        order = sorted(range(len(lengths)), key=lambda row: (-lengths[row], row))
        known = set(done)
        keys = [(row, n) for row in order for n in range(self.spec.decoding.samples)]
        missing = [key for key in keys if key not in known]
        if mine := missing[rank // size :: world // size]:
            yield from self._answers(_Asked(self, rows).requests(mine))

    def _answers(self, requests: Iterator[Request]) -> Iterator[list[Completion]]:
        """Keep the engine full, and hand on what has ended."""
        engine, room = self._started(), self.spec.concurrency
        room += -(-room // AHEAD)
        waiting: dict[str, Request] = {}
        ended: list[Completion] = []
        told = time.monotonic()
        while True:
            while len(waiting) < room and not TERMINATION.requested:
                if (request := next(requests, None)) is None:
                    break
                name = "{}-{}".format(*request.key)
                engine.add(name, request.prompt, self._sampling(request.key))
                waiting[name] = request
            if TERMINATION.requested or not waiting:
                break
            ended += [self._completion(waiting.pop(o.request_id), o) for o in engine.step()]
            if ended and time.monotonic() - told >= BUNDLE:
                yield ended
                ended, told = [], time.monotonic()
        if ended:
            yield ended
        if TERMINATION.requested:
            raise Terminated("was told to end; every response so far is kept")

    def _completion(self, request: Request, output: Any) -> Completion:
        pad = self._settings.pad
        require_same_tokens(request.tokens, output.prompt_token_ids, pad)
        (one,) = output.outputs
        text = tokenizer_of(self.processor).decode(one.token_ids, skip_special_tokens=True)
        cut = one.finish_reason == "length"
        return Completion(*request.key, text=text, tokens=len(one.token_ids), truncated=cut)

    def _sampling(self, key: Key) -> dict[str, Any]:
        decoding = self.spec.decoding
        found = {
            "max_tokens": self._limit,
            "stop_token_ids": self._ends,
            "temperature": decoding.temperature,
            **self._settings.sampling,
        }
        if decoding.temperature > 0:
            seed = np.random.SeedSequence([self.spec.seed, *key]).generate_state(1)[0]
            found |= {"top_p": decoding.top_p, "seed": int(seed)}
        return found

    @property
    def _limit(self) -> int:
        return self.spec.decoding.max_completion_tokens or self.conversation.max_completion_tokens

    @cached_property
    def _ends(self) -> list[int]:
        return ends(self.directory, self.processor)

    @cached_property
    def _settings(self) -> EngineSettings:
        return EngineSettings(
            self.spec, self.conversation, self.directory, self.processor, self.images
        )

    def _started(self) -> Engine:
        if self._engine is None:
            from coldstart_trainer.offline.engine import Engine  # noqa: PLC0415

            size, first = self.spec.tensor_parallel_size, int(os.environ.get("LOCAL_RANK", "0"))
            gpus = range(first, first + size) if self.spec.resources.gpus_per_node else ()
            arguments = self._settings.engine | {
                "generation_config": "vllm",
                "gpu_memory_utilization": self.spec.gpu_memory_utilization,
                "load_format": "safetensors",
                "max_model_len": self.conversation.max_prompt_tokens + self._limit,
                "max_num_seqs": self.spec.concurrency,
                "seed": self.spec.seed,
                "tensor_parallel_size": size,
            }
            self._engine = Engine(arguments, gpus)
        return self._engine


@dataclass
class _Asked:
    """Rows as requests."""

    responses: Responses
    rows: datasets.Dataset

    def requests(self, keys: Iterable[Key]) -> Iterator[Request]:
        """A request for each key; those of one row come one after another and share it."""
        last, row = None, -1
        for key in keys:
            if last is None or key[0] != row:
                row = key[0]
                last = self._request(key)
            yield Request(key, last.prompt, last.tokens)

    def _request(self, key: Key) -> Request:
        processor = self.responses.processor
        asked = self.rows[key[0]]
        pictures = [picture.convert("RGB") for picture in asked["images"]]
        messages = chat.prompt(asked["problem"], len(pictures), self.responses.conversation)
        text = processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        tokens = tokenizer_of(processor)(text, add_special_tokens=False)["input_ids"]
        prompt: dict[str, Any] = {"prompt_token_ids": tokens}
        if not pictures:
            return Request(key, prompt, tokens)
        counts = [image_tokens(processor, picture.width, picture.height) for picture in pictures]
        return Request(
            key,
            prompt | {"multi_modal_data": {"image": pictures}},
            written_out(tokens, processor.image_token_id, counts),
        )


def ends(directory: Path, processor: Any) -> list[int]:
    """The tokens that end a response, as `generate` has them: the tokenizer's, the model's."""
    factory: Any = GenerationConfig
    if (directory / "generation_config.json").is_file():
        own = factory.from_pretrained(directory, local_files_only=True).eos_token_id
    else:
        config = AutoConfig.from_pretrained(
            directory, local_files_only=True, trust_remote_code=False
        )
        own = factory.from_model_config(config).eos_token_id
    found = [own] if isinstance(own, int) else list(own or ())
    return list(dict.fromkeys([tokenizer_of(processor).eos_token_id, *found]))
