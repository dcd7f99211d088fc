"""What vLLM's workers learn, so that a stage can see which weights they hold.

vLLM adds it to them, of a server by `--worker-extension-cls`. It tells shapes and digests, never a
weight.
"""

from __future__ import annotations

from typing import Any

import torch

from coldstart_trainer.rollout import weights


class Readback:
    """Methods of a vLLM worker, called by `collective_rpc`."""

    rank: int
    get_model: Any

    def held_weights(self) -> dict[str, Any]:
        """What this worker holds: its place among the workers, and shapes and dtypes by name."""
        from vllm.distributed import (  # noqa: PLC0415 - only a worker has it
            get_tensor_model_parallel_rank,
            get_tensor_model_parallel_world_size,
        )

        found = self._held()
        return {
            "worker": self.rank,
            "rank": get_tensor_model_parallel_rank(),
            "size": get_tensor_model_parallel_world_size(),
            "shapes": {name: list(value.shape) for name, value in found.items()},
            "dtypes": {name: str(value.dtype) for name, value in found.items()},
        }

    def weight_digests(self, asked: dict[str, list[dict[str, Any]]]) -> list[str]:
        """Digests of parts of this worker's weights.

        Args:
            asked: by worker, the fields of each `weights.Part`.
        """
        found = self._held()
        digests = []
        for fields in asked[str(self.rank)]:
            numbers = weights.Part(**fields).theirs(found[fields["place"]])
            digests.append(weights.digest(numbers, numbers.dtype))
        return digests

    def _held(self) -> dict[str, torch.Tensor]:
        return {name: value.data for name, value in self.get_model().named_parameters()}
