"""The dashboard *Training*: the metric table, panel by panel, with what to look for in each.

A metric of the table that no panel shows fails a test: give it a panel here, beside what it is read
with.
"""

from __future__ import annotations

from coldstart.generate.dashboards.drawing import SERIES, UNITS, latest, line, meaning, panel, rate
from coldstart.generate.dashboards.grafana import Dashboard, Panel, Query, Row, Variable
from coldstart.metrics import PREFIX, TABLE

_NOW = Row(
    "Now",
    (
        Panel(
            "Progress",
            "Updates done of those to do; of an evaluation, responses to the benchmark at hand; "
            "of a distillation, questions.",
            (
                Query(
                    f"{latest('step')} / ({latest('max_steps')} > 0)",
                    "{{run}} {{stage}}",
                ),
            ),
            "percentunit",
            "bargauge",
            top=1.0,
            width=6,
            height=6,
        ),
        panel(
            "Since the last update",
            "Grows beyond some updates' time: the stage hangs. See the phase it is in below.",
            line("last_step_timestamp_seconds", "age"),
            kind="stat",
            width=6,
            height=6,
        ),
        panel(
            "Since the last checkpoint",
            "So much training is lost if the pod is.",
            line("checkpoint_timestamp_seconds", "age"),
            kind="stat",
            width=6,
            height=6,
        ),
        panel(
            "Attempts before this one",
            "",
            line("restarts_total"),
            kind="stat",
            width=6,
            height=6,
        ),
        panel(
            "Steps",
            "A line that stays flat is a stage that hangs; one that falls, an attempt that went "
            "back to a checkpoint.",
            line("step", word="done"),
            line("max_steps", word="of"),
        ),
        panel("Epoch", "", line("epoch")),
        panel(
            "Attempts over time",
            "Where a line begins, an attempt has. Another digest is another spec.",
            line("info"),
        ),
    ),
)

_REWARD = Row(
    "Reward (GRPO)",
    (
        panel(
            "Reward by component",
            "Accuracy should rise; a format reward that rises alone is a model that learns to "
            "look right.",
            line("reward_mean"),
        ),
        panel("Weighted reward", "", line("reward_total_mean")),
        panel(
            "Spread of the rewards",
            "Nothing is learnt where it is 0: all completions are equally good or bad.",
            line("reward_total_std", word="weighted"),
            line("reward_std"),
        ),
        panel(
            "Groups without a signal",
            "Mostly `right`: the data is too easy by now. Mostly `wrong`: too hard, or the reward "
            "is broken.",
            line("groups_zero_variance_ratio"),
            stacked=True,
            top=1.0,
        ),
        panel(
            "Groups left out and replaced",
            "What is left out is sampled for nothing.",
            line("groups_dropped_ratio", word="left out"),
            line("groups_refilled_ratio", word="replaced"),
        ),
        panel(
            "Rewards that fail or are never given",
            "A reward that raises or hangs scores 0, so the curve above falls without the model "
            "being worse.",
            line("reward_zero_steps", word="0 for steps in a row"),
            line("reward_errors_total", word="raised"),
            line("reward_timeouts_total", word="timed out"),
            unit="none",
        ),
    ),
)

_COMPLETIONS = Row(
    "Completions (GRPO)",
    (
        panel(
            "Length",
            "A mean that nears the greatest is a limit that cuts reasoning short.",
            line("completion_tokens_mean", word="mean"),
            line("completion_tokens_terminated_mean", word="mean of those that ended"),
            line("completion_tokens_max", word="greatest"),
            line("completion_tokens_min", word="least"),
            width=12,
        ),
        panel(
            "Truncated",
            "More than a tenth for long: raise `conversation.maxCompletionTokens`, or look for "
            "responses that repeat themselves.",
            line("completion_truncated_ratio"),
            width=12,
        ),
    ),
)

