"""What an endpoint sends, read: a chat completion, an error's words, a pause; it asks nothing."""

from __future__ import annotations

import time
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Final

import aiohttp

from coldstart import foreign

MAX_BYTES: Final = 16 << 20
"""The longest answer that is read."""

MAX_TOKENS: Final = 1 << 32
"""No answer costs more."""

LONGEST_PAUSE: Final = 600.0
"""The longest `Retry-After` that is heeded."""
_LONGEST_FINISH: Final = 40
"""Characters of the word for how an answer ended."""


@dataclass(frozen=True)
class Answer:
    """What the model said, how it ended (`stop`, `length`, …), and what it cost."""

    text: str
    finish: str
    prompt_tokens: int
    completion_tokens: int


class CallFailed(Exception):
    """A request that was given up; the reason is a word to count by."""

    def __init__(self, reason: str, message: str, *, passing: bool) -> None:
        super().__init__(message)
        self.reason = reason
        self.passing = passing
        """Whether the same request may succeed later."""


async def limited(response: aiohttp.ClientResponse) -> bytes:
    """The body of a response.

    Raises:
        CallFailed: it is longer than any answer.
    """
    data = bytearray()
    async for chunk in response.content.iter_any():
        data += chunk
        if len(data) > MAX_BYTES:
            message = f"an answer of more than {MAX_BYTES} bytes"
            raise CallFailed("unreadable", message, passing=True)
    return bytes(data)


def parsed(data: bytes, *, silent: bool) -> Answer:
    """The first choice of a chat completion.

    Args:
        data: what was sent.
        silent: whether it may be empty although nothing cut it.

    Raises:
        CallFailed: it is none, or empty.
    """
    try:
        document = foreign.parsed(data)
        choice, usage = document["choices"][0], document.get("usage") or {}
        text, finish = choice["message"].get("content"), choice.get("finish_reason") or "stop"
        prompt, completion = (int(usage.get(f"{n}_tokens") or 0) for n in ("prompt", "completion"))
    except (ValueError, TypeError, LookupError, AttributeError, OverflowError) as error:
        message = f"what came is no chat completion: {said(data)}"
        raise CallFailed("unreadable", message, passing=True) from error
    for count in (prompt, completion):
        if not 0 <= count <= MAX_TOKENS:
            message = f"what came is no chat completion: it cost {count} tokens"
            raise CallFailed("unreadable", message, passing=True)
    if not isinstance(text, str) or not text.strip():
        if finish != "length" and not silent:
            raise CallFailed("empty", "the answer holds no text", passing=False)
        text = ""
    return Answer(text, str(finish)[:_LONGEST_FINISH], prompt, completion)


def said(data: bytes) -> str:
    """The message in an error's body, else its beginning."""
    text = data[:4096].decode(errors="replace")
    try:
        document = foreign.parsed(data)
        error = document["error"] if "error" in document else document["message"]
        text = str(error["message"] if isinstance(error, dict) else error)
    except (ValueError, TypeError, LookupError):
        pass
    return " ".join(text.split())[:300] or "nothing was said"


def retry_after(value: str) -> float:
    """Seconds of a `Retry-After`, which is a number or a date; 0 for none."""
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(value).timestamp() - time.time()
        except (ValueError, TypeError, OverflowError):
            return 0.0
    return min(max(seconds, 0.0), LONGEST_PAUSE) if seconds == seconds else 0.0  # noqa: PLR0124
