"""The base of every contract model and the wording of its errors; holds no field of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError
from pydantic.alias_generators import to_camel

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


_WORDS = {
    "extra_forbidden": "unknown key",
    "missing": "is required",
}


def problems(error: ValidationError, prefix: str = "") -> list[str]:
    """One line per mistake: the path of the field, what is wrong, what it may be.

    `prefix` names where the document came from, as in `run.yaml: spec.sft.epochs: …`.
    """
    return [f"{prefix}{_path(item)}: {_message(item)}" for item in error.errors()]


def _path(item: Mapping[str, Any]) -> str:
    path = ""
    for part in item["loc"]:
        if part == "[key]":  # pydantic's mark for a mapping's key, as against its value
            continue
        path += f"[{part}]" if isinstance(part, int) else f".{part}"
    return path.lstrip(".") or "document"


def _message(item: Mapping[str, Any]) -> str:
    if item["type"] in _WORDS:
        return _WORDS[item["type"]]
    message = str(item["msg"]).removeprefix("Value error, ").removeprefix("Input ")
    given = item.get("input")
    if isinstance(given, (str, int, float, bool)) and item["type"] != "value_error":
        message += f" (is {given!r:.80})"
    return message
