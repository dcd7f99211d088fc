"""Which rows a stage takes: wrong ones are errors, those that do not fit are dropped, not cut."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Literal

import pyarrow as pa

from coldstart.dataset import Columns
from coldstart.spec import Conversation
from coldstart.status import ErrorCode
from coldstart_trainer import conversation as chat
from coldstart_trainer.images import ImageError, facts
from coldstart_trainer.model import image_tokens, sees_images, tokenizer_of
from coldstart_trainer.sources import DataError, Source

BATCH = 256
"""Rows that are tokenized at once."""

Table = dict[str, pa.ChunkedArray]
"""Columns by our names, with their final types."""


@dataclass(frozen=True)
class Terms:
    """What decides whether a row is taken."""

    processor: Any
    conversation: Conversation
    target: Literal["response", "answer"]
    columns: Columns
    """What the columns are called in the data set, for errors."""
    field: str
    """The path of the data set in the spec, for errors."""


@dataclass
class Tally:
    """What was taken, and why the rest was not."""

    kept: list[int] = field(default_factory=list)
    dropped: Counter[str] = field(default_factory=Counter)
    shortest: dict[str, int] = field(default_factory=dict)
    """Tokens of the shortest text that was too long, by reason."""
    digest: Any = field(default_factory=hashlib.sha256)
    """Over all that the rows taken hold, in the order in which they were looked at."""

    def drop(self, reason: str, tokens: int | None = None) -> None:
        """Count a row that does not fit."""
        self.dropped[reason] += 1
        if tokens is not None:
            self.shortest[reason] = min(tokens, self.shortest.get(reason, tokens))


@dataclass(frozen=True)
class _Row:
    """One row while it is being looked at."""

    row: int
    texts: dict[str, str | None]
    sizes: tuple[tuple[int, int], ...]
    """Width and height of each image."""
    marks: tuple[bytes, ...]

    @property
    def prompt(self) -> str:
        return self.texts["problem"] or ""

    def add_to(self, digest: Any) -> None:
        for piece in (repr(sorted(self.texts.items())).encode(), *self.marks):
            digest.update(b"%d," % len(piece))
            digest.update(piece)


def admitted(
    source: Source, table: Table, order: Sequence[int], wanted: int, terms: Terms
) -> Tally:
    """Look at rows in this order until as many fit as are wanted.

    Raises:
        DataError: a row that was looked at is wrong; the message names file, row and column.
    """
    tally = Tally()
    special = _special_tokens(terms.processor)
    for start in range(0, len(order), BATCH):
        batch = [_checked(row, source, table, terms) for row in order[start : start + BATCH]]
        for item in _fitting(batch, terms, special, tally):
            if len(tally.kept) < wanted:
                tally.kept.append(item.row)
                item.add_to(tally.digest)
        if len(tally.kept) == wanted:
            break
    tally.kept.sort()
    return tally


def prompt_lengths(
    processor: Any, prompts: Sequence[chat.Messages], pixels: Iterable[int]
) -> list[int]:
    """How many tokens each prompt has; `pixels` has the image tokens of each."""
    if not prompts:
        return []
    texts = processor.apply_chat_template(prompts, tokenize=False, add_generation_prompt=True)
    ids = tokenizer_of(processor)(texts, add_special_tokens=False)["input_ids"]
    # Each image is one placeholder in the text, which becomes its pixels' tokens.
    return [
        len(row) - _image_parts(prompt) + tokens
        for row, prompt, tokens in zip(ids, prompts, pixels, strict=True)
    ]


def is_absent(answer: str | None) -> bool:
    """Whether an answer is none: `None` is what a missing one becomes on its way into a file."""
    return answer is None or answer.strip().lower() in ("", "none", "null", "nan")


def _image_parts(prompt: chat.Messages) -> int:
    contents = [message["content"] for message in prompt]
    parts = chain.from_iterable(content for content in contents if isinstance(content, list))
    return sum(part["type"] == "image" for part in parts)


def _special_tokens(processor: Any) -> tuple[str, ...]:
    """What would be read as markup if it stood in a text."""
    added = tokenizer_of(processor).added_tokens_decoder.values()
    return tuple(str(token) for token in added if token.special)


def _checked(row: int, source: Source, table: Table, terms: Terms) -> _Row:
    """A row that holds what it must."""
    names = terms.columns
    texts: dict[str, str | None] = {
        name: table[name][row].as_py() for name in chat.TEXTS if name in table
    }
    images = table["images"][row].as_py()
    marks = (texts["problem"] or "").count(chat.IMAGE_MARK)
    known = []
    column, problem = "", ""
    if not (texts["problem"] or "").strip():
        column, problem = names.problem, "is empty"
    elif terms.target == "response" and not (texts["response"] or "").strip():
        column, problem = names.response, "is empty"
    elif terms.target == "answer" and is_absent(texts["answer"]):
        shown = repr(texts["answer"]) if (texts["answer"] or "").strip() else "empty"
        column, problem = names.answer, f"is {shown}: remove the row, or give it an answer"
    elif images and not sees_images(terms.processor):
        column = names.images
        problem = (
            f"has {len(images)} images, but the model is a text model: take rows without images, "
            "or a vision-language model in spec.model.name"
        )
    elif marks and marks != len(images):
        column = names.problem
        problem = f"has {marks} {chat.IMAGE_MARK} marks, but there are {len(images)} images"
    else:
        for index, value in enumerate(images):
            try:
                known.append(facts(value))
            except ImageError as error:
                column, problem = names.images, f"image {index} {error}"
                break
    if problem:
        raise DataError(
            ErrorCode.DATASET_INVALID,
            f"{terms.field}: {source.place(row)}, column {column!r}: {problem}",
        )
    sizes = tuple((item.width, item.height) for item in known)
    return _Row(row, texts, sizes, tuple(item.mark for item in known))


def _fitting(
    batch: list[_Row], terms: Terms, special: tuple[str, ...], tally: Tally
) -> Iterator[_Row]:
    """The rows of a batch that fit; the others are tallied."""
    candidates, pixels = [], []
    for item in batch:
        if any(token in text for text in _read(item, terms) for token in special):
            tally.drop("special_token")
            continue
        try:
            pixels.append(sum(image_tokens(terms.processor, *size) for size in item.sizes))
        except ValueError:
            tally.drop("image_aspect_ratio")
            continue
        candidates.append(item)
    spec = terms.conversation
    prompts = [chat.prompt(item.prompt, len(item.sizes), spec) for item in candidates]
    lengths = prompt_lengths(terms.processor, prompts, pixels)
    responses = _response_lengths(candidates, terms)
    for item, tokens, answer in zip(candidates, lengths, responses, strict=True):
        if tokens > spec.max_prompt_tokens:
            tally.drop("prompt_too_long", tokens)
        elif answer > spec.max_completion_tokens:
            tally.drop("response_too_long", answer)
        else:
            yield item


def _read(item: _Row, terms: Terms) -> list[str]:
    """What the model reads of a row."""
    names = ("problem", "response") if terms.target == "response" else ("problem",)
    return [item.texts[name] or "" for name in names]


def _response_lengths(rows: list[_Row], terms: Terms) -> list[int]:
    """Token counts of responses, with the token that ends them; 0 where none is learnt."""
    if terms.target != "response" or not rows:
        return [0] * len(rows)
    texts = [item.texts["response"] for item in rows]
    ids = tokenizer_of(terms.processor)(texts, add_special_tokens=False)["input_ids"]
    return [len(row) + 1 for row in ids]
