"""YAML as kubectl reads it: what JSON can hold and nothing else; knows no fields.

The same file goes to a cluster and to one machine, so it must say the same to both: `1e-5` is a
number, `2026-01-01` and `12:30` are texts, and there are no dates, sets or bytes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

import yaml

MAX_BYTES = 1024 * 1024
"""The longest file: about what an API server stores of an object (etcd takes 1.5 MiB)."""

MAX_DEPTH = 50
"""Mappings and lists in each other."""

MAX_NODES = 100_000
"""Values in all, each alias counted as what it stands for."""

MAX_DIGITS = 400
"""The longest number; longer ones take a time that grows with their square."""

_TAG = "tag:yaml.org,2002:"
_MERGE = f"{_TAG}merge"


class _Loader(yaml.SafeLoader):
    """YAML's safe loader with the types of JSON, unique keys and an end to nesting."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0
        self._measures: dict[yaml.Node, tuple[int, int]] = {}
        """How many values each finished node holds, and how deep they lie."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            node = super().compose_node(parent, index)
            if node not in self._measures:
                raise yaml.composer.ComposerError(None, None, "an alias that holds itself", mark)
            return node
        self._depth += 1
        if self._depth > MAX_DEPTH:
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.composer.ComposerError(None, None, f"more than {MAX_DEPTH} deep", mark)
        node = super().compose_node(parent, index)
        self._depth -= 1
        assert node is not None
        self._measures[node] = self._measured(node)
        return node

    def _measured(self, node: yaml.Node) -> tuple[int, int]:
        children = [self._measures[child] for child in _children(node)]
        size = 1 + sum(size for size, _ in children)
        depth = 1 + max((depth for _, depth in children), default=0)
        if size > MAX_NODES or depth > MAX_DEPTH:
            limit = f"{MAX_NODES} values" if size > MAX_NODES else f"{MAX_DEPTH} levels"
            raise yaml.composer.ComposerError(
                None, None, f"more than {limit}, aliases included", node.start_mark
            )
        if isinstance(node, yaml.MappingNode):
            _check_keys(node)
        return size, depth

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        if isinstance(node, yaml.ScalarNode) and node.tag in (f"{_TAG}int", f"{_TAG}float"):
            digits = len(node.value)
            if digits > MAX_DIGITS:
                raise _refusal(f"a number of {digits} characters", node)
        try:
            found = super().construct_object(node, deep)
        except (AttributeError, LookupError, ValueError) as error:
            what = f"{node.value!r:.80} is no {node.tag.removeprefix(_TAG)}"
            raise _refusal(what, node) from error
        return _whole(found, node) if isinstance(found, str) and not found.isascii() else found


def _whole(text: str, node: yaml.Node) -> str:
    r"""A text whose characters are whole: JSON writes some as two escapes (`\ud83d\ude00`)."""
    try:
        return text.encode("utf-16", "surrogatepass").decode("utf-16")
    except UnicodeDecodeError as error:
        raise _refusal("half a character (a lone surrogate)", node) from error


def _children(node: yaml.Node) -> Iterator[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        for pair in node.value:
            yield from pair
    elif isinstance(node, yaml.SequenceNode):
        yield from node.value


def _check_keys(node: yaml.MappingNode) -> None:
    """Refuse a key that is there twice: one of its values would be lost unsaid."""
    seen: set[str] = set()
    for key, _ in node.value:
        if not isinstance(key, yaml.ScalarNode):
            raise yaml.composer.ComposerError(
                None, None, "a key that is no plain text", key.start_mark
            )
        if key.value in seen and key.tag != _MERGE:
            raise yaml.composer.ComposerError(
                None, None, f"the key {key.value!r:.80} is there twice", key.start_mark
            )
        seen.add(key.value)


def _refusal(what: str, node: yaml.Node) -> yaml.YAMLError:
    return yaml.constructor.ConstructorError(None, None, what, node.start_mark)


_BOOL = r"y|Y|n|N|yes|Yes|YES|no|No|NO|true|True|TRUE|false|False|FALSE|on|On|ON|off|Off|OFF"
_INT = r"[-+]?(0b[01_]*[01]_*|0[0-7_]*|[1-9][0-9_]*|0x[0-9a-fA-F_]*[0-9a-fA-F]_*)"
_FLOAT = (
    r"[-+]?(\.[0-9]+|[0-9][0-9_]*(\.[0-9_]*)?)([eE][-+]?[0-9]+)?"
    r"|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"
)
_SCALARS = (
    ("bool", _BOOL, "yYnNtTfFoO"),
    ("int", _INT, "-+0123456789"),  # before the floats, which a whole number looks like, too
    ("float", _FLOAT, "-+0123456789."),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("merge", r"<<", "<"),
)
"""What a text without quotes is taken for, by its first letter."""


class _Dumper(yaml.SafeDumper):
    """YAML whose texts kubectl does not take for numbers: `1e3` needs quotes, as `"1e3"`."""


_Loader.yaml_implicit_resolvers = {}
for _name, _pattern, _first in _SCALARS:
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(_TAG + _name, re.compile(rf"^(?:{_pattern})$"), list(_first))
_Loader.yaml_constructors = {
    tag: constructor
    for tag, constructor in yaml.SafeLoader.yaml_constructors.items()
    if tag and tag.removeprefix(_TAG) in ("null", "bool", "int", "float", "str", "seq", "map")
}


def _undefined(loader: yaml.SafeLoader, node: yaml.Node) -> None:
    del loader
    raise _refusal(f"the tag {node.tag.replace(_TAG, '!!')!r:.80} is not one of JSON's types", node)


_Loader.add_constructor(None, _undefined)


def written(documents: Iterable[Any], width: int = 100) -> str:
    """Documents as YAML that kubectl and `documents` read as what they are."""
    text: str = yaml.dump_all(
        documents, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=width
    )
    return text


def documents(text: str) -> list[Any]:
    """The documents in a text, empty ones left out.

    Raises:
        ValueError: it is not YAML, or holds what JSON cannot; one line that says where.
    """
    try:
        return [item for item in yaml.load_all(text, _Loader) if item is not None]
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from error
