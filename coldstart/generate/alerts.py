"""The Prometheus alert rules, each threshold with its reason, and the page that lists them.

A rule speaks of a stage by namespace, run and stage, not by pod, so that it goes on over the
attempts of a stage.
"""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from typing import Any, Literal

import yaml

from coldstart.status import ErrorCode

RUNBOOKS = "https://coldstart.dev/docs/runbooks"
"""Where `docs/runbooks` is to be published; the site has no other address so far."""

BY = "by (namespace, run, stage)"

HOUR = 3600


@dataclass(frozen=True)
class Alert:
    """One rule."""

    name: str
    """Without the prefix `Coldstart`."""
    runbook: str
    """The page in `docs/runbooks`, without its ending."""
    severity: Literal["critical", "warning"]
    """Critical: GPUs are burnt or nobody works, somebody has to look at once."""
    expr: str
    lasts: str
    """How long it must hold."""
    summary: str
    """One line, with the labels of the series."""
    description: str
    """What is seen, with its value, and what it means."""
    why: str
    """Why this threshold."""
    labels: tuple[tuple[str, str], ...] = ()
    """Labels beside the severity."""


_STAGE = "{{ $labels.stage }} of run {{ $labels.run }}"

TRAINING = (
    Alert(
        "StageStalled",
        "stage-stalled",
        "critical",
        f"""
        (time() - max {BY} (coldstart_last_step_timestamp_seconds) > 1800)
        unless
        (
          time() - max {BY} (coldstart_last_step_timestamp_seconds)
          <= 10 * max {BY} (coldstart_step_seconds_sum) / max {BY} (coldstart_step_seconds_count)
        )
        and max {BY} (coldstart_step) < max {BY} (coldstart_max_steps)
        """,
        "5m",
        f"{_STAGE} makes no progress",
        "The last update was {{ $value | humanizeDuration }} ago, and the stage is not at its end.",
        "Half an hour, and ten times the mean time of its own updates: an update of a big model "
        "with long rollouts takes many minutes. A stage that has done all its updates (its probe, "
        "its last save) is left alone.",
    ),
    Alert(
        "StageNeverStepped",
        "stage-stalled",
        "warning",
        f"""
        max {BY} (coldstart_info)
        unless max {BY} (coldstart_last_step_timestamp_seconds)
        """,
        "1h",
        f"{_STAGE} has not made its first update",
        "The attempt has run for an hour without an update.",
        "Loading a big model over a network, compiling vLLM and the first rollout together take "
        "up to half an hour.",
    ),
    Alert(
        "RewardCollapsed",
        "reward-collapsed",
        "warning",
        f"""
        avg {BY} (avg_over_time(coldstart_reward_total_mean[1h]))
        < 0.5 * max_over_time(
          (avg {BY} (avg_over_time(coldstart_reward_total_mean[1h])))[12h:10m]
        )
        and
        max_over_time((avg {BY} (avg_over_time(coldstart_reward_total_mean[1h])))[12h:10m]) > 0.1
        """,
        "15m",
        f"The reward of {_STAGE} has collapsed",
        "The mean reward of the last hour is {{ $value | humanize }}, less than half of the best "
        "hour of the last twelve.",
        "An hour's mean, since single updates differ by a lot, against the run's own best, since "
        "rewards have any scale. Bests below 0.1 are noise.",
    ),
    Alert(
        "KLBlowUp",
        "kl-blow-up",
        "warning",
        f"avg {BY} (avg_over_time(coldstart_kl_nats[30m])) > 1",
        "10m",
        f"The policy of {_STAGE} has left its start model",
        "The KL divergence is {{ $value | humanize }} nats per token.",
        "Healthy runs of the recipe stay well below 0.5. At 1 nat per token the typical sampled "
        "token is e times as likely as under the start model, at every token.",
    ),
    Alert(
        "TruncationHigh",
        "truncation-high",
        "warning",
        f"avg {BY} (avg_over_time(coldstart_completion_truncated_ratio[1h])) > 0.3",
        "30m",
        f"{_STAGE} cuts many completions",
        "{{ $value | humanizePercentage }} of the last hour's completions were cut at the limit.",
        "Above a tenth is too much in the long run, but the first hours after a base model have "
        "more; three tenths for an hour and a half are not a beginning any more.",
    ),
    Alert(
        "AllRewardsZero",
        "all-rewards-zero",
        "critical",
        f"min {BY} (coldstart_reward_zero_steps) >= 10",
        "0m",
        f"No completion of {_STAGE} gets any reward",
        "Every reward was 0 for every completion of the last {{ $value }} sampling steps: nothing "
        "is learnt.",
        "Ten sampling steps are more than a thousand completions at the recipe's sizes; the "
        "stage's own warning comes at the same number. One reward that is still given is enough "
        "for silence.",
    ),
    Alert(
        "SamplerMismatch",
        "sampler-mismatch",
        "warning",
        f"avg {BY} (avg_over_time(coldstart_sampler_logp_diff_mean[30m])) > 0.1",
        "10m",
        f"The sampler of {_STAGE} is not the trainer's policy",
        "Their log-probabilities differ by {{ $value | humanize }} nats per token.",
        "Rounding gives about 0.01. At `maxMismatch` (0.3) the stage stops by itself, or drops "
        "completions; this comes before.",
    ),
    Alert(
        "CheckpointTooOld",
        "checkpoint-too-old",
        "warning",
        f"""
        max {BY} (
          time() - coldstart_checkpoint_timestamp_seconds > {3 * HOUR}
          or
          {3 * HOUR} + 0 * (coldstart_step{{stage=~"sft|grpo"}} offset 3h and coldstart_step)
          unless coldstart_checkpoint_timestamp_seconds
        )
        and max {BY} (coldstart_step) < max {BY} (coldstart_max_steps)
        """,
        "5m",
        f"{_STAGE} has not saved for long",
        "The last whole checkpoint is {{ $value | humanizeDuration }} old, or there is none: so "
        "much is lost if a pod is.",
        "Three hours of all GPUs are more than anybody wants to lose, however rarely a run is "
        "meant to save. An attempt that is younger has its time.",
    ),
)

