"""The dashboard *Runs* asked of a real Prometheus that scrapes the operator at work."""

import re
from pathlib import Path

import pytest
from apiserver.faults import Fault
from apiserver.scripts import Behaviour, failing
from operating import SFT_ONLY, condition, ended, world
from prometheus import dashboard, free_port, prometheus, put_in, queries

from coldstart.generate.alerts import GROUPS
from coldstart_operator import metrics

PREFIX = "coldstart_operator_"
PAGE = Path(__file__).parents[2] / "docs" / "cluster.md"
QUERIES = [pytest.param(query, id=title) for title, query in queries("runs")]

QUOTA = Behaviour(refused="pods is forbidden: exceeded quota: gpus")
GATED = {"dataset": {"name": "d.jsonl"}, "gate": {"maxLoss": 0.1}}


def script(attempt):
    """A run that waits for a quota, and one whose first attempt is killed."""
    if attempt.run == "waits":
        return QUOTA
    return failing(137) if (attempt.run, attempt.number) == ("flaky", 1) else Behaviour()


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A Prometheus that has seen runs succeed, be retried, be refused, and wait."""
    place, port = tmp_path_factory.mktemp("runs"), free_port()
    scraped = ("operator", [port], {"namespace": "coldstart-system"})
    with (
        world(place, script) as w,
        w.operator(metrics_port=port),
        prometheus(place, scraped) as found,
    ):
        found.until(f"{PREFIX}silence_seconds")
        w.server.faults.add(Fault("patch", "reasoningruns/status", status=500))
        w.apply("good")
        w.apply("flaky", **SFT_ONLY)
        w.apply("gated", sft=GATED)
        w.apply("waits", **SFT_ONLY)
        for name in ("good", "flaky", "gated"):
            w.until(ended, name, 60)
        w.until(lambda run: "quota" in condition(run, "Queued")["message"], "waits", 60)
        found.until(f'{PREFIX}run_info{{reason="quota"}}')
        found.until(f"count({PREFIX}run_finished_timestamp_seconds) == 3")
        found.until(f"count_over_time({PREFIX}runs{{phase='Failed'}}[1m]) >= 3")
        yield found


@pytest.mark.parametrize("query", QUERIES)
def test_every_query_finds_what_it_draws(server, query):
    found = server.ask(put_in(query))
    assert any(value == value for _, value in found), "only numbers that are none"  # noqa: PLR0124


def test_every_metric_of_the_operator_has_a_panel_and_a_line_in_the_docs(server):
    told = {
        family.name.removeprefix(PREFIX)
        for family in metrics.REGISTRY.collect()
        if family.name.startswith(PREFIX)
    } | {
        labels["__name__"].removeprefix(PREFIX)
        for labels in server.get("series", **{"match[]": f'{{__name__=~"{PREFIX}run.*"}}'})
    }
    asked = {
        re.sub(r"_(total|bucket|count|sum)$", "", name)
        for _, query in queries("runs")
        for name in re.findall(rf"{PREFIX}(\w+)", query)
    }
    assert asked == told
    page = PAGE.read_text()
    assert [name for name in told if f"`{name}" not in page] == []


def test_alerts_ask_only_for_what_the_operator_tells(server):
    there = {
        labels["__name__"] for labels in server.get("series", **{"match[]": '{job="operator"}'})
    }
    asked = {
        name
        for alert in GROUPS["coldstart-operator"]
        for name in re.findall(r"coldstart_\w+", alert.expr)
    }
    assert asked
    assert asked <= there


def test_what_became_of_each_run_is_told(server):
    found = {
        (labels["run"], labels["phase"], labels.get("reason", ""))
        for labels, _ in server.ask(f"{PREFIX}run_info")
    }
    assert found == {
        ("good", "Succeeded", ""),
        ("flaky", "Succeeded", ""),
        ("gated", "Failed", "GateRefused"),
        ("waits", "SFTStarting", "quota"),
    }
    ((_, number),) = server.ask(f'{PREFIX}gate_refusals_total{{stage="sft",check="maxLoss"}}')
    assert number >= 1, "those of all tests of this process"
    attempts = server.ask(f'{PREFIX}run_stage_attempts{{run="flaky"}}')
    assert [value for _, value in attempts] == [2]


def test_what_is_chosen_is_drawn_and_nothing_else(server):
    for title, query in queries("runs"):
        if "$run" not in query:
            continue
        for labels, _ in server.ask(put_in(query, run="good", namespace="default")):
            assert labels.get("run", "good") == "good", title
        assert server.ask(put_in(query, run="absent")) == [], title


def test_the_variables_offer_what_there_is(server):
    variables = {
        variable["name"]: variable["query"]["query"]
        for variable in dashboard("runs")["templating"]["list"]
        if variable["type"] == "query"
    }
    assert server.values(variables["namespace"]) == ["default"]
    assert server.values(variables["run"], namespace="default") == [
        "flaky",
        "gated",
        "good",
        "waits",
    ]
    assert server.values(variables["stage"], run="good") == ["evaluation", "grpo", "sft"]
