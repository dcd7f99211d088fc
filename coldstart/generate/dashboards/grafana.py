"""Grafana's dashboard JSON (schema version 39, Grafana 10.4 and later); it knows no metric.

Plain dictionaries: the official `grafana-foundation-sdk` has the same fields, and the tests read
what is written here with it, but its releases have version numbers that no range can name.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count
from string import ascii_uppercase
from typing import Any, Literal

Json = dict[str, Any]

SCHEMA_VERSION = 39

COLUMNS = 24
"""The width of a dashboard in Grafana's grid."""

TAG = "coldstart"
"""The dashboards that have it are linked with each other, their variables kept."""

SOURCE = {"type": "prometheus", "uid": "${datasource}"}

_LEGEND = {"displayMode": "table", "placement": "bottom", "showLegend": True}
_LAST = {"calcs": ["lastNotNull"], "fields": "", "values": False}


@dataclass(frozen=True)
class Query:
    """One PromQL query of a panel."""

    expr: str
    """With Grafana's variables in it."""
    legend: str = ""
    """What its series are called, labels in double braces."""


@dataclass(frozen=True)
class Table:
    """How the columns of a table panel, whose queries are merged by their labels, are shown."""

    names: dict[str, str]
    """Labels, and `Value #A` for the first query's value, to what stands above the column."""
    hidden: tuple[str, ...]
    units: dict[str, str]
    """Units by what stands above the column."""
    links: dict[str, tuple[str, str]]
    """Titles and addresses of links by what stands above the column."""


@dataclass(frozen=True)
class Panel:
    """One panel."""

    title: str
    description: str
    queries: tuple[Query, ...]
    unit: str = "none"
    """As Grafana names it."""
    kind: Literal["timeseries", "stat", "bargauge", "table"] = "timeseries"
    stacked: bool = False
    top: float | None = None
    """The end of the axis; None: as the values are."""
    log: bool = False
    width: int = 8
    height: int = 8
    table: Table | None = None


@dataclass(frozen=True)
class Row:
    """Panels below a heading."""

    title: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True)
class Variable:
    """What a reader chooses at the top; several values at once, all of them at first."""

    name: str
    label: str
    query: str


@dataclass(frozen=True)
class Dashboard:
    """One page."""

    uid: str
    """Its address in Grafana; never changed."""
    title: str
    description: str
    variables: tuple[Variable, ...]
    rows: tuple[Row, ...]


def document(dashboard: Dashboard) -> Json:
    """A dashboard as a file that Grafana's provisioning and its import take."""
    return {
        "uid": dashboard.uid,
        "title": dashboard.title,
        "description": dashboard.description,
        "tags": [TAG],
        "schemaVersion": SCHEMA_VERSION,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "timezone": "browser",
        "annotations": {"list": []},
        "links": [_link()],
        "templating": {
            "list": [_source(), *map(_variable, dashboard.variables), _window()],
        },
        "panels": _panels(dashboard.rows),
    }


def _link() -> Json:
    return {
        "title": "Coldstart",
        "type": "dashboards",
        "tags": [TAG],
        "asDropdown": False,
        "icon": "external link",
        "includeVars": True,
        "keepTime": True,
        "targetBlank": False,
        "tooltip": "",
        "url": "",
    }


def _source() -> Json:
    return {
        "type": "datasource",
        "name": "datasource",
        "label": "Data source",
        "query": "prometheus",
        "refresh": 1,
        "hide": 0,
        "multi": False,
        "includeAll": False,
    }


def _variable(variable: Variable) -> Json:
    return {
        "type": "query",
        "name": variable.name,
        "label": variable.label,
        "datasource": SOURCE,
        "query": {"query": variable.query, "refId": variable.name},
        "refresh": 2,
        "hide": 0,
        "multi": True,
        "includeAll": True,
        # Also what has no such label, as on one machine.
        "allValue": ".*",
        "current": {"text": ["All"], "value": ["$__all"]},
        "sort": 1,
    }


