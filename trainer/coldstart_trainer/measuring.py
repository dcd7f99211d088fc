"""What a stage measures of TRL's trainers: phases, tokens, rates; mixed in before all other bases.

It changes nothing of what they compute, and asks a device for nothing before a log line is due,
when the Trainer asks for the loss.
"""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from transformers import Trainer, TrainerCallback
from trl.extras.profiling import ProfilingContext

from coldstart.metrics import series
from coldstart_trainer import conversation as chat
from coldstart_trainer import phases
from coldstart_trainer.keeper import Keeper
from coldstart_trainer.loop import total
from coldstart_trainer.meter import Meter
from coldstart_trainer.model import part_of
from coldstart_trainer.phases import phase
from coldstart_trainer.reflecting import ReflectionCounters
from coldstart_trainer.resources import resources
from coldstart_trainer.tripwires import ZeroRewards

PROMPT, IMAGE, COMPLETION = TOKENS = tuple(
    series("tokens_total", kind) for kind in ("prompt", "image", "completion")
)
SAMPLES = "samples_total"

PEAK_FLOPS = {
    "B200": 2.25e15,
    "H200": 9.89e14,
    "H100": 9.89e14,
    "A100": 3.12e14,
    "L40S": 3.62e14,
    "L4": 1.21e14,
}
"""FLOP/s of dense bf16 products, by what a GPU's name contains (NVIDIA's data sheets)."""

_OF_TRL = {
    "_prepare_inputs": "prepare",
    "_calculate_rewards": "score",
    "sync_weights": "weight_sync",
    "transformers.generate": "generate",
    "transformers.generate_batch": "generate",
    "vLLM.generate": "generate",
}
"""The phases that TRL times by itself, by its names for them."""


