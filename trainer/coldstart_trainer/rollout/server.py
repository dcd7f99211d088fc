"""Whether a run's vLLM server is there and the right one, asked before any weight is loaded."""

from __future__ import annotations

import time
from collections.abc import Collection
from pathlib import PurePath
from typing import Any

import requests

from coldstart.status import ErrorCode
from coldstart_trainer.errors import StageFailure
from coldstart_trainer.rollout.settings import EXTENSION

FIELD = "spec.grpo.rollout.serverUrl"
PAUSE = 2.0
"""Seconds between two questions to a server that is not there yet."""


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
    model = _served(url, seconds)
    served = {PurePath(str(model.get(key))).name for key in ("id", "root")}
    wanted = {PurePath(name).name for name in names}
    if not served & wanted:
        raise _wrong(
            f"the vLLM server at {url} serves {model.get('id')}, not {' or '.join(sorted(wanted))};"
            " start it with the run's model, or name it so with --served-model-name"
        )
    if (model.get("max_model_len") or tokens) < tokens:
        raise _wrong(
            f"the vLLM server at {url} takes {model['max_model_len']} tokens, but maxPromptTokens "
            f"and maxCompletionTokens are {tokens} together; start it with --max-model-len {tokens}"
        )
    _require_flags(url)


def lost(url: str | None, error: Exception) -> StageFailure:
    """What a server that cannot be reached ends a stage with; another attempt may find it."""
    reason = " ".join(str(error).split())[:300]
    return StageFailure(
        ErrorCode.WORKER_LOST, f"{FIELD}: no vLLM server answers at {url}: {reason}"
    )


def _served(url: str, seconds: float) -> dict[str, Any]:
    # TRL's own waiting never ends at a server that answers with an error.
    end = time.monotonic() + seconds
    while True:
        try:
            answer = requests.get(f"{url}/v1/models", timeout=10)
            answer.raise_for_status()
            models = answer.json()["data"]
            return dict(models[0])
        except (requests.RequestException, LookupError, TypeError) as error:
            if time.monotonic() >= end:
                raise lost(url, error) from error
        time.sleep(PAUSE)


def _require_flags(url: str) -> None:
    answer = requests.get(f"{url}/server_info", params={"config_format": "json"}, timeout=10)
    if not answer.ok:
        raise _wrong(
            f"the vLLM server at {url} cannot be given weights; start it with "
            "VLLM_SERVER_DEV_MODE=1 in its environment and "
            '--weight-transfer-config \'{"backend": "nccl"}\''
        )
    settings = answer.json()["vllm_config"]
    mode = settings["model_config"]["logprobs_mode"]
    if mode != "processed_logprobs":
        raise _wrong(
            f"the vLLM server at {url} reports {mode}, which are not those it samples by; "
            "start it with --logprobs-mode processed_logprobs"
        )
    if settings["parallel_config"].get("worker_extension_cls") != EXTENSION:
        raise _wrong(
            f"the vLLM server at {url} does not tell which weights it has; install "
            f"coldstart-operator beside vLLM there, and start it with --worker-extension-cls "
            f"{EXTENSION}"
        )


def _wrong(message: str) -> StageFailure:
    return StageFailure(ErrorCode.INVALID_ORDER, f"{FIELD}: {message}")
