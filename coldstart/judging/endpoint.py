"""One chat endpoint: asks it, with patience where that helps; what is asked is not its business.

The key goes into one header, and never into a message, a log or a file. Redirects are refused: they
would carry the key to another host.
"""

from __future__ import annotations

import email.utils
import http.client
import json
import os
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any, Final

from pydantic import Field, ValidationError

from coldstart.evaluation import JudgeModel
from coldstart.schema import Contract
from coldstart.status import ErrorCode

RETRIES: Final = 6
LONGEST_PAUSE: Final = 300.0
MAX_BODY: Final = 4 << 20
MAX_REPLY: Final = 4_000
SHOWN: Final = 200
REPLY_TOKENS: Final = 512
_TRANSIENT: Final = (408, 409, 425, 429)
_SERVER_ERROR: Final = 500


class EndpointError(ValueError):
    """The endpoint does not serve; the message names it, the reason, and what to do."""

    def __init__(self, code: ErrorCode, message: str) -> None:
        super().__init__(message)
        self.code = code


class Reply(Contract):
    """What the model said, and what it cost."""

    text: str
    """Its words."""
    prompt_tokens: int = Field(default=0, ge=0)
    """Tokens that it read, as the endpoint counts them."""
    completion_tokens: int = Field(default=0, ge=0)
    """Tokens that it wrote."""


class _Failed(Exception):
    """One request has failed. `fatal`: another would, too. `pause`: what the server asks for."""

    def __init__(self, reason: str, *, fatal: bool = False, pause: float = 0.0) -> None:
        super().__init__(reason)
        self.fatal = fatal
        self.pause = pause


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


class Endpoint:
    """A model behind an OpenAI-compatible endpoint; any number of threads may ask it.

    Args:
        model: where it is, and its name.
        environment: where the key is looked for.
        field: the field of the spec that messages name.
        first_pause: seconds before the second request; they double with every further one.

    Raises:
        EndpointError: the key is not in the environment.
    """

    def __init__(
        self,
        model: JudgeModel,
        *,
        environment: Mapping[str, str] = os.environ,
        field: str = "spec.evaluation.judge",
        first_pause: float = 1.0,
    ) -> None:
        self.model = model
        self.field = field
        self.first_pause = first_pause
        self._url = f"{model.base_url.rstrip('/')}/chat/completions"
        self._key = environment.get(model.api_key_env, "") if model.api_key_env else ""
        if model.api_key_env and not self._key.strip():
            raise self._error(
                f"apiKeyEnv: the environment variable {model.api_key_env} is not set: export it, "
                "or on a cluster give it by podTemplate.secrets"
            )
        self._opener = urllib.request.build_opener(_NoRedirect())

    def probe(self) -> None:
        """Ask once for a word, so that what is wrong shows before anything is generated.

        Raises:
            EndpointError: it is down, refuses the key, does not know the model, or is none.
        """
        self.ask("Reply with the word yes.", retries=2)

    def ask(
        self, prompt: str, *, retries: int = RETRIES, stop: threading.Event | None = None
    ) -> Reply:
        """What the model replies; time-outs, refusals and torn answers are tried again.

        Args:
            prompt: the user's turn.
            retries: how often at most.
            stop: ends the waiting between two requests.

        Raises:
            EndpointError: it refuses, or does not serve after all retries.
        """
        waiting = stop or threading.Event()
        pause = self.first_pause
        for attempt in range(retries + 1):
            try:
                return self._asked(prompt)
            except _Failed as failed:
                if failed.fatal:
                    raise self._error(str(failed)) from None
                last = failed
            if attempt < retries:
                if waiting.wait(min(LONGEST_PAUSE, max(pause, last.pause))):
                    break
                pause *= 2
        raise self._error(
            f"baseUrl: {self._url} does not serve; of {attempt + 1} requests the last failed: "
            f"{last}; start it, and run this again: what is judged already is kept",
            ErrorCode.ENDPOINT_DOWN,
        )

    def _error(self, message: str, code: ErrorCode = ErrorCode.ENDPOINT_REFUSED) -> EndpointError:
        return EndpointError(code, f"{self.field}.{self._without_key(message)}")

    def _without_key(self, text: str) -> str:
        return text.replace(self._key, "***") if self._key else text

    def _asked(self, prompt: str) -> Reply:
        document = {
            "model": self.model.model,
            "messages": [{"role": "user", "content": prompt}],
            "temperature": 0,
            "max_tokens": REPLY_TOKENS,
        }
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        request = urllib.request.Request(  # noqa: S310  (the spec takes http and https only)
            self._url, json.dumps(document).encode(), headers
        )
        return _reply(self._body(request))

    def _body(self, request: urllib.request.Request) -> bytes:
        timeout = self.model.timeout_seconds
        try:
            with self._opener.open(request, timeout=timeout) as response:
                return _read(response, time.monotonic() + timeout)
        except urllib.error.HTTPError as error:
            raise self._refusal(error) from None
        except TimeoutError:
            raise _Failed(f"no answer within {timeout:g} s (timeoutSeconds)") from None
        except urllib.error.URLError as error:
            raise _Failed(f"no connection ({error.reason})") from None
        except (http.client.HTTPException, OSError) as error:
            raise _Failed(f"the answer was cut short ({type(error).__name__})") from None

    def _refusal(self, error: urllib.error.HTTPError) -> _Failed:
        """What a status says."""
        status = error.code
        said = f"status {status}: {_said(error)}"
        if status in _TRANSIENT or status >= _SERVER_ERROR:
            return _Failed(said, pause=_pause(error.headers.get("Retry-After")))
        field = {401: "apiKeyEnv", 403: "apiKeyEnv", 404: "model"}.get(status, "baseUrl")
        advice = {
            "apiKeyEnv": "the endpoint refuses the key",
            "model": f"the endpoint does not know {self.model.model}, or is not at {self._url}",
            "baseUrl": f"{self._url} refuses the request",
        }[field]
        return _Failed(f"{field}: {advice} ({said})", fatal=True)


