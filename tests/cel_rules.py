"""Evaluates the CEL rules of a structural schema as the API server does; counts no costs.

The engine (Rust's, from PyPI) checks no types, so a rule that mixes integers and doubles passes
here and not there: `test_crd` looks for that in the text of the rules.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

import cel

Schema = Mapping[str, Any]

ABSENT = object()
"""No earlier value: the object is being created, or the field was not there."""


def broken_rules(
    value: Any, schema: Schema, path: str = "", old: Any = ABSENT
) -> Iterator[dict[str, str]]:
    """The rules that a value breaks, as the causes of a 422.

    Rules that name `oldSelf` are transition rules: they are left out where there is no earlier
    value, and below lists, whose items have no fixed earlier one.
    """
    typed, before = _typed(value, schema), ABSENT if old is ABSENT else _typed(old, schema)
    for rule in schema.get("x-kubernetes-validations", ()):
        if "oldSelf" in rule["rule"] and before is ABSENT:
            continue
        known = {"self": typed} | ({} if before is ABSENT else {"oldSelf": before})
        try:
            holds, message = _program(rule["rule"]).execute(known), rule["message"]
        except (TypeError, ValueError, RuntimeError) as error:
            holds, message = False, f"rule {rule['rule']!r} failed: {error}"
        if holds is not True:
            yield {
                "reason": rule.get("reason", "FieldValueInvalid"),
                "field": (path + rule.get("fieldPath", "")).lstrip("."),
                "message": message,
            }
    yield from _below(value, schema, path, old)


def _below(value: Any, schema: Schema, path: str, old: Any) -> Iterator[dict[str, str]]:
    if isinstance(value, Mapping):
        properties, extra = schema.get("properties") or {}, schema.get("additionalProperties")
        for key, one in value.items():
            child = properties.get(key, extra)
            if isinstance(child, Mapping):
                before = old.get(key, ABSENT) if isinstance(old, Mapping) else ABSENT
                yield from broken_rules(one, child, f"{path}.{key}", before)
    elif isinstance(value, list) and "items" in schema:
        for index, one in enumerate(value):
            yield from broken_rules(one, schema["items"], f"{path}[{index}]")


@cache
def _program(rule: str) -> Any:
    return cel.compile(rule)


def _typed(value: Any, schema: Schema) -> Any:
    """The value with every `number` a double: JSON's 1 is an integer to Python."""
    if schema.get("type") == "number" and isinstance(value, int):
        return float(value)
    if isinstance(value, Mapping):
        properties, extra = schema.get("properties") or {}, schema.get("additionalProperties")
        return {
            key: _typed(one, child)
            if isinstance(child := properties.get(key, extra), Mapping)
            else one
            for key, one in value.items()
        }
    if isinstance(value, list):
        return [_typed(one, schema.get("items") or {}) for one in value]
    return value
