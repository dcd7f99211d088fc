"""Studies: what becomes of a matrix, what arms share, and what is refused; nothing is run."""

import re
from pathlib import Path

import pytest
import yaml

from coldstart.preset import resolve
from coldstart.runfile import RunFileError
from coldstart.study.arms import load
from coldstart.study.identity import keys
from coldstart.study.plan import LABEL, planned
from coldstart.study.spec import Study

TEACHER = {"baseUrl": "http://h/v1", "model": "big"}
SCORED = {"benchmarks": [{"name": "t", "dataset": {"name": "t"}}]}
SPEC = {
    "model": {"name": "m"},
    "sft": {"dataset": {"name": "sft"}, "gate": {"minAccuracy": 0.9}},
    "grpo": {"dataset": {"name": "rl"}, "gate": {"minAccuracy": 0.9}},
    "evaluation": SCORED | {"checkpoints": ["base", "sft", "grpo"]},
}
DISTILLED = SPEC | {"sft": {}, "distill": {"dataset": {"name": "q"}, "teacher": TEACHER}}


@pytest.fixture
def folder(tmp_path):
    return Folder(tmp_path)


class Folder:
    """A place for a study's file and its run's."""

    def __init__(self, path):
        self.path = path

    def load(self, matrix, spec=SPEC, **more):
        head = {"apiVersion": "coldstart.dev/v1alpha1"}
        run = {"kind": "ReasoningRun", "metadata": {"name": "r"}, "spec": spec}
        (self.path / "run.yaml").write_text(yaml.safe_dump(head | run))
        body = {"run": "run.yaml", "matrix": matrix, **more}
        study = {"kind": "Study", "metadata": {"name": "s"}, "spec": body}
        (self.path / "study.yaml").write_text(yaml.safe_dump(head | study))
        return load(self.path / "study.yaml")

    def plan(self, matrix, spec=SPEC, **more):
        return planned(self.load(matrix, spec, **more))

    def mistakes(self, matrix, spec=SPEC, **more):
        with pytest.raises(RunFileError) as caught:
            self.load(matrix, spec, **more)
        return [line.removeprefix(f"{self.path}/") for line in caught.value.lines]


def shape(plan):
    """Each run as its stage, what it starts from, and its arms."""
    stages = {name: run.stage for name, run in plan.runs.items()}
    return [
        (run.stage, stages.get(run.needs), len(run.arms), [s.value for s in run.run.spec.stages])
        for run in plan.runs.values()
    ]


def test_arms_share_the_base_model_s_scores_and_the_cold_start(folder):
    plan = folder.plan({"stages": ["sft", "grpo", "sft+grpo"], "seeds": [0, 1]})
    of_a_seed = [
        ("sft", None, 2, ["sft", "evaluation"]),
        ("grpo", None, 1, ["grpo", "evaluation"]),
        ("grpo", "sft", 1, ["grpo", "evaluation"]),
    ]
    assert shape(plan) == [("base", None, 6, ["evaluation"]), *of_a_seed, *of_a_seed]
    assert list(plan.cells) == ["sft", "grpo", "sft+grpo"]
    assert (plan.stages, plan.stages_of_arms) == (6, 8)
    first = [run.run.spec for run in plan.runs.values()][1:4]
    assert [spec.evaluation.checkpoints for spec in first] == [("sft",), ("grpo",), ("grpo",)]
    assert {run.run.metadata.labels[LABEL] for run in plan.runs.values()} == {"s"}


def test_seeds_are_those_of_the_training_stages(folder):
    plan = folder.plan({"seeds": [7, 8]}, DISTILLED)
    assert [run.stage for run in plan.runs.values()] == [
        "base",
        "distill",
        "sft",
        "grpo",
        "sft",
        "grpo",
    ]
    seeds = [run.run.spec.stage(run.run.spec.stages[0]).seed for run in plan.runs.values()]
    assert seeds == [42, 42, 7, 7, 8, 8]
    sft = [run for run in plan.runs.values() if run.stage == "sft"]
    assert {run.run.spec.sft.from_.run for run in sft} == {list(plan.runs)[1]}


