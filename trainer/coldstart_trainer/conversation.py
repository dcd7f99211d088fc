"""How a problem becomes chat messages: the same in SFT, GRPO and evaluation; tokens come later.

Contents are lists of parts, never plain strings: that is the one form in which an image can stand
in the middle of a problem, and which TRL passes on as it is.
"""

from __future__ import annotations

from typing import Any

from coldstart.spec import Conversation

IMAGE_MARK = "<image>"
"""Where an image stands in a problem."""

TEXTS = ("problem", "answer", "response")
"""The columns of a row that hold text."""

Messages = list[dict[str, Any]]
"""Chat messages: `{"role": …, "content": [part, …]}`."""


def prompt(problem: str, images: int, conversation: Conversation) -> Messages:
    """The messages that ask a problem.

    Args:
        problem: its text; `<image>` marks, if it has any, say where the images stand.
        images: how many images belong to it. Without marks they come before the text.
        conversation: system prompt and suffix. Without a system prompt, the model's chat template
            may put one of its own.

    Raises:
        ValueError: there are marks, but not as many as images.
    """
    messages = [_message("system", [_text(conversation.system)])] if conversation.system else []
    return [*messages, _message("user", _user_parts(problem, images, conversation.suffix))]


def response(text: str) -> Messages:
    """The messages that answer it: one, of the assistant."""
    return [_message("assistant", [_text(text)])]


def with_response(problem: str, images: int, text: str, conversation: Conversation) -> Messages:
    """The whole conversation: a problem and its response."""
    return [*prompt(problem, images, conversation), *response(text)]


def completion_text(completion: str | Messages) -> str:
    """The text of a completion, in whichever form TRL hands it to a reward."""
    if isinstance(completion, str):
        return completion
    return "".join(_content_text(message.get("content")) for message in completion)


def _content_text(content: Any) -> str:
    if isinstance(content, str):
        return content
    return "".join(part.get("text") or "" for part in content or ())


def _user_parts(problem: str, images: int, suffix: str) -> list[dict[str, Any]]:
    pieces = problem.split(IMAGE_MARK)
    marks = len(pieces) - 1
    if marks == 0:
        return [_image() for _ in range(images)] + _texts(problem + suffix)
    if marks != images:
        raise ValueError(f"{marks} {IMAGE_MARK} marks for {images} images")
    parts = _texts(pieces[0])
    for piece in pieces[1:-1]:
        parts += [_image(), *_texts(piece)]
    return [*parts, _image(), *_texts(pieces[-1] + suffix)]


def _texts(text: str) -> list[dict[str, Any]]:
    return [_text(text)] if text else []


def _text(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def _image() -> dict[str, Any]:
    return {"type": "image"}


def _message(role: str, content: list[dict[str, Any]]) -> dict[str, Any]:
    return {"role": role, "content": content}
