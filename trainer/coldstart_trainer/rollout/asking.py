"""Questions to a vLLM server: each ends, whatever the server does; what answers say is read apart.

TRL's client waits for as long as a server likes, and calls what it does not expect `Exception`.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from typing import Any, Final, TypeVar

import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection
from urllib3.util.retry import Retry

from coldstart.chat.completion import said
from coldstart.status import ErrorCode
from coldstart_trainer.errors import StageFailure
from coldstart_trainer.rollout import answers

FIELD = "spec.grpo.rollout.serverUrl"

CONNECTING: Final = 10.0
"""Seconds for a connection."""
QUICK: Final = 300.0
"""Seconds for what a server knows at once, asked six times if need be."""
LONG: Final = 6 * 3600.0
"""Seconds for what it computes: no sampling step takes as long."""
MAX_BYTES: Final = 1 << 30
"""The longest answer that is read: completions of a whole step, or the pixels of a prompt."""

_CHUNK = 1 << 20
_AT_ONCE = frozenset({"/v1/models", "/server_info", "/get_world_size", "/abort_requests"})
_PASSING = frozenset({408, 425, 429})
"""Refusals that another attempt may not meet."""

Found = TypeVar("Found")


@dataclass(frozen=True)
class Answer:
    """As much of a response as TRL's client uses, of one that was successful."""

    server: str
    path: str
    data: bytes
    status_code: int = 200

    @property
    def text(self) -> str:
        """What was sent."""
        return self.data.decode(errors="replace")

    def json(self) -> Any:
        """What was sent, in the shape that vLLM gives it.

        Raises:
            StageFailure: it has another one.
        """
        shape, code = answers.SHAPES.get(self.path, (None, ErrorCode.INVALID_ORDER))
        try:
            found = answers.document(self.data)
            if shape is not None:
                answers.shaped(shape, found)
        except answers.Unreadable as error:
            raise lost(self.server, f"{self.path}: {error}") from error
        except answers.AnswerError as error:
            raise strange(self.server, self.path, error, code) from error
        return found


class Server:
    """Asks one server, in the place of the session that TRL's client makes."""

    def __init__(self, url: str, session: requests.Session) -> None:
        """Take a session's adapters over, but for what would let a server set the pace."""
        self.url, self._session = url, session
        for prefix, adapter in [*session.adapters.items()]:
            if type(adapter) is HTTPAdapter:
                retries = adapter.max_retries.new(
                    respect_retry_after_header=False, raise_on_status=False
                )
                session.mount(prefix, _Lasting(retries))

    def get(self, url: str, **named: Any) -> Answer:
        """An answer.

        Raises:
            StageFailure: there is none, or it is an error.
        """
        return self._asked("GET", url, **named)

    def post(self, url: str, **named: Any) -> Answer:
        """As `get`."""
        return self._asked("POST", url, **named)

    def _asked(self, method: str, url: str, **named: Any) -> Answer:
        path = url.removeprefix(self.url)
        seconds = QUICK if path in _AT_ONCE else LONG
        try:
            status, data = fetched(self._session, method, url, seconds, **named)
        except requests.RequestException as error:
            raise lost(self.url, error) from error
        if status == HTTPStatus.OK:
            return Answer(self.url, path, data)
        told = f"{path}: {status}: {answers.shown(said(data[:_CHUNK]))}"
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR or status in _PASSING:
            raise lost(self.url, told)
        advice = "; start it with --enable-scale-out" if path.endswith("/render") else ""
        raise wrong(f"the vLLM server at {self.url} refuses {told}{advice}")


def fetched(
    session: requests.Session,
    method: str,
    url: str,
    seconds: float,
    *,
    most: int = MAX_BYTES,
    **named: Any,
) -> tuple[int, bytes]:
    """The status and the body of a response.

    Args:
        session: asks.
        method: of HTTP.
        url: what is asked.
        seconds: after which nothing more is waited for.
        most: bytes of the body.
        named: as for `requests`.

    Raises:
        requests.RequestException: there is none, or no end of it.
    """
    wait = (CONNECTING, seconds)
    ask = partial(session.request, method, url, timeout=wait, stream=True, **named)
    try:
        return _within(seconds, lambda: _read(ask(allow_redirects=False), most))
    except ValueError as error:  # it looks where a redirect would lead, followed or not
        raise requests.RequestException(str(error)) from error


def lost(url: str | None, error: Exception | str) -> StageFailure:
    """What a server that cannot be reached ends a stage with; another attempt may find it."""
    reason = " ".join(str(error).split())[:300]
    return StageFailure(
        ErrorCode.WORKER_LOST, f"{FIELD}: no vLLM server answers at {url}: {reason}"
    )


def wrong(message: str) -> StageFailure:
    """What a server that is another one ends a stage with."""
    return StageFailure(ErrorCode.INVALID_ORDER, f"{FIELD}: {message}")


def strange(url: str, path: str, error: Exception, code: ErrorCode) -> StageFailure:
    """What an answer that is none of vLLM's ends a stage with."""
    return StageFailure(
        code,
        f"{FIELD}: the vLLM server at {url} answers {path} with what vLLM does not ({error}); see "
        "that it is one, of the version that was tested, and that nothing between changes it",
    )


def _read(response: requests.Response, most: int) -> tuple[int, bytes]:
    data = bytearray()
    with response:
        for chunk in response.iter_content(_CHUNK):
            data += chunk
            if len(data) > most:
                raise requests.RequestException(f"an answer of more than {most} bytes")
    return response.status_code, bytes(data)


def _within(seconds: float, act: Callable[[], Found]) -> Found:
    """What a call returns; one that takes longer is left to itself, since no socket is interrupted.

    A time-out of `requests` begins anew with each byte.
    """
    found: Future[Found] = Future()

    def work() -> None:
        try:
            found.set_result(act())
        except Exception as error:  # noqa: BLE001 - raised where it is waited for
            found.set_exception(error)

    threading.Thread(target=work, daemon=True).start()
    try:
        return found.result(seconds)
    except TimeoutError as error:
        raise requests.Timeout(f"no whole answer within {seconds:g} s") from error


class _Lasting(HTTPAdapter):
    """Finds out within minutes that a silent peer is gone, which sends no byte of its own."""

    _PROBES = (("TCP_KEEPIDLE", 60), ("TCP_KEEPINTVL", 15), ("TCP_KEEPCNT", 8))

    def __init__(self, retries: Retry) -> None:
        # As many connections as TRL's client has threads.
        super().__init__(max_retries=retries, pool_maxsize=64)

    def init_poolmanager(self, *arguments: Any, **named: Any) -> None:
        probes = [
            (socket.IPPROTO_TCP, getattr(socket, name), value)
            for name, value in self._PROBES
            if hasattr(socket, name)
        ]
        options = [(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1), *probes]
        named["socket_options"] = [*HTTPConnection.default_socket_options, *options]
        super().init_poolmanager(*arguments, **named)
