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

from coldstart_trainer.rollout.prompts import Ended, unsampled
from coldstart_trainer.rollout.weights import Part
from coldstart_trainer.termination import TERMINATION

LOOK_SECONDS = 0.5
"""How often is looked whether the process was told to end."""

log = logging.getLogger(__name__)


class Client(VLLMClient):
    """Made in the place where TRL makes its own; only the main process has one."""

    end_token: int
    """What ends a completion; to be set before anything is sampled."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        self._sampling = False
        super().__init__(*arguments, **named)

    def held_weights(self) -> list[dict[str, Any]]:
        """What each worker holds, as `readback` tells it."""
        return self._called("held_weights")

    def weight_digests(self, parts: Mapping[int, Sequence[Part]]) -> list[list[str]]:
        """Digests of parts of each worker's weights.

        Args:
            parts: by worker.
        """
        asked = {str(worker): [asdict(part) for part in found] for worker, found in parts.items()}
        return self._called("weight_digests", asked)

    def generate(  # type: ignore[override]
        self, prompts: Any, features: Any = None, **sampling: Any
    ) -> dict[str, Any]:
        """Completions as TRL has them; of a process that was told to end, empty ones, and soon."""
        with self._ending_when_told():
            try:
                found: dict[str, Any] = super().generate(prompts, features, **sampling)
            except Ended:
                return unsampled(prompts, sampling.get("n", 1), self.end_token)
        return found

    def _post(self, url: str, **named: Any) -> dict[str, Any]:
        if self._sampling and TERMINATION.requested:
            raise Ended
        try:
            found: dict[str, Any] = super()._post(url, **named)
        finally:
            if self._sampling and TERMINATION.requested:
                raise Ended  # whatever the server made of a request that it gave up
        return found

    def _called(self, method: str, *arguments: Any) -> list[Any]:
        document = {"method": method, "args": list(arguments)}
        answer = self._post(f"{self.base_url}/collective_rpc", json=document)
        found: list[Any] = answer["results"]
        return found

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
            answer = requests.post(f"{self.base_url}/abort_requests", json={}, timeout=10)
            answer.raise_for_status()
        except requests.RequestException as error:
            log.warning("the vLLM server ends what it samples before this stage can end: %s", error)
            return False
        return True
