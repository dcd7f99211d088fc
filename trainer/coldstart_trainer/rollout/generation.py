"""TRL's generation by vLLM, with our engine, and with proof that it samples from our weights.

It ends soon once the process was told to end; what it returns then is nothing to learn from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from accelerate.utils import broadcast_object_list
from trl.generation import vllm_generation
from trl.generation.vllm_generation import VLLMGeneration

from coldstart.status import ErrorCode
from coldstart_trainer.errors import StageFailure
from coldstart_trainer.loop import any_process
from coldstart_trainer.rollout.client import Client
from coldstart_trainer.rollout.prompts import Ended, unsampled
from coldstart_trainer.rollout.settings import EngineSettings
from coldstart_trainer.rollout.weights import Holding, digest
from coldstart_trainer.termination import TERMINATION

TOGETHER = 16
"""Steps of a shared engine between two questions whether any of its processes was told to end."""


class Generation(VLLMGeneration):
    """A colocated engine of ours, or a server; TRL makes one and calls `generate`."""

    llm: Any
    vllm_client: Client

    def __init__(
        self, *arguments: Any, settings: EngineSettings, step: Callable[[], int], **named: Any
    ) -> None:
        self.settings = settings
        self.step = step
        self.version = -1
        """The update whose weights the engine was given last."""
        self._held: list[Holding] = []
        self._steps = 0
        given = named.pop("generation_kwargs", None) or {}
        named["generation_kwargs"] = {**given, **settings.sampling}
        super().__init__(*arguments, **named)

    def _init_vllm(self) -> None:
        if self.mode == "server":
            with replaced(vllm_generation, "VLLMClient", Client):
                super()._init_vllm()  # type: ignore[no-untyped-call]
            if self.accelerator.is_main_process:
                self.vllm_client.end_token = self.settings.end
                tokens: Any = self.model.get_input_embeddings()
                self.vllm_client.vocabulary = tokens.num_embeddings
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
        self.llm.told_to_end = self._told_to_end

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
            self.vllm_client.session.post(url)

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
        try:
            if self.mode == "server":
                self.require_weights()
            else:
                self.llm.group = num_generations
            return super().generate(prompts, images, num_generations, profiler)
        except Ended:
            self._sleep()
            return tuple(unsampled(prompts, 1, self.settings.end).values())

    def _told_to_end(self) -> bool:
        """Whether a step of the engine is to be its last; the same answer in all who share it."""
        if self.tensor_parallel_size == 1:
            return TERMINATION.requested
        self._steps += 1
        return self._steps % TOGETHER == 0 and any_process(
            TERMINATION.requested, self.accelerator.device, self.tp_group
        )

    def _sleep(self) -> None:
        """Give back the memory of an engine that gave up, as TRL does of one that is done."""
        if self.enable_sleep_mode:
            self.llm.sleep(level=2)
            self._llm_weights_sleeping = True

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
        """Refuse to sample from other weights than the trainer's; every process calls it.

        Called when the engine is awake and about to sample, so that what it wakes up with counts:
        huggingface/trl#5312 trained for hours on completions of the base model. And a server may
        have been restarted since it was given weights.

        Raises:
            StageFailure: SamplerMismatch.
        """
        if self.version != self.step():
            raise _stale(f"it has those of update {self.version}, the trainer is at {self.step()}")
        if not self._held:
            self._held = self._holdings()
        if not all(holding.parts for holding in self._held):
            raise _stale("none of the trained weights is found in it by its name")
        if name := self._differing():
            raise _stale(f"{name} differs at update {self.version}")

    def _holdings(self) -> list[Holding]:
        """What to compare with each process that holds weights of this engine or server."""
        # ZeRO-3 leaves an empty shard in the parameter and the true shape beside it.
        named = dict(self.model.named_parameters())
        shapes = {name: tuple(getattr(p, "ds_shape", p.shape)) for name, p in named.items()}
        trained = [name for name, parameter in named.items() if parameter.requires_grad]
        told = self._asked(lambda holder: holder.held_weights())
        return [Holding.of(worker, trained, shapes) for worker in told]

    def _differing(self) -> str | None:
        """A weight that the engine or server has otherwise."""
        parts = {holding.worker: holding.parts for holding in self._held}
        told = self._asked(lambda holder: holder.weight_digests(parts))
        named = dict(self.model.named_parameters())
        differing = None
        for holding, digests in zip(self._held, told, strict=True):
            for part, theirs in zip(holding.parts, digests, strict=True):
                with self._dist.gather_params([named[part.name]]):
                    ours = digest(part.ours(named[part.name]), holding.dtype(part.place))
                if ours != theirs:
                    differing = part.name
        return differing

    def _asked(self, ask: Callable[[Any], list[Any]]) -> list[Any]:
        """What this process's engine answers, or the server, asked once for all processes."""
        if self.mode == "colocate":
            return ask(self.llm)
        answer = [ask(self.vllm_client) if self.accelerator.is_main_process else None]
        found: list[Any] = broadcast_object_list(answer, from_process=0)[0]
        return found

    def _place_features(self, features: Any, prompt_ids: list[int]) -> Any:
        """Refuse a server that scales images differently: TRL would shift what it sees."""
        try:
            placed = super()._place_features(features, prompt_ids)
        except ValueError as error:
            raise StageFailure(
                ErrorCode.SAMPLER_MISMATCH,
                f"the vLLM server at {self.server_base_url} sees other images in a prompt than "
                f"the trainer: {error}",
            ) from error
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
