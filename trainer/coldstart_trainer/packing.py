"""Fine-tuning on micro-batches without their padding, where the model allows it.

It stands between TRL's SFTTrainer, whose loss and metrics it leaves as they are, and the packed
rows of `shared`; how rows are drawn and saved is not its matter.
"""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import Tensor
from trl.trainer.sft_trainer import SFTTrainer

from coldstart.spec import SFT
from coldstart.status import ErrorCode
from coldstart_trainer.errors import StageFailure
from coldstart_trainer.shared import forward, sequences, support

PADDING = "shared/padding_ratio"
"""Key under which TRL logs the share of a padded micro-batch that was not computed."""

NEED_PADDED = (
    "label_smoothing_factor",
    "neftune_noise_alpha",
    "padding_free",
    "torch_compile",
)
"""Options of TRL that reach into padded rows: with a value, rows are not packed."""

log = logging.getLogger(__name__)


class PackingTrainer(SFTTrainer):
    """TRL's trainer, whose batches reach the model as packed rows."""

    model: Any
    args: Any

    def __init__(self, *, spec: SFT, **options: Any) -> None:
        super().__init__(**options)
        self.spec = spec
        self.checked = False
        self.unpacked = self._why_not() if spec.packing else "spec.sft.packing is false"
        """Why rows are padded instead; empty where they are packed."""
        if self.unpacked:
            log.warning("the rows of a micro-batch are padded to the longest: %s", self.unpacked)
        else:
            forward.prepare(self.accelerator.unwrap_model(self.model))

    def compute_loss(
        self,
        model: Any,
        inputs: Any,
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """TRL's loss of a batch, which goes through the model packed.

        Raises:
            StageFailure: the first batch's log-probabilities change with it (SelfCheckFailed).
        """
        if not self.unpacked and not return_outputs:  # outputs have the shape of the batch
            training = self.model.training
            if training and not self.checked:
                self.check_packing(model, inputs)
            packed = self._packed(inputs)
            if training:
                avoided = 1 - packed.row.layout.length / packed.padded_tokens
                self._metrics["train"][PADDING].append(avoided)
            inputs = self._fields(packed)
        trl: Any = super()
        return trl.compute_loss(model, inputs, return_outputs, num_items_in_batch)

    def check_packing(self, model: Any, batch: dict[str, Any]) -> None:
        """Score a batch packed and padded, and log how far the worst row is apart.

        Raises:
            StageFailure: it is above the tolerance (SelfCheckFailed).
        """
        fields = self._fields(self._packed(batch))
        if self._several and sequences.lacks_image(self._core, batch):
            batch = sequences.with_unseen_image(self._core, batch)
        with torch.no_grad():
            padded = model(**batch, use_cache=False, fused_lm_head=True)
            packed = model(**fields, fused_lm_head=True)
        learnt = padded.label_mask
        scores = packed.log_probs[packed.label_mask].to(padded.log_probs.dtype)
        unpacked = padded.log_probs.masked_scatter(learnt, scores)
        worst = support.worst_row(unpacked, padded.log_probs, learnt)
        found = float(self.accelerator.gather(worst[None]).max())
        self._metrics["train"][support.SELF_CHECK].append(found)
        tolerance = support.TOLERANCE[self.spec.precision]
        if not found <= tolerance:
            raise StageFailure(
                ErrorCode.SELF_CHECK_FAILED,
                f"spec.sft.packing: log-probabilities of packed rows differ from those of padded "
                f"ones by {found:.3g} nats (at most {tolerance:g}): set it to false",
            )
        self.checked = True

    @property
    def _core(self) -> Any:
        return forward.core(self.accelerator.unwrap_model(self.model))

    @property
    def _several(self) -> bool:
        """Whether there are other processes, which must run the same parts of the model."""
        return bool(self.accelerator.num_processes > 1)

    def _packed(self, batch: dict[str, Any]) -> sequences.Packed:
        return sequences.pack(self._core, batch, need_image=self._several)

    def _fields(self, packed: sequences.Packed) -> dict[str, Any]:
        fields = forward.inputs(packed.row)
        # Nothing looks at the mask, but TRL counts the tokens of a batch by its sum.
        present: Tensor = torch.ones_like(fields["attention_mask"])
        return {**fields, "attention_mask": present.expand(1, 1, 1, packed.tokens)}

    def _why_not(self) -> str:
        set_here = (
            f"trainerArgs.{name} is set" for name in NEED_PADDED if getattr(self.args, name)
        )
        return next(set_here, "") or support.obstacle(self.accelerator.unwrap_model(self.model))
