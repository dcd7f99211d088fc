"""Whether a run's vLLM server is there and the right one, asked before any weight is loaded."""

from __future__ import annotations

import time
from collections.abc import Collection
from http import HTTPStatus
from pathlib import PurePath

import requests

from coldstart.chat.completion import said
from coldstart_trainer.errors import StageFailure
from coldstart_trainer.rollout import answers
from coldstart_trainer.rollout.answers import AnswerError, Model, ServerInfo, shown
from coldstart_trainer.rollout.asking import fetched, lost, wrong
from coldstart_trainer.rollout.settings import EXTENSION

PAUSE = 2.0
"""Seconds between two questions to a server that is not there yet."""

SECONDS = 10.0
"""How long one answer may take."""

MAX_BYTES = 16 << 20
"""The longest one."""


def require_server(url: str, seconds: float, names: Collection[str], tokens: int) -> None:
    """Wait for the server, and refuse one that cannot sample for this stage.

    Args:
        url: rollout.serverUrl.
        seconds: how long to wait (TRL's `vllm_server_timeout`).
        names: what the server's model may be called: a name or path, of which the last part counts.
        tokens: length of the longest prompt and completion together.

    Raises:
        StageFailure: WorkerLost, if there is none; InvalidOrder, if it is another one.
    """
    _require_model(url, served(url, seconds), names, tokens)
    try:
        status, data = _got(f"{url}/server_info?config_format=json")
    except requests.RequestException as error:
        raise lost(url, error) from error
    if status != HTTPStatus.OK:
        raise no_weights(url)
    _require_flags(url, data)


def served(url: str, seconds: float) -> Model:
    """The model of a server, once that is there.

    Args:
        url: rollout.serverUrl.
        seconds: how long to wait.

    Raises:
        StageFailure: WorkerLost.
    """
    # TRL's own waiting never ends at a server that answers with an error.
    end = time.monotonic() + seconds
    while True:
        try:
            status, data = _got(f"{url}/v1/models")
            if status == HTTPStatus.OK:
                return answers.shaped(answers.Models, answers.document(data)).data[0]
            error: Exception = AnswerError(f"{status}: {shown(said(data))}")
        except (requests.RequestException, AnswerError) as caught:
            error = caught
        if time.monotonic() >= end:
            raise lost(url, error) from error
        time.sleep(PAUSE)


def no_weights(url: str) -> StageFailure:
    """What a server that takes no weights ends a stage with."""
    return wrong(
        f"the vLLM server at {url} cannot be given weights; start it with "
        "VLLM_SERVER_DEV_MODE=1 in its environment and "
        '--weight-transfer-config \'{"backend": "nccl"}\''
    )


def _got(url: str) -> tuple[int, bytes]:
    with requests.Session() as session:
        return fetched(session, "GET", url, SECONDS, most=MAX_BYTES)


def _require_model(url: str, model: Model, names: Collection[str], tokens: int) -> None:
    known = {PurePath(name).name for name in (model.id, model.root) if name}
    wanted = {PurePath(name).name for name in names}
    if not known & wanted:
        raise wrong(
            f"the vLLM server at {url} serves {shown(model.id)}, not {' or '.join(sorted(wanted))};"
            " start it with the run's model, or name it so with --served-model-name"
        )
    if (model.max_model_len or tokens) < tokens:
        raise wrong(
            f"the vLLM server at {url} takes {model.max_model_len} tokens, but maxPromptTokens "
            f"and maxCompletionTokens are {tokens} together; start it with --max-model-len {tokens}"
        )


def _require_flags(url: str, data: bytes) -> None:
    """Refuse a server that was started otherwise, by what it answers to `/server_info`."""
    try:
        settings = answers.shaped(ServerInfo, answers.document(data)).vllm_config
    except answers.Unreadable as error:
        raise lost(url, error) from error
    except AnswerError as error:
        raise wrong(
            f"the vLLM server at {url} does not tell how it was started ({error}); use a vLLM of "
            "the version that was tested"
        ) from error
    mode = settings.model.logprobs_mode
    if mode != "processed_logprobs":
        raise wrong(
            f"the vLLM server at {url} reports {shown(mode)}, which are not those it samples by; "
            "start it with --logprobs-mode processed_logprobs"
        )
    if settings.parallel.worker_extension_cls != EXTENSION:
        raise wrong(
            f"the vLLM server at {url} does not tell which weights it has; install "
            f"coldstart-operator beside vLLM there, and start it with --worker-extension-cls "
            f"{EXTENSION}"
        )
