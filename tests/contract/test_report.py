"""Results, tables, comparison and page of run directories that are built by hand."""

import html
import json
import math
import random
import re
from html.parser import HTMLParser
from io import StringIO

import pytest
import yaml
from rich.console import Console
from sample_run import (
    START,
    document,
    failed,
    finished_run,
    picture,
    write_line,
    write_results,
    write_sft,
    write_status,
)

from coldstart import layout
from coldstart.files import append_json_line
from coldstart.layout import RunLayout
from coldstart.metrics import Progress
from coldstart.report import compare, results_table, run_results, write_report
from coldstart.report.cases import EACH, Album, case_groups
from coldstart.report.charts import HEIGHT, POINTS, WIDTH, Chart, Mark, Series, drawing
from coldstart.report.curves import attempts, charts, curve
from coldstart.report.gain import KindShare, gain, kind_shares
from coldstart.report.reading import grades, read_progress, read_run, samples
from coldstart.report.scores import Score, mean_interval
from coldstart.report.words import number, p_value, percent, points
from coldstart.run import ReasoningRun
from coldstart.status import RunStatus, StageStatus, Verdict

HOSTILE = "</pre></style><script>alert(1)</script><img src=x onerror=alert(2)>{{ 7 * 7 }}[bold]"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return finished_run(tmp_path_factory.mktemp("runs"))


def two_benchmarks() -> dict:
    evaluation = document()["spec"]["evaluation"]
    names = [{"name": name, "dataset": {"name": f"{name}.parquet"}} for name in ("near", "far")]
    return {"evaluation": evaluation | {"benchmarks": names}}


def printed(renderable, width=80) -> str:
    stream = StringIO()
    Console(file=stream, width=width).print(renderable)
    return stream.getvalue()


def page(run_dir) -> str:
    return write_report(run_dir).read_text()


