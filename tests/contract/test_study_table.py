"""What a study says of results: intervals, tests, published figures, and when it may claim."""

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
from sample_run import summed, write_manifest

from coldstart import layout
from coldstart.benchmarks import published
from coldstart.benchmarks.figures import figures
from coldstart.intervals import mean_over_seeds
from coldstart.layout import RunLayout
from coldstart.preset import resolve
from coldstart.record import save
from coldstart.report.scores import mean_interval
from coldstart.results import Sample
from coldstart.run import RunSpec
from coldstart.status import RunStatus, StageStatus
from coldstart.study.arms import Arm, Loaded
from coldstart.study.claim import lacking
from coldstart.study.plan import planned
from coldstart.study.show import grids, markdown
from coldstart.study.spec import Study
from coldstart.study.table import tabulated

FOUR = ("mathvision", "mathverse", "mathvista", "wemath")
RIGHT = {"base": 0.3, "sft": 0.5, "grpo": 0.7}


def loaded(workdir, specs, gates="open"):
    """A study of arms by name, each with a spec for each seed."""
    study = Study.parse(
        {
            "apiVersion": "coldstart.dev/v1alpha1",
            "kind": "Study",
            "metadata": {"name": "s"},
            "spec": {"run": "run.yaml", "matrix": {}, "gates": gates},
        }
    )
    arms = tuple(Arm(name, {}, found) for name, found in specs.items())
    return Loaded(study, workdir, arms, frozenset({"base"}))


def spec(names=("t",), *, sft=True, seed=0, **more):
    rows = {"dataset": {"name": "rows"}, "seed": seed}
    benchmarks = [
        {"name": name} | ({} if published(name) else {"dataset": {"name": "rows"}})
        for name in names
    ]
    found = {"model": {"name": "m"}, "evaluation": {"benchmarks": benchmarks}, "grpo": rows}
    return RunSpec.parse(found | ({"sft": rows} if sft else {}) | more)


def responses(right: list[bool]) -> list[Sample]:
    return [
        Sample(
            id=str(number),
            problem=f"{number}?",
            gold="1",
            response="1" if good else "2",
            tokens=1,
            truncated=False,
            boxed=True,
            outcome="correct" if good else "wrong",
        )
        for number, good in enumerate(right)
    ]


def scored(directory: Path, run, right: dict[str, list[bool]], **result) -> None:
    """A finished run with responses on each benchmark."""
    where = RunLayout(directory / run.name)
    where.root.mkdir(parents=True)
    stages = tuple(StageStatus(name=s.value, state="Succeeded") for s in run.run.spec.stages)
    save(run.run.model_copy(update={"status": RunStatus(stages=stages)}), where)
    for benchmark, answers in right.items():
        place = where.benchmark(run.stage, benchmark)
        place.mkdir(parents=True)
        samples = responses(answers)
        lines = [json.dumps(sample.document()) for sample in samples]
        layout.samples(place).write_text("\n".join(lines))
        found = summed(run.stage, benchmark, samples).model_copy(update={"digest": None, **result})
        layout.results(place).write_text(json.dumps(found.document()))


@dataclass
class Two:
    """Two arms over two seeds, of which the second is better on the same problems."""

    directory: Path

    def table(self, first, second):
        arms = {
            "one": {0: spec(sft=False, seed=0), 1: spec(sft=False, seed=1)},
            "two": {0: spec(sft=False, seed=2), 1: spec(sft=False, seed=3)},
        }
        study = loaded(self.directory, arms)
        plan = planned(study)
        for name, answers in (("one", first), ("two", second)):
            for cell, right in zip(plan.cells[name], answers, strict=True):
                if right is not None:
                    scored(self.directory, plan.runs[cell.run], {"t": right})
        base = next(iter(plan.runs.values()))
        scored(self.directory, base, {"t": [False] * 9 + [True]})
        return tabulated(plan, study, self.directory, {})


