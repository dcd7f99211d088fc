"""run.yaml, read and validated once, at the edge; everything behind it holds a ReasoningRun."""

from __future__ import annotations

import math
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from coldstart import yamlfile
from coldstart.preset import resolve
from coldstart.run import ReasoningRun, RunSpec
from coldstart.schema import MAX_PROBLEMS, fields, printable, problems, section_of
from coldstart.spec import Stage

STAGES = frozenset((stage.value,) for stage in Stage)
"""The paths of the stages' sections in a spec."""


class RunFileError(ValueError):
    """A run.yaml, or a file that leads to some, that cannot be used; one line for each mistake."""

    def __init__(self, lines: list[str]) -> None:
        super().__init__("\n".join(lines))
        self.lines = lines


def load(path: Path) -> ReasoningRun:
    """The run that a file describes, its preset resolved.

    Raises:
        RunFileError: every mistake that was found, with the path of its field.
    """
    return validated(mapping(path, "ReasoningRun"), f"{path}: ")


def validated(document: dict[str, Any], prefix: str) -> ReasoningRun:
    """The run that a document describes, its preset resolved.

    Args:
        document: it.
        prefix: where it came from, for the mistakes.

    Raises:
        RunFileError: as `load`.
    """
    try:
        run = _parsed(resolve(document))
    except ValidationError as error:
        raise RunFileError(problems(error, prefix, ReasoningRun)) from error
    except ValueError as error:
        raise RunFileError([f"{prefix}{error}"]) from error
    lines = [*_foreign(document, ""), *_lost(document, run)]
    if lines:
        raise RunFileError([f"{prefix}{line}" for line in lines[:MAX_PROBLEMS]])
    return run


def _parsed(document: dict[str, Any]) -> ReasoningRun:
    run = ReasoningRun.parse(document)
    assert isinstance(run, ReasoningRun)
    return run


def mapping(path: Path, kind: str) -> dict[str, Any]:
    """The one document of a file, which is to be of a kind; nothing in it is judged.

    Raises:
        RunFileError: it cannot be read, or is no such file.
    """
    try:
        with path.open("rb") as stream:
            data = stream.read(yamlfile.MAX_BYTES + 1)
    except OSError as error:
        raise RunFileError([f"{path}: cannot be read: {error.strerror}"]) from error
    if len(data) > yamlfile.MAX_BYTES:
        raise RunFileError([f"{path}: is longer than {yamlfile.MAX_BYTES} bytes: no {kind} is"])
    try:
        documents = yamlfile.documents(data.decode())
    except UnicodeDecodeError as error:
        raise RunFileError([f"{path}: is not UTF-8 text: {error}"]) from error
    except ValueError as error:
        raise RunFileError([f"{path}: is not YAML: {printable(str(error))}"]) from error
    if len(documents) != 1:
        raise RunFileError([f"{path}: holds {len(documents)} documents; one {kind} is needed"])
    document = documents[0]
    if not isinstance(document, dict):
        raise RunFileError([f"{path}: must be a mapping, is a {type(document).__name__}"])
    return document


def _foreign(value: Any, path: str) -> Iterator[str]:
    """What no JSON holds, where a field takes anything: the cluster and the stage read JSON."""
    if isinstance(value, dict):
        for key, item in value.items():
            if isinstance(key, str):
                yield from _foreign(item, f"{path}.{printable(key, 80)}")
            else:
                yield f"{path.lstrip('.')}: the key {key!r:.80} must be a text: put it in quotes"
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _foreign(item, f"{path}[{index}]")
    elif isinstance(value, float) and not math.isfinite(value):
        yield f"{path.lstrip('.')}: must be a finite number (is {value})"
    elif isinstance(value, int) and not -(2**63) <= value < 2**63:
        yield f"{path.lstrip('.')}: must fit into 64 bits"


def _lost(document: dict[str, Any], run: ReasoningRun) -> Iterator[str]:
    """Fields without a value that mean something here: an API server would drop them."""
    for path in _empty(document["spec"], RunSpec, ()):
        where = ".".join(["spec", *path])
        if path in STAGES:
            yield f"{where}: is empty, which a cluster takes for absent: write {{}} or leave it out"
        elif not _same(_without(document, path), run):
            yield (
                f"{where}: has no value, and a cluster takes the preset's or the default: write "
                "one, or leave the field out"
            )


def _without(document: dict[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
    """The document without one field of its spec."""
    copy = deepcopy(document)
    section = copy["spec"]
    for part in path[:-1]:
        section = section[part]
    del section[path[-1]]
    return copy


def _same(document: dict[str, Any], run: ReasoningRun) -> bool:
    try:
        return _parsed(resolve(document)) == run
    except ValidationError:
        return False


def _empty(
    section: Any, model: type[BaseModel], path: tuple[str, ...]
) -> Iterator[tuple[str, ...]]:
    """The paths of the nulls in a section's own fields; a field that takes anything keeps its."""
    for key, info in fields(model).items():
        if key not in section:
            continue
        inner = section_of(info.annotation)
        if section[key] is None:
            yield (*path, key)
        elif inner and isinstance(section[key], dict):
            yield from _empty(section[key], inner, (*path, key))
