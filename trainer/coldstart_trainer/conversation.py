"""How a problem becomes chat messages: the same in SFT, GRPO and evaluation; tokens come later.

A content without images is a plain string: the templates of text models take nothing else, and
some read nothing, without an error, where it is none. With images it is a list of parts, the one
form in which an image can stand in the middle of a problem. TRL passes both on as they are.
"""

from __future__ import annotations

from typing import Any

from coldstart.spec import Conversation

IMAGE_MARK = "<image>"
"""Where an image stands in a problem."""

TEXTS = ("problem", "answer", "response")
"""The columns of a row that hold text."""

Messages = list[dict[str, Any]]
"""Chat messages: `{"role": …, "content": …}`, the content a string or a list of parts."""

Content = str | list[dict[str, Any]]


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
    messages = [_message("system", conversation.system)] if conversation.system else []
    return [*messages, _message("user", _user_content(problem, images, conversation.suffix))]


def response(text: str) -> Messages:
    """The messages that answer it: one, of the assistant."""
    return [_message("assistant", text)]


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


def _user_content(problem: str, images: int, suffix: str) -> Content:
    pieces = problem.split(IMAGE_MARK)
    marks = len(pieces) - 1
    if marks not in (0, images):
        raise ValueError(f"{marks} {IMAGE_MARK} marks for {images} images")
    if images == 0:
        return problem + suffix
    if marks == 0:
        return [_image() for _ in range(images)] + _texts(problem + suffix)
    parts = _texts(pieces[0])
    for piece in pieces[1:-1]:
        parts += [_image(), *_texts(piece)]
    return [*parts, _image(), *_texts(pieces[-1] + suffix)]


def _texts(text: str) -> list[dict[str, Any]]:
    return [{"type": "text", "text": text}] if text else []


def _image() -> dict[str, Any]:
    return {"type": "image"}


def _message(role: str, content: Content) -> dict[str, Any]:
    return {"role": role, "content": content}