_REFLECTION = Row(
    "Reflection (GRPO)",
    (
        panel(
            "Completions that reflect",
            "How they are worded, not how good they are: a rise is no sign of better reasoning.",
            line("reflection_ratio"),
            top=1.0,
            width=12,
        ),
        panel(
            "Accuracy, reflecting and not",
            "No effect of reflecting: hard problems may get both more such words and more wrong "
            "answers.",
            line("reflection_accuracy_ratio"),
            top=1.0,
            width=12,
        ),
        panel(
            "Completions by reflecting and outcome",
            "",
            line("reflection_outcomes_total", "rate"),
            unit=UNITS["1/second"],
            stacked=True,
            width=12,
        ),
        panel(
            "Completions with each word",
            "",
            line("reflection_words_total", "rate"),
            unit=UNITS["1/second"],
            width=12,
        ),
    ),
)

_POLICY = Row(
    "Policy",
    (
        panel(
            "KL divergence",
            "Rises slowly in a healthy run. A jump is a policy that leaves its start model.",
            line("kl_nats"),
        ),
        panel(
            "Entropy",
            "Falls as the policy gets sure. Near 0 it samples one answer only and learns no more; "
            "a rise without end is noise.",
            line("policy_entropy_nats"),
        ),
        panel(
            "Clipped tokens",
            "A few per cent at most; more means that the policy moves too far between samplings.",
            line("clip_low_ratio", word="below"),
            line("clip_high_ratio", word="above"),
            line("clip_region_ratio", word="in all"),
        ),
        panel(
            "Sampler's mismatch",
            "Rounding gives about 0.01. A mean that rises is an early sign of a collapse; above "
            "`maxMismatch` the stage stops.",
            line("sampler_logp_diff_mean", word="mean"),
            line("sampler_logp_diff_max", word="greatest"),
            log=True,
        ),
        panel(
            "Importance ratio",
            "About 1 where sampler and trainer agree.",
            line("importance_ratio_mean", word="mean"),
            line("importance_ratio_min", word="least"),
            line("importance_ratio_max", word="greatest"),
        ),
        panel(
            "Weights in sampler and trainer",
            "The sampler's follow at every sampling step. A line that stays behind samples from "
            "old weights.",
            line("engine_weights_version", word="sampler"),
            line("trainer_weights_version", word="trainer"),
        ),
        panel(
            "Self-check of packed rows",
            "Rounding: about 1e-6 in fp32, 0.1 in bf16. Above `selfCheckTolerance` the stage "
            "stops.",
            line("packed_selfcheck_nats"),
            log=True,
        ),
    ),
)

_OPTIMIZATION = Row(
    "Optimization",
    (
        panel(
            "Loss",
            "GRPO's says little: it starts near 0 and may rise while the reward does.",
            line("loss"),
        ),
        panel(
            "Gradient norm",
            "A spike now and then is usual; a rise without end is not.",
            line("grad_norm"),
            log=True,
        ),
        panel("Learning rate", "", line("learning_rate")),
        panel(
            "Rows and completions not learnt from",
            "Rows are counted at the start, completions as they are dropped.",
            line("samples_dropped_total"),
        ),
    ),
)

_SFT = Row(
    "Fine-tuning (SFT)",
    (
        panel(
            "Loss on held-out rows",
            "Rising while the loss falls: rows are learnt by heart, fewer `epochs` would do.",
            line("eval_loss"),
        ),
        panel(
            "Token accuracy",
            "Near 1 after few updates is a data set of one pattern.",
            line("token_accuracy_ratio"),
        ),
        panel(
            "What packing saves",
            "",
            line("padding_avoided_ratio"),
        ),
    ),
)

