r"""Whether two expressions are equal for certain, as far as roots, \pi, letters and fractions go.

It reads the notation that has one reading. What has another, or a function, is left to computer
algebra, as is whether a decimal that differs is near enough.
"""

from __future__ import annotations

import functools
import re
from fractions import Fraction
from typing import Final

from coldstart.grading.surds import PI, BeyondSurds, Surd

# math-verify takes decimals for equal that agree in six places.
_NEAR: Final = 1e-5
# What floats of this size can tell apart.
_SURE: Final = 1e-8
_MAX_SIZE: Final = 1e6

# d, e, i and j mean something of their own, f and g may be functions, l looks like one.
_TOKEN: Final = re.compile(
    r"\s*(\d+(?:\.\d+)?|\.\d+"
    r"|\\(?:frac|sqrt|pi|cdot|times)(?![A-Za-z])"
    r"|[abchkmnopqrstuvwxyz](?![A-Za-z]{2})"
    r"|[-+/^(){}])"
)
_SIGNS: Final = ("+", "-")
_TIMES: Final = ("\\cdot", "\\times")
_CLOSING: Final = {"(": ")", "{": "}"}


def same(stated: str, gold: str, tolerance: Fraction = Fraction(0)) -> bool | None:
    """Whether two plain expressions are equal, or None where this is not known here."""
    first, second = value(stated), value(gold)
    if first is None or second is None:
        return None
    try:
        if first.equals(second):
            return True
    except BeyondSurds:
        return None
    decimal = "." in stated or "." in gold
    if (decimal or tolerance) and first.is_number and second.is_number:
        return _near(first, second, float(tolerance))
    return False


def _near(first: Surd, second: Surd, tolerance: float) -> bool | None:
    """Whether two numbers that differ are within a tolerance; None where floats cannot say it."""
    try:
        one, other = float(first), float(second)
    except (OverflowError, ZeroDivisionError):
        return None
    gap = abs(one - other)
    if max(abs(one), abs(other)) > _MAX_SIZE:
        return None
    if tolerance:
        return None if abs(gap - tolerance) < _SURE else gap < tolerance
    return None if gap < _NEAR else False


@functools.lru_cache(maxsize=10_000)
def value(text: str) -> Surd | None:
    """The value of a plain expression, or None where it is not of this kind."""
    tokens, place, text = [], 0, text.rstrip()
    while place < len(text):
        found = _TOKEN.match(text, place)
        if found is None:
            return None
        tokens.append(found.group(1))
        place = found.end()
    try:
        return _Reader(tokens).whole()
    except BeyondSurds:
        return None


class _Reader:
    """Reads tokens from left to right; raises BeyondSurds where they have no one reading."""

    def __init__(self, tokens: list[str]) -> None:
        self._tokens = [*tokens, ""]
        self._at = 0

    @property
    def _next(self) -> str:
        return self._tokens[self._at]

    def _take(self) -> str:
        self._at += 1
        return self._tokens[self._at - 1]

    def _passes(self, *tokens: str) -> bool:
        """Whether one of these comes next; it is taken."""
        found = self._next in tokens
        self._at += found
        return found

    def _require(self, token: str) -> None:
        if not self._passes(token):
            raise BeyondSurds

    def whole(self) -> Surd:
        made = self._sum()
        self._require("")
        return made

    def _sum(self) -> Surd:
        total = Surd.of(Fraction(0))
        while True:
            minus = self._next == "-"
            self._passes(*_SIGNS)
            term = self._product()
            total += -term if minus else term
            if self._next not in _SIGNS:
                return total

    def _product(self) -> Surd:
        before = self._next
        made = self._power()
        while True:
            if self._passes("/"):
                made *= self._power().inverse()
                # What is below the line, if more follows, is read in two ways.
                if self._next == "/" or self._begins_factor():
                    raise BeyondSurds
                continue
            if not self._passes(*_TIMES):
                if not self._begins_factor():
                    return made
                # "2 3" and "x 2" are no products, and "2\frac{1}{3}" is a mixed number.
                mixed = before[0].isdigit() and self._next == "\\frac"
                if mixed or self._next[0] in "0123456789.{":
                    raise BeyondSurds
            before = self._next
            made *= self._power()

    def _begins_factor(self) -> bool:
        return self._next not in ("", "/", "^", ")", "}", *_SIGNS, *_TIMES)

    def _power(self) -> Surd:
        made = self._atom()
        if not self._passes("^"):
            return made
        braced = self._passes("{")
        minus = braced and self._passes("-")
        digits = self._take()
        # Without braces TeX raises one digit only.
        if not digits.isdecimal() or (len(digits) > 1 and not braced):
            raise BeyondSurds
        if braced:
            self._require("}")
        if self._next == "^":
            raise BeyondSurds
        return (made.inverse() if minus else made).raised(int(digits))

    def _atom(self) -> Surd:
        word = self._take()
        if word == "\\frac":
            above = self._group()
            return above * self._group().inverse()
        if word == "\\sqrt":
            return self._group().root()
        if word in _CLOSING:
            made = self._sum()
            self._require(_CLOSING[word])
            return made
        if word == PI or word.isalpha():
            return Surd.symbol(word)
        if word[:1].isdigit() or word[:1] == ".":
            return Surd.of(Fraction(word))
        raise BeyondSurds

    def _group(self) -> Surd:
        self._require("{")
        made = self._sum()
        self._require("}")
        return made
