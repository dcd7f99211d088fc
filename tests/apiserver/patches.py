"""The four patch formats on plain documents, none of them changing its input; no API rules.

Merge keys of strategic merge are those of the kinds that this server has built in, by field name
alone. Server-side apply keeps what each manager applied as a set of paths in `managedFields`;
lists are one value unless the schema makes them a map.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from apiserver.errors import ApiError, failure

MERGE_KEYS = {
    "containers": "name",
    "initContainers": "name",
    "env": "name",
    "volumes": "name",
    "volumeMounts": "mountPath",
    "imagePullSecrets": "name",
    "conditions": "type",
    "ownerReferences": "uid",
    "ports": "port",
}


def merge(target: Any, patch: Any) -> Any:
    """RFC 7386."""
    if not isinstance(patch, Mapping):
        return patch
    merged = dict(target) if isinstance(target, Mapping) else {}
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = merge(merged.get(key), value)
    return merged


def strategic(target: Any, patch: Any, field: str = "") -> Any:
    """Strategic merge: maps are merged, lists of the known fields by their key."""
    if isinstance(patch, list):
        return _strategic_list(target, patch, field)
    if not isinstance(patch, Mapping):
        return patch
    if patch.get("$patch") == "replace":
        return {key: value for key, value in patch.items() if key != "$patch"}
    merged = dict(target) if isinstance(target, Mapping) else {}
    for key, value in patch.items():
        if key.startswith("$deleteFromPrimitiveList/"):
            name = key.partition("/")[2]
            merged[name] = [one for one in merged.get(name) or [] if one not in value]
        elif key.startswith("$"):
            continue  # $setElementOrder and $retainKeys: order and unions are not kept
        elif value is None:
            merged.pop(key, None)
        else:
            merged[key] = strategic(merged.get(key), value, key)
    return merged


def _strategic_list(target: Any, patch: list[Any], field: str) -> list[Any]:
    old = list(target) if isinstance(target, list) else []
    if field == "finalizers":
        return old + [one for one in patch if one not in old]
    key = MERGE_KEYS.get(field)
    if field == "ports" and patch and "containerPort" in patch[0]:
        key = "containerPort"
    if key is None:
        return patch
    new = []
    for item in patch:
        at = next((i for i, one in enumerate(old) if one.get(key) == item.get(key)), None)
        if item.get("$patch") == "delete":
            old = [one for one in old if one.get(key) != item.get(key)]
        elif at is None:
            new.append(item)
        else:
            old[at] = strategic(old[at], item)
    return new + old


def json_patch(target: Any, operations: Any) -> Any:
    """RFC 6902.

    Raises:
        ApiError: 422, a test failed or a path is not there; 400, no list of operations.
    """
    if not isinstance(operations, list):
        raise failure(400, "json: cannot unmarshal object into Go value of type jsonpatch.Patch")
    result = copy.deepcopy(target)
    try:
        for operation in operations:
            result = _operate(result, operation)
    except (KeyError, IndexError, ValueError, TypeError) as error:
        message = f"the server rejected our request due to an error in our request: {error}"
        raise ApiError(422, "Invalid", message) from error
    return result


def _operate(document: Any, operation: Mapping[str, Any]) -> Any:
    name, path = operation["op"], _pointer(operation["path"])
    if name == "test":
        if _at(document, path) != operation["value"]:
            raise ValueError(f"testing value {operation['path']} failed")
        return document
    if name in {"move", "copy"}:
        source = _pointer(operation["from"])
        value = copy.deepcopy(_at(document, source))
        if name == "move":
            document = _remove(document, source)
        return _add(document, path, value)
    if name == "remove":
        return _remove(document, path)
    if name == "replace":
        _at(document, path)
        return _add(_remove(document, path), path, operation["value"])
    if name == "add":
        return _add(document, path, operation["value"])
    raise ValueError(f"unexpected operation {name!r}")


def _pointer(text: str) -> list[str]:
    return [part.replace("~1", "/").replace("~0", "~") for part in text.split("/")[1:]]


def _at(document: Any, path: list[str]) -> Any:
    for part in path:
        document = document[int(part)] if isinstance(document, list) else document[part]
    return document


def _add(document: Any, path: list[str], value: Any) -> Any:
    if not path:
        return value
    parent = _at(document, path[:-1])
    if isinstance(parent, list):
        parent.insert(len(parent) if path[-1] == "-" else int(path[-1]), value)
    else:
        parent[path[-1]] = value
    return document


def _remove(document: Any, path: list[str]) -> Any:
    parent = _at(document, path[:-1])
    del parent[int(path[-1]) if isinstance(parent, list) else path[-1]]
    return document


# Server-side apply

Path = tuple[str, ...]


def apply(
    live: Mapping[str, Any] | None,
    applied: Mapping[str, Any],
    manager: str,
    *,
    force: bool,
    time: str,
) -> dict[str, Any]:
    """What one manager's apply makes of an object.

    Raises:
        ApiError: 409, another manager applied another value to one of its fields.
    """
    wanted = {key: value for key, value in applied.items() if key not in {"apiVersion", "kind"}}
    metadata = {
        key: value
        for key, value in wanted.get("metadata", {}).items()
        if key in {"labels", "annotations", "finalizers", "ownerReferences"}
    }
    wanted = {**wanted, "metadata": metadata} if metadata else _without(wanted, "metadata")
    owned = leaves(wanted)
    base: dict[str, Any] = copy.deepcopy(dict(live)) if live else copy.deepcopy(dict(applied))
    managers = list(base.get("metadata", {}).get("managedFields") or [])
    others = [one for one in managers if one["manager"] != manager]
    clashes = _clashes(base, wanted, owned, others) if live else {}
    if clashes and not force:
        raise _apply_conflict(clashes)
    for one in managers:
        if one["manager"] == manager:
            before = _paths(one["fieldsV1"])
            elsewhere = set().union(*(_paths(other["fieldsV1"]) for other in others))
            for path in before - owned - elsewhere:
                _drop(base, path)
    result: dict[str, Any] = merge(base, copy.deepcopy(wanted))
    mine = {
        "manager": manager,
        "operation": "Apply",
        "apiVersion": applied.get("apiVersion"),
        "time": time,
        "fieldsType": "FieldsV1",
        "fieldsV1": _fields(owned),
    }
    taken = {path for paths in clashes.values() for path in paths}
    kept = [{**one, "fieldsV1": _fields(_paths(one["fieldsV1"]) - taken)} for one in others]
    result["metadata"]["managedFields"] = _same_time([*kept, mine], managers)
    return result


def _same_time(entries: list[dict[str, Any]], before: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The entries by age, each with its old time where it says what it said before."""
    times = {(one["manager"], str(one["fieldsV1"])): one.get("time") for one in before}
    timed = [
        {**one, "time": times.get((one["manager"], str(one["fieldsV1"])), one.get("time"))}
        for one in entries
        if one["fieldsV1"]
    ]
    return sorted(timed, key=lambda one: (one["operation"], one["time"] or "", one["manager"]))


