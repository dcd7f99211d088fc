"""Curves: what a stage's metrics become, attempts put together, and how they are drawn."""

import math
import random
import re

import pytest
from sample_run import document, write_line, write_sft, write_status

from coldstart.files import append_json_line
from coldstart.layout import RunLayout
from coldstart.metrics import Progress
from coldstart.report.charts import HEIGHT, POINTS, WIDTH, Chart, Mark, Series, drawing
from coldstart.report.curves import attempts, charts, curve
from coldstart.report.reading import read_progress, read_run
from coldstart.run import ReasoningRun
from coldstart.status import RunStatus


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


def test_reflection_is_drawn_as_far_as_it_is_told():
    told = {"reflection_ratio{all}": 0.5, "reflection_ratio{wrong}": 1.0, "kl_nats": 0.1}
    unjudged = {"reflection_ratio{all}": 0.5}
    drawn = [
        {chart.title: chart for chart in charts("grpo", lines((1, 1, values), (1, 2, values)))}
        for values in (told, unjudged)
    ]
    names = [[line.name for line in each["Reflecting completions"].series] for each in drawn]
    assert names == [["all", "of the wrong ones"], ["all"]]
    assert drawn[0]["Reflecting completions"].ceiling == 1


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