_TIME = Row(
    "Where the time goes",
    (
        Panel(
            "Time by phase",
            "Seconds of each second that a phase takes; what is missing to 1 is outside all "
            "phases. The widest is the bottleneck: `generate` asks for vLLM or shorter "
            "completions, `score` for a faster reward, `forward_backward` for a bigger micro-batch."
            "\n\n" + meaning(TABLE["phase_seconds"]),
            (Query(rate("phase_seconds", "_sum"), "{{run}} {{stage}} {{phase}}"),),
            "percentunit",
            stacked=True,
            width=12,
        ),
        Panel(
            "Time of one update, by phase",
            "Phases that come once for several updates (`generate`, `score`) are spread over them."
            "\n\n" + meaning(TABLE["phase_seconds"]),
            (
                Query(
                    f"{rate('phase_seconds', '_sum')} / on ({', '.join(SERIES)}) group_left "
                    f"{rate('step_seconds', '_count')}",
                    "{{run}} {{stage}} {{phase}}",
                ),
            ),
            "s",
            stacked=True,
            width=12,
        ),
        panel(
            "Time of one update",
            "",
            line("step_seconds", "mean", "mean"),
            line("step_seconds", "p95", "95 %"),
        ),
        panel(
            "Time of one save",
            "",
            line("checkpoint_seconds", "mean", "mean"),
            line("checkpoint_seconds", "p95", "95 %"),
        ),
        panel(
            "Share of the time spent saving",
            "Above a few per cent, save less often (`saveSteps`) or to faster storage.",
            line("checkpoint_time_ratio"),
        ),
    ),
)

_THROUGHPUT = Row(
    "Throughput and memory",
    (
        panel(
            "Tokens per second by kind",
            "",
            line("tokens_total", "rate"),
            unit=UNITS["tokens/second"],
            stacked=True,
        ),
        panel(
            "Tokens per second, latest",
            "",
            line("tokens_per_second"),
        ),
        panel(
            "Samples per second",
            "",
            line("samples_total", "rate", "mean"),
            line("samples_per_second", word="latest"),
            unit=UNITS["1/second"],
        ),
        panel("Model FLOPs utilisation", "", line("mfu_ratio")),
        panel(
            "What sharing prompts saves",
            "",
            line("prompt_reuse_ratio"),
        ),
        panel(
            "GPU memory, peak",
            "`coldstart validate` says what to expect.",
            line("gpu_memory_peak_bytes"),
        ),
        panel(
            "Host memory",
            "A rise without end ends in the kernel's out-of-memory killer.",
            line("host_rss_bytes"),
        ),
    ),
)

_EVALUATION = Row(
    "Evaluation",
    (
        panel(
            "Accuracy by benchmark and checkpoint",
            "Of the responses so far; `report.html` has the intervals.",
            line("eval_accuracy_ratio"),
            top=1.0,
            width=12,
        ),
        panel(
            "Responses",
            "",
            line("eval_samples_total"),
            width=12,
        ),
    ),
)

_DISTILLATION = Row(
    "Distillation",
    (
        panel(
            "Questions that have a row",
            "Low: the teacher is wrong, cut short, or of another format; `card.json` says which.",
            line("yield_ratio"),
            top=1.0,
        ),
        panel(
            "Requests to the teacher",
            "Anything but `ok` is repeated or given up.",
            line("teacher_requests_total", "rate"),
            unit=UNITS["1/second"],
        ),
        panel("Open requests", "", line("teacher_requests_open")),
    ),
)

DASHBOARD = Dashboard(
    uid="coldstart-training",
    title="Coldstart / Training",
    description="What rank 0 of every stage tells while it works. Alerts: docs/runbooks.",
    variables=(
        Variable("namespace", "Namespace", f"label_values({PREFIX}info, namespace)"),
        Variable("run", "Run", f'label_values({PREFIX}info{{namespace=~"$namespace"}}, run)'),
        Variable(
            "stage",
            "Stage",
            f'label_values({PREFIX}info{{namespace=~"$namespace", run=~"$run"}}, stage)',
        ),
    ),
    rows=(
        _NOW,
        _REWARD,
        _COMPLETIONS,
        _REFLECTION,
        _POLICY,
        _OPTIMIZATION,
        _SFT,
        _TIME,
        _THROUGHPUT,
        _EVALUATION,
        _DISTILLATION,
    ),
)
