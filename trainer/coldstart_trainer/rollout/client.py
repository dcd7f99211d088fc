"""TRL's client of a vLLM server, which also reads weights back and stops sampling when told to."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import requests
from trl.generation.vllm_client import VLLMClient

from coldstart.status import ErrorCode
from coldstart_trainer.errors import StageFailure
from coldstart_trainer.rollout import answers
from coldstart_trainer.rollout.asking import Server, strange
from coldstart_trainer.rollout.prompts import Ended, require_completions, unsampled
from coldstart_trainer.rollout.server import no_weights, served
from coldstart_trainer.rollout.weights import Part
from coldstart_trainer.termination import TERMINATION

LOOK_SECONDS = 0.5
"""How often is looked whether the process was told to end."""

log = logging.getLogger(__name__)


class Client(VLLMClient):
    """Made in the place where TRL makes its own; only the main process has one."""

    end_token: int
    """What ends a completion; to be set before anything is sampled."""
    vocabulary: int
    """How many tokens the model knows; to be set before, too."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        self._sampling = False
        super().__init__(*arguments, **named)

    def check_server(self, total_timeout: float = 0.0, retry_interval: float = 2.0) -> None:
        """Wait as this project does; TRL calls it before it asks anything, and waits for ever."""
        del retry_interval
        self.session = Server(self.base_url, self.session)  # type: ignore[assignment]
        served(self.base_url, total_timeout)

    def get_server_info(self) -> dict[str, Any]:
        """What the server was started with.

        Raises:
            StageFailure: InvalidOrder, if nobody can give it weights.
        """
        settings: dict[str, Any] = super().get_server_info()
        if settings.get("weight_transfer_config") is None:
            raise no_weights(self.base_url)
        return settings

    def held_weights(self) -> list[dict[str, Any]]:
        """What each worker holds, as `readback` tells it.

        Raises:
            StageFailure: SamplerMismatch, if it cannot be told.
        """
        answer = self._called("held_weights")
        with self._naming("held_weights"):
            told = answers.shaped(answers.Holdings, answer).results
        return [worker.model_dump() for worker in told]

    def weight_digests(self, parts: Mapping[int, Sequence[Part]]) -> list[list[str]]:
        """Digests of parts of each worker's weights.

        Args:
            parts: by worker.

        Raises:
            StageFailure: SamplerMismatch, if they are not those that were asked for.
        """
        asked = {str(worker): [asdict(part) for part in found] for worker, found in parts.items()}
        answer = self._called("weight_digests", asked)
        with self._naming("weight_digests"):
            return answers.digests(answer, [len(found) for found in parts.values()])

    def generate(  # type: ignore[override]
        self, prompts: Any, features: Any = None, **sampling: Any
    ) -> dict[str, Any]:
        """Completions as TRL has them; of a process that was told to end, empty ones, and soon.

        Raises:
            StageFailure: they are not completions of the prompts (SamplerMismatch), or the server
                is gone (WorkerLost).
        """
        group = sampling.get("n", 1)
        with self._ending_when_told():
            try:
                found: dict[str, Any] = super().generate(prompts, features, **sampling)
            except Ended:
                return unsampled(prompts, group, self.end_token)
        longest = sampling.get("max_tokens", 16)
        require_completions(found, prompts, group, self.vocabulary, longest)
        return found

    def _post(self, url: str, **named: Any) -> dict[str, Any]:
        if self._sampling and TERMINATION.requested:
            raise Ended
        try:
            found: dict[str, Any] = super()._post(url, **named)
        finally:
            if self._sampling and TERMINATION.requested:
                raise Ended  # whatever the server made of a request that it gave up
        if "request_id" in named.get("json", {}):
            self._require_group(found["choices"], named["json"]["sampling_params"]["n"])
        return found

    def _require_group(self, choices: list[Any], count: int) -> None:
        """Refuse completions of a prompt of which TRL would take some for another prompt's."""
        if len(choices) != count:
            error = answers.AnswerError(f"{len(choices)} completions, not {count}")
            where = "/inference/v1/generate"
            raise strange(self.base_url, where, error, ErrorCode.SAMPLER_MISMATCH)

    def _called(self, method: str, *arguments: Any) -> dict[str, Any]:
        document = {"method": method, "args": list(arguments)}
        return self._post(f"{self.base_url}/collective_rpc", json=document)

    @contextlib.contextmanager
    def _naming(self, method: str) -> Iterator[None]:
        try:
            yield
        except answers.AnswerError as error:
            where = f"/collective_rpc ({method})"
            raise strange(self.base_url, where, error, ErrorCode.SAMPLER_MISMATCH) from error

    @contextlib.contextmanager
    def _ending_when_told(self) -> Iterator[None]:
        """Have the server give up what it is asked for in this block once SIGTERM has come.

        The requests wait in threads of TRL's, which nothing here can interrupt.
        """
        over = threading.Event()
        watch = threading.Thread(target=self._watch, args=(over,), daemon=True)
        self._sampling = True
        watch.start()
        try:
            yield
        finally:
            over.set()
            watch.join()
            self._sampling = False

    def _watch(self, over: threading.Event) -> None:
        while not over.wait(LOOK_SECONDS):
            if TERMINATION.requested and not self._gave_up():
                return

    def _gave_up(self) -> bool:
        """Whether the server was made to end all requests; those that come later it takes."""
        try:
            Server(self.base_url, requests.Session()).post(
                f"{self.base_url}/abort_requests", json={}
            )
        except StageFailure as error:
            log.warning("the vLLM server ends what it samples before this stage can end: %s", error)
            return False
        return True