def leaves(document: Any, path: Path = ()) -> set[Path]:
    """The paths of all values that are no map; a list is one value."""
    if not isinstance(document, Mapping) or not document:
        return {path} if path else set()
    return set().union(*(leaves(value, (*path, key)) for key, value in document.items()))


def _clashes(
    live: Mapping[str, Any], wanted: Any, owned: set[Path], others: list[dict[str, Any]]
) -> dict[str, set[Path]]:
    found: dict[str, set[Path]] = {}
    for one in others:
        for path in _paths(one["fieldsV1"]) & owned:
            if _look(live, path) != _look(wanted, path):
                found.setdefault(one["manager"], set()).add(path)
    return found


def _apply_conflict(clashes: dict[str, set[Path]]) -> ApiError:
    causes = [
        {
            "reason": "FieldManagerConflict",
            "message": f'conflict with "{manager}"',
            "field": "." + ".".join(path),
        }
        for manager, paths in clashes.items()
        for path in sorted(paths)
    ]
    first = causes[0]
    message = f"Apply failed with {len(causes)} conflict: {first['message']}: {first['field']}"
    return ApiError(409, "Conflict", message, {"causes": causes})


def _paths(fields: Mapping[str, Any], path: Path = ()) -> set[Path]:
    if not fields:
        return {path} if path else set()
    return set().union(*(_paths(value, (*path, key[2:])) for key, value in fields.items()))


def _fields(paths: set[Path]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for path in sorted(paths):
        node = tree
        for part in path:
            node = node.setdefault(f"f:{part}", {})
    return tree


def _look(document: Any, path: Path) -> Any:
    for part in path:
        document = document.get(part) if isinstance(document, Mapping) else None
    return document


def _drop(document: dict[str, Any], path: Path) -> None:
    parent = _look(document, path[:-1])
    if isinstance(parent, dict):
        parent.pop(path[-1], None)
        if not parent and len(path) > 1:
            _drop(document, path[:-1])


def _without(document: Mapping[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in document.items() if name != key}
