"""A vLLM engine in the training process that gets each prompt once, as vLLM wants it.

The only module that imports vLLM, and only imported where an engine is made.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from vllm import LLM

from coldstart_trainer.rollout import weights
from coldstart_trainer.rollout.prompts import collapsed, copies, require_same_tokens
from coldstart_trainer.rollout.settings import EngineSettings


class Engine(LLM):  # type: ignore[misc]
    """vLLM's offline engine, in the place where TRL makes one and calls it."""

    def __init__(self, settings: EngineSettings, **arguments: Any) -> None:
        super().__init__(**{**arguments, **settings.engine})
        self.settings = settings
        self.group = 1
        """Completions for each prompt, which TRL asks for by as many rows."""
        self.requests = 0
        """Prompts that were sampled from, each counted once whatever its completions."""
        self.before_sampling: Callable[[], None] = lambda: None

    def generate(self, prompts: Any, sampling_params: Any = None, **named: Any) -> list[Any]:
        """One output for each row, as TRL expects, from one request for each distinct prompt.

        Raises:
            StageFailure: the engine's weights or its prompts are not the trainer's.
        """
        self.before_sampling()
        ours = [row["prompt_token_ids"] for row in prompts]
        count = copies(ours, self.group)
        parameters = sampling_params.clone()
        parameters.n = count
        distinct = [self._as_vllm_wants(row) for row in prompts[::count]]
        self.requests += len(distinct)
        outputs = super().generate(distinct, sampling_params=parameters, **named)
        for tokens, output in zip(ours[::count], outputs, strict=True):
            require_same_tokens(tokens, output.prompt_token_ids, self.settings.pad)
        return [_alone(output, one) for output in outputs for one in output.outputs]

    def weights(self) -> dict[str, torch.Tensor]:
        """The weights that this process's engine holds, by vLLM's names."""
        found: list[dict[str, torch.Tensor]] = self.apply_model(weights.parameters)
        (held,) = found
        return held

    def _as_vllm_wants(self, row: dict[str, Any]) -> dict[str, Any]:
        if self.settings.pad is None:
            return row
        return {**row, "prompt_token_ids": collapsed(row["prompt_token_ids"], self.settings.pad)}


def _alone(output: Any, one: Any) -> Any:
    """A request's output with one of its completions only."""
    alone = copy.copy(output)
    alone.outputs = [one]
    return alone
