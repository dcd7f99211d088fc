"""The data card: what the distilled rows are, what they cost, and what became of the questions."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, quantiles
from typing import Any

from coldstart.distill import Distill
from coldstart.stage import DatasetEntry
from coldstart_trainer.check.licences import UNKNOWN
from coldstart_trainer.distill.patterns import pattern
from coldstart_trainer.distill.sampling import Cost, Sample, usable

CARD, README = "card.json", "README.md"
"""The card for programs, and for people and the hub."""


@dataclass(frozen=True)
class Tally:
    """What became of every question and sample."""

    spec: Distill
    entry: DatasetEntry
    samples: Sequence[Sample]
    rows: Sequence[Sample]
    cost: Cost
    failures: Mapping[str, int]

    @property
    def metrics(self) -> dict[str, float]:
        """The numbers of the stage's result."""
        of = max(1, len(self.samples))
        found = {
            "rows": len(self.rows),
            "questions": self.entry.rows,
            "yield_share": len({row.question for row in self.rows}) / max(1, self.entry.rows),
            "samples": len(self.samples),
            "correct_share": sum(item.verdict == "correct" for item in self.samples) / of,
            "failed_requests": sum(self.failures.values()),
            "prompt_tokens": self.cost.prompt,
            "completion_tokens": self.cost.completion,
        }
        return {name: float(value) for name, value in found.items()}

    def document(self, licence: str) -> dict[str, Any]:
        """Everything that the card says."""
        dropped = self.entry.rows - len({row.question for row in self.rows})
        return {
            "rows": len(self.rows),
            "teacher": self.spec.teacher.identity,
            "keep": self.spec.keep,
            "keepWrong": self.spec.keep_wrong,
            "temperature": self.spec.temperature,
            "topP": self.spec.top_p,
            "samplesPerQuestion": self.spec.samples,
            "source": {
                "name": self.entry.name,
                "revision": self.spec.dataset.revision,
                "licence": licence,
                "questions": self.entry.rows,
                "questionsWithRows": self.entry.rows - dropped,
                "questionsWithoutRows": dropped,
                "notAsked": self.entry.dropped,
            },
            "patterns": {share.name: self._pattern(share.name) for share in self.spec.patterns},
            "verdicts": dict(Counter(sample.verdict for sample in self.samples)),
            "failedRequests": dict(self.failures),
            "responseTokens": _lengths([row.tokens for row in self.rows]),
            "cost": {
                "answers": self.cost.answers,
                "promptTokens": self.cost.prompt,
                "completionTokens": self.cost.completion,
            },
        }

    def _pattern(self, name: Any) -> dict[str, Any]:
        samples = [sample for sample in self.samples if sample.pattern.name == name]
        return {
            "templates": pattern(name).digest,
            "samples": len(samples),
            "usable": sum(usable(sample, self.spec) for sample in samples),
            "rows": sum(row.pattern.name == name for row in self.rows),
            "verdicts": dict(Counter(sample.verdict for sample in samples)),
        }


def write(directory: Path, tally: Tally, licence: str) -> None:
    """Write both forms of the card.

    Raises:
        OSError: the disk is full.
    """
    document = tally.document(licence)
    text = json.dumps(document, indent=1, ensure_ascii=False)
    (directory / CARD).write_text(text, encoding="utf-8")
    (directory / README).write_text(_page(document), encoding="utf-8")


def _lengths(tokens: Sequence[int]) -> dict[str, float]:
    if not tokens:
        return {}
    cuts = quantiles(tokens, n=20, method="inclusive") if len(tokens) > 1 else [tokens[0]] * 19
    return {
        "mean": round(fmean(tokens), 1),
        "min": min(tokens),
        "median": cuts[9],
        "p95": cuts[18],
        "max": max(tokens),
    }


def _page(card: Mapping[str, Any]) -> str:
    source, cost, lengths = card["source"], card["cost"], card["responseTokens"]
    shares = "".join(
        f"| {name} | {item['samples']:,} | {item['usable']:,} | {item['rows']:,} "
        f"| {_counted(item['verdicts'])} |\n"
        for name, item in card["patterns"].items()
    )
    wrong = " Wrong answers were kept on purpose (`keepWrong`)." if card["keepWrong"] else ""
    return f"""\
---
license: {"other" if source["licence"] == UNKNOWN else json.dumps(source["licence"])}
---
# Distilled rows

{card["rows"]:,} rows, made by Coldstart from the answers of `{card["teacher"]}`. The prompts are \
Coldstart's own, not those of a paper. Answers were kept by the grader that also gives the reward \
of GRPO.{wrong}

- Source: `{source["name"]}`, licence: {source["licence"]}. The teacher's terms may bind, too.
- Questions: {source["questions"]:,} asked, {source["questionsWithRows"]:,} with rows, \
{source["questionsWithoutRows"]:,} without; not asked: {_counted(source["notAsked"])}.
- Sampling: at most {card["samplesPerQuestion"]} samples of a question at temperature \
{card["temperature"]}, top p {card["topP"]}; kept: {card["keep"]}.
- Tokens of a response: {_counted(lengths)}.
- Cost: {cost["answers"]:,} answers, {cost["promptTokens"]:,} prompt and \
{cost["completionTokens"]:,} completion tokens.
- Requests that were given up: {_counted(card["failedRequests"])}.

| pattern | samples | usable | rows | verdicts |
|---|---|---|---|---|
{shares}"""


def _counted(counts: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.items()) or "none"
