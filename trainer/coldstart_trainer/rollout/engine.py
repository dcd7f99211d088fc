"""A vLLM engine in the training process that gets each prompt once, as vLLM wants it.

The only module that imports vLLM, and only imported where an engine is made.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from vllm import LLM

from coldstart_trainer.rollout.prompts import Ended, collapsed, copies, require_same_tokens
from coldstart_trainer.rollout.settings import EXTENSION, EngineSettings
from coldstart_trainer.rollout.weights import Part


class Engine(LLM):  # type: ignore[misc]
    """vLLM's offline engine, in the place where TRL makes one and calls it."""

    def __init__(self, settings: EngineSettings, **arguments: Any) -> None:
        super().__init__(**arguments | settings.engine, worker_extension_cls=EXTENSION)
        self.settings = settings
        self.group = 1
        """Completions for each prompt, which TRL asks for by as many rows."""
        self.requests = 0
        """Prompts that were sampled from, each counted once whatever its completions."""
        self.before_sampling: Callable[[], None] = lambda: None
        self.told_to_end: Callable[[], bool] = lambda: False
        """Asked before each step of the engine."""

    def generate(self, prompts: Any, sampling_params: Any = None, **named: Any) -> list[Any]:
        """One output for each row, as TRL expects, from one request for each distinct prompt.

        Raises:
            StageFailure: the engine's weights or its prompts are not the trainer's.
            Ended: it was told to end; nothing is left to do in the engine.
        """
        self.before_sampling()
        ours = [row["prompt_token_ids"] for row in prompts]
        count = copies(ours, self.group)
        parameters = sampling_params.clone()
        parameters.n = count
        distinct = [self._as_vllm_wants(row) for row in prompts[::count]]
        self.requests += len(distinct)
        with self._ending_when_told():
            outputs = super().generate(distinct, sampling_params=parameters, **named)
        for tokens, output in zip(ours[::count], outputs, strict=True):
            require_same_tokens(tokens, output.prompt_token_ids, self.settings.pad)
        return [_alone(output, one) for output in outputs for one in output.outputs]

    def held_weights(self) -> list[dict[str, Any]]:
        """What this process's worker holds, as `readback` tells it."""
        found: list[dict[str, Any]] = self.collective_rpc("held_weights")
        return found

    def weight_digests(self, parts: Mapping[int, Sequence[Part]]) -> list[list[str]]:
        """Digests of parts of this process's weights.

        Args:
            parts: by worker.
        """
        asked = {str(worker): [asdict(part) for part in found] for worker, found in parts.items()}
        found: list[list[str]] = self.collective_rpc("weight_digests", args=(asked,))
        return found

    @contextlib.contextmanager
    def _ending_when_told(self) -> Iterator[None]:
        engine = self.llm_engine
        step = engine.step

        def step_or_end() -> Any:
            if self.told_to_end():
                known = engine.output_processor
                requests = [*known.request_states, *known.parent_requests]
                engine.abort_request(requests, internal=True)
                raise Ended
            return step()

        engine.step = step_or_end
        try:
            yield
        finally:
            engine.step = step

    def _as_vllm_wants(self, row: dict[str, Any]) -> dict[str, Any]:
        if self.settings.pad is None:
            return row
        return {**row, "prompt_token_ids": collapsed(row["prompt_token_ids"], self.settings.pad)}


def _alone(output: Any, one: Any) -> Any:
    """A request's output with one of its completions only."""
    alone = copy.copy(output)
    alone.outputs = [one]
    return alone
