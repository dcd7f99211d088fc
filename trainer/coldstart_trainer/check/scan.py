"""All data sets of a run looked at together: every row once, then rows against rows."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import combinations, islice
from pathlib import Path

from coldstart.findings import CheckRequest, DataReport, DatasetFacts, Kind
from coldstart.grading import Grader, extract
from coldstart.uses import Use, uses
from coldstart_trainer.admission import is_absent
from coldstart_trainer.check import lengths, rows
from coldstart_trainer.check.collected import Collected, Opened
from coldstart_trainer.check.licences import licence
from coldstart_trainer.check.near import Problems, near_pairs
from coldstart_trainer.check.pictures import look
from coldstart_trainer.check.rows import Row
from coldstart_trainer.check.single import box_faults, faults
from coldstart_trainer.sources import DataError

_BATCH = 256


@dataclass
class _Scanned:
    """A data set whose rows have been looked at."""

    opened: Opened
    problem_of: list[int] = field(default_factory=list)
    """The number of each row's problem."""
    first: dict[int, int] = field(default_factory=dict)
    """The first row of each problem."""

    @property
    def use(self) -> Use:
        return self.opened.use


class Scan:
    """What is known of all rows so far; images are forgotten once they have been looked at."""

    def __init__(self, request: CheckRequest) -> None:
        self.request = request
        self.workdir = Path(request.workdir)
        self.collected = Collected(request.limit)
        self.problems = Problems()
        self.notes: list[str] = []
        self._scanned: list[_Scanned] = []
        self._problems: dict[bytes, int] = {}
        self._texts: dict[bytes, int] = {}
        self._images: dict[bytes, int] = {}
        try:
            self._processor = lengths.local_processor(request.spec, self.workdir)
        except ValueError as error:
            self._processor = None
            self.notes.append(f"lengths are in characters, and held against no limit: {error}")

    def report(self) -> DataReport:
        """Look at everything."""
        with Grader() as grader:
            facts = [
                found for use in uses(self.request.spec) if (found := self._facts(use, grader))
            ]
        _say("compares problems")
        self._equal()
        self._near()
        return DataReport(
            datasets=tuple(facts),
            findings=self.collected.findings(with_pictures=self.request.pictures),
            notes=tuple(self.notes),
        )

    def _facts(self, use: Use, grader: Grader) -> DatasetFacts | None:
        """A data set, read row by row; None where it cannot be read."""
        try:
            opened = Opened(use, rows.opened(use, self.workdir))
            self._say_size(opened)
            measured = lengths.Lengths(
                self._processor, self.request.spec.conversation, learnt=use.target == "response"
            )
            images = self._judge_all(opened, grader, measured)
        except DataError as error:
            self.collected.add_unreadable(use, str(error))
            return None
        return DatasetFacts(
            label=use.label,
            role=use.role,
            field=use.field,
            name=use.dataset.name,
            rows=opened.source.table.num_rows,
            images=images,
            licence=licence(use, self.workdir),
            lengths=tuple(measured.histograms()),
        )

    def _say_size(self, opened: Opened) -> None:
        use, total = opened.use, opened.source.table.num_rows
        _say(f"reads {use.label}: {total:,} rows of {use.dataset.name}")
        if use.dataset.limit and use.dataset.limit < total:
            self.notes.append(
                f"{use.label}: all {total:,} rows were checked, of which the stage draws "
                f"{use.dataset.limit:,}"
            )

    def _judge_all(self, opened: Opened, grader: Grader, measured: lengths.Lengths) -> int:
        """Judge each row for itself, and keep what it takes to compare it; how many images."""
        scanned, images = _Scanned(opened), 0
        looked = self._looked(scanned)
        while batch := list(islice(looked, _BATCH)):
            images += sum(len(looks) for _, looks in batch)
            for row, kind, note in self._judged(batch, opened.use, grader, measured):
                self.collected.add(kind, [(opened, row.number)], note)
        self._scanned.append(scanned)
        return images

    def _judged(
        self,
        batch: list[lengths.Looked],
        use: Use,
        grader: Grader,
        measured: lengths.Lengths,
    ) -> Iterator[tuple[Row, Kind, str]]:
        """What is wrong with rows, each for itself."""
        for row, looks in batch:
            for kind, note in faults(row, use, looks, self.request.spec.conversation):
                yield row, kind, note
        if use.target == "response":
            for row, (kind, note) in box_faults([row for row, _ in batch], grader):
                yield row, kind, note
        yield from measured.add(batch)

    def _looked(self, scanned: _Scanned) -> Iterator[lengths.Looked]:
        """The rows with what their images look like; equal rows of the set are found on the way."""
        firsts: dict[bytes, int] = {}
        golds: dict[int, str] = {}
        for row in rows.every(scanned.opened.source):
            images = [
                self._image(mark, value) for mark, value in zip(row.marks, row.images, strict=True)
            ]
            looks = [self.problems.looks[image] for image in images]
            # Without images: what is kept for later must not hold them.
            kept = Row(row.number, row.id, row.problem, row.answer, row.response, row.choices, ())
            yield kept, looks
            if not row.problem.strip():
                scanned.problem_of.append(-1)
                continue
            problem = self._problem(row, tuple(images))
            scanned.problem_of.append(problem)
            earlier = scanned.first.setdefault(problem, row.number)
            repeated = firsts.setdefault(row.row_key, row.number)
            if repeated != row.number:
                self._add("duplicates", scanned, row.number, scanned, repeated)
            gold = "" if is_absent(row.answer) else rows.normalised(row.answer or "")
            if gold and golds.setdefault(problem, gold) != gold:
                self._add("other_answer", scanned, row.number, scanned, earlier)

    def _image(self, mark: bytes, value: rows.Stored) -> int:
        """The number of an image; each content is looked at once."""
        if mark not in self._images:
            self._images[mark] = len(self.problems.looks)
            self.problems.looks.append(look(value))
        return self._images[mark]

    def _problem(self, row: Row, images: tuple[int, ...]) -> int:
        if row.problem_key not in self._problems:
            text = hashlib.blake2b(row.text.encode(), digest_size=16).digest()
            if text not in self._texts:
                self._texts[text] = self.problems.add_text(row.asked)
            answer = rows.normalised(_answer(row))
            self._problems[row.problem_key] = self.problems.add(self._texts[text], images, answer)
        return self._problems[row.problem_key]

    def _equal(self) -> None:
        """Problems that are in two sets."""
        for one, two in combinations(self._scanned, 2):
            held, other = _held_first(one, two)
            kind: Kind = "leakage" if _leaks(held, other) else "shared"
            for number, problem in enumerate(held.problem_of):
                if (found := other.first.get(problem)) is not None:
                    self._add(kind, held, number, other, found)

    def _near(self) -> None:
        """Problems that are nearly the same, in one set or in two.

        A row is counted once for each set, however many rows look the same as it.
        """
        partners: dict[int, list[int]] = {}
        for low, high in near_pairs(self.problems):
            partners.setdefault(low, []).append(high)
            partners.setdefault(high, []).append(low)
        for scanned in self._scanned:
            for number, problem in enumerate(scanned.problem_of):
                found = _first_of(partners.get(problem, ()), scanned)
                if found is not None and found < scanned.first[problem]:
                    self._add("near_duplicates", scanned, number, scanned, found)
        for one, two in combinations(self._scanned, 2):
            held, other = _held_first(one, two)
            kind: Kind = "near_leakage" if _leaks(held, other) else "near_shared"
            for number, problem in enumerate(held.problem_of):
                found = _first_of(partners.get(problem, ()), other)
                # What is equal was found as such.
                if found is not None and problem not in other.first:
                    self._add(kind, held, number, other, found)

    def _add(self, kind: Kind, one: _Scanned, row: int, two: _Scanned, other: int) -> None:
        self.collected.add(kind, [(one.opened, row), (two.opened, other)])


def _answer(row: Row) -> str:
    """The gold answer of a row, or what its response ends in; empty where there is neither."""
    if row.answer is not None and not is_absent(row.answer):
        return row.answer
    return extract(row.response or "").span or ""


def _first_of(problems: Iterable[int], scanned: _Scanned) -> int | None:
    """The first row of a set that has one of these problems."""
    found = (scanned.first.get(problem) for problem in problems)
    return min((row for row in found if row is not None), default=None)


def _held_first(one: _Scanned, two: _Scanned) -> tuple[_Scanned, _Scanned]:
    """Two sets: first the one that models are held against, if one of them is."""
    return (one, two) if two.use.learnt and not one.use.learnt else (two, one)


def _leaks(held: _Scanned, other: _Scanned) -> bool:
    return other.use.learnt and not held.use.learnt


def _say(message: str) -> None:
    """Where a check is; its result is written elsewhere."""
    print(message, file=sys.stderr, flush=True)  # noqa: T201 - a person waits for it
