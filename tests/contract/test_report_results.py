"""Results, what they gain, tables and comparison of run directories that are built by hand."""

import itertools
import json
import math

import pytest
from report_pages import page, printed, rewritten
from sample_run import document, finished_run, write_status

from coldstart import layout
from coldstart.layout import RunLayout
from coldstart.order import build_order
from coldstart.plan import Parent
from coldstart.report import compare, results_table, run_results, write_report
from coldstart.report.gain import KindShare, gain, kind_shares
from coldstart.report.reading import read_run
from coldstart.report.scores import Score, mean_interval
from coldstart.report.words import number, p_value, percent, points
from coldstart.run import ReasoningRun
from coldstart.spec import From, Stage
from coldstart.status import CheckpointRef, RunStatus, StageStatus, Verdict


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return finished_run(tmp_path_factory.mktemp("runs"))


def two_benchmarks() -> dict:
    evaluation = document()["spec"]["evaluation"]
    names = [{"name": name, "dataset": {"name": f"{name}.parquet"}} for name in ("near", "far")]
    return {"evaluation": evaluation | {"benchmarks": names}}


# Results


def test_results_are_one_object_by_checkpoint(finished):
    document = run_results(finished).document()
    assert list(document) == ["checkpoints"]
    assert list(document["checkpoints"]) == ["base", "sft", "grpo"]
    for score in document["checkpoints"].values():
        assert set(score) == {"accuracy", "low", "high", "n"}
        assert score["low"] <= score["accuracy"] <= score["high"]
        assert score["n"] == 40
    json.dumps(document, allow_nan=False)


def test_results_of_several_benchmarks_are_their_mean(tmp_path):
    run = finished_run(tmp_path, spec=two_benchmarks())
    found = read_run(run)
    parts = [found.results["sft", name] for name in ("near", "far")]
    score = run_results(run).checkpoints["sft"]
    assert score.accuracy == pytest.approx((parts[0].accuracy + parts[1].accuracy) / 2)
    assert score.n == 80
    assert score.high - score.low < max(part.high - part.low for part in parts)


def test_a_checkpoint_without_every_benchmark_has_no_mean(tmp_path):
    run = finished_run(tmp_path, spec=two_benchmarks())
    layout.results(RunLayout(run).benchmark("grpo", "far")).unlink()
    assert list(run_results(run).checkpoints) == ["base", "sft"]
    assert "not evaluated yet" in page(run)


def test_results_without_an_evaluation_are_empty(tmp_path):
    run = finished_run(tmp_path, stages=("sft", "grpo"))
    assert run_results(run).document() == {"checkpoints": {}}


def test_results_of_an_earlier_checkpoint_are_left_out_and_named(tmp_path):
    run = finished_run(tmp_path)
    status = json.loads((run / "status.json").read_text())
    for stage in status["status"]["stages"]:
        if stage["name"] == "grpo":
            stage["checkpoint"]["digest"] = "sha256:" + "9" * 64
    (run / "status.json").write_text(json.dumps(status))
    assert list(run_results(run).checkpoints) == ["base", "sft"]
    assert "belong to another checkpoint" in printed(results_table(run))
    assert "belong to another checkpoint" in page(run)


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ([(0.3, 0.2, 0.45)], (0.2, 0.45)),
        ([(0.5, 0.4, 0.6), (0.5, 0.4, 0.6)], (0.5 - 0.1 / math.sqrt(2), 0.5 + 0.1 / math.sqrt(2))),
        ([(0.0, 0.0, 0.2), (1.0, 0.8, 1.0)], (0.4, 0.6)),
        ([(0.2, 0.17, 0.23), (0.4, 0.36, 0.44)], (0.3 - 0.025, 0.3 + 0.025)),
    ],
)
def test_interval_of_a_mean(parts, expected):
    scores = [Score(accuracy=a, low=low, high=high, n=1) for a, low, high in parts]
    assert mean_interval(scores) == pytest.approx(expected)


# What cannot be read


@pytest.mark.parametrize("reader", [run_results, results_table, write_report])
def test_no_run_is_named(tmp_path, reader):
    with pytest.raises(ValueError, match=r"nowhere.*holds no status\.json"):
        reader(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("status.json", "{", "not JSON"),
        ("status.json", '{"kind": "ReasoningRun"}', "is required"),
        ("evaluation/sft/held-out/results.json", "{", "not JSON"),
        ("evaluation/sft/held-out/results.json", "{}", "is required"),
    ],
)
def test_a_damaged_document_is_named(tmp_path, file, text, message):
    run = finished_run(tmp_path)
    (run / file).write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        write_report(run)
    assert str(run / file) in str(caught.value)
    assert not (run / "report.html").exists()


# What the gain is made of


def shares(*kinds: tuple) -> list[KindShare]:
    return [KindShare(name, share, accuracy, round(share * 100)) for name, share, accuracy in kinds]


