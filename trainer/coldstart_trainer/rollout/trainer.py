"""What GRPO's trainer does to samples besides TRL's, and more of it where vLLM drew them."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
from trl.data_utils import prepare_multimodal_messages
from trl.trainer import grpo_trainer
from trl.trainer.grpo_trainer import GRPOTrainer

from coldstart.metrics import series
from coldstart.spec import GRPO
from coldstart_trainer.generators import Generators
from coldstart_trainer.keeper import Keeper
from coldstart_trainer.rollout.generation import Generation, replaced
from coldstart_trainer.rollout.mismatch import mismatched
from coldstart_trainer.rollout.prompts import ended_twice, without_vision
from coldstart_trainer.rollout.settings import EngineSettings

MISMATCHED = series("samples_dropped_total", "mismatch")
SPOILED = series("samples_dropped_total", "vision_token")

COUNTED = 8
"""Most prompts whose tokens are counted by trainer and engine before anything is learnt."""


class EngineTrainer(GRPOTrainer):
    """Makes our engine in place of TRL's, and judges what it sampled; to be inherited from."""

    keeper: Keeper
    train_dataset: Any
    vllm_generation: Generation

    def __init__(self, *arguments: Any, engine: EngineSettings, **named: Any) -> None:
        self.engine = engine
        made = partial(Generation, settings=engine, step=lambda: self.state.global_step)
        # TRL offers no other way to choose the class.
        with replaced(grpo_trainer, "VLLMGeneration", made):
            super().__init__(*arguments, **named)
        self._tokens_counted = not self.use_vllm
        if not self.use_vllm:
            # TRL suppresses the image's token only.
            known = self.generation_config.suppress_tokens or []
            self.generation_config.suppress_tokens = sorted(engine.forbidden | {*known}) or None

    def log(self, logs: dict[str, float], *arguments: Any, **named: Any) -> None:
        """Put the weights' versions beside the numbers of this update."""
        if self.use_vllm:
            self.keeper.stage.progress.meter.put(
                {
                    "trainer_weights_version": float(self.state.global_step),
                    "engine_weights_version": float(self.vllm_generation.version),
                }
            )
        super().log(logs, *arguments, **named)

    def _generate_single_turn(
        self, prompt_ids: Any, images: Any, *arguments: Any, **named: Any
    ) -> tuple[Any, Any]:
        if not self._tokens_counted:
            self._count_tokens()
        completions, logps = super()._generate_single_turn(  # type: ignore[no-untyped-call]
            prompt_ids, images, *arguments, **named
        )
        return without_vision(completions, logps, self.engine.forbidden, self.eos_token_ids[0])

    def _count_tokens(self) -> None:
        """Have trainer and engine count the tokens of a few rows, from all over the data."""
        self.vllm_generation.sync_weights()
        self._last_loaded_step = self.state.global_step
        spacing = math.ceil(len(self.train_dataset) / COUNTED)
        rows = [self.train_dataset[at] for at in range(0, len(self.train_dataset), spacing)]
        prompts = [row["prompt"] for row in rows]
        if any(row.get("images") for row in rows):
            prompts = [prepare_multimodal_messages(row["prompt"], row["images"]) for row in rows]
        tokens, images, _ = super()._tokenize_prompts(prompts)
        # A colocated engine draws from the process's own generators, which a resumed attempt has
        # just restored.
        before = Generators.taken()
        self.vllm_generation.count_tokens(tokens, images)
        before.restore()
        self._tokens_counted = True

    def _generate_and_score_completions(self, inputs: Any) -> dict[str, Any]:
        made: dict[str, Any] = super()._generate_and_score_completions(inputs)
        self._leave_out(made)
        return made

    def _leave_out(self, made: dict[str, Any]) -> None:
        """Take the completions out of the loss that no loss should be computed from."""
        mask = made["completion_mask"]
        spoiled = ended_twice(made["completion_ids"], mask, self.eos_token_ids[0])
        left_out = {SPOILED: spoiled}
        if self.use_vllm:
            left_out[MISMATCHED] = self._mismatched(made, mask * ~spoiled.unsqueeze(1))
        counters = self.keeper.counters
        for name, rows in left_out.items():
            counters[name] = counters.get(name, 0.0) + float(rows.sum())
        out = torch.stack([*left_out.values()]).any(dim=0)
        if self.accelerator.reduce(out.sum(), reduction="sum"):
            made["completion_mask"] = mask * ~out.unsqueeze(1)
            tokens = self.accelerator.gather(made["completion_mask"].sum()).sum()
            made["num_items_in_batch"] = tokens.clamp(min=1)

    def _mismatched(self, made: dict[str, Any], mask: torch.Tensor) -> torch.Tensor:
        spec = self.engine.spec
        assert isinstance(spec, GRPO)
        rollout = spec.rollout
        return mismatched(
            made["sampling_per_token_logps"],
            made["old_per_token_logps"],
            mask,
            bound=rollout.max_mismatch,
            action=rollout.on_mismatch,
            summed=lambda value: self.accelerator.reduce(value, reduction="sum"),
        )
