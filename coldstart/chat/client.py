"""A client of OpenAI-compatible chat endpoints: asks, repeats what may pass, counts; keeps nothing.

The key goes into one header and nowhere else: what the endpoint says of it is blotted out, and
redirects, which would carry it to another host, are refused. It is a loop around `aiohttp`, which
needs 0.2 ms of processor time an answer where the `openai` package needs 1.7, because no library
for retries lets all requests wait when one of them is told to.
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
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp

from coldstart.chat.completion import Answer, CallFailed, limited, parsed, retry_after, said
from coldstart.endpoint import Endpoint
from coldstart.status import ErrorCode

FIRST_WAIT, LONGEST_WAIT = 0.5, 60.0
"""Seconds before the first repetition, where the endpoint names none, and at the most."""

PROBE_RETRIES: Final = 2
"""How often the first question is repeated: it may be that nobody is there."""

_OK, _KEY, _ABSENT, _PASSING = 200, (401, 403), 404, (408, 409, 425, 429)
_SERVER_ERRORS: Final = 500


@dataclass(frozen=True)
class Limits:
    """How hard an endpoint may be asked."""

    concurrency: int
    """Requests that are open at once."""
    timeout: float
    """Seconds of one request."""
    retries: int
    """Repetitions of one."""
    patience: int = 8
    """How many requests in a row are given up before the endpoint counts as down."""


class EndpointError(ValueError):
    """Nothing can be had of the endpoint; the message names the field, the reason, what to do."""

    def __init__(self, code: ErrorCode, message: str) -> None:
        super().__init__(message)
        self.code = code


class Client:
    """Asks one model; an asynchronous context manager, used from one event loop at a time.

    `open` counts the requests that are open, `counts` how requests ended: `ok`, or the reason of a
    failure, repeated or given up.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        limits: Limits,
        field: str,
        environment: Mapping[str, str] = os.environ,
    ) -> None:
        """Prepare to ask.

        Args:
            endpoint: whom.
            limits: how hard.
            field: the path of the endpoint's section, for errors.
            environment: where the key is looked for.

        Raises:
            EndpointError: the key is not in the environment (EndpointRefused).
        """
        self.endpoint, self.limits, self._field = endpoint, limits, field
        self._url = endpoint.base_url.rstrip("/") + "/chat/completions"
        self._proxy = _proxy(self._url)
        self._key = _key(endpoint, field, environment)
        self._in_vain = 0
        self._paused_until = 0.0
        self.open = 0
        self.counts: Counter[str] = Counter()

    async def __aenter__(self) -> Self:
        headers = {"Content-Type": "application/json"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        self._limit = asyncio.Semaphore(self.limits.concurrency)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            headers=headers,
            timeout=aiohttp.ClientTimeout(total=self.limits.timeout),
            cookie_jar=aiohttp.DummyCookieJar(),
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
            EndpointError: EndpointDown, or EndpointRefused with what to change.
        """
        messages = [{"role": "user", "content": "Reply with the word yes."}]
        # A model that thinks first says nothing in so few tokens.
        body = self._body({"messages": messages, "max_tokens": 16})
        try:
            await self._answer(body, PROBE_RETRIES, silent=True)
        except CallFailed as error:
            raise self.failure(error) from error

    async def ask(self, request: Mapping[str, Any], *, silent: bool = False) -> Answer:
        """The answer to a request, whose `model` is added.

        Args:
            request: the body but for the model.
            silent: whether an answer may be empty although nothing cut it.

        Raises:
            CallFailed: it was given up.
            EndpointError: nothing can be had of the endpoint any more.
        """
        try:
            answer = await self._answer(self._body(request), self.limits.retries, silent=silent)
        except CallFailed as error:
            self._in_vain = self._in_vain + 1 if error.passing else 0
            if self._in_vain >= self.limits.patience:
                raise EndpointError(
                    ErrorCode.ENDPOINT_DOWN,
                    f"{self._field}.baseUrl: {self._url} does not serve: {self._in_vain} requests "
                    f"in a row were given up after {self.limits.retries + 1} tries, the last "
                    f"with: {error}; what was answered is kept",
                ) from error
            raise
        self._in_vain = 0
        return answer

    def failure(self, error: CallFailed) -> EndpointError:
        """What a request that was given up says of the endpoint, where nothing else may fail."""
        down = error.passing and error.reason != "unreadable"
        code = ErrorCode.ENDPOINT_DOWN if down else ErrorCode.ENDPOINT_REFUSED
        problem = "does not serve" if down else "does not do what is asked"
        return EndpointError(code, f"{self._field}.baseUrl: {self._url} {problem}: {error}")

    def _body(self, request: Mapping[str, Any]) -> bytes:
        document = {"model": self.endpoint.model, **request}
        return json.dumps(document, ensure_ascii=False).encode()

    async def _answer(self, body: bytes, retries: int, *, silent: bool) -> Answer:
        async with self._limit:
            for attempt in range(retries + 1):
                try:
                    await self._pause()
                    answer = parsed(await self._once(body), silent=silent)
                except CallFailed as error:
                    self.counts[error.reason] += 1
                    if not error.passing or attempt == retries:
                        raise
                    await asyncio.sleep(_backoff(attempt))
                else:
                    self.counts["ok"] += 1
                    return answer
        raise AssertionError("the last round returns or raises")

    async def _pause(self) -> None:
        """Wait as long as the endpoint has asked all of us to."""
        while (left := self._paused_until - time.monotonic()) > 0:  # noqa: ASYNC110 - it may grow
            await asyncio.sleep(left)

    async def _once(self, body: bytes) -> bytes:
        self.open += 1
        try:
            async with self._session.post(
                self._url, data=body, allow_redirects=False, proxy=self._proxy
            ) as response:
                data = self._blotted(await limited(response))
                if response.status != _OK:
                    raise self._refusal(response.status, response.headers, data)
        except TimeoutError as error:
            message = f"no answer within {self.limits.timeout:g} s"
            raise CallFailed("timeout", message, passing=True) from error
        except (aiohttp.ClientError, OSError) as error:
            message = f"no connection, or a broken one: {error}"
            raise CallFailed("connection", message, passing=True) from error
        finally:
            self.open -= 1
        return data

    def _refusal(self, status: int, headers: Mapping[str, str], data: bytes) -> Exception:
        told = f"status {status}: {said(data)}"
        if status in _PASSING or status >= _SERVER_ERRORS:
            wait = retry_after(headers.get("Retry-After", ""))
            self._paused_until = max(self._paused_until, time.monotonic() + wait)
            reason = {429: "rate_limited", 408: "timeout"}.get(status, "server_error")
            return CallFailed(reason, told, passing=True)
        name, model = self.endpoint.api_key_env, self.endpoint.model
        if status in _KEY and name:
            advice = f"apiKeyEnv: the key in {name} is not taken"
        elif status in _KEY:
            advice = "apiKeyEnv: a key is needed: name the variable that holds it"
        elif status == _ABSENT:
            advice = f"model: {self._url} has no model {model!r}, or baseUrl is wrong"
        else:
            return CallFailed("refused", told, passing=False)
        return EndpointError(ErrorCode.ENDPOINT_REFUSED, f"{self._field}.{advice} ({told})")

    def _blotted(self, data: bytes) -> bytes:
        return data.replace(self._key.encode(), b"***") if self._key else data


def _key(endpoint: Endpoint, field: str, environment: Mapping[str, str]) -> str:
    name = endpoint.api_key_env
    if name is None:
        return ""
    key = environment.get(name, "").strip()
    if key and key.isascii() and key.isprintable():
        return key
    problem = (
        "is no key: it holds what no header can"
        if key
        else "is not set: export it, or on a cluster give it by podTemplate.secrets"
    )
    raise EndpointError(
        ErrorCode.ENDPOINT_REFUSED, f"{field}.apiKeyEnv: the environment variable {name} {problem}"
    )


def _proxy(url: str) -> str | None:
    """The environment's proxy, looked up once: aiohttp would look for each request, in a thread."""
    parts = urlsplit(url)
    return None if proxy_bypass(parts.netloc) else getproxies().get(parts.scheme)


def _backoff(attempt: int) -> float:
    longest = min(LONGEST_WAIT, FIRST_WAIT * 2**attempt)
    return random.uniform(longest / 2, longest)  # noqa: S311 - no secret
