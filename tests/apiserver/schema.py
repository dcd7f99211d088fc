"""Pruning, defaulting and validation by a structural schema; counts no costs of CEL rules.

As apiextensions-apiserver orders them: prune what the schema does not know, fill in defaults
(also for a null where null is not allowed), drop the remaining nulls that are not allowed,
validate. Validation is never ratcheted: an old mistake is refused again on every update.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import Any

from apiserver.errors import cause

Schema = Mapping[str, Any]
Causes = Iterator[dict[str, str]]

_ROOT = ("apiVersion", "kind", "metadata")
_KEEP = "x-kubernetes-preserve-unknown-fields"
_EMBEDDED = "x-kubernetes-embedded-resource"
_INT_OR_STRING = "x-kubernetes-int-or-string"
_TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "boolean": (bool,),
    "integer": (int,),
    "number": (int, float),
}


def admit(document: Mapping[str, Any], schema: Schema) -> tuple[dict[str, Any], list[str]]:
    """The object pruned and defaulted, and the paths of what was pruned."""
    unknown: list[str] = []
    pruned = _prune(document, schema, "", unknown, root=True)
    return default(pruned, schema), unknown


def _prune(value: Any, schema: Schema, path: str, unknown: list[str], *, root: bool = False) -> Any:
    if isinstance(value, list):
        items = schema.get("items")
        if items is None:
            return value if schema.get(_KEEP) else copy.copy(value)
        return [_prune(one, items, f"{path}[{i}]", unknown) for i, one in enumerate(value)]
    if not isinstance(value, Mapping):
        return value
    properties, extra = schema.get("properties") or {}, schema.get("additionalProperties")
    kept: dict[str, Any] = {}
    for key, child in value.items():
        at = f"{path}.{key}" if path else key
        if (root or schema.get(_EMBEDDED)) and key in _ROOT:
            kept[key] = child
        elif key in properties:
            kept[key] = _prune(child, properties[key], at, unknown)
        elif isinstance(extra, Mapping):
            kept[key] = _prune(child, extra, at, unknown)
        elif extra is True or schema.get(_KEEP):
            kept[key] = child
        else:
            unknown.append(at)
    return kept


def default(value: Any, schema: Schema) -> Any:
    """A value with defaults filled in and forbidden nulls dropped; does not change its input."""
    if isinstance(value, list):
        items = schema.get("items")
        return [default(one, items) for one in value] if items else value
    if not isinstance(value, Mapping):
        return value
    properties, extra = schema.get("properties") or {}, schema.get("additionalProperties")
    filled = dict(value)
    for key, child in properties.items():
        if "default" in child and (filled.get(key) is None and not _null(filled, key, child)):
            filled[key] = copy.deepcopy(child["default"])
    for key in list(filled):
        child = properties.get(key, extra if isinstance(extra, Mapping) else None)
        if child is None:
            continue
        if filled[key] is None and not child.get("nullable"):
            del filled[key]
        else:
            filled[key] = default(filled[key], child)
    return filled


def _null(value: Mapping[str, Any], key: str, schema: Schema) -> bool:
    """Whether a key holds a null that is allowed there."""
    return key in value and bool(schema.get("nullable"))


def mistakes(value: Any, schema: Schema, path: str = "") -> Causes:
    """What is wrong with a value, as causes of a 422."""
    if value is None and schema.get("nullable"):
        return
    if schema.get(_INT_OR_STRING):
        if isinstance(value, bool) or not isinstance(value, (int, str)):
            yield _type(value, path, "integer,string")
            return
    elif "type" in schema and not _is(value, schema["type"]):
        yield _type(value, path, schema["type"])
        return
    if "enum" in schema and value not in schema["enum"]:
        supported = ", ".join(json.dumps(one) for one in schema["enum"])
        text = f"Unsupported value: {json.dumps(value)}: supported values: {supported}"
        yield cause("FieldValueNotSupported", path, text)
    if isinstance(value, str):
        yield from _string(value, schema, path)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield from _number(value, schema, path)
    elif isinstance(value, list):
        yield from _array(value, schema, path)
    elif isinstance(value, Mapping):
        yield from _object(value, schema, path)
    yield from _junctors(value, schema, path)


def _is(value: Any, name: str) -> bool:
    if isinstance(value, bool):
        return name == "boolean"
    if name == "integer" and isinstance(value, float):
        return value.is_integer()
    return isinstance(value, _TYPES[name])


def _type(value: Any, path: str, name: str) -> dict[str, str]:
    kinds = {dict: "object", list: "array", str: "string", bool: "boolean", type(None): "null"}
    got = kinds.get(type(value), "integer" if isinstance(value, int) else "number")
    text = f'Invalid value: "{got}": {path} in body must be of type {name}: "{got}"'
    return cause("FieldValueTypeInvalid", path, text)


def _bad(value: Any, path: str, what: str) -> dict[str, str]:
    shown = json.dumps(value, ensure_ascii=False)[:200]
    return cause("FieldValueInvalid", path, f"Invalid value: {shown}: {path} in body {what}")


def _string(value: str, schema: Schema, path: str) -> Causes:
    if len(value) > schema.get("maxLength", len(value)):
        text = f"Too long: may not be more than {schema['maxLength']} bytes"
        yield cause("FieldValueTooLong", path, text)
    if len(value) < schema.get("minLength", 0):
        yield _bad(value, path, f"should be at least {schema['minLength']} chars long")
    if "pattern" in schema and not re.search(schema["pattern"], value):
        yield _bad(value, path, f"should match '{schema['pattern']}'")
    if schema.get("format") in {"date-time", "date"}:
        try:
            datetime.fromisoformat(value)
        except ValueError:
            yield _bad(value, path, f'must be of type {schema["format"]}: "{value}"')


def _number(value: float, schema: Schema, path: str) -> Causes:
    checks: tuple[tuple[str, str, str, Callable[[float, float], bool]], ...] = (
        ("minimum", "exclusiveMinimum", "greater than", lambda a, b: a > b),
        ("maximum", "exclusiveMaximum", "less than", lambda a, b: a < b),
    )
    for bound, exclusive, words, beyond in checks:
        if bound not in schema:
            continue
        limit, strict = schema[bound], schema.get(exclusive)
        if not (beyond(value, limit) or (not strict and value == limit)):
            suffix = "" if strict else " or equal to"
            yield _bad(value, path, f"should be {words}{suffix} {limit}")
    if "multipleOf" in schema and value % schema["multipleOf"]:
        yield _bad(value, path, f"should be a multiple of {schema['multipleOf']}")
    bits = {"int32": 31, "int64": 63}.get(schema.get("format", ""))
    if bits and not -(2**bits) <= value < 2**bits:
        yield _bad(value, path, f"must be of type {schema['format']}")


def _array(value: list[Any], schema: Schema, path: str) -> Causes:
    if len(value) > schema.get("maxItems", len(value)):
        text = f"Too many: {len(value)}: must have at most {schema['maxItems']} items"
        yield cause("FieldValueTooMany", path, text)
    if len(value) < schema.get("minItems", 0):
        yield _bad(len(value), path, f"should have at least {schema['minItems']} items")
    items = schema.get("items") or {}
    for index, one in enumerate(value) if items else ():
        yield from mistakes(one, items, f"{path}[{index}]")
    kind = schema.get("x-kubernetes-list-type")
    keys = schema.get("x-kubernetes-list-map-keys") or ()
    seen: set[str] = set()
    for index, one in enumerate(value) if kind in {"set", "map"} else ():
        identity = one if kind == "set" else {key: one.get(key) for key in keys}
        text = json.dumps(identity, sort_keys=True)
        if text in seen:
            yield cause("FieldValueDuplicate", f"{path}[{index}]", f"Duplicate value: {text}")
        seen.add(text)


def _object(value: Mapping[str, Any], schema: Schema, path: str) -> Causes:
    for key in schema.get("required") or ():
        if key not in value:
            at = f"{path}.{key}" if path else key
            yield cause("FieldValueRequired", at, "Required value")
    if len(value) > schema.get("maxProperties", len(value)):
        text = f"Too many: {len(value)}: must have at most {schema['maxProperties']} items"
        yield cause("FieldValueTooMany", path, text)
    if len(value) < schema.get("minProperties", 0):
        yield _bad(len(value), path, f"should have at least {schema['minProperties']} properties")
    properties, extra = schema.get("properties") or {}, schema.get("additionalProperties")
    for key, one in value.items():
        child = properties.get(key, extra)
        if isinstance(child, Mapping) and not (path == "" and key == "metadata"):
            yield from mistakes(one, child, f"{path}.{key}" if path else key)


def _junctors(value: Any, schema: Schema, path: str) -> Causes:
    for one in schema.get("allOf") or ():
        yield from mistakes(value, one, path)
    fits = _fits
    if "anyOf" in schema and not any(fits(value, one) for one in schema["anyOf"]):
        yield _bad(value, path, "must validate at least one schema (anyOf)")
    if "oneOf" in schema and sum(fits(value, one) for one in schema["oneOf"]) != 1:
        yield _bad(value, path, "must validate one and only one schema (oneOf)")
    if "not" in schema and fits(value, schema["not"]):
        yield _bad(value, path, "must not validate the schema (not)")


def _fits(value: Any, schema: Schema) -> bool:
    return next(mistakes(value, schema), None) is None


def broken(
    document: Mapping[str, Any], schema: Schema, old: Mapping[str, Any] | None
) -> list[dict[str, str]]:
    """The CEL rules that an object breaks; the object fits the schema otherwise."""
    from cel_rules import ABSENT, broken_rules  # its engine is needed only where there are rules

    return [
        # Kubernetes before 1.34 puts "object" in between.
        {**one, "message": f"Invalid value: {one['message']}"}
        for one in broken_rules(document, schema, old=ABSENT if old is None else old)
    ]


_IN_JUNCTORS = ("type", "default", "title", "description", "nullable", "additionalProperties")
_UNSUPPORTED = ("$ref", "definitions", "dependencies", "patternProperties", "id")


def unstructural(schema: Schema, path: str = "openAPIV3Schema", *, inside: bool = False) -> Causes:
    """Why a schema is not structural, or uses what apiextensions forbids."""
    typed = schema.get(_KEEP) or schema.get(_INT_OR_STRING)
    if not inside and "type" not in schema and not typed:
        yield cause("FieldValueRequired", f"{path}.type", "Required value: must not be empty")
    for key in (*_UNSUPPORTED, *(_IN_JUNCTORS if inside else ())):
        if key in schema:
            text = f"Forbidden: must be undefined to be structural ({key})"
            yield cause("FieldValueForbidden", f"{path}.{key}", text)
    if schema.get("uniqueItems"):
        text = "Forbidden: uniqueItems cannot be set to true: it takes quadratic time"
        yield cause("FieldValueForbidden", f"{path}.uniqueItems", text)
    if "properties" in schema and "additionalProperties" in schema:
        text = "Forbidden: additionalProperties and properties are mutual exclusive"
        yield cause("FieldValueForbidden", f"{path}.additionalProperties", text)
    if schema.get("type") == "array" and "items" not in schema and not inside:
        yield cause("FieldValueRequired", f"{path}.items", "Required value: must be specified")
    if "default" in schema and not inside:
        yield from mistakes(schema["default"], schema, f"{path}.default")
    yield from _unstructural_children(schema, path, inside=inside)


def _unstructural_children(schema: Schema, path: str, *, inside: bool) -> Causes:
    for key, child in (schema.get("properties") or {}).items():
        yield from unstructural(child, f"{path}.properties[{key}]", inside=inside)
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), Mapping):
            yield from unstructural(schema[key], f"{path}.{key}", inside=inside)
    for key in ("allOf", "anyOf", "oneOf"):
        if key == "anyOf" and schema.get(_INT_OR_STRING):
            continue  # integer or string: the one union whose branches have types
        for index, child in enumerate(schema.get(key) or ()):
            yield from unstructural(child, f"{path}.{key}[{index}]", inside=True)
    if "not" in schema:
        yield from unstructural(schema["not"], f"{path}.not", inside=True)
