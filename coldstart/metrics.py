"""The one table of every number that a stage reports, and the lines it reports them in."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from coldstart.schema import Contract

PREFIX = "coldstart_"
"""What every metric's name begins with in Prometheus."""


Kind = Literal["gauge", "counter", "histogram"]

COMMON_LABELS = ("run", "stage", "model")
"""Labels of every series."""

SECONDS_BUCKETS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 60.0, 120.0, 300.0, 900.0, 3600.0)
"""Upper bounds of the histograms' buckets."""

_TRAINING = ("sft", "grpo")
_MODEL = (*_TRAINING, "evaluation")
_ALL = ("distill", *_MODEL)


@dataclass(frozen=True)
class Metric:
    """One metric: its name after the prefix, how it behaves, and where TRL logs it."""

    name: str
    """Name, without labels."""
    kind: Kind
    """Counters only grow while an attempt lasts."""
    unit: str
    """Base unit, `ratio`, or `1`."""
    help: str
    """A sentence for people."""
    stages: tuple[str, ...]
    """The stages that report it."""
    labels: tuple[str, ...] = ()
    """Labels besides the common ones."""
    source: str = ""
    """The key of TRL's log, braces for a label; empty where the trainer computes it."""
    needs: str = ""
    """What a stage must have to report it; empty where every one of `stages` does."""


