"""What a training process keeps from update to update: weights, gradients, optimizer, reference.

Shares of them by ZeRO stage as in Rajbhandari et al., "ZeRO: Memory Optimizations Toward Training
Trillion Parameter Models" (arXiv 1910.02054); buffers as in DeepSpeed 0.19 with its defaults, which
our configuration leaves (`coldstart_trainer.options.deepspeed_config`).
"""

from __future__ import annotations

from dataclasses import dataclass

from coldstart.memory.activations import BF16, FP32
from coldstart.memory.shapes import Shape

BUCKET = 500_000_000
"""`reduce_bucket_size`, `allgather_bucket_size`: numbers that are sent at once."""

LIVE = 1_000_000_000
"""`stage3_max_live_parameters`: numbers that ZeRO-3 gathers ahead; one more matrix may follow."""

GROUP = 1_000_000_000
"""`sub_group_size`: numbers that ZeRO-3 updates at once."""

PARTITIONED_GRADIENTS, PARTITIONED_WEIGHTS = 2, 3
"""From which ZeRO stage on these are shared out, too."""


@dataclass(frozen=True)
class States:
    """Bytes in one process; a share of the GPU's memory unless it says otherwise."""

    weights: int
    """The trained model."""
    copies: int
    """Weights that are gathered or cast while the model runs."""
    whole: int
    """The same where `generate` gathers the whole model (ZeRO-3)."""
    reference: int
    """The reference model."""
    gradients: int
    """From the backward pass to the update."""
    idle_gradients: int
    """What of them stays when there are none: buffers."""
    optimizer: int
    """Master weights, where they are not the weights themselves, and both moments of Adam."""
    step: int
    """What comes and goes while the optimizer steps."""
    host: int = 0
    """What is kept in host memory instead."""


@dataclass(frozen=True)
class Training:
    """How a stage trains."""

    shape: Shape
    trained: int
    """How many numbers are trained."""
    zero: int
    offload: bool
    world: int
    bf16: bool
    gpu: bool
    reference: bool
    """Whether there is a reference model."""

    @property
    def states(self) -> States:
        """What the process keeps."""
        return self._deepspeed() if self.zero else self._plain()

    def _plain(self) -> States:
        """Without DeepSpeed: fp32 weights, whole in each process, and products in bf16.

        DistributedDataParallel keeps buckets of the gradients' size beside them (torch:
        `gradient_as_bucket_view`, off by default). AdamW computes a square root of all second
        moments at once on a GPU (`foreach`).
        """
        weights, trained = FP32 * self.shape.parameters, FP32 * self.trained
        buckets = trained if self.world > 1 else 0
        return States(
            weights=weights,
            copies=BF16 * self._matrices if self.bf16 else 0,
            whole=BF16 * self._matrices if self.bf16 else 0,
            reference=weights if self.reference else 0,
            gradients=trained + buckets,
            idle_gradients=buckets,
            optimizer=2 * trained,
            step=trained if self.gpu else 0,
        )

    def _deepspeed(self) -> States:
        width, total, trained = (BF16 if self.bf16 else FP32), self.shape.parameters, self.trained
        share = trained // self.world
        spread = self.zero >= PARTITIONED_WEIGHTS
        weights = width * (total // self.world if spread else total)
        copies = width * min(total, LIVE + self.shape.language.embedding) if spread else 0
        own = width * (share if self.zero >= PARTITIONED_GRADIENTS else trained)
        bucket = width * BUCKET if self.zero >= PARTITIONED_GRADIENTS else 0
        optimizer = 3 * FP32 * share
        step = 2 * FP32 * (min(GROUP, share) if spread else share)
        gathered = 0 if spread else width * min(BUCKET, trained)
        on_host = 0
        if self.offload:
            # The fp32 gradients of the share go there with the optimizer.
            on_host = optimizer + FP32 * share
            optimizer = step = 0
            own = 0 if self.zero >= PARTITIONED_GRADIENTS else own
        reference = weights if self.reference else 0
        if self.offload and spread:
            on_host += weights + reference
            weights = reference = 0
        return States(
            weights=weights,
            copies=copies,
            whole=width * total if spread else 0,
            reference=reference,
            gradients=own + bucket,
            idle_gradients=own + bucket if spread else 0,
            optimizer=optimizer,
            step=step + gathered,
            host=on_host,
        )

    @property
    def _matrices(self) -> int:
        """The numbers that autocast casts: all but the embedding, and the head, cast in pieces."""
        language = self.shape.language
        return self.shape.parameters - language.embedding * (1 if language.tied else 2)
