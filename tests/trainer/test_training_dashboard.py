"""The dashboard *Training* asked of a real Prometheus that scrapes stages' exporters."""

import contextlib

import pytest
from prometheus import dashboard, prometheus, put_in, queries

from coldstart.metrics import METRICS, series
from coldstart_trainer.exporter import Exporter
from coldstart_trainer.meter import Meter

STAGES = ("distill", "sft", "grpo", "evaluation")
QUERIES = [pytest.param(query, id=title) for title, query in queries("training")]


class Stage:
    """The exporter of a stage that never was, with every number that such a stage may tell."""

    def __init__(self, run, stage):
        self.stage, self.meter = stage, Meter()
        self.exporter = Exporter(self.meter, (run, stage, "some/model"), 0)
        self.work()

    def work(self):
        """Counters and histograms grow, gauges are there."""
        for metric in METRICS:
            key = series(metric.name, *(f"some {label}" for label in metric.labels))
            if self.stage not in metric.stages:
                continue
            if metric.kind == "histogram":
                self.meter.observe(key, 2.0)
            elif metric.kind == "counter":
                self.meter.add(key, 1.0)
            else:
                self.meter.put({key: 0.5})
        self.meter.publish()


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A Prometheus that has seen all stages of run `r` at work, and GRPO of another run."""
    with contextlib.ExitStack() as stack:
        own = [Stage("r", stage) for stage in STAGES]
        other = Stage("other", "grpo")
        for stage in (*own, other):
            stack.callback(stage.exporter.close)
        found = stack.enter_context(
            prometheus(
                tmp_path_factory.mktemp("prometheus"),
                ("stages", [stage.exporter.port for stage in own], {"namespace": "ml"}),
                ("others", [other.exporter.port], {"namespace": "elsewhere"}),
            )
        )
        for number in (1, 2):
            found.until(f"count(coldstart_samples_total == {number}) == 5")
            for stage in (*own, other):
                stage.work()
        found.until("count(coldstart_samples_total == 3) == 5")
        yield found


@pytest.mark.parametrize("query", QUERIES)
def test_every_query_finds_what_it_draws(server, query):
    found = server.ask(put_in(query))
    assert any(value == value for _, value in found), "only numbers that are none"  # noqa: PLR0124


@pytest.mark.parametrize("query", QUERIES)
def test_what_is_chosen_is_drawn_and_nothing_else(server, query):
    found = server.ask(put_in(query, namespace="ml", run=["r", "absent"]))
    assert found
    assert {labels["run"] for labels, _ in found} == {"r"}
    assert server.ask(put_in(query, run="absent")) == []


def test_one_series_is_one_line_whatever_pod_it_came_from(server):
    for title, query in queries("training"):
        for labels, _ in server.ask(put_in(query)):
            assert not {"instance", "job", "pod"} & labels.keys(), title


def test_the_variables_offer_what_there_is(server):
    variables = {
        variable["name"]: variable["query"]["query"]
        for variable in dashboard("training")["templating"]["list"]
        if variable["type"] == "query"
    }
    assert server.values(variables["namespace"]) == ["elsewhere", "ml"]
    assert server.values(variables["run"], namespace="ml") == ["r"]
    assert server.values(variables["stage"], namespace="ml", run="r") == sorted(STAGES)
    assert server.values(variables["stage"], run="other") == ["grpo"]


def test_a_query_that_is_wrong_is_seen(server):
    with pytest.raises(AssertionError, match="parse error"):
        server.ask("sum by (run (coldstart_step)")
    assert server.ask("coldstart_no_such_metric") == []
