"""How a run names its rows: which data set, and which column holds what; nothing is read here."""

from __future__ import annotations

from pathlib import Path

from coldstart.schema import Contract, Name, Positive

DATA_SUFFIXES = (".parquet", ".jsonl", ".json")
"""The local files that can be read as rows."""


class Columns(Contract):
    """Which column of the data set holds what."""

    images: Name = "images"
    """A list of images, or one image: bytes, paths or decoded."""
    problem: Name = "problem"
    """The question; `<image>` marks, if any, must be as many as the images."""
    answer: Name = "answer"
    """The short gold answer (GRPO, evaluation)."""
    response: Name = "response"
    """The whole response to learn (SFT)."""


class Dataset(Contract):
    """Rows of problems, with images or without."""

    name: Name
    """A hub id, or a `.parquet`, `.jsonl` or `.json` file, or a directory of them: beside the
    run.yaml on one machine, in the storage on a cluster."""
    revision: Name | None = None
    """The commit of a hub id."""
    config: Name | None = None
    """The configuration of a hub data set."""
    split: Name = "train"
    """The split of a hub data set, or of a directory with the hub's layout."""
    columns: Columns = Columns()
    """Which column holds what."""
    image_dir: Name | None = None
    """The directory that paths of images are relative to and may lead into, if that is not the
    file's own: beside the run.yaml on one machine, in the storage on a cluster, or absolute."""
    limit: Positive | None = None
    """Use this many rows, drawn with the stage's seed."""

    def place(self, workdir: Path) -> Path:
        """Where the data set is, if it is a local one."""
        return workdir / Path(self.name).expanduser()

    def pictures(self, workdir: Path) -> Path | None:
        """Where its images are, if the spec says so."""
        return workdir / Path(self.image_dir).expanduser() if self.image_dir else None

    @property
    def looks_local(self) -> bool:
        """Whether the name is written as a path, so that it cannot be a hub id."""
        name = self.name
        written = name.startswith(("/", ".", "~")) or name.endswith((*DATA_SUFFIXES, "/"))
        return written or name.count("/") > 1
