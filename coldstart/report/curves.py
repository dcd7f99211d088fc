"""A stage's progress as curves: which line of which attempt counts, and which charts there are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from coldstart.metrics import Progress
from coldstart.report.charts import Chart, Mark, Point, Series
from coldstart.report.words import number


@dataclass(frozen=True)
class Attempt:
    """What the metrics tell of one attempt."""

    number: int
    """Which one."""
    first: int | None
    """The first update that it reported; None if it came to none."""
    last: int | None
    """The last one."""
    total: int
    """How many there were to be; 0 where that was not known."""
    began: datetime
    """When it wrote its first line."""
    ended: datetime
    """When it wrote its last line."""


def attempts(lines: Sequence[Progress]) -> list[Attempt]:
    """The attempts that left a trace, in order."""
    found = []
    for attempt in sorted({line.attempt for line in lines}):
        own = [line for line in lines if line.attempt == attempt]
        steps = [line.done for line in own if _measured(line)]
        found.append(
            Attempt(
                number=attempt,
                first=min(steps, default=None),
                last=max(steps, default=None),
                total=max((line.total for line in own if _measured(line)), default=0),
                began=datetime.fromtimestamp(min(line.time for line in own), UTC),
                ended=datetime.fromtimestamp(max(line.time for line in own), UTC),
            )
        )
    return found


def curve(lines: Sequence[Progress]) -> dict[str, list[Point]]:
    """The values of each metric by update, as if there had been one attempt.

    An attempt goes on from a checkpoint: what earlier ones reported from its first update on was
    lost with them, and is not shown, even where the new one has not come as far yet. Values that
    an attempt reports for one update in several lines are put together.
    """
    kept: dict[int, dict[str, float]] = {}
    for attempt in sorted({line.attempt for line in lines}):
        own = [line for line in lines if line.attempt == attempt and _measured(line)]
        if not own:
            continue
        first = min(line.done for line in own)
        kept = {step: values for step, values in kept.items() if step < first}
        for line in own:
            kept.setdefault(line.done, {}).update(line.values)
    found: dict[str, list[Point]] = {}
    for step in sorted(kept):
        for name, value in kept[step].items():
            found.setdefault(name, []).append((float(step), value))
    return found


def _measured(line: Progress) -> bool:
    return line.phase == "train" and bool(line.values)


@dataclass(frozen=True)
class _Line:
    metric: str
    name: str
    colour: str = "ink"
    dashed: bool = False
    sparse: bool = False
    noisy: bool = True


@dataclass(frozen=True)
class _Plan:
    title: str
    unit: str
    lines: tuple[_Line, ...]
    share: bool = False
    band: tuple[str, str, str] = ("", "", "")
    note: str = ""


_GRADIENT = _Plan("Gradient norm", "before clipping", (_Line("grad_norm", ""),))
_RATE = _Plan("Learning rate", "", (_Line("learning_rate", "", noisy=False),))

_PLANS: dict[str, tuple[_Plan, ...]] = {
    "sft": (
        _Plan(
            "Loss",
            "nats per token",
            (
                _Line("loss", "training", "sft"),
                _Line("eval_loss", "held-out rows", "accent", sparse=True),
            ),
        ),
        _Plan(
            "Token accuracy",
            "share of tokens",
            (_Line("token_accuracy_ratio", "predicted right", "sft"),),
            share=True,
        ),
        _RATE,
        _GRADIENT,
    ),
    "grpo": (
        _Plan(
            "Reward",
            "mean per response",
            (_Line("reward_total_mean", "weighted sum", "grpo"),),
            note="The rewards that it is the sum of are drawn as they are before weighting.",
        ),
        _Plan(
            "Completion length",
            "tokens",
            (_Line("completion_tokens_mean", "mean", "grpo"),),
            band=("completion_tokens_min", "completion_tokens_max", "shortest to longest"),
        ),
        _Plan(
            "Truncated completions",
            "share of responses",
            (_Line("completion_truncated_ratio", "reached the length limit", "grpo"),),
            share=True,
        ),
        _Plan(
            "Groups without a signal",
            "share of groups",
            (
                _Line("groups_zero_variance_ratio{right}", "all right", "grpo"),
                _Line("groups_zero_variance_ratio{wrong}", "all wrong", "accent", dashed=True),
            ),
            share=True,
            note="Nothing is learnt from a group whose rewards are all the same.",
        ),
        _Plan(
            "KL divergence", "nats per token", (_Line("kl_nats", "from the start model", "grpo"),)
        ),
        _Plan("Entropy", "nats per token", (_Line("policy_entropy_nats", "policy", "grpo"),)),
        _Plan(
            "Clipped tokens",
            "share of tokens",
            (
                _Line("clip_region_ratio", "either side", "grpo"),
                _Line("clip_low_ratio", "below", "accent", dashed=True),
                _Line("clip_high_ratio", "above", "sft", dashed=True),
            ),
            share=True,
        ),
        _Plan(
            "Reflecting completions",
            "share of completions",
            (
                _Line("reflection_ratio{all}", "all", "grpo"),
                _Line("reflection_ratio{right}", "of the right ones", "sft", dashed=True),
                _Line("reflection_ratio{wrong}", "of the wrong ones", "accent", dashed=True),
            ),
            share=True,
            note="Those with a word of the run's list of reflection words.",
        ),
        _GRADIENT,
        _RATE,
        _Plan(
            "Sampler mismatch",
            "nats",
            (_Line("sampler_logp_diff_mean", "mean difference of log-probabilities", "grpo"),),
            note="A mean above 0.1 says that the sampler does not see what the trainer sees.",
        ),
    ),
}

_COMPONENTS = ("accent", "sft", "ink", "base")


def charts(stage: str, lines: Sequence[Progress]) -> list[Chart]:
    """The charts of a training stage that have something to show."""
    found = curve(lines)
    marks = tuple(
        Mark(float(attempt.first), f"attempt {attempt.number}")
        for attempt in attempts(lines)[1:]
        if attempt.first is not None
    )
    made = [_chart(plan, found, marks, stage) for plan in _PLANS.get(stage, ())]
    return [chart for chart in made if chart is not None]


def _chart(
    plan: _Plan, found: dict[str, list[Point]], marks: tuple[Mark, ...], stage: str
) -> Chart | None:
    lines = [line for line in plan.lines if line.metric in found]
    series = [
        Series(
            line.name,
            tuple(found[line.metric]),
            stage if line.colour == "ink" else line.colour,
            line.dashed,
            line.sparse,
            line.noisy,
        )
        for line in lines
    ]
    if plan.title == "Reward":
        series += _components(found)
    if not series:
        return None
    low, high, name = plan.band
    band = _band(found.get(low, []), found.get(high, []))
    return Chart(
        title=plan.title,
        unit=plan.unit,
        series=tuple(series),
        marks=marks,
        band=band,
        band_name=name if band else "",
        note=plan.note,
        shown=_share if plan.share else number,
        floor=0.0 if plan.share else None,
        ceiling=1.0 if plan.share else None,
    )


def _components(found: dict[str, list[Point]]) -> list[Series]:
    """The rewards that the total is made of; a single one says nothing more than the total."""
    names = [name for name in found if name.startswith("reward_mean{")]
    if len(names) == 1 and found[names[0]] == found.get("reward_total_mean"):
        return []
    return [
        Series(
            name.removeprefix("reward_mean{").removesuffix("}"),
            tuple(found[name]),
            _COMPONENTS[place % len(_COMPONENTS)],
            dashed=True,
        )
        for place, name in enumerate(names)
    ]


def _band(low: Sequence[Point], high: Sequence[Point]) -> tuple[tuple[float, float, float], ...]:
    above = dict(high)
    return tuple((step, value, above[step]) for step, value in low if step in above)


def _share(value: float) -> str:
    """A share in percent, as short as an axis wants it."""
    return f"{value * 100:.3g} %"
