"""run.yaml, read and validated once, at the edge; everything behind it holds a ReasoningRun."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from coldstart.preset import resolve
from coldstart.run import ReasoningRun
from coldstart.schema import problems


class RunFileError(ValueError):
    """A run.yaml that cannot be used; one line for each mistake."""

    def __init__(self, lines: list[str]) -> None:
        super().__init__("\n".join(lines))
        self.lines = lines


class _UniqueKeyLoader(yaml.SafeLoader):
    """YAML's safe loader, but a key written twice is an error: the first would be lost unsaid."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for (key_node, _), key in zip(node.value, keys, strict=True):
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} is there twice", key_node.start_mark
                )
        return super().construct_mapping(node, deep=deep)


def load(path: Path) -> ReasoningRun:
    """The run that a file describes, its preset resolved.

    Raises:
        RunFileError: every mistake that was found, with the path of its field.
    """
    document = _mapping(path)
    try:
        return _parsed(resolve(document))
    except ValidationError as error:
        raise RunFileError(problems(error, f"{path}: ", ReasoningRun)) from error
    except ValueError as error:
        raise RunFileError([f"{path}: {error}"]) from error


def _parsed(document: dict[str, Any]) -> ReasoningRun:
    run = ReasoningRun.parse(document)
    assert isinstance(run, ReasoningRun)
    return run


def _mapping(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise RunFileError([f"{path}: cannot be read: {error.strerror}"]) from error
    except UnicodeDecodeError as error:
        raise RunFileError([f"{path}: is not UTF-8 text: {error}"]) from error
    try:
        documents = [item for item in yaml.load_all(text, _UniqueKeyLoader) if item is not None]
    except yaml.YAMLError as error:
        raise RunFileError([f"{path}: is not YAML: {' '.join(str(error).split())}"]) from error
    if len(documents) != 1:
        raise RunFileError(
            [f"{path}: holds {len(documents)} documents; one ReasoningRun is needed"]
        )
    document = documents[0]
    if not isinstance(document, dict):
        raise RunFileError([f"{path}: must be a mapping, is a {type(document).__name__}"])
    return document
