"""The one table of every number that a stage reports, and the lines it reports them in."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from coldstart.schema import Contract

PREFIX = "coldstart_"
"""What every metric's name begins with in Prometheus."""


@dataclass(frozen=True)
class Metric:
    """One metric: its name after the prefix, how it behaves, and where TRL logs it."""

    name: str
    """Name; `{reward}` and other braces are labels."""
    unit: str
    """Base unit, or `ratio`."""
    help: str
    """A sentence for people."""
    source: str
    """The key of TRL's log, braces for a label; empty where the trainer computes it."""


METRICS = (
    Metric("loss", "nats", "Training loss.", "loss"),
    Metric("eval_loss", "nats", "Loss on the held-out rows.", "eval_loss"),
    Metric("grad_norm", "1", "Norm of the gradient before clipping.", "grad_norm"),
    Metric("learning_rate", "1", "Learning rate.", "learning_rate"),
    Metric("epoch", "1", "Passes over the rows.", "epoch"),
    Metric(
        "token_accuracy_ratio", "ratio", "Share of tokens predicted right.", "mean_token_accuracy"
    ),
    Metric("policy_entropy_nats", "nats", "Mean entropy per token.", "entropy"),
    Metric("tokens_total", "tokens", "Tokens seen.", "num_tokens"),
    Metric("step_seconds", "seconds", "Time of one optimizer update.", "step_time"),
    Metric("reward_total_mean", "1", "Mean of the weighted rewards.", "reward"),
    Metric("reward_total_std", "1", "Deviation of the weighted rewards.", "reward_std"),
    Metric("reward_mean{reward}", "1", "Mean of one reward.", "rewards/{reward}/mean"),
    Metric("reward_std{reward}", "1", "Deviation of one reward.", "rewards/{reward}/std"),
    Metric(
        "groups_zero_variance_ratio",
        "ratio",
        "Share of groups whose rewards are all equal: nothing is learnt from them.",
        "frac_reward_zero_std",
    ),
    Metric("completion_tokens_mean", "tokens", "Mean length.", "completions/mean_length"),
    Metric("completion_tokens_min", "tokens", "Least length.", "completions/min_length"),
    Metric("completion_tokens_max", "tokens", "Greatest length.", "completions/max_length"),
    Metric(
        "completion_truncated_ratio",
        "ratio",
        "Share of completions that did not end by themselves.",
        "completions/clipped_ratio",
    ),
    Metric("kl_nats", "nats", "KL divergence from the start model, per token (k3).", "kl"),
    Metric("clip_low_ratio", "ratio", "Share of tokens clipped below.", "clip_ratio/low_mean"),
    Metric("clip_high_ratio", "ratio", "Share of tokens clipped above.", "clip_ratio/high_mean"),
    Metric("clip_region_ratio", "ratio", "Share of clipped tokens.", "clip_ratio/region_mean"),
    Metric(
        "sampler_logp_diff_mean",
        "nats",
        "Mean difference between the sampler's and the trainer's log-probabilities.",
        "sampling/sampling_logp_difference/mean",
    ),
    Metric(
        "sampler_logp_diff_max",
        "nats",
        "Greatest such difference.",
        "sampling/sampling_logp_difference/max",
    ),
    Metric("reward_timeouts_total", "1", "Batches of a reward that took too long.", ""),
    Metric("reward_errors_total", "1", "Batches of a reward that raised.", ""),
    Metric("checkpoint_seconds", "seconds", "Time of one save.", ""),
    Metric("checkpoint_time_ratio", "ratio", "Share of the time spent saving.", ""),
    Metric("host_rss_bytes", "bytes", "Resident memory of rank 0.", ""),
    Metric("gpu_memory_peak_bytes", "bytes", "Greatest GPU memory in use by rank 0.", ""),
)
"""Every metric, in the order in which the reference page lists them."""


def named(logs: dict[str, float]) -> dict[str, float]:
    """TRL's log entries under our names; entries that the table does not have are left out.

    A labelled metric is written `reward_mean{accuracy}`.
    """
    found: dict[str, float] = {}
    for key, value in logs.items():
        for pattern, metric in _SOURCES:
            if match := pattern.fullmatch(key):
                labels = match.groupdict().values()
                name = metric.name.partition("{")[0]
                found[name + (f"{{{','.join(labels)}}}" if labels else "")] = value
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
    phase: Literal["load", "train", "probe", "save", "evaluate"]
    """What the stage is doing."""
    done: Annotated[int, Field(ge=0)] = 0
    """Optimizer updates (train), or problems (probe, evaluate), that are done."""
    total: Annotated[int, Field(ge=0)] = 0
    """How many there will be; 0 where it is not known."""
    label: str = ""
    """What is evaluated: `checkpoint/benchmark`."""
    values: dict[str, float] = {}
    """Numbers by their names in the table."""
