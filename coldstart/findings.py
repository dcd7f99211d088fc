"""What a check of data sets tells: the document that the checker writes and the commands show."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from coldstart.run import RunSpec
from coldstart.schema import Contract
from coldstart.uses import Role

Kind = Literal[
    "unreadable",
    "leakage",
    "near_leakage",
    "duplicates",
    "near_duplicates",
    "shared",
    "near_shared",
    "other_answer",
    "undecodable_image",
    "huge_image",
    "image_aspect_ratio",
    "scaled_down",
    "scaled_up",
    "empty_problem",
    "image_marks",
    "no_answer",
    "no_response",
    "no_box",
    "wrong_box",
    "prompt_too_long",
    "response_too_long",
]
"""What may be found; `near_` is what looks the same but is not equal."""

Count = Annotated[int, Field(ge=0)]


class CheckRequest(Contract):
    """What the checker is asked."""

    spec: RunSpec
    """The resolved spec, whose data sets are checked."""
    workdir: str
    """The directory that local names are relative to."""
    limit: Annotated[int, Field(ge=0, le=1000)] = 5
    """How many examples of each finding are named."""
    pictures: bool = False
    """Whether the examples come with their images."""


class RowShown(Contract):
    """A row as a person finds it again."""

    dataset: str
    """The label of its data set."""
    id: str
    """Its `id`, or its number."""
    place: str
    """Its file, and its number there, from 0."""
    problem: str = ""
    """The beginning of its problem."""
    said: str = ""
    """The beginning of its response, or its gold answer."""
    images: tuple[str, ...] = ()
    """Small copies of its first images as data URIs, where pictures were asked for."""


class Example(Contract):
    """One case of a finding: a row, or two rows that are the same."""

    rows: tuple[RowShown, ...]
    """The row, and the one that it repeats."""
    note: str = ""
    """What is the matter with it, where the finding does not say it."""


class Finding(Contract):
    """Something that was found in a data set, or between two."""

    kind: Kind
    """What was found."""
    level: Literal["mistake", "warning", "note"]
    """A stage would stop at a mistake, or its result would be worth nothing; the others are for
    you to judge."""
    datasets: tuple[str, ...]
    """The labels of the data sets: the first is the one whose rows are counted."""
    rows: Count
    """How many rows."""
    text: str
    """What it means, said of the rows."""
    examples: tuple[Example, ...] = ()
    """The first ones."""

    @property
    def sentence(self) -> str:
        """How many rows, and what it means."""
        if not self.rows:
            return self.text
        return f"{self.rows:,} {'row' if self.rows == 1 else 'rows'} {self.text}"


class Histogram(Contract):
    """How long the texts of a data set are."""

    what: Literal["prompt", "response"]
    """Which texts."""
    unit: Literal["tokens", "characters"]
    """What is counted: characters where the model's tokenizer is not on this machine."""
    width: Annotated[float, Field(gt=0)]
    """What one bin covers; the first begins at 0."""
    counts: tuple[Count, ...]
    """Rows in each bin."""
    longest: Count
    """The longest text."""
    limit: Count | None = None
    """The conversation's limit, in tokens; None where characters are counted."""


class DatasetFacts(Contract):
    """One data set as it was found."""

    label: str
    """What a person calls it."""
    role: Role
    """What it is for."""
    field: str
    """Its path in the spec."""
    name: str
    """Its name there."""
    rows: Count
    """How many rows it has, before any limit."""
    images: Count
    """How many images they have."""
    licence: str
    """The licence that its card names, or `unknown`."""
    lengths: tuple[Histogram, ...] = ()
    """Of prompts, and of responses where they are learnt."""


class DataReport(Contract):
    """All that a check of a run's data sets has found."""

    datasets: tuple[DatasetFacts, ...]
    """Those that could be read."""
    findings: tuple[Finding, ...]
    """The worst ones first."""
    notes: tuple[str, ...] = ()
    """What was not checked, and why."""

    @property
    def mistakes(self) -> int:
        """How many findings are mistakes."""
        return sum(finding.level == "mistake" for finding in self.findings)
