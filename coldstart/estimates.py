"""The parts of a result that need more than counting: intervals, breakdown, repeats, reflection.

They come from graded responses; nothing is read or graded here, but that a majority vote asks the
grader which answers are equal.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from statistics import fmean

from coldstart.association import phi, phi_interval
from coldstart.benchmarks.wemath import Rule, composites, dimensions
from coldstart.grading import Grader, Outcome, case
from coldstart.intervals import Interval, cluster_bootstrap, wilson
from coldstart.lexicon import Lexicon, WordList
from coldstart.reflection import Counts, counted
from coldstart.repeats import budgets, majority, pass_at_k
from coldstart.results import (
    Correlation,
    Estimate,
    FourDimensions,
    GroupResult,
    Reflection,
    Repeats,
    Sample,
    WeMath,
)

_STEP = "step"
_RESAMPLES = 2_000
"""For numbers beside the accuracy, of which there are many."""


def accuracy_interval(samples: Sequence[Sample], resamples: int | None = None) -> Interval:
    """The 95 % interval of an accuracy, by what is independent evidence."""
    if len({sample.unit_of_evidence for sample in samples}) == len(samples):
        return wilson(sum(sample.correct for sample in samples), len(samples))
    return _bootstrap(
        ((sample.unit_of_evidence, float(sample.correct)) for sample in samples), resamples
    )


def breakdown(samples: Sequence[Sample]) -> dict[str, dict[str, GroupResult]]:
    """Accuracy for each value of each facet."""
    groups: dict[str, dict[str, list[Sample]]] = defaultdict(lambda: defaultdict(list))
    for sample in samples:
        for name, value in sample.facets.items():
            groups[name][value].append(sample)
    return {
        name: {value: _group(values[value]) for value in sorted(values)}
        for name, values in groups.items()
    }


def repeats(samples: Sequence[Sample], grader: Grader | None) -> Repeats | None:
    """What several responses per problem tell; None where there are none."""
    problems: dict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        problems[sample.id].append(sample)
    count = min(map(len, problems.values()))
    if count == 1:
        return None
    pass_at = {
        str(k): _estimate(
            (
                found[0].unit_of_evidence,
                pass_at_k(len(found), sum(sample.correct for sample in found), k),
            )
            for found in problems.values()
        )
        for k in budgets(count)
    }
    votes = grader and _estimate(
        (found[0].unit_of_evidence, _vote(found, grader)) for found in problems.values()
    )
    return Repeats(samples=count, pass_at=pass_at, majority=votes)


def wemath(samples: Sequence[Sample]) -> WeMath | None:
    """We-Math's metric; None where no sample is a step of a composite, or no composite is whole."""
    answers = [
        (f"{sample.cluster}/{sample.sample}", sample.facets[_STEP], sample.correct)
        for sample in samples
        if sample.cluster is not None and _STEP in sample.facets
    ]
    whole, torn = composites(answers)
    if not whole:
        return None

    def shares(rule: Rule) -> FourDimensions:
        found = dimensions(whole, rule)
        return FourDimensions(
            score=found.score,
            insufficient_knowledge=found.insufficient_knowledge / found.n,
            inadequate_generalization=found.inadequate_generalization / found.n,
            complete_mastery=found.complete_mastery / found.n,
            rote_memorization=found.rote_memorization / found.n,
            rote_among_right=found.rote_share,
        )

    return WeMath(strict=shares("strict"), loose=shares("loose"), composites=len(whole), torn=torn)


def reflection(samples: Sequence[Sample], words: WordList) -> Reflection:
    """How often responses reflect, and whether that goes with being right."""
    lexicon = Lexicon(words.entries)
    found = [lexicon.found(sample.response) for sample in samples]
    judged: dict[str, list[tuple[bool, bool]]] = defaultdict(list)
    for sample, each in zip(samples, found, strict=True):
        judged[sample.unit_of_evidence].append((bool(each), sample.correct))
    counts = counted(pair for pairs in judged.values() for pair in pairs)
    units = [counted(pairs) for pairs in judged.values()]
    responses = Counter(word for each in found for word in each)
    ratios = {name: _reflection_ratio(name, counts, units) for name in counts.fractions()}
    return Reflection.model_validate(
        {
            "word_list": words.name,
            "reflecting": counts.reflecting,
            "reflecting_correct": counts.reflecting_correct,
            "correlation": _correlation(counts, units),
            "words": {word: responses[word] for word in words.entries},
            **ratios,
        }
    )


def _reflection_ratio(name: str, counts: Counts, units: Sequence[Counts]) -> Estimate | None:
    part, whole = counts.fractions()[name]
    if not whole:
        return None
    alone = len(units) == counts.responses
    interval = wilson(part, whole) if alone else _bootstrap(_values(name, units), _RESAMPLES)
    return Estimate(value=part / whole, low=interval.low, high=interval.high)


def _values(name: str, units: Sequence[Counts]) -> Iterator[tuple[str, float]]:
    """A ratio's responses, each as 1 or 0, under the number of its unit."""
    for number, unit in enumerate(units):
        part, whole = unit.fractions()[name]
        yield from ((str(number), float(place < part)) for place in range(whole))


def _correlation(counts: Counts, units: Sequence[Counts]) -> Correlation:
    value = phi(counts.table)
    if value is None:
        return Correlation(missing=_one_sided(counts))
    interval = phi_interval([unit.table for unit in units], seed=0)
    if interval is None:
        return Correlation(value=value, missing="too few responses of one sort for an interval")
    return Correlation(value=value, low=interval.low, high=interval.high)


def _one_sided(counts: Counts) -> str:
    sides = {
        "no response reflects": counts.reflecting == 0,
        "every response reflects": counts.reflecting == counts.responses,
        "no response is right": counts.correct == 0,
        "every response is right": counts.correct == counts.responses,
    }
    return next(reason for reason, holds in sides.items() if holds)


def _group(samples: Sequence[Sample]) -> GroupResult:
    interval = accuracy_interval(samples, _RESAMPLES)
    return GroupResult(
        accuracy=fmean(sample.correct for sample in samples),
        low=interval.low,
        high=interval.high,
        n=len(samples),
        problems=len({sample.id for sample in samples}),
    )


def _vote(samples: Sequence[Sample], grader: Grader) -> float:
    known = samples[0]

    def same(one: str, other: str) -> bool:
        asked = case(
            "",
            other,
            choices=known.choices or None,
            answer_type=known.answer_type,
            precision=known.precision,
            unit=known.unit,
        )
        return grader.match(one, asked.gold) is Outcome.CORRECT

    return majority([(sample.extracted, sample.correct) for sample in samples], same)


def _estimate(values: Iterable[tuple[str, float]]) -> Estimate:
    found = list(values)
    interval = _bootstrap(found, _RESAMPLES)
    mean = fmean(value for _, value in found)
    return Estimate(value=mean, low=interval.low, high=interval.high)


def _bootstrap(values: Iterable[tuple[str, float]], resamples: int | None = None) -> Interval:
    clusters: dict[str, list[float]] = defaultdict(list)
    for name, value in values:
        clusters[name].append(value)
    if len(clusters) == 1:
        # Of one problem nothing is known about others.
        return Interval(0.0, 1.0)
    options: Mapping[str, int] = {"resamples": resamples} if resamples else {}
    return cluster_bootstrap(clusters, seed=0, **options)