def test_an_axis_that_an_arm_does_not_feel_makes_no_further_arm(folder):
    matrix = {
        "stages": ["grpo", "sft+grpo"],
        "patterns": ["caption-cot", "distilled-cot+reflection-cot"],
        "teachers": [TEACHER, TEACHER | {"model": "small"}],
    }
    loaded = folder.load(matrix, DISTILLED)
    assert [arm.name for arm in loaded.arms] == [
        "grpo",
        "sft+grpo, patterns=caption-cot, teachers=big",
        "sft+grpo, patterns=caption-cot, teachers=small",
        "sft+grpo, patterns=distilled-cot+reflection-cot, teachers=big",
        "sft+grpo, patterns=distilled-cot+reflection-cot, teachers=small",
    ]
    last = loaded.arms[-1].specs[None].distill
    assert [share.name for share in last.patterns] == ["distilled-cot", "reflection-cot"]
    assert last.teacher.model == "small"
    stages = [run.stage for run in planned(loaded).runs.values()]
    assert (stages.count("distill"), stages.count("grpo")) == (4, 5)


def test_a_variant_shares_what_comes_before_what_it_changes(folder):
    patches = {"none": {"grpo": {"loss": {"kl": 0}}}, "some": {}}
    plan = folder.plan({"stages": ["sft", "sft+grpo"], "variants": {"kl": patches}})
    assert list(plan.cells) == ["sft", "sft+grpo, kl=none", "sft+grpo, kl=some"]
    assert [run.stage for run in plan.runs.values()] == ["base", "sft", "grpo", "grpo"]
    kl = [run.run.spec.grpo.loss.kl for run in plan.runs.values() if run.stage == "grpo"]
    assert kl == [0, 0.01]


def test_a_variant_of_the_model_shares_nothing(folder):
    patches = {"small": {}, "large": {"model": {"name": "l"}}}
    stages = [run[0] for run in shape(folder.plan({"variants": {"size": patches}}))]
    assert stages == ["base", "sft", "grpo"] * 2


def test_how_and_where_a_stage_is_run_is_no_part_of_what_it_is(folder):
    patches = {"slow": {}, "fast": {"sft": {"saveSteps": 7, "resources": {"cpu": "4"}}}}
    plan = folder.plan({"variants": {"pace": patches}})
    assert list(plan.cells) == ["sft+grpo"]


def test_an_arm_that_is_added_changes_no_run(folder):
    before = folder.plan({"stages": ["sft+grpo"], "seeds": [1]}).runs
    after = folder.plan({"stages": ["sft", "grpo", "sft+grpo"], "seeds": [0, 1]}).runs
    assert {name: run.run for name, run in before.items()}.items() <= {
        name: run.run for name, run in after.items()
    }.items()


def test_another_evaluation_trains_nothing_anew(folder):
    def names(**changes):
        found = folder.plan({}, SPEC | {"evaluation": SPEC["evaluation"] | changes}).runs
        return list(found)

    before, after = names(), names(decoding={"temperature": 1.0})
    assert before[1:] == after[1:]
    assert before[0] != after[0]  # the base model's scores


def test_a_checkpoint_is_scored_if_the_run_wants_it_or_an_arm_ends_there(folder):
    only = SPEC | {"evaluation": SCORED | {"checkpoints": ["grpo"]}}
    assert [run[3] for run in shape(folder.plan({}, only))] == [["sft"], ["grpo", "evaluation"]]
    scored = [run[3] for run in shape(folder.plan({"stages": ["sft+grpo", "sft"]}, only))]
    assert scored == [["sft", "evaluation"], ["grpo", "evaluation"]]


def test_gates_are_open_unless_kept(folder):
    for gates, least in (("open", None), ("keep", 0.9)):
        plan = folder.plan({}, gates=gates)
        sft = next(run.run.spec.sft for run in plan.runs.values() if run.stage == "sft")
        assert sft.gate.min_accuracy == least


def test_what_a_stage_is_told_or_starts_from_is_its_identity(folder):
    def digests(**changes):
        spec = SPEC | {"grpo": SPEC["grpo"] | {"learningRate": 0.5}} | changes
        return [key.digest for key in keys(folder.load({}, spec).arms[0].specs[None])]

    one = digests()
    assert digests() == one
    other_rate = digests(grpo=SPEC["grpo"])
    assert (other_rate[0] == one[0], other_rate[1] == one[1]) == (True, False)
    for change in (
        {"sft": SPEC["sft"] | {"epochs": 9}},
        {"sft": {"dataset": {"name": "other"}}},
        {"model": {"name": "m", "revision": "x"}},
        {"conversation": {"suffix": "!"}},
    ):
        assert not set(digests(**change)) & set(one)


