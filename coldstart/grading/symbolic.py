r"""The slow path: two expressions compared by math-verify, in a worker process only.

Model text reaches a LaTeX grammar here and nothing that evaluates Python. `within_bounds` keeps out
what would make the computer algebra run away; the worker's deadline stops the rest.
"""

from __future__ import annotations

import functools
import importlib
import logging
import os
import re
import signal
import sys
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Final, Literal

Verdict = Literal["equal", "different", "gold_unparseable"]

MAX_LENGTH: Final = 400
MAX_NESTING: Final = 12
MAX_EXPONENT: Final = 1_000
_TOO_LONG: Final = 6
WORKER_MEMORY: Final = 4 * 2**30

_BIG_NUMBER = re.compile(r"\d{401}")
_BIG_EXPONENT = re.compile(r"\^\s*\{?\s*[+-]?\s*(\d+)")
# A power of a power of numbers, and a third storey of any kind.
_TOWER = re.compile(r"\^[\s{(]*[+-]?[\d.]+[\s})]*\^|\^[^\s+\-=,]{0,40}?\^[^\s+\-=,]{0,40}?\^")
_BIG_FACTORIAL = re.compile(r"\d{4,}[\s)}]*!|!\s*[)}]*\s*!|[)}\]]\s*!")
_ITERATED = re.compile(r"\\(?:i+nt|oint|sum|prod|lim|binom|bigcup|bigcap)(?![A-Za-z])")
_SMALL_BINOMIAL = re.compile(r"\\binom\s*\{\s*\d{1,3}\s*\}\s*\{\s*\d{1,3}\s*\}")


@dataclass(frozen=True, slots=True)
class Question:
    """Two expressions that only computer algebra can compare."""

    stated: str
    gold: str
    tolerance: Fraction = Fraction(0)


def within_bounds(stated: str, gold: str) -> bool:
    """Whether `stated` is small enough to hand to computer algebra.

    Integrals, sums and binomials are evaluated only where the gold answer has them too.
    """
    if len(stated) > MAX_LENGTH or not _bounded(stated):
        return False
    stated = _SMALL_BINOMIAL.sub("", stated)
    return not _ITERATED.search(stated) or bool(_ITERATED.search(gold))


def gold_within_bounds(gold: str) -> bool:
    """Whether a gold answer is small enough; golds are trusted to be meant, and may be longer."""
    return len(gold) <= 2 * MAX_LENGTH and _bounded(gold)


def _bounded(text: str) -> bool:
    depth = deepest = 0
    for character in text:
        depth += (character in "([{") - (character in ")]}")
        deepest = max(deepest, depth)
    exponents = [found.group(1) for found in _BIG_EXPONENT.finditer(text)]
    return (
        deepest <= MAX_NESTING
        and not _BIG_NUMBER.search(text)
        and not _TOWER.search(text)
        and not _BIG_FACTORIAL.search(text)
        and all(len(digits) < _TOO_LONG and int(digits) <= MAX_EXPONENT for digits in exponents)
    )


def prepare_worker() -> None:
    """Loads math-verify before the first deadline runs, and bounds what a worker may take."""
    if sys.platform != "win32":
        import resource  # noqa: PLC0415  (POSIX only)

        # Arithmetic on huge integers holds the interpreter: a Python handler would never run.
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        # torchrun passes SIGTERM on to the whole process group of a stage, which still needs its
        # grades for the update that it is in.
        os.setpgid(0, 0)
        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        limit = WORKER_MEMORY if hard == resource.RLIM_INFINITY else min(hard, WORKER_MEMORY)
        resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    importlib.import_module("math_verify")
    # It warns in each process that its own timeouts are off: the pool has the deadline.
    for name in ("math_verify", "latex2sympy2_extended"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    # sympy loads most of itself when it is first needed.
    verdict(Question("(x-1)^2", "x^2-2x+1"))


def verdicts(questions: tuple[Question, ...]) -> list[Verdict]:
    """The verdict on each question. Their common deadline is the worker's."""
    return [verdict(question) for question in questions]


def verdict(question: Question) -> Verdict:
    """Whether math-verify takes both sides for the same. Its deadline is the worker's."""
    gold = _parsed(question.gold)
    if not gold:
        return "gold_unparseable"
    stated = _parsed(question.stated)
    if not stated:
        return "different"
    if question.tolerance and _close(stated[0], gold[0], question.tolerance):
        return "equal"
    math_verify = importlib.import_module("math_verify")
    same = math_verify.verify(
        gold, stated, allow_set_relation_comp=True, timeout_seconds=None, raise_on_error=True
    )
    return "equal" if same else "different"


@functools.lru_cache(maxsize=1_000)
def _parsed(text: str) -> list[Any]:
    """What math-verify reads; a group of responses has one gold answer, and often one answer."""
    math_verify = importlib.import_module("math_verify")
    # LaTeX only: the expression target would hand model text to sympy.parse_expr. Units are off
    # already, and math-verify would take the variables of "2 r h" for some.
    notation = math_verify.LatexNormalizationConfig(
        basic_latex=True,
        units=False,
        malformed_operators=True,
        nits=True,
        boxed="all",
        equations=False,
    )
    target = math_verify.LatexExtractionConfig(
        boxed_match_priority=0, normalization_config=notation
    )
    parsed: list[Any] = math_verify.parse(
        "\\boxed{" + text + "}",
        extraction_config=[target],
        fallback_mode="no_fallback",
        extraction_mode="first_match",
        parsing_timeout=None,
    )
    return parsed


def _close(stated: Any, gold: Any, tolerance: Fraction) -> bool:
    """Whether two numbers differ by at most the declared precision."""
    if not (getattr(stated, "is_number", False) and getattr(gold, "is_number", False)):
        return False
    difference = abs((stated - gold).evalf(30))
    return bool(difference.is_real and difference <= tolerance.numerator / tolerance.denominator)
