"""Objects as the table that kubectl prints; a subset of JSONPath, enough for printer columns."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from apiserver.resources import Resource

_STEP = re.compile(
    r"\.(?P<name>(?:[^.\[\]\\]|\\.)+)"
    r"|\[\?\(\s*@\.(?P<field>[\w.]+)\s*(?P<op>==|!=)\s*[\"'](?P<value>[^\"']*)[\"']\s*\)\]"
    r"|\[(?P<index>-?\d+)(?P<slice>:)?\]"
    r"|\[['\"](?P<quoted>[^'\"]+)['\"]\]"
    r"|(?P<all>\[\*\])"
)

_POD = (
    {"name": "Status", "type": "string", "jsonPath": ".status.phase"},
    {
        "name": "Restarts",
        "type": "integer",
        "jsonPath": ".status.containerStatuses[0].restartCount",
    },
)
_JOB = (
    {"name": "Completions", "type": "integer", "jsonPath": ".status.succeeded"},
    {"name": "Active", "type": "integer", "jsonPath": ".status.active"},
)
_EVENT = tuple(
    {"name": name, "type": "string", "jsonPath": path}
    for name, path in (
        ("Type", ".type"),
        ("Reason", ".reason"),
        ("Object", ".involvedObject.name"),
        ("Message", ".message"),
    )
)
_AGE = {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}


def columns(resource: Resource) -> list[Mapping[str, Any]]:
    """What is shown of a resource beside its name."""
    own = {"pods": _POD, "jobs": _JOB, "events": _EVENT}.get(resource.plural, ())
    if resource.custom:
        return list(resource.columns) or [_AGE]
    return [*own, _AGE]


def table(
    resource: Resource,
    objects: Iterable[Mapping[str, Any]],
    metadata: Mapping[str, Any],
    include: str = "Metadata",
    *,
    header: bool = True,
) -> dict[str, Any]:
    """The Table of some objects; `include` is the request's includeObject."""
    shown = columns(resource)
    definitions = [
        {"name": "Name", "type": "string", "format": "name", "description": "", "priority": 0},
        *(
            {
                "name": one["name"],
                "type": one["type"],
                "format": one.get("format", ""),
                "description": one.get("description", ""),
                "priority": one.get("priority", 0),
            }
            for one in shown
        ),
    ]
    rows = []
    for document in objects:
        cells = [document["metadata"]["name"], *(_cell(one, document) for one in shown)]
        row: dict[str, Any] = {"cells": cells}
        if include == "Object":
            row["object"] = document
        elif include == "Metadata":
            row["object"] = {
                "kind": "PartialObjectMetadata",
                "apiVersion": "meta.k8s.io/v1",
                "metadata": document["metadata"],
            }
        rows.append(row)
    return {
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": dict(metadata),
        "columnDefinitions": definitions if header else [],
        "rows": rows,
    }


def _cell(column: Mapping[str, Any], document: Mapping[str, Any]) -> Any:
    found = look(document, column["jsonPath"])
    if not found or found[0] is None:
        return "<unknown>" if column["type"] == "date" else None
    value = found[0]
    match column["type"]:
        case "integer" | "number":
            return value if isinstance(value, (int, float)) else None
        case "boolean":
            return value if isinstance(value, bool) else None
        case "date":
            return age(str(value))
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if not isinstance(value, (dict, list)) else _go(value)


def _go(value: Any) -> str:
    if isinstance(value, list):
        return "[" + " ".join(str(one) for one in value) + "]"
    return "map[" + " ".join(f"{key}:{value[key]}" for key in sorted(value)) + "]"


def look(document: Any, path: str) -> list[Any]:
    """The values at a JSONPath; an empty list where there is none.

    Raises:
        ValueError: the path is not understood.
    """
    values, position = [document], 0
    path = path.strip().strip("{}").removeprefix("$")
    while position < len(path):
        match = _STEP.match(path, position)
        if not match:
            raise ValueError(f"JSONPath {path!r} is not understood at {path[position:]!r}")
        values = [one for value in values for one in _step(value, match)]
        position = match.end()
    return values


def _step(value: Any, match: re.Match[str]) -> list[Any]:
    name = match["quoted"] or (match["name"] or "").replace("\\", "")
    if name:
        return [value[name]] if isinstance(value, Mapping) and name in value else []
    if not isinstance(value, list):
        return []
    if match["field"]:
        return [one for one in value if _filtered(one, match)]
    if match["all"]:
        return value
    index = int(match["index"])
    if match["slice"]:
        return value[index:]
    return [value[index]] if -len(value) <= index < len(value) else []


def _filtered(one: Any, match: re.Match[str]) -> bool:
    """Whether a filter takes an item; one without the field is not taken by `!=` either."""
    found = look(one, f".{match['field']}")
    return bool(found) and (found == [match["value"]]) is (match["op"] == "==")


def age(text: str) -> str:
    """How long ago a time was, as kubectl writes it."""
    try:
        seconds = int((datetime.now(UTC) - datetime.fromisoformat(text)).total_seconds())
    except ValueError:
        return "<invalid>"
    if seconds < 120:
        return f"{max(0, seconds)}s"
    minutes, hours = seconds // 60, seconds // 3600
    if minutes < 10:
        return f"{minutes}m{seconds % 60}s" if seconds % 60 else f"{minutes}m"
    if minutes < 180:
        return f"{minutes}m"
    if hours < 8:
        return f"{hours}h{minutes % 60}m" if minutes % 60 else f"{hours}h"
    return f"{hours}h" if hours < 48 else f"{hours // 24}d"
