"""A model's JSON schema as Kubernetes takes it: structural, bounded, without references or unions.

It knows nothing of the ReasoningRun in particular; what only rules can say is in `rules`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

Schema = dict[str, Any]
Path = tuple[str, ...]

STRING = 4096
"""Greatest length of a string whose model gives none."""

TIMESTAMP = 64
"""Greatest length of a timestamp."""

ITEMS = 256
"""Greatest length of a list or map whose model gives none."""

INTEGER = 2**53 - 1
"""Greatest integer where the model gives none: beyond it JSON readers disagree."""

NUMBER = 1e18
"""Greatest number where a spec's model gives none; a status has no such bound, since a number that
a stage reports must never make a status unwritable. Bounds beyond 64-bit integers refuse every
whole number: the API server casts the bound (kube-openapi, validation.MaximumInt)."""

_TEXT = ("minLength", "maxLength", "pattern", "format")


def structural(
    model: type[BaseModel], optional: Collection[Path] = (), number: float | None = None
) -> Schema:
    """The structural schema of a model, closed and with a bound on every scalar, list and map.

    Defaults are left out: the API server must not write what a preset may say
    (docs/decisions/0004).

    Args:
        model: what the schema describes.
        optional: paths of fields that the model requires and the schema must not.
        number: the bound of a `number` whose model gives none; absent: none.
    """
    document = model.model_json_schema(by_alias=True)
    reading = _Reading(document.get("$defs", {}), frozenset(optional), number)
    return reading.converted(document, ())


def at(schema: Schema, *path: str) -> Schema:
    """The schema of a field, by the names on the way to it.

    Raises:
        KeyError: there is no such field.
    """
    for name in path:
        schema = schema["properties"][name]
    return schema


@dataclass(frozen=True)
class _Reading:
    """One JSON schema that is being converted."""

    definitions: Mapping[str, Any]
    optional: frozenset[Path]
    number: float | None

    def converted(self, schema: Mapping[str, Any], path: Path) -> Schema:
        schema = self._resolved(schema)
        kind = schema["type"]
        result: Schema = {"type": kind}
        if "description" in schema:
            result["description"] = " ".join(schema["description"].split())
        if fixed := schema.get("enum", [schema["const"]] if "const" in schema else []):
            return result | {"enum": list(fixed)}
        if kind == "string":
            return result | _text(schema)
        if kind in ("integer", "number"):
            return result | _numeric(schema, self.number if kind == "number" else INTEGER)
        if kind == "array":
            return result | self._array(schema, path)
        if kind == "object":
            return result | self._object(schema, path)
        assert kind == "boolean", f"{'.'.join(path)}: no structural form for {schema}"
        return result

    def _resolved(self, schema: Mapping[str, Any]) -> Mapping[str, Any]:
        """The schema with its reference followed and the union with null reduced to its one type.

        What stands beside the reference, such as the field's description, wins.
        """
        beside = {key: value for key, value in schema.items() if key not in ("$ref", "anyOf")}
        if "$ref" in schema:
            name = schema["$ref"].removeprefix("#/$defs/")
            return {**self._resolved(self.definitions[name]), **beside}
        if "anyOf" in schema:
            kinds = [kind for kind in schema["anyOf"] if kind.get("type") != "null"]
            assert len(kinds) == 1, f"a union has no structural form: {schema}"
            return {**self._resolved(kinds[0]), **beside}
        return schema

    def _array(self, schema: Mapping[str, Any], path: Path) -> Schema:
        least = {"minItems": schema["minItems"]} if "minItems" in schema else {}
        items = self.converted(schema["items"], (*path, "[]"))
        return {"items": items, **least, "maxItems": schema.get("maxItems", ITEMS)}

    def _object(self, schema: Mapping[str, Any], path: Path) -> Schema:
        if "properties" not in schema:
            return self._map(schema, path)
        fields = {
            name: self.converted(field, (*path, name))
            for name, field in schema["properties"].items()
        }
        required = schema.get("required", ())
        required = [name for name in required if (*path, name) not in self.optional]
        return {"properties": fields, **({"required": required} if required else {})}

    def _map(self, schema: Mapping[str, Any], path: Path) -> Schema:
        bound = {"maxProperties": schema.get("maxProperties", ITEMS)}
        values = schema.get("additionalProperties")
        if not isinstance(values, Mapping):
            return {**bound, "x-kubernetes-preserve-unknown-fields": True}
        return {**bound, "additionalProperties": self.converted(values, (*path, "{}"))}


def _text(schema: Mapping[str, Any]) -> Schema:
    limit = TIMESTAMP if schema.get("format") == "date-time" else STRING
    return {"maxLength": limit} | {key: schema[key] for key in _TEXT if key in schema}


def _numeric(schema: Mapping[str, Any], greatest: float | None) -> Schema:
    """Bounds as apiextensions writes them: exclusive ones are a flag beside the bound."""
    result: Schema = {"format": "double" if schema["type"] == "number" else "int64"}
    for key, exclusive, sign in (
        ("minimum", "exclusiveMinimum", -1),
        ("maximum", "exclusiveMaximum", 1),
    ):
        bound = schema.get(key, schema.get(exclusive, greatest and sign * greatest))
        if bound is not None:
            result[key] = bound
        if exclusive in schema:
            result[exclusive] = True
    return result
