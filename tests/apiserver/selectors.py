"""Label and field selectors as the API reads them; knows nothing of requests."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from apiserver.errors import failure

Test = Callable[[Mapping[str, Any]], bool]
"""Whether an object is selected."""

_SET = re.compile(r"^(?P<key>[^\s!=,()]+)\s+(?P<op>in|notin)\s*\((?P<values>[^()]*)\)$")
_EQUAL = re.compile(r"^(?P<key>[^\s!=,()]+)\s*(?P<op>==|=|!=)\s*(?P<value>[^\s!=,()]*)$")
_EXISTS = re.compile(r"^(?P<not>!?)\s*(?P<key>[^\s!=,()]+)$")

COMMON_FIELDS = ("metadata.name", "metadata.namespace")


def label_test(text: str) -> Test | None:
    """The test of a label selector; none where it is empty.

    Raises:
        ApiError: 400, it cannot be parsed.
    """
    parts = [part.strip() for part in re.split(r",(?![^()]*\))", text) if part.strip()]
    tests = [_requirement(part) for part in parts]
    if not tests:
        return None

    def test(document: Mapping[str, Any]) -> bool:
        labels = document["metadata"].get("labels") or {}
        return all(one(labels) for one in tests)

    return test


def _requirement(part: str) -> Test:
    if match := _SET.match(part):
        key, values = match["key"], {value.strip() for value in match["values"].split(",")}
        if match["op"] == "in":
            return lambda labels: labels.get(key) in values
        return lambda labels: labels.get(key) not in values
    if match := _EQUAL.match(part):
        key, value = match["key"], match["value"]
        if match["op"] == "!=":
            return lambda labels: labels.get(key) != value
        return lambda labels: labels.get(key) == value
    if match := _EXISTS.match(part):
        key, absent = match["key"], bool(match["not"])
        return lambda labels: (key in labels) is not absent
    raise failure(400, f"unable to parse requirement: {part!r}")


def field_test(text: str, supported: tuple[str, ...]) -> Test | None:
    """The test of a field selector; none where it is empty.

    Raises:
        ApiError: 400, a field that the resource cannot be selected by.
    """
    tests: list[Test] = []
    for part in filter(None, text.split(",")):
        match = re.match(r"^([^!=]+)(==|=|!=)(.*)$", part)
        if not match:
            raise failure(400, f"invalid selector: {text!r}; can't understand {part!r}")
        path, operator, value = match.groups()
        if path not in (*COMMON_FIELDS, *supported):
            raise failure(400, f"field label not supported: {path}")
        tests.append(_field(path.split("."), value, negate=operator == "!="))
    return (lambda document: all(one(document) for one in tests)) if tests else None


def _field(path: list[str], value: str, *, negate: bool) -> Test:
    def test(document: Mapping[str, Any]) -> bool:
        found: Any = document
        for part in path:
            found = found.get(part) if isinstance(found, Mapping) else None
        return ((str(found) if found is not None else "") == value) is not negate

    return test
