"""Questions as a teacher is asked them: rows with their images as data URLs; nothing is sent."""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from PIL import Image

from coldstart.grading import Case, case
from coldstart.spec import Conversation
from coldstart_trainer import conversation as chat
from coldstart_trainer.data import Rows

BATCH = 32
"""Rows that are read at once, their images with them."""

_WIRE = {"PNG": "image/png", "JPEG": "image/jpeg", "WEBP": "image/webp"}
"""Formats that every endpoint takes as they are."""


@dataclass(frozen=True)
class Picture:
    """An encoded image of a question."""

    data: bytes

    @cached_property
    def digest(self) -> str:
        """What the image is, as a request's key has it."""
        return f"sha256:{hashlib.sha256(self.data).hexdigest()}"

    def url(self, max_pixels: int) -> str:
        """The image as a data URL, scaled down to so many pixels; as it is where it is small."""
        with Image.open(io.BytesIO(self.data)) as image:
            kind, data = image.format or "", self.data
            pixels = image.width * image.height
            if pixels > max_pixels or kind not in _WIRE:
                kind, data = "PNG", _scaled(image, min(1.0, (max_pixels / pixels) ** 0.5))
        return f"data:{_WIRE[kind]};base64,{base64.b64encode(data).decode()}"


def _scaled(image: Image.Image, share: float) -> bytes:
    width, height = (max(1, int(side * share)) for side in image.size)
    buffer = io.BytesIO()
    image.convert("RGB").resize((width, height), Image.Resampling.BICUBIC).save(
        buffer, format="PNG"
    )
    return buffer.getvalue()


@dataclass(frozen=True)
class Question:
    """One row of the data set."""

    id: str
    problem: str
    answer: str
    choices: tuple[str, ...]
    pictures: tuple[Picture, ...]

    def case(self, response: str) -> Case:
        """What the grader is given for a response."""
        return case(response, self.answer, choices=self.choices or None)

    def opening(self, text: str, conversation: Conversation) -> chat.Messages:
        """The first messages to a teacher, with each image as the digest of its content.

        Args:
            text: the first turn, in which the problem stands.
            conversation: system prompt and suffix.
        """
        messages = chat.prompt(text, len(self.pictures), conversation)
        digests = iter(self.pictures)
        for message in messages:
            if isinstance(message["content"], list):
                message["content"] = [
                    part
                    if part["type"] == "text"
                    else {"type": "image_url", "image_url": {"url": next(digests).digest}}
                    for part in message["content"]
                ]
        return messages


def questions(rows: Rows) -> Iterator[Question]:
    """The questions of rows that were admitted, in their order, images still encoded."""
    encoded = rows.data.with_format("arrow")
    for start in range(0, len(rows), BATCH):
        yield from map(_question, encoded[start : start + BATCH].to_pylist())


def _question(row: Mapping[str, Any]) -> Question:
    return Question(
        id=row["id"],
        problem=row["problem"],
        answer=row["answer"],
        choices=tuple(row.get("choices") or ()),
        pictures=tuple(Picture(_content(value)) for value in row["images"]),
    )


def _content(value: Mapping[str, Any]) -> bytes:
    data = value["bytes"]
    return data if data is not None else Path(value["path"]).read_bytes()


def sendable(messages: chat.Messages, urls: Mapping[str, str]) -> chat.Messages:
    """Messages with the images in the place of their digests."""
    return [
        message
        if isinstance(message["content"], str)
        else {**message, "content": [_sent(part, urls) for part in message["content"]]}
        for message in messages
    ]


def _sent(part: dict[str, Any], urls: Mapping[str, str]) -> dict[str, Any]:
    if part["type"] == "text":
        return part
    return {"type": "image_url", "image_url": {"url": urls[part["image_url"]["url"]]}}