_OPERATOR_RUN = "{{ $labels.run_namespace }}/{{ $labels.run }}"
_NAMESPACE = (("namespace", "{{ $labels.run_namespace }}"),)
_SIX_HOURS = "A failed run stays failed, so the alert ends by itself, after six hours."


def _failed(selector: str) -> str:
    """Runs that have failed in the last six hours, by how."""
    return f"""
    max by (run_namespace, run, stage, reason) (
      coldstart_operator_run_info{{phase="Failed", {selector}}}
    )
    and on (run_namespace, run)
    time() - max by (run_namespace, run) (coldstart_operator_run_finished_timestamp_seconds)
    < {6 * HOUR}
    """


_RETRYABLE = "|".join(code.value for code in ErrorCode if code.retryable)

OPERATOR = (
    Alert(
        "OperatorDeaf",
        "operator-deaf",
        "critical",
        "max by (namespace, source) (max_over_time(coldstart_operator_silence_seconds[10m])) > 120",
        "0m",
        "The operator does not hear: {{ $labels.source }}",
        "For {{ $value | humanizeDuration }} what has to come has not: `api_server` an answer, "
        "`watch` a change that is known, `worker` the end of one look at a run.",
        "Usual are seconds; after 180 s the kubelet starts the operator again. The greatest of "
        "ten minutes, so that a restart does not end the alert.",
    ),
    Alert(
        "OperatorDown",
        "operator-deaf",
        "critical",
        "absent(coldstart_operator_silence_seconds)",
        "15m",
        "The operator is not there, or not scraped",
        "No run starts, ends or is retried; stages that run go on.",
        "An upgrade or a drained node takes a few minutes.",
    ),
    Alert(
        "LooksFail",
        "looks-fail",
        "warning",
        """
        sum by (namespace, reason) (
          increase(
            coldstart_operator_reconcile_errors_total{reason!~"Conflict|EarlierRunEnds|QuotaExceeded"}[30m]
          )
        ) > 10
        """,
        "15m",
        "The operator's looks at runs fail: {{ $labels.reason }}",
        "{{ $value | humanize }} looks in half an hour. A run among them goes nowhere until the "
        "cause is gone.",
        "A run whose looks fail again and again is looked at every two minutes, fifteen times in "
        "half an hour; what passes gives fewer. Conflicts, and waiting for quota or for an earlier "
        "run's pods, are daily life.",
    ),
    Alert(
        "GateRefused",
        "gate-refused",
        "warning",
        _failed('reason="GateRefused"'),
        "0m",
        f"The gate of {{{{ $labels.stage }}}} refuses run {_OPERATOR_RUN}",
        "The stage has ended, but its checkpoint is not good enough for the next one.",
        _SIX_HOURS,
        _NAMESPACE,
    ),
    Alert(
        "RetriesExhausted",
        "retries-exhausted",
        "warning",
        _failed(f'reason=~"{_RETRYABLE}"'),
        "0m",
        f"Run {_OPERATOR_RUN} has used up its retries",
        "The last attempt of {{ $labels.stage }} ended with {{ $labels.reason }}, which another "
        "attempt may have cured.",
        _SIX_HOURS,
        _NAMESPACE,
    ),
    Alert(
        "RunFailed",
        "run-failed",
        "warning",
        _failed(f'reason!~"GateRefused|{_RETRYABLE}"'),
        "0m",
        f"Run {_OPERATOR_RUN} has failed",
        "{{ $labels.stage }} ended with {{ $labels.reason }}: no other attempt can help until "
        "somebody changes something.",
        _SIX_HOURS,
        _NAMESPACE,
    ),
)

