"""Where the parts of a packed row stand: each prompt once, behind it what continues it; no tensors.

A row is a line of groups. A group is a prefix and the segments that continue it; a token sees the
prefix of its group, and its own segment up to itself. A group without segments is a sequence of
its own, which is how rows of fine-tuning are packed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property


@dataclass(frozen=True)
class Group:
    """One prefix and its segments, as lengths in tokens."""

    prefix: int
    """Tokens that all segments see; 0 for none."""
    segments: tuple[int, ...] = ()
    """Tokens of each segment; none is empty."""

    @property
    def length(self) -> int:
        """Tokens in all."""
        return self.prefix + sum(self.segments)


@dataclass(frozen=True)
class Span:
    """A run of tokens that sees `seen` (a run before it, maybe empty), and itself causally."""

    start: int
    length: int
    seen_start: int
    seen: int


@dataclass(frozen=True)
class Layout:
    """The groups of one row, in order."""

    groups: tuple[Group, ...]

    @cached_property
    def length(self) -> int:
        """Tokens of the row."""
        return sum(group.length for group in self.groups)

    @cached_property
    def sizes(self) -> list[int]:
        """Lengths of the runs of tokens, in the order of the row: prefixes and segments."""
        return [span.length for span in self.spans]

    @cached_property
    def spans(self) -> tuple[Span, ...]:
        """The runs of tokens, in the order of the row; none is empty."""
        return tuple(self._spans())

    def _spans(self) -> Iterator[Span]:
        start = 0
        for group in self.groups:
            prefix = start
            if group.prefix:
                yield Span(start, group.prefix, start, 0)
            start += group.prefix
            for length in group.segments:
                yield Span(start, length, prefix, group.prefix)
                start += length
