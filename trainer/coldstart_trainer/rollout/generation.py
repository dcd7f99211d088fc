"""TRL's generation by vLLM, with our engine, and with proof that it samples from our weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import requests
import torch
from trl.generation import vllm_generation
from trl.generation.vllm_generation import VLLMGeneration

from coldstart.status import ErrorCode
from coldstart_trainer.errors import StageFailure
from coldstart_trainer.rollout import weights
from coldstart_trainer.rollout.server import lost
from coldstart_trainer.rollout.settings import EngineSettings
from coldstart_trainer.rollout.weights import Share


class Generation(VLLMGeneration):
    """A colocated engine of ours, or a server; TRL makes one and calls `generate`."""

    llm: Any

    def __init__(
        self, *arguments: Any, settings: EngineSettings, step: Callable[[], int], **named: Any
    ) -> None:
        self.settings = settings
        self.step = step
        self.version = -1
        """The update whose weights the engine was given last."""
        self._probed: list[str] | None = None
        given = named.pop("generation_kwargs", None) or {}
        named["generation_kwargs"] = {**given, **settings.sampling}
        super().__init__(*arguments, **named)

    def _init_vllm(self) -> None:
        if self.mode == "server":
            super()._init_vllm()  # type: ignore[no-untyped-call]
            return
        from coldstart_trainer.rollout.engine import Engine  # noqa: PLC0415

        try:
            with replaced(vllm_generation, "LLM", partial(Engine, self.settings)):
                super()._init_vllm()  # type: ignore[no-untyped-call]
        except ValueError as error:
            reason = " ".join(str(error).split())[:500]
            raise StageFailure(
                ErrorCode.INVALID_ORDER, f"spec.grpo.rollout: vLLM does not start: {reason}"
            ) from error
        self.llm.before_sampling = self.require_weights

    def sync_weights(self) -> None:
        """Give the engine the trainer's weights, and remember which these are."""
        super().sync_weights()  # type: ignore[no-untyped-call]
        self._forget_images()
        self.version = self.step()

    def _forget_images(self) -> None:
        """Drop what the old weights made of images: vLLM would use it on (huggingface/trl#7198)."""
        if self.mode == "colocate":
            self.llm.llm_engine.reset_encoder_cache()
        elif self.accelerator.is_main_process:
            url = f"{self.vllm_client.base_url}/reset_encoder_cache"
            self.vllm_client.session.post(url).raise_for_status()

    def generate(
        self, prompts: Any, images: Any, num_generations: int, profiler: Any = None
    ) -> Any:
        """Completions, as TRL has them.

        Raises:
            StageFailure: the prompts or weights are not the trainer's (SamplerMismatch), or the
                server is gone (WorkerLost).
        """
        # A prompt without images may come with an empty list, of which TRL takes the first.
        images = images and [pictures or None for pictures in images]
        if self.mode == "colocate":
            self.llm.group = num_generations
        try:
            return super().generate(prompts, images, num_generations, profiler)
        except requests.RequestException as error:
            raise lost(self.server_base_url, error) from error

    def count_tokens(self, prompts: list[list[int]], images: list[Any] | None) -> None:
        """Sample one token for each prompt, whose tokens are compared on the way.

        Raises:
            StageFailure: the engine counts them differently (SamplerMismatch).
        """
        length, self.max_completion_length = self.max_completion_length, 1
        try:
            self.generate(prompts, images, num_generations=1)
        finally:
            self.max_completion_length = length

    def require_weights(self) -> None:
        """Refuse to sample from other weights than the trainer's.

        Called when the engine is awake and about to sample, so that what it wakes up with counts:
        huggingface/trl#5312 trained for hours on completions of the base model.

        Raises:
            StageFailure: SamplerMismatch.
        """
        if self.version != self.step():
            raise _stale(f"it has those of update {self.version}, the trainer is at {self.step()}")
        held, share = self.llm.weights(), self._share()
        trained = {n: p for n, p in self.model.named_parameters() if p.requires_grad}
        if self._probed is None:
            # ZeRO-3 leaves an empty shard in the parameter and the true shape beside it.
            shapes = ((n, getattr(p, "ds_shape", p.shape)) for n, p in trained.items())
            self._probed = weights.comparable(shapes, held, share)
        if not self._probed:
            raise _stale("none of the trained weights is found in it by its name")
        for name in self._probed:
            with self._dist.gather_params([trained[name]]):
                same = weights.equal(name, trained[name], held, share)
            if not same:
                raise _stale(f"{name} differs at update {self.version}")

    def _share(self) -> Share:
        if self.tensor_parallel_size == 1:
            return Share()
        rank = torch.distributed.get_rank(group=self.tp_group)
        return Share(rank, self.tensor_parallel_size)

    def _place_features(self, features: Any, prompt_ids: list[int]) -> Any:
        """Refuse a server that scales images differently: TRL would shift what it sees."""
        placed = super()._place_features(features, prompt_ids)
        if placed is not None:
            theirs, ours = (
                [place["length"] for place in found["mm_placeholders"]["image"]]
                for found in (features, placed)
            )
            if theirs != ours:
                conversation = self.settings.conversation
                raise StageFailure(
                    ErrorCode.SAMPLER_MISMATCH,
                    f"the images of a prompt are {ours} tokens for the trainer and {theirs} for "
                    f"the vLLM server at {self.server_base_url}: start it with "
                    f'--mm-processor-kwargs \'{{"min_pixels": {conversation.min_pixels}, '
                    f'"max_pixels": {conversation.max_pixels}}}\'',
                )
        return placed


@contextmanager
def replaced(module: Any, name: str, value: Any) -> Iterator[None]:
    """Another value for a module's name, while TRL makes an object that it lets nobody choose."""
    before = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, before)


def _stale(message: str) -> StageFailure:
    return StageFailure(
        ErrorCode.SAMPLER_MISMATCH, f"vLLM's weights are not the trainer's: {message}"
    )
