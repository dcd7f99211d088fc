"""A client of OpenAI-compatible chat endpoints: asks, repeats what may pass, counts; keeps nothing.

The key goes into a header and nowhere else: what the endpoint says of it is blotted out.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import Any, Self

import aiohttp

from coldstart.endpoint import Endpoint
from coldstart.status import ErrorCode
from coldstart_trainer.errors import StageFailure

FIRST_WAIT, LONGEST_WAIT = 0.5, 60.0
"""Seconds before the first repetition, where the endpoint names none, and at the most."""

LONGEST_PAUSE = 600.0
"""The longest `Retry-After` that is heeded."""

PROBE_RETRIES = 2
"""How often the first question is repeated: it may be that nobody is there."""

MAX_BYTES = 16 << 20
"""The longest answer that is read."""

_OK, _KEY, _ABSENT, _PASSING = 200, (401, 403), 404, (408, 425, 429)
_SERVER_ERRORS = 500


@dataclass(frozen=True)
class Answer:
    """What the model said, how it ended (`stop`, `length`, …), and what it cost."""

    text: str
    finish: str
    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True)
class Limits:
    """How hard an endpoint may be asked."""

    concurrency: int
    """Requests that are open at once."""
    timeout: float
    """Seconds of one request."""
    retries: int
    """Repetitions of one."""


class CallFailed(Exception):
    """A request that was given up; the reason is a word to count by."""

    def __init__(self, reason: str, message: str, *, passing: bool) -> None:
        super().__init__(message)
        self.reason = reason
        self.passing = passing
        """Whether the same request may succeed later."""


class Client:
    """Asks one model; an asynchronous context manager, used from one event loop.

    `counts` has how requests ended: `ok`, or the reason of a failure, repeated or given up.
    """

    def __init__(self, teacher: Endpoint, limits: Limits, field: str) -> None:
        """Prepare to ask.

        Args:
            teacher: whom.
            limits: how hard.
            field: the path of the teacher's section, for errors.

        Raises:
            StageFailure: the key is not in the environment (EndpointRefused).
        """
        self._teacher, self._field, self._retries = teacher, field, limits.retries
        self._url = teacher.base_url.rstrip("/") + "/chat/completions"
        self._key = _key(teacher, field)
        self._timeout = aiohttp.ClientTimeout(total=limits.timeout)
        self._limit = asyncio.Semaphore(limits.concurrency)
        self._patience = max(8, limits.concurrency)
        self._in_vain = 0
        self._paused_until = 0.0
        self.open = 0
        self.counts: Counter[str] = Counter()

    async def __aenter__(self) -> Self:
        headers = {"Content-Type": "application/json"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            headers=headers,
            timeout=self._timeout,
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=True,
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._session.close()

    async def probe(self) -> None:
        """Ask one short question, so that what cannot work is known before anything is asked.

        Raises:
            StageFailure: EndpointDown, or EndpointRefused with what to change.
        """
        messages = [{"role": "user", "content": "Answer with the word ok."}]
        try:
            await self.ask({"messages": messages, "max_tokens": 16}, retries=PROBE_RETRIES)
        except CallFailed as error:
            if error.reason == "empty":
                return  # a model that thinks first says nothing in so few tokens
            down = error.passing and error.reason != "unreadable"
            code = ErrorCode.ENDPOINT_DOWN if down else ErrorCode.ENDPOINT_REFUSED
            raise StageFailure(code, f"{self._field}.baseUrl: {self._url}: {error}") from error

    async def ask(self, request: Mapping[str, Any], retries: int | None = None) -> Answer:
        """The answer to a request, whose `model` is added.

        Args:
            request: the body but for the model.
            retries: how often it is repeated; None: as often as the client was told.

        Raises:
            CallFailed: it was given up.
            StageFailure: nothing can be had of the endpoint any more.
        """
        body = json.dumps({"model": self._teacher.model, **request}, ensure_ascii=False).encode()
        retries = self._retries if retries is None else retries
        async with self._limit:
            for attempt in range(retries + 1):
                try:
                    await self._pause()
                    answer = await self._once(body)
                except CallFailed as error:
                    self.counts[error.reason] += 1
                    if not error.passing or attempt == retries:
                        self._give_up(error)
                        raise
                    await asyncio.sleep(_backoff(attempt))
                else:
                    self.counts["ok"] += 1
                    self._in_vain = 0
                    return answer
        raise AssertionError("the last round returns or raises")

    async def _pause(self) -> None:
        """Wait as long as the endpoint has asked all of us to."""
        while (left := self._paused_until - time.monotonic()) > 0:  # noqa: ASYNC110 - it may grow
            await asyncio.sleep(left)

    def _give_up(self, error: CallFailed) -> None:
        self._in_vain = self._in_vain + 1 if error.passing else 0
        if self._in_vain >= self._patience:
            raise StageFailure(
                ErrorCode.ENDPOINT_DOWN,
                f"{self._field}.baseUrl: {self._in_vain} requests in a row were given up, the "
                f"last with: {error}; what was answered is kept",
            ) from error

    async def _once(self, body: bytes) -> Answer:
        self.open += 1
        try:
            async with self._session.post(self._url, data=body, allow_redirects=False) as response:
                data = await _limited(response)
                if response.status != _OK:
                    raise self._refusal(response.status, response.headers, data)
        except TimeoutError as error:
            raise CallFailed("timeout", "no answer in time", passing=True) from error
        except (aiohttp.ClientError, OSError) as error:
            message = f"{type(error).__name__}: {self._blotted(str(error))}"
            raise CallFailed("connection", message, passing=True) from error
        finally:
            self.open -= 1
        return _parsed(data)

    def _refusal(self, status: int, headers: Mapping[str, str], data: bytes) -> Exception:
        said = self._blotted(_said(data))
        message = f"status {status}: {said}"
        if status in _PASSING or status >= _SERVER_ERRORS:
            wait = _retry_after(headers.get("Retry-After", ""))
            self._paused_until = max(self._paused_until, time.monotonic() + wait)
            reason = {429: "rate_limited", 408: "timeout"}.get(status, "server_error")
            return CallFailed(reason, message, passing=True)
        advice = ""
        if status in _KEY:
            name = self._teacher.api_key_env
            advice = (
                f"{self._field}.apiKeyEnv: the key in {name} is not taken"
                if name
                else f"{self._field}.apiKeyEnv: a key is needed: name the variable that holds it"
            )
        elif status == _ABSENT:
            model = self._teacher.model
            advice = f"{self._field}: {self._url} has no model {model!r}, or baseUrl is wrong"
        if advice:
            return StageFailure(ErrorCode.ENDPOINT_REFUSED, f"{advice} ({message})")
        return CallFailed("refused", message, passing=False)

    def _blotted(self, text: str) -> str:
        return text.replace(self._key, "…") if self._key else text


def _key(teacher: Endpoint, field: str) -> str:
    if teacher.api_key_env is None:
        return ""
    key = os.environ.get(teacher.api_key_env, "").strip()
    if not key or not (key.isascii() and key.isprintable()):
        problem = "is no key: it holds what no header can" if key else "is not set"
        raise StageFailure(
            ErrorCode.ENDPOINT_REFUSED,
            f"{field}.apiKeyEnv: the environment variable {teacher.api_key_env} {problem}",
        )
    return key


async def _limited(response: aiohttp.ClientResponse) -> bytes:
    data = bytearray()
    async for chunk in response.content.iter_any():
        data += chunk
        if len(data) > MAX_BYTES:
            message = f"an answer of more than {MAX_BYTES} bytes"
            raise CallFailed("unreadable", message, passing=True)
    return bytes(data)


def _parsed(data: bytes) -> Answer:
    """The first choice of a chat completion."""
    try:
        document = json.loads(data)
        choice, usage = document["choices"][0], document.get("usage") or {}
        text, finish = choice["message"].get("content"), choice.get("finish_reason") or "stop"
        numbers = [int(usage.get(f"{name}_tokens") or 0) for name in ("prompt", "completion")]
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        message = f"what came is no chat completion: {_said(data)}"
        raise CallFailed("unreadable", message, passing=True) from error
    if not isinstance(text, str) or not text.strip():
        if finish != "length":
            raise CallFailed("empty", "the answer holds no text", passing=False)
        text = ""
    # Half a character is none, and no file of ours could hold it.
    text = text.encode("utf-8", "replace").decode()
    return Answer(text, str(finish), *numbers)


def _said(data: bytes) -> str:
    """The message in an error's body, else its beginning."""
    text = data[:4096].decode(errors="replace")
    try:
        error = json.loads(data)["error"]
        text = str(error["message"] if isinstance(error, dict) else error)
    except (ValueError, TypeError, LookupError):
        pass
    return " ".join(text.split())[:300] or "nothing was said"


def _backoff(attempt: int) -> float:
    longest = min(LONGEST_WAIT, FIRST_WAIT * 2**attempt)
    return random.uniform(longest / 2, longest)  # noqa: S311 - no secret


def _retry_after(value: str) -> float:
    """Seconds of a `Retry-After`, which is a number or a date; 0 for none."""
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(value).timestamp() - time.time()
        except (ValueError, TypeError, OverflowError):
            return 0.0
    return min(max(seconds, 0.0), LONGEST_PAUSE) if seconds == seconds else 0.0  # noqa: PLR0124