class Measured(Trainer):
    """Measures a trainer whose `keeper` is set before it trains."""

    keeper: Keeper
    model: Any

    def __init__(self, *arguments: Any, **named_arguments: Any) -> None:
        super().__init__(*arguments, **named_arguments)
        self.uncounted: dict[str, Any] = dict.fromkeys((*TOKENS, SAMPLES), 0)
        """What is to be added to the keeper's counters, some of it on the device."""
        self.update_began = self.training_began = time.monotonic()
        self.reported = (self.training_began, 0.0, 0.0)
        self.saving = self.learnt = 0.0
        self.add_callback(_Updates(self))

    @property
    def meter(self) -> Meter:
        """Where the stage's numbers go."""
        return self.keeper.stage.progress.meter

    def train(self, *arguments: Any, **named_arguments: Any) -> Any:
        """Train, with TRL's own timings listened to."""
        self.training_began = time.monotonic()
        self.reported = (self.training_began, *_sizes(self._totals()))
        for entry in self.keeper.origin.datasets:
            for reason, rows in entry.dropped.items():
                self.meter.add(series("samples_dropped_total", reason), rows)
        with _trl_phases():
            return super().train(*arguments, **named_arguments)

    def get_batch_samples(self, *arguments: Any, **named_arguments: Any) -> Any:
        """An update begins with reading its rows."""
        self.update_began = time.monotonic()
        with phase("prepare"):
            return super().get_batch_samples(*arguments, **named_arguments)

    def training_step(self, *arguments: Any, **named_arguments: Any) -> Any:
        """Forward and backward; phases inside it, such as sampling, are counted by themselves."""
        with phase("forward_backward"):
            return super().training_step(*arguments, **named_arguments)

    def _clip_grad_norm(self, model: Any) -> Any:
        with phase("optimizer"):
            return super()._clip_grad_norm(model)  # type: ignore[no-untyped-call]

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        # Here the host waits for the backward pass.
        with phase("forward_backward"):
            return super()._get_grad_norm(model, grad_norm=grad_norm)  # type: ignore[no-untyped-call]

    def evaluate(self, *arguments: Any, **named_arguments: Any) -> Any:
        """Score the held-out rows."""
        with phase("eval"):
            return super().evaluate(*arguments, **named_arguments)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        began = time.monotonic()
        self.count()
        with phase("checkpoint"):
            super()._save_checkpoint(model, trial)
        seconds = time.monotonic() - began
        self.saving += seconds
        self.meter.observe("checkpoint_seconds", seconds)
        self.meter.put(self._share_saving())
        self.meter.publish()

    def count(self) -> None:
        """Add to the counters what has not been; this waits for the device."""
        counters = self.keeper.counters
        for name, number in self.uncounted.items():
            counters[name] = counters.get(name, 0.0) + float(number)
            self.uncounted[name] = 0

    def _totals(self) -> dict[str, float]:
        """The counters of all processes, summed up and shown."""
        self.count()
        counts = total(self.keeper.counters)
        self.meter.put(counts)
        return counts

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Report the counts of all processes, and the rates if it is training that is logged."""
        tokens, samples = _sizes(self._totals())
        self.meter.put(self._share_saving() | resources())
        if "loss" in logs:
            self.meter.put(self._rates(tokens, samples))
        super().log(logs, start_time)

    def _rates(self, tokens: float, samples: float) -> dict[str, float]:
        before, old_tokens, old_samples = self.reported
        self.reported = (time.monotonic(), tokens, samples)
        seconds = self.reported[0] - before
        self.learnt += tokens - old_tokens
        spent = self.meter.observed(series("phase_seconds", "forward_backward"))
        peak = _peak_flops(self.args)
        found = {
            "tokens_per_second": (tokens - old_tokens) / seconds,
            "samples_per_second": (samples - old_samples) / seconds,
        }
        if peak:
            found["mfu_ratio"] = mfu(self.parameters, self.learnt, spent * peak)
        return found

    @functools.cached_property
    def parameters(self) -> int:
        """How many the language model has; under ZeRO-3 each process holds a share of them."""
        return sum(
            getattr(value, "ds_numel", value.numel())
            for name, value in self.model.named_parameters()
            if part_of(name) == "language"
        )

    @property
    def image_token(self) -> int:
        """What stands in a prompt for each merged patch; -1, which is no token, in text models."""
        token: int = getattr(self.model.config, "image_token_id", -1)
        return token

    def _share_saving(self) -> dict[str, float]:
        elapsed = time.monotonic() - self.training_began
        return {"checkpoint_time_ratio": self.saving / elapsed} if elapsed else {}


class MeasuredRows(Measured):
    """Measures training on rows."""

    def training_step(self, model: Any, inputs: dict[str, Any], *more: Any, **named: Any) -> Any:
        """Count, on the device, what is learnt from."""
        ids = inputs["input_ids"]
        image = (ids == self.image_token).sum()
        completion = (inputs["labels"] != -100).sum()  # noqa: PLR2004 - torch's "no label"
        whole = inputs["attention_mask"].sum() if "attention_mask" in inputs else ids.numel()
        self.uncounted[IMAGE] += image
        self.uncounted[COMPLETION] += completion
        self.uncounted[PROMPT] += whole - image - completion
        self.uncounted[SAMPLES] += ids.shape[0]
        return super().training_step(model, inputs, *more, **named)


class MeasuredRollouts(Measured):
    """Measures sampling and what the samples are worth, of TRL's GRPOTrainer."""

    ref_model: Any
    reward_func_names: list[str]
    zeros: ZeroRewards | None = None

    @functools.cached_property
    def reflections(self) -> ReflectionCounters:
        """Counts the completions that reflect."""
        return ReflectionCounters(self.keeper.stage.order.spec.reflection, self.reward_func_names)

    def train(self, *arguments: Any, **named_arguments: Any) -> Any:
        """Train, with a counter for everything that may be counted."""
        for key in self.reflections.series:
            self.keeper.counters.setdefault(key, 0.0)
        return super().train(*arguments, **named_arguments)

    def _totals(self) -> dict[str, float]:
        counts = super()._totals()
        self.meter.put(self.reflections.ratios(counts))
        return counts

    def _sampled(self, rows: list[dict[str, Any]]) -> Any:
        found = super()._sampled(rows)  # type: ignore[misc]
        texts = map(chat.completion_text, found.completions)
        for key, number in self.reflections.seen(texts, found.rewards.tolist()).items():
            self.keeper.counters[key] += number
        return found

    def _generate_single_turn(self, prompt_ids: list[list[int]], *more: Any, **named: Any) -> Any:
        found = super()._generate_single_turn(prompt_ids, *more, **named)  # type: ignore[misc]
        images = sum(ids.count(self.image_token) for ids in prompt_ids)
        self.uncounted[IMAGE] += images
        self.uncounted[PROMPT] += sum(map(len, prompt_ids)) - images
        self.uncounted[COMPLETION] += sum(map(len, found[0]))
        self.uncounted[SAMPLES] += len(found[0])
        self.count()  # at once: the keeper may have to take it back
        return found

    def _calculate_rewards(self, *arguments: Any, **named_arguments: Any) -> torch.Tensor:
        found: torch.Tensor = super()._calculate_rewards(*arguments, **named_arguments)  # type: ignore[misc]
        if self.accelerator.is_main_process:  # they are those of all processes
            self.zeros = self.zeros or ZeroRewards(self.reward_func_names)
            self.meter.put(self.zeros.saw(found.tolist()))
        return found

    def _get_per_token_logps_and_entropies(self, model: Any, *more: Any, **named: Any) -> Any:
        with self._pass(model):
            return super()._get_per_token_logps_and_entropies(model, *more, **named)  # type: ignore[misc]

    def _pass(self, model: Any) -> contextlib.AbstractContextManager[None]:
        """The phase of a pass over the completions; the one with gradients has one already."""
        if torch.is_grad_enabled():
            return contextlib.nullcontext()
        return phase("ref_logprob" if model is self.ref_model else "old_logprob")


