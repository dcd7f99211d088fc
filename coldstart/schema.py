"""The base of every contract model and the wording of its errors; holds no field of its own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Annotated, Any, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
)
from pydantic.alias_generators import to_camel
from pydantic.fields import FieldInfo

Text = Annotated[str, StringConstraints(max_length=4096)]
"""Free text: prompts, messages, paths."""

Name = Annotated[str, StringConstraints(min_length=1, max_length=512)]
"""A hub id, a path, a column, a file name."""

RunName = Annotated[str, StringConstraints(pattern=r"^[a-z]([-a-z0-9]*[a-z0-9])?$", max_length=40)]
"""A DNS label of at most 40 characters, so that the names of the children fit theirs."""

Digest = Annotated[str, StringConstraints(pattern=r"^sha256:[0-9a-f]{64}$")]
"""`sha256:` and 64 hexadecimal digits."""

Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
"""A ratio between 0 and 1."""

Positive = Annotated[int, Field(ge=1, le=1_000_000_000)]
"""A whole number of things, at least one."""

Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]
"""What every random generator of a stage starts from."""


OPEN_DEPTH = 20
"""How deep what is passed on as it is may be nested."""


def _shallow(value: Any) -> Any:
    """Refuse what nobody means and few readers survive: Kubernetes takes 10,000 levels."""
    level = [value]
    for _ in range(OPEN_DEPTH):
        level = [item for outer in level for item in _items(outer)]
        if not level:
            return value
    raise ValueError(f"is nested more than {OPEN_DEPTH} deep")


def _items(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, (list, tuple)) else ()


Open = Annotated[Any, AfterValidator(_shallow)]
"""Any JSON value: passed on as it is."""


class Contract(BaseModel):
    """A frozen model that refuses unknown keys; camelCase outside, snake_case in Python."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
        serialize_by_alias=True,
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
        allow_inf_nan=False,
    )

    @classmethod
    def parse(cls, document: object) -> Any:
        """The model of an outside document: camelCase keys only, so that each key has one name.

        Raises:
            pydantic.ValidationError: an unknown key, a wrong type or a value out of range.
        """
        return cls.model_validate(document, by_alias=True, by_name=False)

    def document(self) -> dict[str, Any]:
        """The JSON document of this model, without what is absent."""
        return self.model_dump(mode="json", exclude_none=True)


MAX_PROBLEMS = 50
"""The most mistakes that are told at once."""

MESSAGE = 512
"""The longest text of one mistake."""


def printable(text: str, limit: int = MESSAGE) -> str:
    """Foreign text on one line: what no terminal should get is escaped, what is too long is cut."""
    head = text[:limit]
    shown = "".join(char if char.isprintable() else repr(char)[1:-1] for char in head)
    return shown if len(text) == len(head) else f"{shown}…"


def problems(
    error: ValidationError, prefix: str = "", model: type[Contract] | None = None
) -> list[str]:
    """One line per mistake: the path of the field, what is wrong, what it may be.

    Args:
        error: what pydantic found.
        prefix: where the document came from, as in `run.yaml: spec.sft.epochs: …`.
        model: what the document should have been; with it, a misspelt key is told the right one.
    """
    found = error.errors()
    lines = [f"{prefix}{_path(item)}: {_message(item, model)}" for item in found[:MAX_PROBLEMS]]
    left = len(found) - len(lines)
    return [*lines, *([f"{prefix}document: and {left} more mistakes"] if left else [])]


def _path(item: Mapping[str, Any]) -> str:
    path = ""
    for part in item["loc"]:
        if part == "[key]":  # pydantic's mark for a mapping's key, as against its value
            continue
        path += f"[{part}]" if isinstance(part, int) else f".{printable(part, 80)}"
    return path.lstrip(".") or "document"


def _message(item: Mapping[str, Any], model: type[Contract] | None) -> str:
    if item["type"] == "missing":
        return "is required"
    if item["type"] == "extra_forbidden":
        key, keys = str(item["loc"][-1]), _keys(model, item["loc"][:-1])
        close = get_close_matches(to_camel(key[:80]), keys, n=1)
        return "unknown key" + (f"; did you mean {close[0]}?" if close else "")
    message = str(item["msg"]).removeprefix("Value error, ").removeprefix("Input ")
    given = item.get("input")
    if isinstance(given, (str, int, float, bool)) and item["type"] != "value_error":
        message += f" (is {_shown(given)})"
    return printable(message)


def _shown(given: str | float) -> str:
    if isinstance(given, int) and given.bit_length() > 256:  # noqa: PLR2004
        return f"a number of {given.bit_length()} bits"  # Python refuses to print the longest
    return f"{given!r:.80}"


def _keys(model: type[BaseModel] | None, path: tuple[int | str, ...]) -> list[str]:
    """The keys that the section at a path has."""
    for part in path:
        if model is None or isinstance(part, int):
            continue
        known = fields(model)
        model = section_of(known[part].annotation) if part in known else None
    return list(fields(model)) if model else []


def fields(model: type[BaseModel]) -> dict[str, FieldInfo]:
    """A model's fields by the names that they have outside."""
    return {info.alias or name: info for name, info in model.model_fields.items()}


def section_of(annotation: Any) -> type[BaseModel] | None:
    """The model in a field's type: itself, or the one that a list or an optional field holds."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    found = (section_of(argument) for argument in get_args(annotation))
    return next((model for model in found if model), None)
