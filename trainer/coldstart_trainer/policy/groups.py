"""Sampling steps in groups: rows and pixels once a prompt, groups that teach nothing left out.

How completions are scored stands in `scoring`, how they are sampled in TRL and in `rollout`.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from accelerate.utils import gather
from torch import Tensor
from trl.data_utils import prepare_multimodal_messages
from trl.extras.profiling import profiling_decorator

from coldstart_trainer.policy.pictures import RepeatedRows, by_prompt
from coldstart_trainer.policy.rollouts import Rollout, micro_batches, totals
from coldstart_trainer.policy.scoring import ScoringTrainer
from coldstart_trainer.sampling import permutation
from coldstart_trainer.shared.rows import joined

ALL_RIGHT = "groups/zero_variance_right"
ALL_WRONG = "groups/zero_variance_wrong"
"""Keys under which TRL logs the share of groups as sampled whose rewards are all equal, above 0 or
not."""

DROPPED = "groups/dropped"
REFILLED = "groups/refilled"
"""Keys of the share of groups that are left out of the update, and that others were sampled for."""


class GroupTrainer(ScoringTrainer):
    """TRL's trainer with whole groups: sampled, judged, refilled, shuffled and learnt from."""

    rollout: Rollout

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.train_dataset: RepeatedRows = RepeatedRows(self.train_dataset)
        self.checked = bool(self.unshared)
        self.asked: list[dict[str, Any]] = []
        self.pictures: list[Any] = []
        if not self.use_vllm:
            # Each prompt is asked once; `generate` makes the group of it.
            self.generation_config.num_return_sequences = self.num_generations

    @profiling_decorator
    def _prepare_inputs(self, generation_batch: Any) -> Any:
        parts = self.args.steps_per_generation
        if self._buffered_inputs is None or self._step % parts == 0:
            batch = self._generate_and_score_completions(generation_batch)
            self._buffered_inputs = micro_batches(batch, parts, self.num_generations)
        return self._buffered_inputs[self._step % parts]

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        self.asked = inputs
        # TRL would process the images of every row once more, for its own passes over the model.
        bare = [{k: v for k, v in row.items() if k != "images"} for row in inputs]
        batch: dict[str, Any] = super()._generate_and_score_completions(bare)
        batch["pixel_values"] = list(self.pixels)
        self.checked = self.checked or self.check_sharing(batch)
        if self.left_out is not None:
            kept = batch["completion_mask"] * ~self.left_out[:, None]
            batch["completion_mask"] = kept
            batch["num_items_in_batch"] = self.accelerator.gather(kept.sum()).sum()
        self.pixels, self.left_out = (), None
        return batch

    def _generate(self, prompts: list[Any]) -> tuple[Any, ...]:
        rollout = self._sampled(self.asked)
        flat = rollout.flat_groups(self.reward_weights)
        self._log_flat(rollout, flat)
        for number in range(self.spec.refill_limit):
            lacking = int(self.accelerator.gather(flat.sum()[None]).max())
            if not lacking:
                break
            self._refill(rollout, flat.nonzero().flatten().tolist(), lacking, number)
            flat = rollout.flat_groups(self.reward_weights)
        self._settle(rollout, flat)
        # TRL names in its logs what it asked: the list is its own.
        prompts[:] = [row["prompt"] for row in rollout.rows]
        return (
            rollout.prompt_ids,
            rollout.completion_ids,
            None,
            rollout.completions,
            rollout.logprobs,
            {},
            None,
            [],
        )

    def _sampled(self, rows: list[dict[str, Any]]) -> Rollout:
        """The completions of rows, in blocks of a group, and their rewards."""
        group = self.num_generations
        asked = [row["prompt"] for row in rows[::group]]
        if self._is_vlm:
            images = [row.get("images") for row in rows[::group]]
            asked = [
                prepare_multimodal_messages(messages, images=pictures)
                for messages, pictures in zip(asked, images, strict=True)
            ]
        prompts = _repeated(asked, group)
        ids, completion_ids, _, completions, logprobs, *_ = super()._generate(prompts)
        self.between_parts()
        rewards = super()._calculate_rewards(rows, prompts, completions, completion_ids)
        self.between_parts()
        start = self.accelerator.process_index * len(rows)
        return Rollout(
            rows=list(rows),
            prompt_ids=ids,
            completion_ids=completion_ids,
            completions=completions,
            logprobs=logprobs,
            pixels=list(self.pixels),
            rewards=rewards[start : start + len(rows)].clone(),
            group=group,
        )

    def _tokenize_prompts(self, prompts: list[Any]) -> tuple[Any, Any, Any]:
        group = self.num_generations
        ids, images, fields = super()._tokenize_prompts(prompts[::group])
        self.pictures = images or [None] * len(ids)
        self.pixels = _repeated(by_prompt(fields, self.pictures), group)
        # No images, no fields: what TRL would do with them for every row stands here instead.
        return _repeated(ids, group), None, {}

    def _generate_single_turn(
        self,
        prompt_ids: list[list[int]],
        images: Any,  # noqa: ARG002 - TRL's name; ours are in `pictures`
        multimodal_fields: dict[str, Any],  # noqa: ARG002 - likewise, in `pixels`
        num_generations: int,
        has_tool_images: bool = False,
    ) -> tuple[Any, Any]:
        pictures: Any = self.pictures if any(self.pictures) else None
        fields: dict[str, Any] = {}
        if self.use_vllm:
            pictures = pictures and _repeated(pictures, num_generations)
        else:
            prompt_ids = prompt_ids[::num_generations]
            fields = dict(joined(self.pixels[::num_generations]))
            if fields:
                image = self.model.config.image_token_id
                fields["mm_token_type_ids"] = [[int(i == image) for i in ids] for ids in prompt_ids]
        found: tuple[Any, Any] = super()._generate_single_turn(  # type: ignore[no-untyped-call]
            prompt_ids, pictures, fields, num_generations, has_tool_images
        )
        return found

    def _calculate_rewards(self, *_: Any) -> Tensor:
        # They were asked for as soon as there were completions, to see which groups have none to
        # learn from.
        rewards: Tensor = gather(self.rollout.rewards)
        return rewards

    def _refill(self, rollout: Rollout, places: list[int], count: int, number: int) -> None:
        """Sample `count` further prompts in every process; those with variance take the places."""
        further = self._sampled(_repeated(self._further_rows(count, number), rollout.group))
        flat = further.flat_groups(self.reward_weights).tolist()
        useful = [source for source, equal in enumerate(flat) if not equal]
        taken = list(zip(places, useful, strict=False))
        for place, source in taken:
            rollout.take(place, further, source)
        self._log_share(REFILLED, len(taken), len(rollout.rows) // rollout.group)

    def _further_rows(self, count: int, number: int) -> list[dict[str, Any]]:
        """Rows for a refill, other ones in each process.

        They follow from the seed, the update and the round, so a resumed stage draws the same.
        """
        rows = self.train_dataset.rows
        order = permutation(
            len(rows), self.spec.seed + 1 + number, self.state.global_step + len(rows)
        )
        start = self.accelerator.process_index * count
        indices = [order[place % len(order)] for place in range(start, start + count)]
        found: list[dict[str, Any]] = rows.__getitems__(indices)
        return found

    def _settle(self, rollout: Rollout, flat: Tensor) -> None:
        """Take a rollout as this step's, without the groups that teach nothing if so wished."""
        self.rollout, self.pixels = rollout, rollout.pixels
        dropped = flat if self.spec.zero_variance == "drop" else torch.zeros_like(flat)
        self._log_share(DROPPED, int(dropped.sum()), len(flat))
        self.left_out = dropped.repeat_interleave(rollout.group) if dropped.any() else None
        if self.left_out is not None and rollout.logprobs is not None:
            # They are not scored; a difference from the sampler's would be one from nothing.
            rollout.logprobs = [
                [math.nan] * len(values) if out else values
                for values, out in zip(rollout.logprobs, self.left_out.tolist(), strict=True)
            ]

    def _log_flat(self, rollout: Rollout, flat: Tensor) -> None:
        firsts = totals(rollout.rewards, self.reward_weights)[:: rollout.group]
        right = flat & (firsts > 0)
        self._log_share(ALL_RIGHT, int(right.sum()), len(flat))
        self._log_share(ALL_WRONG, int((flat & ~right).sum()), len(flat))

    def _log_share(self, key: str, part: int, whole: int) -> None:
        counts = torch.tensor([part, whole], device=self.accelerator.device, dtype=torch.float32)
        total = self.accelerator.reduce(counts, reduction="sum")
        self._metrics["train"][key].append(float(total[0] / total[1]))


def _repeated(items: list[Any], times: int) -> list[Any]:
    """Each item as often, one after the other, by reference."""
    return [item for item in items for _ in range(times)]
