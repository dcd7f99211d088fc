"""What a stage's vLLM is made from: read off the order and the data, before any weight."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import pyarrow.compute as pc

from coldstart.engine import vllm_mistake
from coldstart.spec import GRPO, Conversation, ModelSpec
from coldstart.status import ErrorCode
from coldstart_trainer import model
from coldstart_trainer.errors import StageFailure

EXTENSION = "coldstart_trainer.rollout.readback.Readback"
"""What vLLM is to add to its workers, by the name that it imports."""

HOTTEST = 2.0
"""vLLM's bound of the sampling temperature."""


@dataclass(frozen=True)
class EngineSettings:
    """How completions are sampled."""

    spec: ModelSpec
    conversation: Conversation
    directory: Path
    """The model that the stage starts from; its weights are replaced before the first sampling."""
    processor: Any
    images: int
    """Most images that a prompt has."""

    @property
    def on_cpu(self) -> bool:
        """Whether there are no GPUs."""
        return self.spec.resources.gpus_per_node == 0

    @property
    def forbidden(self) -> frozenset[int]:
        """Tokens that stand for pixels, which no completion may hold."""
        return frozenset(model.image_token_ids(self.processor))

    @property
    def end(self) -> int:
        """A token that ends a completion."""
        token: int = getattr(self.processor, "tokenizer", self.processor).eos_token_id
        return token

    @property
    def pad(self) -> int | None:
        """The token that one patch of an image becomes; None for a text model."""
        return self.processor.image_token_id if hasattr(self.processor, "image_processor") else None

    @property
    def sampling(self) -> dict[str, Any]:
        """Sampling parameters of vLLM that TRL does not set."""
        tokenizer = getattr(self.processor, "tokenizer", self.processor)
        words = tokenizer.convert_ids_to_tokens(sorted(self.forbidden))
        return {"bad_words": words} if words else {}

    @property
    def engine(self) -> dict[str, Any]:
        """Arguments of an engine that the model, its images and the device decide.

        TRL sets none of them for a colocated one (huggingface/trl#6776).
        """
        found: dict[str, Any] = {
            "model": str(self.directory),
            "dtype": "bfloat16" if self.spec.precision == "bf16" else "float32",
            "enforce_eager": self.on_cpu,
        }
        if self.pad is not None:
            found["limit_mm_per_prompt"] = {"image": self.images, "video": 0}
            found["mm_processor_kwargs"] = {
                "min_pixels": self.conversation.min_pixels,
                "max_pixels": self.conversation.max_pixels,
            }
        return found


def arguments(spec: GRPO, conversation: Conversation) -> dict[str, Any]:
    """The options of GRPOConfig that say what samples, each with its value."""
    rollout = spec.rollout
    return {
        "use_vllm": rollout.engine == "vllm",
        # vLLM gives memory back only where that memory is a GPU's.
        "vllm_enable_sleep_mode": rollout.sleep and spec.resources.gpus_per_node > 0,
        "vllm_gpu_memory_utilization": rollout.gpu_memory_utilization,
        "vllm_importance_sampling_correction": True,  # the mismatch is measured with it
        "vllm_max_model_length": conversation.max_prompt_tokens
        + conversation.max_completion_tokens,
        "vllm_mode": rollout.mode,
        "vllm_server_base_url": rollout.server_url,
        "vllm_tensor_parallel_size": rollout.tensor_parallel_size,
    }


def most_images(rows: datasets.Dataset) -> int:
    """How many images the row with the most has; none is decoded."""
    return int(pc.max(pc.list_value_length(rows.data.column("images"))).as_py())


def require_engine(spec: GRPO) -> None:
    """Refuse what cannot sample here, before any weight is loaded.

    Raises:
        StageFailure: ResourcesMissing, or InvalidOrder.
    """
    rollout = spec.rollout
    if rollout.engine != "vllm":
        return
    require_vllm("spec.grpo.rollout.engine", "spec.grpo.rollout", rollout.temperature)
    if rollout.mode == "server" and spec.resources.gpus_per_node == 0:
        raise StageFailure(
            ErrorCode.RESOURCES_MISSING,
            "spec.grpo.rollout.mode: weights reach a vLLM server over NCCL, which needs GPUs, but "
            "resources.gpusPerNode is 0; set mode to colocate, or engine to transformers",
        )


def require_vllm(field: str, sampling: str, temperature: float) -> None:
    """Refuse a vLLM that is not there, was not tested, or cannot sample so.

    Args:
        field: what chooses vLLM.
        sampling: the section with the temperature.
        temperature: that temperature.

    Raises:
        StageFailure: ResourcesMissing, or InvalidOrder.
    """
    if mistake := vllm_mistake():
        raise StageFailure(
            ErrorCode.RESOURCES_MISSING, f"{field}: {mistake}; or set it to transformers"
        )
    if temperature > HOTTEST:
        raise StageFailure(
            ErrorCode.INVALID_ORDER,
            f"{sampling}.temperature: is {temperature:g}, but vLLM takes at most "
            f"{HOTTEST:g}; lower it, or set engine to transformers",
        )
