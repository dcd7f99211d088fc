"""The dashboards by themselves: what is drawn and where, and that Grafana knows every field."""

import json
import re
from pathlib import Path

import pytest
from prometheus import dashboard, overlapping, panels, queries

from coldstart.generate.dashboards.drawing import UNITS
from coldstart.metrics import METRICS, PREFIX, TABLE

NAMES = ("runs", "training")
ROOT = Path(__file__).parents[2]


def shown(name):
    """The metrics of the table that a dashboard asks for."""
    told = set()
    for _, query in queries(name):
        for word in re.findall(rf"{PREFIX}(\w+)\{{", query):
            suffixes = [word, *(word.removesuffix(end) for end in ("_bucket", "_sum", "_count"))]
            told |= {each for each in suffixes if each in TABLE}
    return told


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_every_metric_of_the_table_has_a_panel(metric):
    assert metric.name in shown("training"), (
        f"no panel for metric {metric.name}: give it one in "
        "coldstart/generate/dashboards/training.py, beside what it is read with"
    )


def test_every_unit_of_the_table_is_one_that_grafana_has():
    assert {metric.unit for metric in METRICS} <= UNITS.keys()


@pytest.mark.parametrize("name", NAMES)
def test_every_panel_says_what_it_shows(name):
    for panel in panels(name):
        assert panel["description"], panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"]
        assert panel["targets"]
        assert all(target["datasource"]["uid"] == "${datasource}" for target in panel["targets"])
        legends = [target["legendFormat"] for target in panel["targets"]]
        assert panel["type"] == "table" or len(set(legends)) == len(legends), panel["title"]


@pytest.mark.parametrize("name", NAMES)
def test_panels_lie_beside_each_other_and_have_names_of_their_own(name):
    assert overlapping(name) == []
    found = dashboard(name)["panels"]
    assert len({panel["id"] for panel in found}) == len(found)
    assert len({panel["title"] for panel in found}) == len(found)
    assert all(panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24 for panel in found)


@pytest.mark.parametrize("name", NAMES)
def test_the_reader_chooses_namespace_run_and_stage_and_goes_from_one_to_the_other(name):
    found = dashboard(name)
    variables = [variable["name"] for variable in found["templating"]["list"]]
    assert variables == ["datasource", "namespace", "run", "stage", "window"]
    (link,) = found["links"]
    assert link["includeVars"]
    assert link["keepTime"]
    assert set(link["tags"]) <= set(found["tags"])


def test_a_run_in_the_table_leads_to_its_training():
    assert "/d/coldstart-training?" in json.dumps(dashboard("runs"))
    assert dashboard("training")["uid"] == "coldstart-training"


@pytest.mark.parametrize("page", [*(ROOT / "docs" / "runbooks").glob("*.md")], ids=lambda p: p.stem)
def test_a_panel_that_a_runbook_names_is_there(page):
    there = {panel["title"] for name in NAMES for panel in dashboard(name)["panels"]}
    there |= {"Training", "Runs", "critical", "warning", "greatest"}
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    named = re.findall(r"(?<![*\w])\*([^*\n]+)\*(?!\*)", text)
    assert [words for words in named if words not in there] == []


def held(mine, theirs, where=""):
    """Where Grafana's types lack something of ours, or have another value."""
    if isinstance(mine, dict) and isinstance(theirs, dict):
        return [
            found
            for key, value in mine.items()
            for found in held(value, theirs.get(key), f"{where}.{key}")
        ]
    if isinstance(mine, list) and isinstance(theirs, list) and len(mine) == len(theirs):
        pairs = enumerate(zip(mine, theirs, strict=True))
        return [found for n, (a, b) in pairs for found in held(a, b, f"{where}[{n}]")]
    return [] if mine == theirs else [f"{where}: {mine!r}, not {theirs!r}"]


def read_by_grafana(document):
    """A dashboard as Grafana's own types have it."""
    pytest.importorskip("grafana_foundation_sdk", reason="needs grafana-foundation-sdk")
    from grafana_foundation_sdk.cog.encoder import JSONEncoder
    from grafana_foundation_sdk.cog.plugins import register_default_plugins
    from grafana_foundation_sdk.models.dashboard import Dashboard

    register_default_plugins()
    return json.loads(JSONEncoder().encode(Dashboard.from_json(document)))


@pytest.mark.parametrize("name", NAMES)
def test_grafana_knows_every_field(name):
    found = dashboard(name)
    assert held(found, read_by_grafana(found)) == []


def test_a_field_that_grafana_does_not_know_is_seen():
    found = dashboard("training")
    found["panels"][1]["targets"][0]["expression"] = "up"
    found["refreshing"] = "30s"
    assert {line.partition(":")[0] for line in held(found, read_by_grafana(found))} == {
        ".refreshing",
        ".panels[1].targets[0].expression",
    }