class Elements(HTMLParser):
    """The elements of a page with their attributes, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found, self.text = [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data

    def named(self, tag):
        return [attributes for name, attributes in self.found if name == tag]


def rewritten(run_dir, checkpoint, benchmark, change) -> None:
    """Samples with something changed in each, and the results that follow."""
    found = read_run(run_dir)
    changed = [change(sample) for sample in samples(found, checkpoint, benchmark)]
    write_results(found.layout, checkpoint, benchmark, changed)


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


# Curves


def lines(*items: tuple) -> list[Progress]:
    return [
        Progress(time=float(place), attempt=attempt, phase="train", done=done, values=values)
        for place, (attempt, done, values) in enumerate(items)
    ]


def test_the_later_attempt_wins_and_what_was_lost_is_not_shown():
    progress = lines(
        *[(1, step, {"loss": 1.0}) for step in range(1, 8)],
        *[(2, step, {"loss": 2.0}) for step in range(4, 6)],
    )
    assert curve(progress) == {"loss": [(1, 1.0), (2, 1.0), (3, 1.0), (4, 2.0), (5, 2.0)]}
    assert [(a.number, a.first, a.last) for a in attempts(progress)] == [(1, 1, 7), (2, 4, 5)]


def test_an_attempt_without_numbers_takes_nothing_away():
    progress = lines((1, 1, {"loss": 1.0}), (1, 2, {"loss": 1.0}), (2, 1, {}))
    assert curve(progress) == {"loss": [(1, 1.0), (2, 1.0)]}


def test_values_of_one_update_are_put_together():
    progress = lines((1, 20, {"loss": 1.0}), (1, 20, {"eval_loss": 1.2}))
    assert curve(progress) == {"loss": [(20, 1.0)], "eval_loss": [(20, 1.2)]}


def test_resumes_are_marked_in_every_chart(tmp_path):
    where = RunLayout(tmp_path)
    write_sft(where, random.Random(0))
    run = ReasoningRun.parse(document())
    write_status(where, run, RunStatus())
    made = charts("sft", read_progress(read_run(tmp_path), "sft"))
    assert [chart.title for chart in made] == [
        "Loss",
        "Token accuracy",
        "Learning rate",
        "Gradient norm",
    ]
    for chart in made:
        assert chart.marks == (Mark(141.0, "attempt 2"),)
        assert [step for step, _ in chart.series[0].points] == list(range(1, 301))


def test_torn_foreign_and_infinite_numbers_are_passed_over(tmp_path):
    where = RunLayout(tmp_path)
    write_status(where, ReasoningRun.parse(document()), RunStatus())
    write_line(where, "sft", 1, 1, 3, {"loss": 1.0})
    append_json_line(where.stage("sft").metrics, {"surprise": True})
    with where.stage("sft").metrics.open("a") as stream:
        stream.write('{"time":1,"attempt":1,"phase":"train","done":2,"values":{"loss":NaN}}\n')
        stream.write('{"time":1,"attempt":1,"phase":"train","do')
    assert curve(read_progress(read_run(tmp_path), "sft")) == {"loss": [(1, 1.0)]}


def test_a_single_reward_is_drawn_once():
    one = lines((1, 1, {"reward_total_mean": 0.5, "reward_mean{accuracy}": 0.5}))
    two = lines((1, 1, {"reward_total_mean": 0.6, "reward_mean{accuracy}": 0.5}))
    assert len(charts("grpo", one)[0].series) == 1
    assert [series.name for series in charts("grpo", two)[0].series] == ["weighted sum", "accuracy"]


@pytest.mark.parametrize(
    "values",
    [[0.0], [1e-6] * 30, [0.5, 0.5], [-3.0, 7.0], [1e9, 2e9], [i / 999 for i in range(1000)]],
)
def test_drawings_stay_in_their_box(values):
    series = Series("a", tuple((float(i + 1), v) for i, v in enumerate(values)))
    drawn = drawing(Chart("t", "u", (series,), band=((1.0, 0.0, 1.0),)))
    assert len(drawn.stops) <= POINTS
    assert len(drawn.y_ticks) >= 2
    for stop in drawn.stops:
        assert drawn.left - 0.1 <= stop.at <= drawn.right + 0.1
        assert all(drawn.top - 0.1 <= y <= drawn.bottom + 0.1 for y, _ in stop.dots)
    numbers = [float(n) for n in re.findall(r"-?[\d.]+", drawn.lines[0].raw)]
    assert all(-0.1 <= n <= max(WIDTH, HEIGHT) for n in numbers)
    assert all(math.isfinite(n) for n in numbers)


def test_a_share_stays_on_a_share_axis():
    progress = lines(*[(1, i, {"completion_truncated_ratio": 1.0}) for i in (1, 2)])
    drawn = drawing(charts("grpo", progress)[0])
    assert drawn.y_ticks[0].label == "0 %"
    assert drawn.y_ticks[-1].label == "100 %"


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


# The page


def test_the_page_asks_for_nothing(finished):
    elements = Elements(page(finished))
    assert not elements.named("script")
    assert {attributes["rel"] for attributes in elements.named("link")} == {"icon"}
    for _, attributes in elements.found:
        assert not any(name.startswith("on") for name in attributes)
        for name in ("src", "href"):
            assert attributes.get(name, "#").startswith(("#", "data:"))
    assert "url(http" not in page(finished)
    assert elements.named("meta")[2]["content"].startswith("default-src 'none'")


def test_the_page_has_every_part(finished):
    elements = Elements(page(finished))
    sections = [attributes["id"] for attributes in elements.named("section")]
    assert sections == [
        "result",
        "gain",
        "learning",
        "reflection",
        "samples",
        "stages",
        "provenance",
        "notes",
    ]
    text = " ".join(elements.text.split())
    for words in (
        "Wrong, then right",
        "MAYE list",
        "became right",
        "141 to 300",
        "12 response too long",
        "2.13.0+cpu",
        "coldstart run run.yaml --dir",
        "learningRate: 0.001",
        "Nothing here claims to reproduce the paper",
    ):
        assert words in text, words
    plots = [a for a in elements.named("svg") if a.get("class") == "plot"]
    assert len(plots) == 4 + 9
    assert all(a["role"] == "img" and a["aria-label"] for a in plots)
    assert all(a["alt"] for a in elements.named("img"))


def test_the_resolved_spec_is_a_run_again(finished):
    text = page(finished)
    shown = re.findall(r"<pre[^>]*>(apiVersion.*?)</pre>", text, re.DOTALL)[0]
    again = ReasoningRun.parse(yaml.safe_load(html.unescape(shown)))
    assert again.spec == read_run(finished).run.spec


def test_what_a_model_wrote_stays_text(tmp_path):
    spec = {"model": {"name": HOSTILE}, "conversation": {"system": HOSTILE}}
    run = finished_run(tmp_path, problems=3, spec=spec)
    for checkpoint in ("base", "sft", "grpo"):
        rewritten(
            run,
            checkpoint,
            "held-out",
            lambda sample: sample.model_copy(
                update={
                    "response": HOSTILE
                    + "\\boxed{"
                    + HOSTILE.replace("}", "").replace("{", "")
                    + "}",
                    "problem": HOSTILE,
                    "gold": HOSTILE,
                    "extracted": HOSTILE,
                    "choices": (HOSTILE,),
                    "outcome": HOSTILE,
                }
            ),
        )
    failed(run, HOSTILE)
    status = json.loads((run / "status.json").read_text())
    status["status"]["stages"][0]["gates"][0] |= {"message": HOSTILE, "passed": False}
    (run / "status.json").write_text(json.dumps(status))
    elements = Elements(page(run))
    assert not elements.named("script")
    assert all("onerror" not in attributes for _, attributes in elements.found)
    assert "<script>alert(1)</script>" in elements.text
    assert "{{ 7 * 7 }}" in elements.text
    assert "[bold]" in printed(results_table(run), width=400)


def test_a_response_of_a_hundred_thousand_characters_is_shortened(tmp_path):
    run = finished_run(tmp_path, problems=2)
    long = "a" * 50_000 + "b" * 50_000 + "\\boxed{7}"
    for checkpoint in ("base", "sft", "grpo"):
        rewritten(run, checkpoint, "held-out", lambda s: s.model_copy(update={"response": long}))
    text = page(run)
    assert len(text) < 1_000_000
    assert "96,009 characters are not shown" in text
    assert "<mark>\\boxed{7}</mark>" in text


def test_samples_are_a_few_of_each_transition(tmp_path):
    run = finished_run(tmp_path, problems=60)
    found = read_run(run)
    groups = case_groups(found, found.complete)
    assert [group.transition for group in groups] == ["gained", "lost", "kept", "missed"]
    assert sum(group.count for group in groups) == 60
    for group in groups:
        assert len(group.cases) == min(EACH, group.count)
        for case in group.cases:
            first, last = case.answers[0].sample, case.answers[-1].sample
            assert [answer.checkpoint for answer in case.answers] == ["base", "sft", "grpo"]
            assert (first.correct, last.correct) == {
                "gained": (False, True),
                "lost": (True, False),
                "kept": (True, True),
                "missed": (False, False),
            }[group.transition]
            assert len(case.images) == 1
    assert case_groups(found, found.complete) == groups


def test_a_response_written_twice_counts_as_written_first(tmp_path):
    run = finished_run(tmp_path, problems=4)
    found = read_run(run)
    before = grades(found, "sft", "held-out")
    path = layout.samples(found.layout.benchmark("sft", "held-out"))
    for line in [json.loads(text) for text in path.read_text().splitlines()]:
        flipped = "wrong" if line["outcome"] == "correct" else "correct"
        append_json_line(path, line | {"outcome": flipped})
    assert grades(found, "sft", "held-out") == before


def test_images_are_checked_and_bounded(tmp_path):
    data = picture((1, 2, 3))
    names = {"png": "a" * 64, "html": "b" * 64, "big": "c" * 64}
    (tmp_path / f"{names['png']}.png").write_bytes(data)
    (tmp_path / f"{names['html']}.png").write_bytes(b"<svg onload=alert(1)>")
    (tmp_path / f"{names['big']}.png").write_bytes(data + b"\0" * 500_000)
    (tmp_path / "secret.png").write_bytes(data)
    album = Album(tmp_path, left=len(data) + 10)
    shown = album.picture(names["png"])
    assert (shown.width, shown.height, shown.tiny) == (84, 28, True)
    assert album.picture(names["png"]) is None, "the budget is spent"
    album.left = 10**9
    for name in (names["html"], names["big"], "d" * 64, "secret", "../secret"):
        assert album.picture(name) is None


def test_a_missing_image_is_said(tmp_path):
    run = finished_run(tmp_path, problems=3)
    for image in RunLayout(run).images.iterdir():
        image.unlink()
    text = page(run)
    assert "1 image is not shown" in text
    assert not Elements(text).named("img")


@pytest.mark.parametrize(
    ("stages", "present", "absent"),
    [
        (("sft",), ["learning"], ["result", "gain", "samples", "reflection"]),
        (("grpo", "evaluation"), ["learning", "result", "samples"], []),
        (("evaluation",), ["result", "samples"], ["learning"]),
        (("sft", "grpo"), ["learning"], ["result"]),
    ],
)
def test_a_run_of_some_stages_has_their_parts(tmp_path, stages, present, absent):
    run = finished_run(tmp_path, stages=stages)
    found = {attributes["id"] for attributes in Elements(page(run)).named("section")}
    assert found >= {*present, "stages", "provenance", "notes"}
    assert not found & set(absent)
    printed(results_table(run))


def test_grpo_from_the_base_is_called_grpo(tmp_path):
    run = finished_run(tmp_path, stages=("grpo", "evaluation"))
    assert "SFT + GRPO" not in page(run)


def test_a_run_that_has_not_started_has_a_page(tmp_path):
    where = RunLayout(tmp_path)
    where.status.write_text(json.dumps(ReasoningRun.parse(document()).document()))
    text = Elements(page(tmp_path)).text
    assert "The run has not started." in text
    assert "Pending" in text


def test_a_running_stage_says_how_far_it_is(tmp_path):
    where = RunLayout(tmp_path)
    for step in (1, 2, 3):
        write_line(where, "sft", 1, step, 300, {"loss": 1.0 / step})
    sft = StageStatus(name="sft", state="Running", attempt=1, started_at=START)
    status = RunStatus(phase="SFTRunning", message="sft attempt 1 is running", stages=(sft,))
    write_status(where, ReasoningRun.parse(document()), status)
    text = Elements(page(tmp_path)).text
    assert "3 of 300" in text
    assert "sft attempt 1 is running" in text


def test_a_failed_run_says_why(tmp_path):
    run = finished_run(tmp_path)
    failed(run)
    text = Elements(page(run)).text
    assert "DatasetInvalid" in text
    assert "row 17: the image cannot be decoded" in text


def test_results_without_their_responses_still_make_a_page(tmp_path):
    run = finished_run(tmp_path, problems=5)
    layout.samples(RunLayout(run).benchmark("sft", "held-out")).unlink()
    text = page(run)
    assert "No samples are shown" in text
    assert "cannot be paired" in text
    assert 'id="result"' in text


def test_a_torn_manifest_leaves_a_page(tmp_path):
    run = finished_run(tmp_path, problems=5)
    (RunLayout(run).stage("sft").final / "coldstart.json").write_text('{"run":')
    assert "not finished yet" in page(run)


def test_a_page_is_replaced_whole(tmp_path):
    run = finished_run(tmp_path, problems=3)
    first = write_report(run)
    assert first == run / "report.html"
    assert write_report(run) == first
    assert not list(run.glob("*.partial"))


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({}, ["its file's own", "MAYE list (arXiv 2504.02587)", "one seed"]),
        ({"preset": "paper-7b"}, ["preset paper-7b, as far as the file leaves them"]),
        (
            {
                "evaluation": document()["spec"]["evaluation"]
                | {
                    "reflectionWords": ["wait"],
                    "decoding": {"samples": 4},
                    "benchmarks": [{"name": "held-out", "dataset": {"name": "t", "limit": 9}}],
                }
            },
            ["this run's own list", "4 responses", "a draw of 9 rows"],
        ),
        (
            {
                "grpo": document()["spec"]["grpo"]
                | {"dataset": {"name": "WaltonFuture/Multimodal-RL-Data"}}
            },
            ["CC BY-NC 4.0"],
        ),
    ],
)
def test_honesty_notes_follow_the_run(tmp_path, spec, words):
    run = finished_run(tmp_path, problems=3, spec=spec)
    text = " ".join(Elements(page(run)).text.split())
    for sentence in ["Nothing here claims to reproduce the paper", *words]:
        assert sentence in text
    assert "reproduces the paper" not in text


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
