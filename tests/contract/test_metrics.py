"""The table of metrics keeps Prometheus' conventions, and whoever reads a metric has its name."""

import re

import pytest

from coldstart.metrics import COMMON_LABELS, METRICS, TABLE, named, series, split
from coldstart.report.curves import _PLANS


def test_names_are_unique():
    assert len(TABLE) == len(METRICS)


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_a_row_keeps_the_conventions(metric):
    assert re.fullmatch(r"[a-z][a-z_]*", metric.name)
    assert (metric.kind == "counter") == metric.name.endswith("_total")
    assert not metric.name.endswith(("_sum", "_count", "_bucket"))
    assert metric.help.endswith(".")
    assert metric.stages
    assert set(metric.labels).isdisjoint({*COMMON_LABELS, "le"})
    assert tuple(re.findall(r"{(\w+)}", metric.source)) in ((), metric.labels)
    for unit in ("seconds", "bytes", "ratio"):
        assert metric.name.endswith(f"_{unit}") == (metric.unit == unit)


@pytest.mark.parametrize(
    ("key", "parts"),
    [
        ("loss", ("loss", ())),
        ("reward_mean{mine:score}", ("reward_mean", ("mine:score",))),
        ("reward_mean{a,b}", ("reward_mean", ("a,b",))),
        ("eval_accuracy_ratio{math,sft}", ("eval_accuracy_ratio", ("math", "sft"))),
    ],
)
def test_a_series_name_is_taken_apart_again(key, parts):
    assert split(key) == parts
    assert series(parts[0], *parts[1]) == key


def test_of_a_log_line_only_what_the_table_has_is_taken():
    logs = {"loss": 1.0, "rewards/mine:score/mean": 0.5, "rewards/mine:score": 2.0, "other": 3.0}
    assert named(logs) == {"loss": 1.0, "reward_mean{mine:score}": 0.5}


def test_every_curve_of_the_report_is_a_metric():
    drawn = {
        name.partition("{")[0]
        for plans in _PLANS.values()
        for plan in plans
        for name in (*(line.metric for line in plan.lines), *plan.band[:2])
        if name
    }
    assert len(drawn) > 10
    assert drawn <= set(TABLE)
