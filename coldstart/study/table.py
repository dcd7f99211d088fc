"""The results of a study's runs put together: means, intervals and tests; `show` words them."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from statistics import stdev

from coldstart.benchmarks.figures import Figure, figures
from coldstart.intervals import cluster_bootstrap, mean_over_seeds, sign_flip
from coldstart.report.pairing import Place, all_grades, gains
from coldstart.report.reading import Grade, RunRecord, read_run
from coldstart.report.scores import mean_interval
from coldstart.results import BenchmarkResult
from coldstart.study.arms import Loaded
from coldstart.study.claim import lacking
from coldstart.study.content import changes
from coldstart.study.plan import StudyPlan
from coldstart.study.results import ArmPair, ArmRow, Measure, OverSeeds, SeedScore, StudyTable

RESAMPLES = 2_000
"""Of the bootstrap: enough for ends to a tenth of the interval, and few enough for many arms."""


@dataclass
class _Scored:
    """The runs of a study that have been scored, each read once."""

    directory: Path
    checkpoints: Mapping[str, str]
    """Whose scores each run has."""
    _records: dict[str, RunRecord | None] = field(default_factory=dict)
    _grades: dict[str, dict[Place, Grade]] = field(default_factory=dict)

    def record(self, run: str) -> RunRecord | None:
        """A run with all its scores; None if it has none."""
        if run not in self._records:
            try:
                found = read_run(self.directory / run)
            except ValueError:
                found = None
            done = found is not None and self.checkpoints[run] in found.complete
            self._records[run] = found if done else None
        return self._records[run]

    def results(self, run: str) -> dict[str, BenchmarkResult]:
        """Its results by benchmark."""
        found = self.record(run)
        assert found is not None
        return {name: found.results[self.checkpoints[run], name] for name in found.benchmarks}

    def grades(self, run: str) -> dict[Place, Grade]:
        """Its responses, right or wrong."""
        if run not in self._grades:
            found = self.record(run)
            assert found is not None
            self._grades[run] = all_grades(found, self.checkpoints[run])
        return self._grades[run]


_Seeds = dict[int | None, str]
"""The scored run of each seed."""


def tabulated(
    plan: StudyPlan, loaded: Loaded, directory: Path, failures: Mapping[str, str]
) -> StudyTable:
    """What the runs of a study that are there have found.

    Args:
        plan: the runs.
        loaded: the arms.
        directory: where the runs are.
        failures: why runs have no result, by name.

    Raises:
        ValueError: a document or responses of a run are damaged; the message names the file.
    """
    scored = _Scored(directory, {name: run.stage for name, run in plan.runs.items()})
    rows = [*_base_rows(plan, scored, failures)]
    found: dict[str, _Seeds] = {}
    for arm in loaded.arms:
        spec = next(iter(arm.specs.values()))
        cells = plan.cells[arm.name]
        found[arm.name] = {cell.seed: cell.run for cell in cells if scored.record(cell.run)}
        missing = [
            ("" if cell.seed is None else f"seed {cell.seed}: ")
            + failures.get(cell.run, f"{cell.run} has no scores yet")
            for cell in cells
            if not scored.record(cell.run)
        ]
        stages = "+".join(s.value for s in spec.stages if s.value in ("sft", "grpo"))
        rows.append(
            _row(arm.name, stages, spec.model.name, _measures(found[arm.name], scored), missing)
        )
    shown = _published(rows)
    return StudyTable(
        study=plan.study,
        rows=tuple(rows),
        pairs=tuple(_pair(found, scored, *names) for names in combinations(found, 2)),
        published=shown,
        source=figures().source if shown else "",
        notes=tuple(_notes(plan, loaded, rows, directory)),
    )


def _base_rows(plan: StudyPlan, scored: _Scored, failures: Mapping[str, str]) -> Iterator[ArmRow]:
    bases = [run for run in plan.runs.values() if run.stage == "base"]
    for run in bases:
        model = run.run.spec.model.name
        name = "base" if len(bases) == 1 else f"base, {run.name}"
        there: _Seeds = {None: run.name} if scored.record(run.name) else {}
        missing = [] if there else [failures.get(run.name, f"{run.name} has no scores yet")]
        yield _row(name, "base", model, _measures(there, scored), missing)


def _row(name: str, stages: str, model: str, measures: list[Measure], missing: list[str]) -> ArmRow:
    return ArmRow(
        arm=name,
        stages=stages,
        model=model,
        measures=tuple(measures),
        mean=_mean(measures) if measures else None,
        missing=tuple(missing),
    )


def _measures(seeds: _Seeds, scored: _Scored) -> list[Measure]:
    by_seed = {seed: scored.results(run) for seed, run in seeds.items()}
    names = next(iter(by_seed.values()), {})
    made = []
    for name in names:
        results = [found[name] for found in by_seed.values()]
        scores = [
            SeedScore(seed=seed, run=run, accuracy=by_seed[seed][name].accuracy)
            for seed, run in seeds.items()
        ]
        low, high = _over_problems(name, results, [scored.grades(run) for run in seeds.values()])
        made.append(
            Measure(
                benchmark=name,
                accuracy=_average(scores),
                low=low,
                high=high,
                responses=sum(result.n for result in results),
                problems=results[0].problems,
                partial=any(item.partial or item.published is None for item in results),
                seeds=tuple(scores),
                over_seeds=_over_seeds(scores),
            )
        )
    return made


def _over_problems(
    name: str, results: Sequence[BenchmarkResult], grades: Sequence[dict[Place, Grade]]
) -> tuple[float, float]:
    """The interval over problems; responses of all seeds to a problem belong together."""
    if len(results) == 1:
        return results[0].low, results[0].high
    clusters: defaultdict[str, list[float]] = defaultdict(list)
    for found in grades:
        for (benchmark, _, _), grade in found.items():
            if benchmark == name:
                clusters[grade.cluster].append(float(grade.correct))
    if len(clusters) == 1:
        return 0.0, 1.0
    bounds = cluster_bootstrap(clusters, seed=0, resamples=RESAMPLES)
    return bounds.low, bounds.high


def _mean(measures: Sequence[Measure]) -> Measure:
    """The unweighted mean over the benchmarks, seed by seed."""
    low, high = mean_interval(measures)
    columns = zip(*(measure.seeds for measure in measures), strict=True)
    scores = [
        SeedScore(seed=column[0].seed, run=column[0].run, accuracy=_average(column))
        for column in columns
    ]
    return Measure(
        benchmark=None,
        accuracy=_average(scores),
        low=low,
        high=high,
        responses=sum(measure.responses for measure in measures),
        problems=sum(measure.problems for measure in measures),
        partial=any(measure.partial for measure in measures),
        seeds=tuple(scores),
        over_seeds=_over_seeds(scores),
    )


def _average(scores: Sequence[SeedScore]) -> float:
    return math.fsum(score.accuracy for score in scores) / len(scores)


def _over_seeds(scores: Sequence[SeedScore]) -> OverSeeds | None:
    values = [score.accuracy for score in scores]
    if len(values) == 1:
        return None
    bounds = mean_over_seeds(values)
    low, high = max(0.0, bounds.low), min(1.0, bounds.high)  # which no accuracy leaves
    return OverSeeds(deviation=stdev(values), low=low, high=high)


def _pair(found: Mapping[str, _Seeds], scored: _Scored, first: str, second: str) -> ArmPair:
    one, two = found[first], found[second]
    both = [seed for seed in one if seed in two]
    if not both:
        return ArmPair(first=first, second=second, message="no seed of both has scores")
    total: Counter[tuple[str, str]] = Counter()
    try:
        for seed in both:
            total.update(gains(scored.grades(one[seed]), scored.grades(two[seed])))
    except ValueError as error:
        return ArmPair(first=first, second=second, message=str(error))
    differences = [
        _headline(scored.results(two[seed])) - _headline(scored.results(one[seed])) for seed in both
    ]
    bounds = mean_over_seeds(differences) if len(both) > 1 else None
    return ArmPair(
        first=first,
        second=second,
        difference=math.fsum(differences) / len(differences),
        p=sign_flip(list(total.values())),
        seeds=len(both),
        better=sum(difference > 0 for difference in differences),
        low=bounds.low if bounds else None,
        high=bounds.high if bounds else None,
    )


def _headline(results: Mapping[str, BenchmarkResult]) -> float:
    return math.fsum(result.accuracy for result in results.values()) / len(results)


def _published(rows: Iterable[ArmRow]) -> tuple[Figure, ...]:
    """The published figures of the benchmarks whose whole split every row was scored on."""
    whole: list[set[str]] = [
        {item.benchmark for item in row.measures if item.benchmark and not item.partial}
        for row in rows
        if row.measures
    ]
    names = set.intersection(*whole) if whole else set()
    return tuple(
        figure.model_copy(
            update={"accuracy": {k: v for k, v in figure.accuracy.items() if k in names}}
        )
        for figure in figures().figures
        if names & figure.accuracy.keys()
    )


def _notes(
    plan: StudyPlan, loaded: Loaded, rows: Sequence[ArmRow], directory: Path
) -> Iterator[str]:
    yield (
        "Intervals and p are over problems, for these trained models; what another seed would do "
        "is in the spread over seeds alone. p is not corrected for the number of pairs."
    )
    if loaded.study.spec.gates == "open":
        yield "Thresholds of the run's gates were left out, so that no seed is missing for them."
    yield from changes(plan, directory)
    for arm, row in ((arm, row) for arm in loaded.arms for row in rows if row.arm == arm.name):
        if row.stages == "sft+grpo" and any(not item.partial for item in row.measures):
            reasons = lacking(next(iter(arm.specs.values())), row.measures)
            yield (
                f"{row.arm} does not reproduce published figures: {'; '.join(reasons)}."
                if reasons
                else f"{row.arm} reproduces the published figures, within its intervals over "
                "problems and by this project's matcher."
            )