def _window() -> Json:
    """Over how long rates are taken: updates may take minutes, so no scrape interval tells."""
    values = ("5m", "15m", "1h", "6h")
    chosen = "15m"
    return {
        "type": "custom",
        "name": "window",
        "label": "Rates over",
        "query": ",".join(values),
        "hide": 0,
        "multi": False,
        "includeAll": False,
        "current": {"text": chosen, "value": chosen},
        "options": [{"text": v, "value": v, "selected": v == chosen} for v in values],
    }


def _panels(rows: tuple[Row, ...]) -> list[Json]:
    """All rows' panels, from left to right and from top to bottom."""
    found: list[Json] = []
    numbers = count(1)
    top = 0
    for row in rows:
        place = {"x": 0, "y": top, "w": COLUMNS, "h": 1}
        head = {"type": "row", "id": next(numbers), "title": row.title, "gridPos": place}
        found.append({**head, "collapsed": False, "panels": []})
        top, left, height = top + 1, 0, 0
        for panel in row.panels:
            if left + panel.width > COLUMNS:
                top, left, height = top + height, 0, 0
            place = {"x": left, "y": top, "w": panel.width, "h": panel.height}
            found.append({"id": next(numbers), "gridPos": place, **_panel(panel)})
            left, height = left + panel.width, max(height, panel.height)
        top += height
    return found


def _panel(panel: Panel) -> Json:
    defaults: Json = {"unit": panel.unit, "custom": _custom(panel)}
    if panel.unit == "percentunit" or panel.stacked:
        defaults["min"] = 0
    if panel.top is not None:
        defaults["max"] = panel.top
    found = {
        "type": panel.kind,
        "title": panel.title,
        "description": panel.description,
        "datasource": SOURCE,
        "targets": [
            _target(letter, query, instant=panel.kind != "timeseries", table=panel.table)
            for letter, query in zip(ascii_uppercase, panel.queries, strict=False)
        ],
        "fieldConfig": {"defaults": defaults, "overrides": _overrides(panel.table)},
        "options": _options(panel.kind),
    }
    return found | ({"transformations": _merged(panel.table)} if panel.table else {})


def _target(letter: str, query: Query, *, instant: bool, table: Table | None) -> Json:
    return {
        "refId": letter,
        "datasource": SOURCE,
        "expr": query.expr,
        "legendFormat": query.legend,
        "editorMode": "code",
        "instant": instant,
        "range": not instant,
        **({"format": "table"} if table else {}),
    }


def _custom(panel: Panel) -> Json:
    """What only panels of this kind have."""
    if panel.kind != "timeseries":
        return {}
    return {
        "lineWidth": 1,
        "fillOpacity": 40 if panel.stacked else 0,
        "showPoints": "auto",
        "spanNulls": False,
        "stacking": {"mode": "normal" if panel.stacked else "none", "group": "A"},
        "scaleDistribution": {"type": "log", "log": 10} if panel.log else {"type": "linear"},
    }


def _options(kind: str) -> Json:
    if kind == "timeseries":
        return {
            "legend": {**_LEGEND, "calcs": ["lastNotNull"]},
            "tooltip": {"mode": "multi", "sort": "desc"},
        }
    if kind == "stat":
        return {"reduceOptions": _LAST, "colorMode": "none", "graphMode": "none"}
    if kind == "bargauge":
        return {"reduceOptions": _LAST, "orientation": "horizontal", "displayMode": "basic"}
    return {"showHeader": True}


def _overrides(table: Table | None) -> list[Json]:
    if table is None:
        return []
    properties: dict[str, list[Json]] = {}
    for name, unit in table.units.items():
        properties.setdefault(name, []).append({"id": "unit", "value": unit})
    for name, (title, url) in table.links.items():
        link = [{"title": title, "url": url, "targetBlank": False}]
        properties.setdefault(name, []).append({"id": "links", "value": link})
    return [
        {"matcher": {"id": "byName", "options": name}, "properties": found}
        for name, found in properties.items()
    ]


def _merged(table: Table) -> list[Json]:
    """One line for each set of labels, whichever query has told of it."""
    hidden = dict.fromkeys(table.hidden, True)
    order = {name: place for place, name in enumerate(table.names)}
    options = {"excludeByName": hidden, "indexByName": order, "renameByName": table.names}
    return [{"id": "merge", "options": {}}, {"id": "organize", "options": options}]
