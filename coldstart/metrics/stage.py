"""What the stages report; what only GRPO does stands in `policy`."""

from __future__ import annotations

from coldstart.metrics.metric import Metric

_TRAINING = ("sft", "grpo")
_MODEL = (*_TRAINING, "evaluation")
_ALL = ("distill", *_MODEL)

ROWS = (
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
"""Every metric that not GRPO alone reports."""

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