@pytest.mark.parametrize(
    ("before", "after", "choice", "skill"),
    [
        ([("a", 0.4, 0.9), ("b", 0.6, 0.0)], [("a", 0.9, 0.9), ("b", 0.1, 0.0)], 0.45, 0.0),
        ([("a", 1.0, 0.2)], [("a", 1.0, 0.7)], 0.0, 0.5),
        ([("b", 1.0, 0.1)], [("a", 1.0, 0.9)], 0.8, 0.0),
        ([("a", 0.0, None), ("b", 1.0, 0.1)], [("a", 1.0, 0.9), ("b", 0.0, None)], 0.8, 0.0),
        ([("a", 0.5, 0.4), ("b", 0.5, 0.0)], [("a", 1.0, 0.8), ("b", 0.0, None)], 0.3, 0.3),
    ],
)
def test_gain_is_split_and_adds_up(before, after, choice, skill):
    before, after = shares(*before), shares(*after)
    found = gain(before, after)
    assert (found.choice, found.skill) == pytest.approx((choice, skill))
    difference = sum(kind.right for kind in after) - sum(kind.right for kind in before)
    assert found.total == pytest.approx(difference)


def test_kinds_add_up_to_all_responses(finished):
    for result in read_run(finished).results.values():
        kinds = kind_shares(result)
        assert math.fsum(kind.share for kind in kinds) == pytest.approx(1)
        assert math.fsum(kind.right for kind in kinds) == pytest.approx(result.accuracy)
    assert [kind.name for kind in kind_shares(read_run(finished).results["base", "held-out"])] == [
        "reasons",
        "guesses",
        "other",
    ]


# Tables


def test_tables_say_what_the_run_found(finished):
    text = printed(results_table(finished))
    score = run_results(finished).checkpoints["grpo"]
    assert percent(score.accuracy) in text
    for word in ("Base", "SFT + GRPO", "held-out", "reasons", "other", "minBoxedShare", "passed"):
        assert word in text
    assert max(map(len, text.splitlines())) <= 80


def test_tables_of_a_run_without_results_say_why(tmp_path):
    where = RunLayout(tmp_path)
    write_status(
        where, ReasoningRun.parse(document()), RunStatus(message="sft attempt 1 is running")
    )
    assert printed(results_table(tmp_path)).strip() == "digits: sft attempt 1 is running"


def test_a_verdict_is_no_markup(tmp_path):
    where = RunLayout(tmp_path)
    verdict = Verdict(name="maxLoss", observed=2, threshold=1, passed=False, message="[/red] 2 > 1")
    status = RunStatus(stages=(StageStatus(name="sft", gates=(verdict,)),))
    write_status(where, ReasoningRun.parse(document()), status)
    assert "refused: [/red] 2 > 1" in printed(results_table(tmp_path))


# Wording


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (percent(0.7104), "71.0 %"),
        (percent(None), "\N{EN DASH}"),
        (points(0.0), "0.0 pts"),
        (points(-0.0004), "0.0 pts"),
        (points(-0.125), "\N{MINUS SIGN}12.5 pts"),
        (p_value(0.00001), "< 0.001"),
        (p_value(0.04), "0.040"),
        (number(2391), "2,391"),
        (number(0.000025), "2.5e\N{MINUS SIGN}5"),
        (number(-0.5), "\N{MINUS SIGN}0.5"),
        (number(0), "0"),
        (number(None), "\N{EN DASH}"),
    ],
)
def test_wording_of_numbers(made, expected):
    assert made == expected


# Comparison


def arm(parent, name, right: list[bool]) -> None:
    """A run whose final checkpoint is right exactly where it says."""
    run = finished_run(parent, name, problems=len(right))
    marks = iter(right)
    rewritten(
        run,
        "grpo",
        "held-out",
        lambda sample: sample.model_copy(update={"outcome": "correct" if next(marks) else "wrong"}),
    )


def test_compare_pairs_the_final_checkpoints(tmp_path):
    arm(tmp_path, "one", [True] * 4 + [False] * 8)
    arm(tmp_path, "two", [False] + [True] * 11)
    found = compare([tmp_path / "one", tmp_path / "two"])
    assert [(row.run, row.checkpoint) for row in found.rows] == [
        (run, checkpoint) for run in ("one", "two") for checkpoint in ("base", "sft", "grpo")
    ]
    (pair,) = found.pairs
    assert (pair.only_first, pair.only_second, pair.n) == (1, 8, 12)
    assert pair.difference == pytest.approx(7 / 12)
    assert pair.p == pytest.approx(2 * (1 + 9) / 2**9)
    document = json.loads(json.dumps(found.document(), allow_nan=False))
    assert document["pairs"][0]["onlySecond"] == 8
    assert "+58.3 pts" in printed(found)
    assert "McNemar" in printed(found)


