"""Responses of a model to rows, with transformers' `generate`; nothing is graded here.

What a row is answered depends on the rows, the decoding, the batch size and the seed only: batches
are laid out over all rows, and each draws from a generator of its own, so a run that was killed
makes the missing batches as it would have made them, on any number of processes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any, Protocol

import datasets
import numpy as np
import torch
from transformers import GenerationConfig

from coldstart.evaluation import Decoding, Evaluation
from coldstart.spec import Conversation
from coldstart_trainer import conversation as chat
from coldstart_trainer.data import prompt_tokens
from coldstart_trainer.model import image_token_ids, load_model, tokenizer_of

Key = tuple[int, int]
"""A row, and which of its responses."""


@dataclass(frozen=True)
class Completion:
    """One response."""

    row: int
    """The row that it answers."""
    sample: int
    """Which of the responses to it."""
    text: str
    """Without special tokens."""
    tokens: int
    """Its length, with the token that ends it."""
    truncated: bool
    """Whether it reached the length limit without that."""


class Responder(Protocol):
    """What makes the responses of one checkpoint, and holds what it needs for that."""

    def rounds(
        self,
        rows: datasets.Dataset,
        done: Collection[Key],
        on_progress: Callable[[int, int], None],
    ) -> Iterator[list[Completion]]:
        """The responses to rows that are missing, and perhaps some that are not, as they come.

        The first process gets those of all. `on_progress` is told how many of how many are there.
        """

    def close(self) -> None:
        """Let go of it."""


@dataclass
class Batches:
    """Responses by `generate`; the model is loaded for the first of them."""

    spec: Evaluation
    conversation: Conversation
    directory: Path
    """The checkpoint."""
    processor: Any
    device: torch.device
    _model: Any = None

    def rounds(
        self,
        rows: datasets.Dataset,
        done: Collection[Key],
        on_progress: Callable[[int, int], None],
    ) -> Iterator[list[Completion]]:
        """The responses of all batches that are not there as a whole."""
        self._model = self._model or load_model(
            self.directory, precision=self.spec.precision, device=self.device
        )
        return generate(
            self._model,
            self.processor,
            rows,
            conversation=self.conversation,
            decoding=self.spec.decoding,
            batch_size=self.spec.batch_size,
            seed=self.spec.seed,
            done=done,
            on_progress=on_progress,
        )

    def close(self) -> None:
        """Let go of the model."""
        self._model = None


@dataclass(frozen=True)
class _Batch:
    number: int
    keys: tuple[Key, ...]


def generate(
    model: Any,
    processor: Any,
    rows: datasets.Dataset,
    *,
    conversation: Conversation,
    decoding: Decoding,
    batch_size: int,
    seed: int,
    done: Collection[Key] = (),
    on_progress: Callable[[int, int], None] | None = None,
    synced: bool = False,
) -> Iterator[list[Completion]]:
    """Sample the responses to all rows, batch by batch; every process gets those of all.

    Rows are sorted by the length of their prompts, the longest first, so that little is padded and
    too large a batch fails at once. The model's own generation settings (a repetition penalty, say)
    have no say. The state of torch's random generators is as before, afterwards.

    Args:
        model: not wrapped; it is put into evaluation mode meanwhile.
        processor: left-padding, as `model.load_processor` gives it.
        rows: with `problem` and `images`.
        conversation: prompt and lengths.
        decoding: temperature, top-p, responses per row, length limit.
        batch_size: responses that one process makes at once.
        seed: of sampling.
        done: responses that are there; a batch that consists of such is passed over, of another
            all responses are made and yielded.
        on_progress: told how many responses of how many are there.
        synced: every process must take part in every round, as under ZeRO-3.
    """
    batches = _batches(rows, processor, conversation, decoding.samples, batch_size)
    total = sum(len(batch.keys) for batch in batches)
    known = set(done)
    open_batches = [batch for batch in batches if not known.issuperset(batch.keys)]
    finished = total - sum(len(batch.keys) for batch in open_batches)
    if on_progress:
        on_progress(finished, total)
    rank, world = place()
    config = _config(model, processor, conversation, decoding)
    for start in range(0, len(open_batches), world):
        current = open_batches[start : start + world]
        mine = current[rank] if rank < len(current) else None
        made: list[Completion] = []
        if mine or synced:
            work = _Work(model, processor, rows, conversation, config, seed, synced)
            made = work.completions(mine or current[0])
        completions = _gathered(made if mine else [])
        finished += len(completions)
        yield completions
        if on_progress:
            on_progress(finished, total)


def encode(processor: Any, batch: Mapping[str, Any], conversation: Conversation) -> Any:
    """The tensors that ask the problems of a batch: padded on the left, with the pixels."""
    images = batch["images"]
    # A tokenizer knows no such argument, not even an absent one.
    pixels = {"images": [list(pictures) for pictures in images]} if any(images) else {}
    prompts = [
        chat.prompt(problem, len(pictures), conversation)
        for problem, pictures in zip(batch["problem"], images, strict=True)
    ]
    return processor(
        text=processor.apply_chat_template(prompts, tokenize=False, add_generation_prompt=True),
        padding=True,
        padding_side="left",
        add_special_tokens=False,
        return_tensors="pt",
        **pixels,
    )


def _batches(
    rows: datasets.Dataset,
    processor: Any,
    conversation: Conversation,
    samples: int,
    batch_size: int,
) -> list[_Batch]:
    lengths = prompt_tokens(rows, processor, conversation)
    order = sorted(range(len(lengths)), key=lambda row: (-lengths[row], row))
    keys = iter([(row, sample) for row in order for sample in range(samples)])
    batches: list[_Batch] = []
    while chunk := tuple(islice(keys, batch_size)):
        batches.append(_Batch(len(batches), chunk))
    return batches


@dataclass(frozen=True)
class _Work:
    """All that a batch needs to be answered."""

    model: Any
    processor: Any
    rows: datasets.Dataset
    conversation: Conversation
    config: Any
    seed: int
    synced: bool

    def completions(self, batch: _Batch) -> list[Completion]:
        asked = self.rows[[row for row, _ in batch.keys]]
        inputs = encode(self.processor, asked, self.conversation).to(self.model.device)
        with _undisturbed(self.model), torch.inference_mode():
            torch.manual_seed(_batch_seed(self.seed, batch.number))
            output = self.model.generate(
                **inputs, generation_config=self.config, synced_gpus=self.synced
            )
        responses = output[:, inputs["input_ids"].shape[1] :].tolist()
        ends = set(self.config.eos_token_id)
        return [
            _completion(key, ids, ends, self.processor)
            for key, ids in zip(batch.keys, responses, strict=True)
        ]


def _batch_seed(seed: int, number: int) -> int:
    return int(np.random.SeedSequence([seed, number]).generate_state(1)[0])


def _completion(key: Key, ids: list[int], ends: set[int], processor: Any) -> Completion:
    end = next((place for place, token in enumerate(ids) if token in ends), None)
    own = ids if end is None else ids[: end + 1]
    text = tokenizer_of(processor).decode(own, skip_special_tokens=True)
    return Completion(*key, text=text, tokens=len(own), truncated=end is None)


def _config(model: Any, processor: Any, conversation: Conversation, decoding: Decoding) -> Any:
    tokenizer = tokenizer_of(processor)
    sampled = decoding.temperature > 0
    limit = decoding.max_completion_tokens or conversation.max_completion_tokens
    options: dict[str, Any] = {
        "max_new_tokens": limit,
        "do_sample": sampled,
        "eos_token_id": _ends(model, tokenizer),
        "pad_token_id": tokenizer.pad_token_id,
        # A sampled image token would be taken for an image that is not there.
        "suppress_tokens": image_token_ids(processor) or None,
        "disable_compile": True,
    }
    if sampled:
        options |= {"temperature": decoding.temperature, "top_p": decoding.top_p, "top_k": 0}
    return _settings(**options)


def _settings(**options: Any) -> Any:
    factory: Any = GenerationConfig
    return factory(**options)


def _ends(model: Any, tokenizer: Any) -> list[int]:
    """The tokens that end a response, as TRL's rollouts have them: the tokenizer's, the model's."""
    own = model.generation_config.eos_token_id
    ends = [own] if isinstance(own, int) else list(own or ())
    return list(dict.fromkeys([tokenizer.eos_token_id, *ends]))


@contextlib.contextmanager
def _undisturbed(model: Any) -> Iterator[None]:
    """Evaluate the model with nothing of its own settings, and leave all as it was."""
    training, settings = model.training, model.generation_config
    devices = [model.device] if model.device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        model.eval()
        # What a checkpoint's own settings name and we do not would be filled in from there.
        model.generation_config = _settings(eos_token_id=settings.eos_token_id)
        try:
            yield
        finally:
            model.generation_config = settings
            model.train(training)


def place() -> tuple[int, int]:
    """The number of this process, and how many there are."""
    if not torch.distributed.is_initialized():
        return 0, 1
    return torch.distributed.get_rank(), torch.distributed.get_world_size()


def _gathered(mine: list[Completion]) -> list[Completion]:
    """The completions of all processes, in the order of their numbers."""
    _, world = place()
    if world == 1:
        return mine
    parts: list[list[Completion]] = [[] for _ in range(world)]
    torch.distributed.all_gather_object(parts, mine)
    return list(chain.from_iterable(parts))