METRICS = (
    Metric(
        "info", "gauge", "1", "Always 1: which spec is carried out.", _ALL, ("spec_hash", "attempt")
    ),
    Metric(
        "step",
        "gauge",
        "1",
        "Optimizer updates done; in an evaluation, responses to the benchmark at hand; in a "
        "distillation, questions.",
        _ALL,
    ),
    Metric("max_steps", "gauge", "1", "How many there will be.", _ALL),
    Metric("epoch", "gauge", "1", "Passes over the rows.", _TRAINING, source="epoch"),
    Metric(
        "last_step_timestamp_seconds",
        "gauge",
        "seconds",
        "When the last optimizer update, batch of responses or question was done (Unix time).",
        _ALL,
    ),
    Metric("step_seconds", "histogram", "seconds", "Time of one optimizer update.", _TRAINING),
    Metric(
        "phase_seconds",
        "histogram",
        "seconds",
        "Time that one update, checkpoint, evaluation or batch of responses took in a phase, "
        "without the phases inside it, by rank 0's clock: work queued on a GPU counts where it "
        "is waited for.",
        _MODEL,
        ("phase",),
    ),
    Metric(
        "tokens_total",
        "counter",
        "tokens",
        "Tokens of all processes; `completion` is what is learnt (SFT) or was sampled, `prompt` "
        "and `image` count once for each completion.",
        _ALL,
        ("kind",),
    ),
    Metric("samples_total", "counter", "1", "Rows learnt, or completions sampled.", _ALL),
    Metric(
        "teacher_requests_total",
        "counter",
        "1",
        "Requests to the teacher by how they ended: `ok`, or why they were repeated or given up.",
        ("distill",),
        ("outcome",),
    ),
    Metric(
        "teacher_requests_open",
        "gauge",
        "1",
        "Requests to the teacher that are open.",
        ("distill",),
    ),
    Metric(
        "yield_ratio",
        "gauge",
        "ratio",
        "Share of the questions done that have a row.",
        ("distill",),
    ),
    Metric(
        "tokens_per_second",
        "gauge",
        "tokens/second",
        "Tokens of all kinds per second since the last report.",
        _ALL,
    ),
    Metric("samples_per_second", "gauge", "1/second", "Samples since the last report.", _ALL),
    Metric(
        "mfu_ratio",
        "gauge",
        "ratio",
        "Share of the GPUs' peak FLOP/s in phase `forward_backward`: 6 FLOPs for each language "
        "parameter and token learnt from; vision tower, attention and recomputation not counted.",
        _TRAINING,
        needs="a GPU whose peak is known",
    ),
    Metric("loss", "gauge", "nats", "Training loss.", _TRAINING, source="loss"),
    Metric(
        "eval_loss",
        "gauge",
        "nats",
        "Loss on the held-out rows.",
        ("sft",),
        source="eval_loss",
        needs="evalSteps",
    ),
    Metric(
        "grad_norm",
        "gauge",
        "1",
        "Norm of the gradient before clipping.",
        _TRAINING,
        source="grad_norm",
    ),
    Metric("learning_rate", "gauge", "1", "Learning rate.", _TRAINING, source="learning_rate"),
    Metric(
        "token_accuracy_ratio",
        "gauge",
        "ratio",
        "Share of tokens predicted right.",
        ("sft",),
        source="mean_token_accuracy",
    ),
    Metric(
        "policy_entropy_nats",
        "gauge",
        "nats",
        "Mean entropy per token.",
        _TRAINING,
        source="entropy",
    ),
    Metric(
        "reward_total_mean",
        "gauge",
        "1",
        "Mean of the weighted rewards.",
        ("grpo",),
        source="reward",
    ),
    Metric(
        "reward_total_std",
        "gauge",
        "1",
        "Deviation of the weighted rewards.",
        ("grpo",),
        source="reward_std",
    ),
    Metric(
        "reward_mean",
        "gauge",
        "1",
        "Mean of one reward.",
        ("grpo",),
        ("reward",),
        source="rewards/{reward}/mean",
    ),
    Metric(
        "reward_std",
        "gauge",
        "1",
        "Deviation of one reward.",
        ("grpo",),
        ("reward",),
        source="rewards/{reward}/std",
    ),
    Metric(
        "groups_zero_variance_ratio",
        "gauge",
        "ratio",
        "Share of groups, as sampled, whose rewards are all equal, so that nothing is learnt from "
        "them: `right` if their weighted sum is above 0, else `wrong`.",
        ("grpo",),
        ("outcome",),
        source="groups/zero_variance_{outcome}",
    ),
    Metric(
        "groups_dropped_ratio",
        "gauge",
        "ratio",
        "Share of groups that are left out of the update.",
        ("grpo",),
        source="groups/dropped",
    ),
    Metric(
        "groups_refilled_ratio",
        "gauge",
        "ratio",
        "Share of groups that others were sampled in place of.",
        ("grpo",),
        source="groups/refilled",
        needs="refillLimit",
    ),
    Metric(
        "reward_zero_steps",
        "gauge",
        "1",
        "Latest sampling steps in a row in which a reward was 0 for every completion.",
        ("grpo",),
        ("reward",),
    ),
    Metric(
        "reward_timeouts_total",
        "counter",
        "1",
        "Batches of a reward that took too long.",
        ("grpo",),
    ),
    Metric("reward_errors_total", "counter", "1", "Batches of a reward that raised.", ("grpo",)),
    Metric(
        "completion_tokens_mean",
        "gauge",
        "tokens",
        "Mean length.",
        ("grpo",),
        source="completions/mean_length",
    ),
    Metric(
        "completion_tokens_min",
        "gauge",
        "tokens",
        "Least length.",
        ("grpo",),
        source="completions/min_length",
    ),
    Metric(
        "completion_tokens_max",
        "gauge",
        "tokens",
        "Greatest length.",
        ("grpo",),
        source="completions/max_length",
    ),
    Metric(
        "completion_tokens_terminated_mean",
        "gauge",
        "tokens",
        "Mean length of those that ended by themselves; 0 if none did.",
        ("grpo",),
        source="completions/mean_terminated_length",
    ),
    Metric(
        "completion_truncated_ratio",
        "gauge",
        "ratio",
        "Share of completions that did not end by themselves.",
        ("grpo",),
        source="completions/clipped_ratio",
    ),
    Metric(
        "kl_nats",
        "gauge",
        "nats",
        "KL divergence from the start model, per token (k3).",
        ("grpo",),
        source="kl",
        needs="loss.kl above 0",
    ),
    Metric(
        "clip_low_ratio",
        "gauge",
        "ratio",
        "Share of tokens clipped below.",
        ("grpo",),
        source="clip_ratio/low_mean",
    ),
    Metric(
        "clip_high_ratio",
        "gauge",
        "ratio",
        "Share of tokens clipped above.",
        ("grpo",),
        source="clip_ratio/high_mean",
    ),
    Metric(
        "clip_region_ratio",
        "gauge",
        "ratio",
        "Share of clipped tokens.",
        ("grpo",),
        source="clip_ratio/region_mean",
    ),
    *(
        Metric(
            f"sampler_logp_diff_{stat}",
            "gauge",
            "nats",
            f"{word} difference between the sampler's and the trainer's log-probabilities.",
            ("grpo",),
            source=f"sampling/sampling_logp_difference/{stat}",
            needs="vLLM",
        )
        for stat, word in (("mean", "Mean"), ("max", "Greatest"))
    ),
    *(
        Metric(
            f"importance_ratio_{stat}",
            "gauge",
            "1",
            f"{word} ratio of the trainer's to the sampler's probability of a token.",
            ("grpo",),
            source=f"sampling/importance_sampling_ratio/{stat}",
            needs="vLLM",
        )
        for stat, word in (("mean", "Mean"), ("min", "Least"), ("max", "Greatest"))
    ),
    Metric(
        "prompt_reuse_ratio",
        "gauge",
        "ratio",
        "Tokens that computing each prompt anew would take, over those that were computed.",
        ("grpo",),
        source="shared/prompt_reuse_ratio",
        needs="sharedPrompt",
    ),
    Metric(
        "packed_selfcheck_nats",
        "gauge",
        "nats",
        "Greatest difference of log-probabilities between the packed and the dense computation "
        "of the first group, or, of a row's mean, of the first micro-batch (SFT).",
        _TRAINING,
        source="shared/selfcheck_nats",
        needs="sharedPrompt or packing",
    ),
    Metric(
        "padding_avoided_ratio",
        "gauge",
        "ratio",
        "Share of the padded micro-batches that packing did not compute.",
        ("sft",),
        source="shared/padding_ratio",
        needs="packing",
    ),
    Metric(
        "samples_dropped_total",
        "counter",
        "1",
        "Rows and completions that are not learnt from, by reason.",
        _TRAINING,
        ("reason",),
        needs="something dropped",
    ),
    Metric(
        "engine_weights_version",
        "gauge",
        "1",
        "Optimizer updates in the weights that the rollout engine samples from.",
        ("grpo",),
        needs="vLLM",
    ),
    Metric(
        "trainer_weights_version",
        "gauge",
        "1",
        "Optimizer updates in the weights that are trained.",
        ("grpo",),
        needs="vLLM",
    ),
    Metric(
        "gpu_memory_peak_bytes",
        "gauge",
        "bytes",
        "Greatest GPU memory in use by rank 0.",
        _MODEL,
        needs="a GPU",
    ),
    Metric("host_rss_bytes", "gauge", "bytes", "Resident memory of rank 0.", _ALL),
    Metric(
        "checkpoint_timestamp_seconds",
        "gauge",
        "seconds",
        "When the last checkpoint was whole (Unix time).",
        _TRAINING,
    ),
    Metric("checkpoint_seconds", "histogram", "seconds", "Time of one save.", _TRAINING),
    Metric(
        "checkpoint_time_ratio",
        "gauge",
        "ratio",
        "Share of this attempt's training time that was spent saving.",
        _TRAINING,
    ),
    Metric("restarts_total", "counter", "1", "Attempts of the stage before this one.", _ALL),
    Metric(
        "eval_accuracy_ratio",
        "gauge",
        "ratio",
        "Share of right responses of a checkpoint to a benchmark.",
        ("evaluation",),
        ("benchmark", "checkpoint"),
    ),
    Metric(
        "eval_samples_total",
        "counter",
        "1",
        "Responses of a checkpoint to a benchmark that are there, earlier attempts' included.",
        ("evaluation",),
        ("benchmark", "checkpoint"),
    ),
)
"""Every metric, in the order in which the reference page lists them."""

