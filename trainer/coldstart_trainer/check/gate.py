"""The gate before the first training stage: equal rows alone, in one pass without decoding images.

What is nearly equal, and all else that can be wrong, is for `coldstart data check`: a person has to
judge it, and it takes longer.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from coldstart.stage import StageOrder
from coldstart.status import ErrorCode
from coldstart.uses import Use, uses
from coldstart_trainer.check import rows
from coldstart_trainer.sources import DataError

_NAMED = 3
"""How many rows a message names."""

log = logging.getLogger(__name__)

Check = Literal["leakage", "duplicates"]


@dataclass
class _Count:
    rows: int = 0
    named: list[str] = field(default_factory=list)

    def add(self, place: str, earlier: str) -> None:
        self.rows += 1
        if len(self.named) < _NAMED:
            self.named.append(f"{place} = {earlier}")


def judge(order: StageOrder) -> None:
    """Look for equal rows, as the run's `dataChecks` says; what is found is refused or logged.

    Raises:
        DataError: there are some, and they are refused; or a data set cannot be read that has to
            be.
    """
    checks = order.spec.data_checks
    wanted: dict[Check, str] = {"leakage": checks.leakage, "duplicates": checks.duplicates}
    if set(wanted.values()) == {"ignore"}:
        return
    refused = []
    for check, message in _found(order, strict="refuse" in wanted.values()):
        if wanted[check] == "refuse":
            refused.append(f"spec.dataChecks.{check}: {message}; or set it to warn")
        elif wanted[check] == "warn":
            log.warning("dataChecks.%s: %s", check, message)
    if refused:
        raise DataError(ErrorCode.DATASET_INVALID, "\n".join(refused))


def _found(order: StageOrder, *, strict: bool) -> Iterator[tuple[Check, str]]:
    """What is wrong with each data set, those that are learnt from first."""
    learnt: dict[bytes, str] = {}
    for use in sorted(uses(order.spec), key=lambda use: not use.learnt):
        if not (strict or use.dataset.looks_local or use.role == order.stage.value):
            # Fetching what a later stage needs would keep this one's GPUs waiting for a warning.
            log.info("dataChecks: %s is not fetched for it; coldstart data check does", use.label)
            continue
        try:
            repeated, leaked = _counts(use, Path(order.workdir), learnt)
        except DataError as error:
            if strict:
                raise
            log.warning("dataChecks: %s is not checked: %s", use.label, error)
            continue
        if repeated.rows:
            yield "duplicates", _sentence(use, repeated, "equal to an earlier one", "remove them")
        if leaked.rows:
            remedy = "remove them from what is trained on"
            yield "leakage", _sentence(use, leaked, "also in training data", remedy)


def _counts(use: Use, workdir: Path, learnt: dict[bytes, str]) -> tuple[_Count, _Count]:
    """Rows that repeat one of their set, and those that are in training data, which grows."""
    repeated, leaked = _Count(), _Count()
    source = rows.opened(use, workdir)
    seen: dict[bytes, int] = {}
    for row in rows.every(source):
        if not row.problem.strip():
            continue
        place = source.place(row.number)
        earlier = seen.setdefault(row.row_key, row.number)
        if earlier != row.number:
            repeated.add(place, source.place(earlier))
        if use.learnt:
            learnt.setdefault(row.problem_key, f"{place} ({use.label})")
        elif row.problem_key in learnt:
            leaked.add(place, learnt[row.problem_key])
    return repeated, leaked


def _sentence(use: Use, count: _Count, what: str, remedy: str) -> str:
    return (
        f"{count.rows:,} {'row' if count.rows == 1 else 'rows'} of {use.label} {what} "
        f"({'; '.join(count.named)}{'; …' if count.rows > len(count.named) else ''}): {remedy}, "
        "all of which coldstart data check names"
    )