def test_compare_takes_what_belongs_together_as_a_whole(tmp_path):
    arm(tmp_path, "one", [True] * 4 + [False] * 8)
    arm(tmp_path, "two", [False] + [True] * 11)
    for name in ("one", "two"):
        numbers = itertools.count()
        rewritten(
            tmp_path / name,
            "grpo",
            "held-out",
            lambda sample, numbers=numbers: sample.model_copy(
                update={"cluster": str(next(numbers) // 4)}
            ),
        )
    found = compare([tmp_path / "one", tmp_path / "two"])
    (pair,) = found.pairs
    # Three clusters, with -1, 4 and 4 more right answers: two of eight flips, and their mirrors.
    assert pair.p == pytest.approx(4 / 8)
    assert pair.clustered
    assert (pair.only_first, pair.only_second, pair.n) == (1, 8, 12)
    assert "randomization test over problems" in printed(found)
    assert "McNemar" not in printed(found)


def test_compare_says_when_the_problems_differ(tmp_path):
    finished_run(tmp_path, "one", problems=12)
    finished_run(tmp_path, "two", problems=12, seed=1)
    finished_run(tmp_path, "three", problems=13)
    finished_run(tmp_path, "four", problems=12, spec=two_benchmarks())
    found = compare([tmp_path / name for name in ("one", "two", "three", "four")])
    messages = {(pair.first, pair.second): pair.message for pair in found.pairs}
    assert not any(pair.comparable for pair in found.pairs)
    assert "problems of the same id differ" in messages["one", "two"]
    assert "no partner" in messages["one", "three"]
    assert "in one of them only" in messages["one", "four"]
    assert "not the same problems" in printed(found)


def test_compare_names_runs_of_one_name_by_their_directories(tmp_path):
    runs = [finished_run(tmp_path / str(seed), seed=seed) for seed in (0, 1)]
    assert {row.run for row in compare(runs).rows} == {str(run) for run in runs}


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("whole",), "at least two"),
        (("whole", "whole"), "twice"),
        (("whole", "absent"), r"absent.*holds no status\.json"),
        (("whole", "unscored"), "'unscored'.*has no evaluation"),
        (("whole", "half"), r"'half'.*results of grpo are missing"),
    ],
)
def test_compare_refuses_what_it_cannot_compare(tmp_path, names, message):
    finished_run(tmp_path, "whole", problems=4)
    finished_run(tmp_path, "unscored", stages=("sft",))
    half = finished_run(tmp_path, "half", problems=4)
    layout.results(RunLayout(half).benchmark("grpo", "held-out")).unlink()
    with pytest.raises(ValueError, match=message):
        compare([tmp_path / name for name in names])


def test_references_have_their_rows_beside_the_runs_own_and_no_part_in_its_gain(tmp_path):
    own = document()["spec"]["evaluation"]
    references = [
        {"name": "released", "model": "org/m", "revision": "abc"},
        {"name": "twin", "from": {"run": "other", "stage": "sft"}},
    ]
    run = finished_run(tmp_path, spec={"evaluation": own | {"references": references}})
    found = read_run(run)
    assert found.references == ("released", "twin")
    assert found.checkpoints == ("base", "sft", "grpo")
    assert list(run_results(run).checkpoints) == ["base", "sft", "grpo"]
    table = printed(results_table(run))
    assert table.index("released") < table.index("twin") < table.index("Base")
    shown = page(run)
    assert '<tr class="c-released">' in shown
    assert "against released" not in shown
    assert found.run.spec.sources(Stage.EVALUATION) == (From(run="other", stage="sft"),)


def test_an_order_names_what_its_references_are():
    own = document()["spec"]["evaluation"]
    references = [
        {"name": "released", "model": "org/m", "revision": "abc"},
        {"name": "twin", "from": {"run": "other", "stage": "grpo"}},
    ]
    spec = document()["spec"] | {"evaluation": own | {"references": references}}
    run = ReasoningRun.parse(document() | {"spec": spec})
    reference = CheckpointRef(location="other/grpo/final", digest="sha256:" + "1" * 64, step=1)
    parents = {("other", "grpo"): Parent(finished=True, checkpoint=reference)}
    order = build_order(run, Stage.EVALUATION, 1, parents, storage="/s", workdir="/w")
    released, twin, base, *_ = order.inputs
    assert (released.location, released.revision, released.digest) == ("org/m", "abc", None)
    assert (twin.name, twin.location, twin.digest) == ("twin", "other/grpo/final", reference.digest)
    assert base.name == "base"
    (shown,) = [
        item
        for item in build_order(run, Stage.EVALUATION, 1, {}, storage="/s", workdir="/w").inputs
        if item.name == "twin"
    ]
    assert (shown.location, shown.digest) == ("other/grpo/final", None)