TABLE = {metric.name: metric for metric in METRICS}
"""The same by name."""

PHASES = {
    "prepare": "tokenizing, reading pixels and sharing out completions",
    "generate": "sampling",
    "weight_sync": "giving the rollout engine the new weights",
    "score": "rewards, or grading",
    "old_logprob": "log-probabilities of the completions before the update",
    "ref_logprob": "the same under the start model",
    "forward_backward": "the loss and its gradient",
    "optimizer": "the optimizer's step",
    "checkpoint": "saving",
    "eval": "held-out rows and the probe",
}
"""The values of the label `phase`."""


def series(name: str, *labels: str) -> str:
    """What a series is called in `metrics.jsonl`, such as `reward_mean{accuracy}`."""
    return f"{name}{{{','.join(labels)}}}" if labels else name


def split(key: str) -> tuple[str, tuple[str, ...]]:
    """The metric's name and the labels' values of a series; the inverse of `series`."""
    name, _, rest = key.partition("{")
    known = len(TABLE[name].labels)
    return name, tuple(rest[:-1].split(",", maxsplit=known - 1)) if rest else ()


def named(logs: Mapping[str, float]) -> dict[str, float]:
    """TRL's log entries under our names; entries that the table does not have are left out."""
    found: dict[str, float] = {}
    for key, value in logs.items():
        for pattern, metric in _SOURCES:
            if match := pattern.fullmatch(key):
                found[series(metric.name, *match.groupdict().values())] = value
    return found


def _source_pattern(source: str) -> re.Pattern[str]:
    return re.compile(re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>.+)", re.escape(source)))


_SOURCES = [(_source_pattern(metric.source), metric) for metric in METRICS if metric.source]


class Progress(Contract):
    """One line of a stage's `metrics.jsonl`: how far it is, and its numbers at that point."""

    time: Annotated[float, Field(ge=0)]
    """Seconds since the epoch."""
    attempt: Annotated[int, Field(ge=1)]
    """Which attempt wrote it."""
    phase: Literal["load", "distill", "train", "probe", "save", "evaluate"]
    """What the stage is doing."""
    done: Annotated[int, Field(ge=0)] = 0
    """Optimizer updates (train), questions (distill) or problems (probe, evaluate), done."""
    total: Annotated[int, Field(ge=0)] = 0
    """How many there will be; 0 where it is not known."""
    label: str = ""
    """What is evaluated: `checkpoint/benchmark`."""
    values: dict[str, float] = {}
    """Numbers by their names in the table; of a histogram, the mean since the numbers before.

    A labelled one is called `reward_mean{accuracy}`, with the labels' values in the table's order.
    """