GROUPS = {"coldstart-training": TRAINING, "coldstart-operator": OPERATOR}


def training_rules() -> str:
    """The rules about stages."""
    return _file("coldstart-training")


def operator_rules() -> str:
    """The rules about the operator and its runs."""
    return _file("coldstart-operator")


def alerts_page() -> str:
    """Every alert with its threshold's reason and its runbook."""
    head = (
        "<!-- Made by `make generate` from coldstart/generate/alerts.py; edit that. -->\n\n"
        "# Alerts and runbooks\n\n"
        "The rules are in `charts/coldstart/rules`. *critical*: GPUs are burnt or nobody works, "
        "look at once. *warning*: look within the day. The thresholds are meant to be silent in "
        "healthy runs; where yours are others, copy a rule and change it.\n"
    )
    return "\n".join([head, *(_section(alert) for group in GROUPS.values() for alert in group)])


def _section(alert: Alert) -> str:
    expr = textwrap.dedent(alert.expr).strip()
    lasts = "fires at once" if alert.lasts == "0m" else f"fires after {alert.lasts}"
    return (
        f"## Coldstart{alert.name}\n\n"
        f"{alert.severity}, {lasts}. [What to do]({alert.runbook}.md). {alert.why}\n\n"
        f"```promql\n{expr}\n```\n"
    )


def _file(group: str) -> str:
    rules = [_rule(alert) for alert in GROUPS[group]]
    document = {"groups": [{"name": group, "rules": rules}]}
    text = yaml.dump(document, Dumper=_Dumper, sort_keys=False, width=100, allow_unicode=True)
    return f"# Made by `make generate` from coldstart/generate/alerts.py; edit that.\n{text}"


def _rule(alert: Alert) -> dict[str, Any]:
    return {
        "alert": f"Coldstart{alert.name}",
        "expr": textwrap.dedent(alert.expr).strip(),
        "for": alert.lasts,
        "labels": {"severity": alert.severity, **dict(alert.labels)},
        "annotations": {
            "summary": alert.summary,
            "description": alert.description,
            "runbook_url": f"{RUNBOOKS}/{alert.runbook}",
        },
    }


class _Dumper(yaml.SafeDumper):
    """Writes texts of several lines as blocks."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)