def test_seeds_are_averaged_and_paired_by_problem_and_seed(tmp_path):
    one = [[True] * 2 + [False] * 8, [True] * 4 + [False] * 6]
    two = [[True] * 8 + [False] * 2, [True] * 9 + [False] * 1]
    table = Two(tmp_path).table(one, two)
    base, first, second = table.rows
    assert (base.arm, base.mean.accuracy, base.mean.over_seeds) == ("base", 0.1, None)
    assert first.mean.accuracy == pytest.approx(0.3)
    assert [seed.accuracy for seed in second.mean.seeds] == [0.8, 0.9]
    assert second.mean.responses == 20
    assert second.mean.problems == 10
    over = mean_over_seeds([0.8, 0.9])
    assert second.mean.over_seeds.low == over.low < second.mean.low
    (pair,) = table.pairs
    assert pair.difference == pytest.approx(0.55)
    assert (pair.better, pair.seeds) == (2, 2)
    # Problems 2 to 8 differ, all to the good of the second, 4 to 7 of them in both seeds.
    assert pair.p == pytest.approx(2 / 2**7)
    assert pair.low < 0.55 < pair.high


def test_responses_of_all_seeds_to_a_problem_are_one_piece_of_evidence(tmp_path):
    half = [True] * 5 + [False] * 5
    table = Two(tmp_path).table([half, half], [half, half])
    low, high = table.rows[1].mean.low, table.rows[1].mean.high
    assert high - low > 0.5  # ten problems, not twenty
    assert table.pairs[0].p == 1


def test_a_seed_that_is_missing_is_named_and_left_out_of_both(tmp_path):
    few, many = [False] * 9 + [True], [True] * 9 + [False]
    table = Two(tmp_path).table([few, few], [many, None])
    row = table.rows[2]
    assert row.missing[0].startswith("seed 1: ")
    assert row.missing[0].endswith("has no scores yet")
    assert (row.mean.over_seeds, table.pairs[0].seeds) == (None, 1)
    page = markdown("t", grids(table))
    assert f"- two: {row.missing[0]}" in page


def test_other_problems_are_not_compared(tmp_path):
    table = Two(tmp_path).table([[True] * 3] * 2, [[True] * 4] * 2)
    assert "not the same problems" in table.pairs[0].message
    assert "not the same problems" in markdown("t", grids(table))


def test_the_mean_is_unweighted_and_its_interval_put_together(tmp_path):
    study = loaded(tmp_path, {"one": {None: spec(("a", "b"), sft=False)}})
    plan = planned(study)
    for run in plan.runs.values():
        scored(tmp_path, run, {"a": [True] * 3 + [False], "b": [True] * 5 + [False] * 5})
    table = tabulated(plan, study, tmp_path, {})
    row = table.rows[1]
    assert row.mean.accuracy == pytest.approx((0.75 + 0.5) / 2)
    assert (row.mean.low, row.mean.high) == mean_interval(row.measures)
    page = markdown("t", grids(table))
    assert "|  | mean | 62.5 % |" in page


def test_content_that_has_changed_under_one_name_is_told(tmp_path):
    study = loaded(tmp_path, {"one": {seed: spec(sft=False, seed=seed) for seed in (0, 1)}})
    plan = planned(study)
    for run in plan.runs.values():
        scored(tmp_path, run, {"t": [True, False]})
        if run.stage == "grpo":
            write_manifest(RunLayout(tmp_path / run.name), run.run, "grpo")
    before = tabulated(plan, study, tmp_path, {}).notes
    path = RunLayout(tmp_path / run.name).stage("grpo").final / "coldstart.json"
    path.write_text(path.read_text().replace("9c1f4b", "another"))
    (said,) = set(tabulated(plan, study, tmp_path, {}).notes) - set(before)
    assert said.startswith("The data set data/grpo.parquet of grpo has changed between runs")


# Published figures, and the claim