def _read(response: http.client.HTTPResponse, deadline: float) -> bytes:
    """The whole body, of a size that a chat completion has, by the deadline."""
    parts: list[bytes] = []
    size = 0
    while part := response.read1(1 << 16):
        parts.append(part)
        size += len(part)
        if size > MAX_BODY:
            raise _Failed(f"the answer is greater than {MAX_BODY} bytes")
        if time.monotonic() > deadline:
            raise TimeoutError
    if response.length:
        raise http.client.IncompleteRead(b"".join(parts), response.length)
    return b"".join(parts)


def _reply(body: bytes) -> Reply:
    try:
        document = json.loads(body)
        text = document["choices"][0]["message"]["content"]
        usage = document.get("usage") or {}
        return Reply(
            text=(text or "")[-MAX_REPLY:],
            prompt_tokens=usage.get("prompt_tokens") or 0,
            completion_tokens=usage.get("completion_tokens") or 0,
        )
    except (ValueError, LookupError, TypeError, AttributeError, ValidationError):
        shown = " ".join(body[:SHOWN].decode(errors="replace").split())
        raise _Failed(f"the answer is no chat completion ({shown!r})") from None


def _said(error: urllib.error.HTTPError) -> str:
    try:
        body = error.read(MAX_BODY)
    except (http.client.HTTPException, OSError):
        body = b""
    try:
        document = json.loads(body)
        said = document["error"]["message"] if "error" in document else document["message"]
    except (ValueError, LookupError, TypeError):
        said = body.decode(errors="replace")
    return " ".join(str(said).split())[:SHOWN] or error.reason


def _pause(header: str | None) -> float:
    """The seconds of a Retry-After, which are a number or a date."""
    if header is None:
        return 0.0
    try:
        return max(0.0, float(header))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(header).timestamp() - time.time())
    except ValueError:
        return 0.0
