"""The table of published benchmarks: where each is, how large, under which licence; no rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from coldstart.dataset import Columns, Dataset

Schema = Literal["mathvista", "mathverse", "mathvision", "wemath", "geometry3k"]
"""A layout of released rows."""


@dataclass(frozen=True)
class Published:
    """A benchmark as its authors released it."""

    name: str
    """What a run calls it."""
    title: str
    """What people call it."""
    schema: Schema
    """How its rows are laid out."""
    hub: str
    """Its id on the hub."""
    split: str
    """Its split there."""
    rows: int
    """How many rows it has; with fewer it is partial."""
    licence: str
    """As its card or repository states it."""
    required: tuple[str, ...]
    """Columns that every row needs, the image aside."""
    images: tuple[str, ...]
    """The columns that may hold the image; the first that is there counts."""
    problem: str = "question"
    """The column of the question."""
    config: str | None = None
    """Its configuration on the hub."""

    def dataset(self, given: Dataset | None = None) -> Dataset:
        """Where its rows come from: what the run says, else the hub."""
        base = given or Dataset(name=self.hub, config=self.config, split=self.split)
        unsaid = Dataset.model_fields["split"].default
        return base.model_copy(
            update={
                "split": self.split if base.split == unsaid else base.split,
                "config": self.config if base.name == self.hub else base.config,
                "columns": Columns(images=self.images[0], problem=self.problem),
            }
        )


_MATHVISION = {
    "schema": "mathvision",
    "hub": "MathLLMs/MathVision",
    "licence": "MIT",
    "required": ("id", "question", "options", "answer"),
    "images": ("decoded_image", "image"),
}

_TABLE = (
    Published(
        name="mathvista",
        title="MathVista testmini",
        schema="mathvista",
        hub="AI4Math/MathVista",
        split="testmini",
        rows=1_000,
        licence="CC BY-SA 4.0",
        required=("pid", "question", "choices", "answer", "question_type", "answer_type"),
        images=("decoded_image", "image"),
    ),
    Published(
        name="mathverse",
        title="MathVerse testmini",
        schema="mathverse",
        hub="AI4Math/MathVerse",
        config="testmini",
        split="testmini",
        rows=3_940,
        licence="MIT",
        required=("sample_index", "problem_index", "problem_version", "question", "answer"),
        images=("image",),
    ),
    Published(
        name="mathvision",
        title="MathVision test",
        split="test",
        rows=3_040,
        **_MATHVISION,  # type: ignore[arg-type]
    ),
    Published(
        name="mathvision-testmini",
        title="MathVision testmini",
        split="testmini",
        rows=304,
        **_MATHVISION,  # type: ignore[arg-type]
    ),
    Published(
        name="wemath",
        title="We-Math testmini",
        schema="wemath",
        hub="We-Math/We-Math",
        split="testmini",
        rows=1_740,
        licence="CC BY-NC 4.0",
        required=("ID", "key", "question", "option", "answer"),
        images=("image_path",),
    ),
    Published(
        name="geometry3k",
        title="Geometry3K test",
        schema="geometry3k",
        hub="hiyouga/geometry3k",
        split="test",
        rows=601,
        licence="not known",
        required=("problem", "answer"),
        images=("images",),
        problem="problem",
    ),
)

_KNOWN = {item.name: item for item in _TABLE}

NAMES = tuple(_KNOWN)
"""What a run can call them."""


def published(name: str) -> Published | None:
    """The benchmark of this name; None for one of the run's own."""
    return _KNOWN.get(name)
