"""What stored responses add up to, and their grading anew; needs neither the model nor torch.

Importing it needs nothing but the contract; grading needs the grader's libraries.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Literal

from pydantic import Field, JsonValue, ValidationError

from coldstart import grading, layout
from coldstart.documents import read_document
from coldstart.estimates import accuracy_interval, breakdown, reflection, repeats, wemath
from coldstart.evaluation import Evaluation, JudgeModel, ResponseKind
from coldstart.files import json_lines, write_atomic
from coldstart.grading import Case, Grader
from coldstart.grading import case as graded_case
from coldstart.judging import Judge, judge_factory
from coldstart.lexicon import MAYE_LIST, WordList
from coldstart.results import Agreement, BenchmarkResult, KindResult, Sample
from coldstart.run import ReasoningRun, RunSpec
from coldstart.schema import Contract, Digest, Name, Positive, RunName, problems

ORIGIN = "origin.json"
"""The file, beside the responses, that says what they are responses of."""


@dataclass(frozen=True)
class Regraded:
    """A benchmark that was graded anew."""

    result: BenchmarkResult
    """What its responses add up to."""
    outcomes: Counter[tuple[str, str]]
    """How many responses had which outcome before, and which they have."""

    @property
    def changed(self) -> int:
        """Responses that were right and are not, or the other way round."""
        pairs = self.outcomes.items()
        return sum(n for (old, new), n in pairs if (old == "correct") != (new == "correct"))


class Origin(Contract):
    """What responses depend on: those with another origin are never mixed with these."""

    schema_version: Literal[1] = 1
    """The version of this document."""
    checkpoint: RunName
    """Whose responses."""
    digest: Digest | None = None
    """The checkpoint's manifest digest; absent for the base model."""
    base_model: Digest
    """The model that the run started from."""
    tokenizer: Digest
    """Vocabulary, special tokens and chat template."""
    processor: Digest
    """The image processor's settings."""
    conversation: Digest
    """The conversation spec."""
    benchmark: Name
    """On what."""
    data: Name
    """The fingerprint of its rows."""
    decoding: dict[str, JsonValue]
    """How they are sampled, with every value that has a say in it."""
    responses: Positive
    """How many there will be."""
    dropped: dict[str, int] = Field(default={})
    """Problems not asked, by reason."""
    published: Positive | None = None
    """How many problems the published benchmark has; absent for a set of the run's own."""


def read_origin(directory: Path) -> Origin | None:
    """What the responses in a directory are of; None if that is not to be told."""
    try:
        return read_document(directory / ORIGIN, Origin)
    except ValueError:
        return None  # another version's file is as good as none


def read_samples(directory: Path) -> list[Sample]:
    """The responses in a directory, each once: of two with the same key, the one written first.

    Raises:
        ValueError: a line is not a sample.
    """
    path = layout.samples(directory)
    found: dict[tuple[str, int], Sample] = {}
    for document in json_lines(path):
        try:
            sample = Sample.parse(document)
        except ValidationError as error:
            raise ValueError(problems(error, f"{path}: ")[0]) from error
        found.setdefault((sample.id, sample.sample), sample)
    return list(found.values())