class _Updates(TrainerCallback):
    """Tells the meter when an update is done."""

    def __init__(self, trainer: Measured) -> None:
        self._trainer = trainer

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """Time the optimizer: DeepSpeed's engine steps inside the backward pass."""
        wrapper = getattr(self._trainer.accelerator, "deepspeed_engine_wrapped", None)
        owner: Any = wrapper.engine if wrapper else self._trainer.optimizer
        owner.step = _timed("optimizer", owner.step)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        """Show the update, logged or not."""
        meter = self._trainer.meter
        meter.observe("step_seconds", time.monotonic() - self._trainer.update_began)
        phases.lap()
        meter.put({"step": state.global_step, "last_step_timestamp_seconds": time.time()})
        meter.publish()


def _sizes(totals: Mapping[str, float]) -> tuple[float, float]:
    """Tokens and samples."""
    return sum(totals[name] for name in TOKENS), totals[SAMPLES]


def mfu(parameters: int, tokens: float, possible: float) -> float:
    """The share of the possible FLOPs that forward and backward passes over tokens need.

    A product is 2 FLOPs for each parameter and token, and there are 3: forward, and backward to
    weights and inputs.
    """
    return 6 * parameters * tokens / possible if possible else 0.0


def _timed(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def timed(*arguments: Any, **named_arguments: Any) -> Any:
        with phase(name):
            return function(*arguments, **named_arguments)

    return timed


@contextlib.contextmanager
def _trl_phases() -> Iterator[None]:
    """Listen to TRL's ProfilingContext.

    TRL 1.16 hands what it measures to wandb, MLflow and Trackio only, from within the context: no
    callback and no log line ever sees it.
    """
    context: Any = ProfilingContext
    begun, ended = context.__enter__, context.__exit__

    def __enter__(self: Any) -> Any:  # noqa: N807
        name = _OF_TRL.get(self.name.partition(".")[2])
        self.coldstart_phase = phase(name) if name else contextlib.nullcontext()
        self.coldstart_phase.__enter__()
        return begun(self)

    def __exit__(self: Any, *error: Any) -> Any:  # noqa: N807
        self.coldstart_phase.__exit__(*error)
        return ended(self, *error)

    context.__enter__, context.__exit__ = __enter__, __exit__
    try:
        yield
    finally:
        context.__enter__, context.__exit__ = begun, ended


def _peak_flops(arguments: Any) -> float:
    """What all GPUs of the stage can do in a second; 0 where that is not known."""
    if arguments.device.type != "cuda" or not arguments.bf16:
        return 0.0
    name = torch.cuda.get_device_name(arguments.device)
    each = next((peak for part, peak in PEAK_FLOPS.items() if part in name), 0.0)
    return each * float(arguments.world_size)
