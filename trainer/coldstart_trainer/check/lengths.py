"""How long texts are: in tokens where the model's tokenizer is here; none is cut."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import HFValidationError

from coldstart.findings import Histogram, Kind
from coldstart.run import RunSpec
from coldstart.spec import Conversation
from coldstart_trainer import conversation as chat
from coldstart_trainer import model
from coldstart_trainer.admission import prompt_lengths
from coldstart_trainer.check.pictures import Look
from coldstart_trainer.check.rows import Row

BINS = 24

Looked = tuple[Row, Sequence[Look]]
"""A row with what its images look like."""


def local_processor(spec: RunSpec, workdir: Path) -> Any:
    """The processor of the run's model, if its files are on this machine; nothing is fetched.

    Raises:
        ValueError: they are not, or cannot be used; the message says which.
    """
    name = spec.model.name
    directory = workdir / Path(name).expanduser()
    if not directory.is_dir():
        try:
            cached = try_to_load_from_cache(name, "config.json", revision=spec.model.revision)
        except HFValidationError:
            cached = None
        if not isinstance(cached, str):
            raise ValueError(f"the tokenizer of {name} is not on this machine")
        directory = Path(cached).parent
    try:
        return model.load_processor(directory, spec.conversation)
    except OSError as error:
        raise ValueError(f"the tokenizer in {directory} cannot be used: {error}") from error


@dataclass
class Lengths:
    """The lengths of one data set's texts, and what is too long."""

    processor: Any
    """None where characters have to do."""
    conversation: Conversation
    learnt: bool
    """Whether the responses count, too."""
    prompts: array[int] = field(default_factory=lambda: array("q"))
    responses: array[int] = field(default_factory=lambda: array("q"))

    def add(self, batch: Sequence[Looked]) -> Iterator[tuple[Row, Kind, str]]:
        """Measure rows; those that are too long, each with how long it is."""
        fitting = [item for item in batch if self._readable(item)]
        responses = [row for row, _ in batch if self.learnt and (row.response or "").strip()]
        if self.processor is None:
            extra = len(self.conversation.system) + len(self.conversation.suffix)
            self.prompts.extend(len(row.problem) + extra for row, _ in fitting)
            self.responses.extend(len(row.response or "") for row in responses)
            return
        spec = self.conversation
        prompts = self._prompt_tokens(fitting)
        answers = self._response_tokens(responses)
        self.prompts.extend(prompts)
        self.responses.extend(answers)
        for (row, _), tokens in zip(fitting, prompts, strict=True):
            if tokens > spec.max_prompt_tokens:
                yield row, "prompt_too_long", f"{tokens:,} tokens"
        for row, tokens in zip(responses, answers, strict=True):
            if tokens > spec.max_completion_tokens:
                yield row, "response_too_long", f"{tokens:,} tokens"

    def histograms(self) -> Iterator[Histogram]:
        """Of the prompts, and of the responses where there are any."""
        spec = self.conversation
        if self.prompts:
            yield self._histogram("prompt", self.prompts, spec.max_prompt_tokens)
        if self.responses:
            yield self._histogram("response", self.responses, spec.max_completion_tokens)

    def _histogram(
        self, what: Literal["prompt", "response"], lengths: array[int], limit: int
    ) -> Histogram:
        longest = max(lengths)
        known = self.processor is not None
        # Where all are short, the limit would press them into the first bin.
        end = max(longest, limit if known and limit < 4 * longest else 0) + 1
        width = max(1, -(-end // BINS))
        counts = np.bincount(np.array(lengths) // width, minlength=BINS)
        return Histogram(
            what=what,
            unit="tokens" if known else "characters",
            width=width,
            counts=tuple(map(int, counts)),
            longest=longest,
            limit=limit if known else None,
        )

    def _readable(self, item: Looked) -> bool:
        row, looks = item
        marks = row.problem.count(chat.IMAGE_MARK)
        return (
            bool(row.problem.strip())
            and marks in (0, len(looks))
            and all(look.width and not look.wrong for look in looks)
        )

    def _prompt_tokens(self, batch: Sequence[Looked]) -> list[int]:
        sees = model.sees_images(self.processor)
        prompts, pixels = [], []
        for row, looks in batch:
            problem = row.problem if sees else row.problem.replace(chat.IMAGE_MARK, "")
            shown = len(looks) if sees else 0
            prompts.append(chat.prompt(problem, shown, self.conversation))
            pixels.append(sum(self._image_tokens(look) for look in looks) if sees else 0)
        return prompt_lengths(self.processor, prompts, pixels)

    def _image_tokens(self, look: Look) -> int:
        try:
            return model.image_tokens(self.processor, look.width, look.height)
        except ValueError:
            return 0  # too long for its width: found as such, and dropped by the stage

    def _response_tokens(self, batch: Sequence[Row]) -> list[int]:
        if not batch:
            return []
        texts = [row.response for row in batch]
        tokenizer = model.tokenizer_of(self.processor)
        ids = tokenizer(texts, add_special_tokens=False)["input_ids"]
        return [len(row) + 1 for row in ids]