def summarise(
    samples: Sequence[Sample],
    origin: Origin,
    *,
    kinds: Sequence[ResponseKind] = (),
    words: WordList = MAYE_LIST,
    grader: Grader | None = None,
    judge: Judge | None = None,
    versions: Mapping[str, str] | None = None,
) -> BenchmarkResult:
    """What the responses of one checkpoint on one benchmark add up to.

    The interval is Wilson's where each problem stands alone and has one response, else the
    bootstrap over problems, or clusters of them: several responses to one problem, or versions of
    it, do not count as several problems.

    Args:
        samples: the responses; there is one at least.
        origin: what they are responses of.
        kinds: classes of responses that are counted apart; a response is of the first that fits.
        words: what marks reflection.
        grader: what finds answers equal for the majority vote; without one there is no vote.
        judge: what has graded them, if it was not the rule matcher.
        versions: of the matchers that graded them before (`matcher_versions`).

    Raises:
        ValueError: there are no samples.
    """
    if not samples:
        raise ValueError(f"{origin.checkpoint} on {origin.benchmark}: there are no responses")
    interval = accuracy_interval(samples)
    problems = len({sample.id for sample in samples})
    return BenchmarkResult(
        checkpoint=origin.checkpoint,
        digest=origin.digest,
        benchmark=origin.benchmark,
        matcher="judge" if judge else "rule",
        matcher_version=judge.version if judge else grading.version(),
        judge=judge.use(samples) if judge else None,
        agreements=_agreements(samples, versions or {}),
        accuracy=_accuracy(samples),
        low=interval.low,
        high=interval.high,
        n=len(samples),
        problems=problems,
        boxed_share=fmean(sample.boxed for sample in samples),
        truncated_share=fmean(sample.truncated for sample in samples),
        mean_tokens=fmean(sample.tokens for sample in samples),
        outcomes=dict(Counter(sample.outcome for sample in samples).most_common()),
        reflection=reflection(samples, words),
        kinds=_kinds(samples, kinds),
        decoding=origin.decoding,
        dropped=origin.dropped,
        published=origin.published,
        partial=origin.published is not None and problems < origin.published,
        breakdown=breakdown(samples),
        repeats=repeats(samples, grader),
        wemath=wemath(samples),
    )


def cases(samples: Iterable[Sample]) -> list[Case]:
    """Responses as the grader takes them."""
    return [
        graded_case(
            sample.response,
            sample.gold,
            choices=sample.choices or None,
            answer_type=sample.answer_type,
            precision=sample.precision,
            unit=sample.unit,
            truncated=sample.truncated,
        )
        for sample in samples
    ]


def graded(samples: Sequence[Sample], grader: Grader, judge: Judge | None = None) -> list[Sample]:
    """The same responses with the grades that the grader gives them, or the judge.

    Raises:
        EndpointError: the judge does not serve.
    """
    grades = judge.grade(samples) if judge else grader.grade_all(cases(samples))
    return [
        sample.model_copy(
            update={
                "boxed": grade.boxed,
                "extracted": grade.span,
                "outcome": grade.outcome.value,
                "matcher": "judge" if judge else "rule",
            }
        )
        for sample, grade in zip(samples, grades, strict=True)
    ]


def regraded(samples: Sequence[Sample], grader: Grader, judge: Judge | None = None) -> list[Sample]:
    """The same responses graded anew; what another matcher made of them is kept beside.

    Raises:
        EndpointError: the judge does not serve.
    """
    return [
        new.model_copy(update={"other_outcomes": _others(old, new.matcher)})
        for old, new in zip(samples, graded(samples, grader, judge), strict=True)
    ]


def _others(before: Sample, matcher: str) -> dict[str, str]:
    known = {**before.other_outcomes, before.matcher: before.outcome}
    return {name: outcome for name, outcome in known.items() if name != matcher}


def matcher_versions(directory: Path) -> dict[str, str]:
    """The versions of the matchers that the result in a directory tells of, if it tells any."""
    try:
        result = read_document(layout.results(directory), BenchmarkResult)
    except ValueError:
        return {}  # to grade again is what mends it
    if result is None:
        return {}
    others = {other.matcher: other.matcher_version for other in result.agreements}
    return others | {result.matcher: result.matcher_version}


def write_samples(directory: Path, samples: Iterable[Sample]) -> None:
    """Replace the responses of a benchmark as a whole."""
    lines = [json.dumps(s.document(), ensure_ascii=False, separators=(",", ":")) for s in samples]
    write_atomic(layout.samples(directory), "".join(f"{line}\n" for line in lines).encode())