def test_a_preset_is_resolved_once(folder):
    spec = {"preset": "paper-3b", "sft": {}, "grpo": {}, "evaluation": {}}
    loaded = folder.load({"stages": ["sft", "sft+grpo"]}, spec)
    for run in planned(loaded).runs.values():
        document = run.run.document()
        assert type(run.run).parse(document) == run.run
        assert type(run.run).parse(resolve(document)) == run.run


@pytest.mark.parametrize(
    ("matrix", "spec", "message"),
    [
        ({"stages": ["both"]}, SPEC, "study.yaml: spec.matrix.stages[0]: should be 'sft', 'grpo'"),
        ({"seeds": [1, 1]}, SPEC, "study.yaml: spec.matrix.seeds: names a value twice"),
        ({"seed": [1]}, SPEC, "study.yaml: spec.matrix.seed: unknown key; did you mean seeds?"),
        ({"patterns": ["cot"]}, DISTILLED, "spec.matrix.patterns: 'cot' is no pattern (there are"),
        ({"patterns": ["caption-cot"]}, SPEC, "spec.matrix.patterns: the run has no distill"),
        ({"teachers": [TEACHER]}, SPEC, "spec.matrix.teachers: the run has no distill"),
        ({"teachers": [TEACHER] * 2}, DISTILLED, "teachers names a teacher twice"),
        (
            {"stages": ["sft"]},
            {"model": {"name": "m"}, "grpo": SPEC["grpo"], "evaluation": SCORED},
            "study.yaml: spec.matrix.stages: sft: the run has no sft",
        ),
        (
            {},
            {key: SPEC[key] for key in ("model", "grpo")},
            "study.yaml: spec.run: has no evaluation, so that its arms could not be compared",
        ),
        (
            {"variants": {"seeds": {"a": {}}}},
            SPEC,
            "spec.matrix.variants: seeds is an axis of the matrix itself",
        ),
        (
            {"variants": {"judge": {"a": {"evaluation": {"matcher": "judge"}}}}},
            SPEC,
            "judge.a changes evaluation, which is the same for all arms of a study",
        ),
        (
            {"variants": {"cold": {"no": {"sft": None}}}},
            SPEC,
            "cold.no takes sft away: let stages say that",
        ),
        (
            {"variants": {"kl": {"none": {"grpo": {"loss": {"k1": 0}}}}}},
            SPEC,
            "study.yaml: arm sft+grpo, kl=none: spec.grpo.loss.k1: unknown key",
        ),
        ({}, SPEC | {"sft": {}}, "run.yaml: spec: sft.dataset is required"),
        (
            {"variants": {"size": {"odd": {"grpo": {"groupSize": 7}}}}},
            SPEC,
            "study.yaml: arm sft+grpo, size=odd: spec.grpo: ",
        ),
    ],
)
def test_a_mistake_names_the_file_the_arm_and_the_field(folder, matrix, spec, message):
    (line, *_) = folder.mistakes(matrix, spec)
    assert message in line


def test_every_arm_s_mistakes_are_told_at_once(folder):
    patches = {"a": {"sft": {"epochs": 0}}, "b": {"sft": {"epochs": -1}}}
    lines = folder.mistakes({"stages": ["sft", "sft+grpo"], "variants": {"e": patches}})
    assert [line.split(":")[1] for line in lines] == [
        " arm sft, e=a",
        " arm sft, e=b",
        " arm sft+grpo, e=a",
        " arm sft+grpo, e=b",
    ]


def test_the_studies_of_the_guide_and_the_examples_are_valid():
    root = Path(__file__).parents[2]
    plan = planned(load(root / "examples/quickstart/study.yaml"))
    assert [len(cells) for cells in plan.cells.values()] == [3, 3, 3]
    blocks = re.findall(r"```yaml\n(.*?)```", (root / "docs/guide.md").read_text(), re.DOTALL)
    (block,) = [block for block in blocks if "kind: Study" in block]
    assert len(Study.parse(yaml.safe_load(block)).spec.matrix.teachers) == 2


def test_a_run_s_file_that_is_missing_is_named(folder):
    (folder.path / "study.yaml").write_text(
        "apiVersion: coldstart.dev/v1alpha1\nkind: Study\nmetadata: {name: s}\n"
        "spec: {run: gone.yaml, matrix: {}}\n"
    )
    with pytest.raises(RunFileError, match=r"gone\.yaml: cannot be read: No such file"):
        load(folder.path / "study.yaml")