def test_published_figures_stand_beside_whole_splits_alone(tmp_path):
    study = loaded(tmp_path, {"one": {None: spec(("mathvista", "wemath", "own"), sft=False)}})
    plan = planned(study)
    answers = {name: [True, False] for name in ("mathvista", "wemath", "own")}
    for run in plan.runs.values():
        scored(tmp_path, run, answers)
        place = RunLayout(tmp_path / run.name).benchmark(run.stage, "mathvista")
        document = json.loads(layout.results(place).read_text()) | {"published": 1000}
        layout.results(place).write_text(json.dumps(document))
    table = tabulated(plan, study, tmp_path, {})
    assert [set(figure.accuracy) for figure in table.published] == [{"mathvista"}] * 4
    page = markdown("t", grids(table))
    assert "| SFT+GRPO 7B (published) | mathvista | 73.4 % | published |" in page
    assert "wemath | 70.4" not in page
    assert "arXiv 2505.22334" in page
    assert "reproduces" not in page
    last = next(iter(plan.runs.values()))
    place = RunLayout(tmp_path / last.name).benchmark(last.stage, "mathvista")
    document = json.loads(layout.results(place).read_text()) | {"partial": True}
    layout.results(place).write_text(json.dumps(document))
    table = tabulated(plan, study, tmp_path, {})
    assert table.published == ()
    assert "published" not in markdown("t", grids(table))


@dataclass
class Is:
    """A measured accuracy, in percent, half a point to either side."""

    benchmark: str
    value: float
    partial: bool = False

    @property
    def low(self):
        return (self.value - 0.5) / 100

    @property
    def high(self):
        return (self.value + 0.5) / 100


FIGURE = next(item for item in figures().figures if item.name == "SFT+GRPO 3B")
MEASURED = tuple(Is(name, value) for name, value in FIGURE.accuracy.items())


def preset(**changes) -> RunSpec:
    asked = {"preset": "paper-3b", "sft": {}, "grpo": {}, "evaluation": {}} | changes
    return RunSpec.parse(resolve({"spec": asked})["spec"])


def test_the_whole_preset_on_whole_splits_within_the_intervals_reproduces():
    assert lacking(preset(), MEASURED) == []
    pinned = preset(
        sft={"seed": 7}, model={"name": "Qwen/Qwen2.5-VL-3B-Instruct", "revision": "abc"}
    )
    assert lacking(pinned, MEASURED) == []


@pytest.mark.parametrize(
    ("asked", "measured", "reason"),
    [
        (preset(sft={"epochs": 1}), MEASURED, "spec.sft is not as in the preset paper-3b"),
        (preset(grpo={"maxSteps": 9}), MEASURED, "spec.grpo is not as in the preset"),
        (
            preset(conversation={"suffix": "!"}),
            MEASURED,
            "spec.conversation is not as in the preset",
        ),
        (
            preset(evaluation={"decoding": {"temperature": 0}}),
            MEASURED,
            "spec.evaluation is not as in the preset",
        ),
        (
            preset(sft={"dataset": {"name": "WaltonFuture/Multimodal-Cold-Start", "limit": 9}}),
            MEASURED,
            "spec.sft is not as in the preset",
        ),
        (
            preset().model_copy(update={"preset": None}),
            MEASURED,
            "it has no preset",
        ),
        (preset(), MEASURED[1:], "mathvision was not scored on its whole split"),
        (
            preset(),
            (Is("mathvision", 27.0, partial=True), *MEASURED[1:]),
            "mathvision was not scored on its whole split",
        ),
        (
            preset(),
            (Is("mathvision", 29.0), *MEASURED[1:]),
            "mathvision has 27.0 published, which is outside its interval",
        ),
        (
            preset(model={"name": "other"}),
            MEASURED,
            "nothing is published for other after these stages",
        ),
    ],
)
def test_anything_less_does_not(asked, measured, reason):
    assert reason in "; ".join(lacking(asked, measured))


def test_the_word_is_said_of_an_arm_that_may_say_it_and_of_no_other(tmp_path):
    study = loaded(tmp_path, {"a": {None: preset()}, "b": {None: preset(sft={"epochs": 1})}})
    plan = planned(study)
    for run in plan.runs.values():
        if run.run.spec.evaluation:
            right = {
                name: [number < value for number in range(100)]
                for name, value in FIGURE.accuracy.items()
            }
            scored(tmp_path, run, right, published=100)
    told = [note for note in tabulated(plan, study, tmp_path, {}).notes if "reproduce" in note]
    assert told[0].startswith("a reproduces the published figures, within its intervals")
    assert told[1].startswith("b does not reproduce published figures: spec.sft is not as in")


def test_the_figures_are_whole():
    for figure in figures().figures:
        assert set(figure.accuracy) == set(FOUR)
        assert sum(figure.accuracy.values()) / 4 == pytest.approx(figure.mean, abs=0.06)