def regrade(
    directory: Path,
    *,
    kinds: Sequence[ResponseKind] = (),
    words: WordList = MAYE_LIST,
    grader: Grader | None = None,
    judge: Judge | None = None,
) -> Regraded:
    """Grade the stored responses of a benchmark anew; both files are replaced as wholes.

    Raises:
        EndpointError: the judge does not serve; nothing is replaced.
        ValueError: the directory holds no responses, or not what they are responses of.
    """
    origin = read_origin(directory)
    samples = read_samples(directory)
    if origin is None or not samples:
        missing = ORIGIN if samples else layout.samples(directory).name
        raise ValueError(f"{directory / missing}: is missing: evaluate the run again")
    if len(samples) != origin.responses:
        raise ValueError(
            f"{layout.samples(directory)}: holds {len(samples)} of {origin.responses} responses: "
            "evaluate the run to its end first"
        )
    with nullcontext(grader) if grader else Grader() as rules:
        anew = regraded(samples, rules, judge)
        result = summarise(
            anew,
            origin,
            kinds=kinds,
            words=words,
            grader=rules,
            judge=judge,
            versions=matcher_versions(directory),
        )
    write_samples(directory, anew)
    write_result(directory, result)
    pairs = zip(samples, anew, strict=True)
    return Regraded(result, Counter((old.outcome, new.outcome) for old, new in pairs))


def regrade_run(
    root: Path, matcher: Literal["rule", "judge"] | None = None, model: JudgeModel | None = None
) -> list[Regraded]:
    """Grade the responses of a run anew, wherever the evaluation has come to its end.

    Args:
        root: the run's directory.
        matcher: what grades; absent: what the run says.
        model: who judges; absent: whom the run names.

    Raises:
        EndpointError: the judge does not serve.
        ValueError: the run has no evaluation, or nothing is evaluated yet.
    """
    where = layout.RunLayout(root)
    spec, evaluation = _specs(where)
    directories = [
        where.benchmark(checkpoint, benchmark.name)
        for checkpoint in (*(each.name for each in evaluation.references), "base", "sft", "grpo")
        for benchmark in evaluation.benchmarks
    ]
    finished = [directory for directory in directories if layout.results(directory).is_file()]
    if not finished:
        raise ValueError(f"{root}: nothing is evaluated yet: `coldstart run` does that")
    judges = None
    if (matcher or evaluation.matcher) == "judge":
        judges = judge_factory(model or evaluation.judge, Path())
    with Grader() as grader:
        return [
            regrade(
                directory,
                kinds=evaluation.response_kinds,
                words=spec.reflection,
                grader=grader,
                judge=judges(directory) if judges else None,
            )
            for directory in finished
        ]


def write_result(directory: Path, result: BenchmarkResult) -> None:
    """Write `results.json`."""
    data = json.dumps(result.document(), indent=1, ensure_ascii=False).encode()
    write_atomic(layout.results(directory), data)


def _specs(where: layout.RunLayout) -> tuple[RunSpec, Evaluation]:
    run = read_document(where.status, ReasoningRun)
    if run is None:
        raise ValueError(f"{where.root}: is no run: it holds no {where.status.name}")
    if run.spec.evaluation is None:
        raise ValueError(f"{where.root}: the run has no evaluation")
    return run.spec, run.spec.evaluation


def _accuracy(samples: Sequence[Sample]) -> float:
    return fmean(sample.correct for sample in samples)


def _agreements(samples: Sequence[Sample], versions: Mapping[str, str]) -> tuple[Agreement, ...]:
    found: dict[str, dict[str, Counter[str]]] = {}
    for sample in samples:
        for matcher, outcome in sample.other_outcomes.items():
            row = found.setdefault(matcher, {}).setdefault(sample.outcome, Counter())
            row[outcome] += 1
    return tuple(
        Agreement(matcher=name, matcher_version=versions.get(name, ""), outcomes=outcomes)
        for name, outcomes in found.items()
    )


def _kinds(samples: Sequence[Sample], kinds: Sequence[ResponseKind]) -> Mapping[str, KindResult]:
    patterns = [(kind.name, re.compile(kind.pattern)) for kind in kinds]
    members: dict[str, list[Sample]] = {name: [] for name, _ in patterns}
    for sample in samples:
        name = next((name for name, pattern in patterns if pattern.search(sample.response)), None)
        if name is not None:
            members[name].append(sample)
    return {
        name: KindResult(
            share=len(found) / len(samples),
            accuracy=_accuracy(found) if found else None,
            n=len(found),
        )
        for name, found in members.items()
    }
