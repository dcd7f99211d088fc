"""Log-probabilities of completions: each prompt once for its group where the model allows it.

It stands between TRL's trainer and the packed rows of `shared`; what is sampled is not its matter.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from trl.extras.profiling import profiling_decorator
from trl.models.utils import disable_gradient_checkpointing
from trl.trainer.grpo_trainer import GRPOTrainer

from coldstart.spec import GRPO
from coldstart.status import ErrorCode
from coldstart_trainer.errors import StageFailure
from coldstart_trainer.policy.pictures import Pixels
from coldstart_trainer.shared import forward, sequences, support
from coldstart_trainer.shared.rows import Batch, joined, pack

REUSE = "shared/prompt_reuse_ratio"
"""Key under which TRL logs how many tokens sharing saved."""

log = logging.getLogger(__name__)

Scores = tuple[Tensor, Tensor | None, Tensor | None]
"""Log-probabilities (B, C), entropies (B, C), and the auxiliary loss of a mixture of experts."""


class ScoringTrainer(GRPOTrainer):
    """TRL's trainer, which is told the pixels of each prompt once, as a list with one entry a row.

    The rows of a batch come in blocks that continue the same prompt: whole groups, or equal parts
    of one.
    """

    model: Any
    args: Any
    num_generations: int
    _buffered_inputs: Any

    def __init__(self, *, spec: GRPO, **options: Any) -> None:
        self.spec = spec
        super().__init__(**options)
        self.pixels: Sequence[Pixels] = ()
        """Of the rows that are being sampled; those of an update are among its inputs."""
        self.left_out: Tensor | None = None
        """(B,), bool: rows that are being sampled and will not be learnt from."""
        self.unshared = self._why_not() if spec.shared_prompt else "spec.grpo.sharedPrompt is false"
        """Why prompts are not shared; empty where they are."""
        if self.unshared:
            log.warning("each prompt is computed anew for every completion: %s", self.unshared)
            return
        for model in (self.model, self.ref_model):
            if model is not None:
                forward.prepare(self.accelerator.unwrap_model(model))

    @profiling_decorator
    def _get_per_token_logps_and_entropies(
        self,
        model: Any,
        input_ids: Tensor,
        attention_mask: Tensor,
        logits_to_keep: int,
        batch_size: int | None = None,
        compute_entropy: bool = False,
        pixel_values: Sequence[Pixels] | None = None,
        **options: Any,
    ) -> Scores:
        pixels = self.pixels if pixel_values is None else pixel_values
        if pixel_values is None and self.left_out is not None:
            attention_mask = attention_mask.clone()
            attention_mask[self.left_out, -logits_to_keep:] = 0
        score = self._dense if self.unshared else self._shared
        count = len(input_ids)
        size = batch_size or count
        made = []
        for start in range(0, count, size):
            if not torch.is_grad_enabled():
                self.between_parts()
            some = slice(start, start + size)
            made.append(
                score(
                    model,
                    input_ids[some],
                    attention_mask[some],
                    logits_to_keep,
                    pixels[some],
                    compute_entropy=compute_entropy,
                    compute_aux_loss=options.get("compute_aux_loss", False),
                )
            )
        logps, entropies, losses = zip(*made, strict=True)
        return (
            torch.cat(logps),
            torch.cat(entropies) if compute_entropy else None,
            torch.stack(losses).mean() if options.get("compute_aux_loss") else None,
        )

    def between_parts(self) -> None:
        """Called by all processes between the parts of a sampling step, of which some are long."""

    def check_sharing(self, batch: dict[str, Any]) -> bool:
        """Score one group with and without sharing, and log how far the worst completion is apart.

        Returns:
            whether there was a token to compare, in any process.

        Raises:
            StageFailure: it is above the tolerance (SelfCheckFailed).
        """
        rows = _first_group(batch["completion_mask"], self.num_generations)
        ids, mask = (
            torch.cat([batch[f"prompt_{kind}"][rows], batch[f"completion_{kind}"][rows]], dim=1)
            for kind in ("ids", "mask")
        )
        keep, pixels = batch["completion_ids"].size(1), batch["pixel_values"][rows]
        with (
            torch.no_grad(),
            disable_gradient_checkpointing(self.model, self.args.gradient_checkpointing_kwargs),
        ):
            shared, _, _ = self._shared(self.model, ids, mask, keep, pixels)
            alone = [
                self._dense(self.model, ids[[i]], mask[[i]], keep, pixels[i : i + 1])[0]
                for i in range(len(ids))
            ]
        compared = mask[:, -keep:].bool()
        if not int(self.accelerator.reduce(compared.sum())):
            return False
        worst = support.worst_row(shared, torch.cat(alone), compared)
        found = float(self.accelerator.gather(worst[None]).max())
        self._metrics["train"][support.SELF_CHECK].append(found)
        tolerance = self.spec.self_check_tolerance or support.TOLERANCE[self.spec.precision]
        if not found <= tolerance:
            raise StageFailure(
                ErrorCode.SELF_CHECK_FAILED,
                f"spec.grpo.sharedPrompt: log-probabilities with the shared prompt differ from "
                f"those without it by {found:.3g} nats (at most {tolerance:g}): set it to false, "
                "or raise selfCheckTolerance",
            )
        return True

    def _shared(
        self,
        model: Any,
        ids: Tensor,
        mask: Tensor,
        keep: int,
        pixels: Sequence[Pixels],
        *,
        compute_entropy: bool = False,
        compute_aux_loss: bool = False,
    ) -> Scores:
        assert not compute_aux_loss, "a mixture of experts is not shared"
        share = min(len(ids), self.num_generations)
        batch = Batch(
            ids[:, :-keep],
            mask[:, :-keep],
            ids[:, -keep:],
            mask[:, -keep:],
            share,
            [_on(each, ids.device) for each in pixels[::share]],
        )
        packed = pack(self._core(model), batch, need_image=self.accelerator.num_processes > 1)
        self._metrics["train"][REUSE].append(packed.dense_tokens / packed.row.layout.length)
        with self.accelerator.autocast():
            found = forward.score(model, packed.row)
        entropies = packed.unpacked(found.entropy) if compute_entropy else None
        return packed.unpacked(found.log_probs), entropies, None

    def _dense(
        self,
        model: Any,
        ids: Tensor,
        mask: Tensor,
        keep: int,
        pixels: Sequence[Pixels],
        **wanted: bool,
    ) -> Scores:
        count, core = len(ids), self._core(model)
        fields: dict[str, Any] = _on(joined(pixels), ids.device)
        images = [len(each.get("image_grid_thw", ())) for each in pixels]
        if self.accelerator.num_processes > 1 and sequences.lacks_image(core, fields):
            # Other processes may run their vision tower, whose parts are gathered from all.
            fields = sequences.with_unseen_image(core, {"input_ids": ids, "attention_mask": mask})
            ids, mask = fields.pop("input_ids"), fields.pop("attention_mask")
            del fields["labels"]
            images.append(1)
        image = getattr(core.config, "image_token_id", None)
        if image is not None:
            fields |= {"mm_token_type_ids": (ids == image).int(), "num_images": images}
        logps, entropies, loss = super()._get_per_token_logps_and_entropies(
            model, ids, mask, keep, **fields, **wanted
        )
        return logps[:count], None if entropies is None else entropies[:count], loss

    def _core(self, model: Any) -> Any:
        """The model itself: without what spreads it over processes, without its adapter."""
        return forward.core(self.accelerator.unwrap_model(model))

    def _why_not(self) -> str:
        return support.obstacle(self.accelerator.unwrap_model(self.model))


def _first_group(mask: Tensor, group: int) -> slice:
    """The rows of the first group that has a token to score; the first where none has."""
    counts = mask.view(-1, group, mask.size(1)).sum((1, 2))
    start = int((counts > 0).int().argmax()) * group
    return slice(start, start + group)


def _on(pixels: Pixels, device: torch.device) -> Pixels:
    return {key: value.to(device) for key, value in pixels.items()}
