r"""Arithmetic of sums of fractions times square roots, powers of \pi and letters; it reads no text.

Such a sum has one form only, since the roots of different square-free numbers and the powers of \pi
are independent over the fractions.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Final

MAX_TERMS: Final = 60
MAX_POWER: Final = 12
"""Of a sum; for a single term the size of the result is bounded."""
MAX_BITS: Final = 4_000
MAX_RADICAND: Final = 10**12
PI: Final = "\\pi"

Symbols = tuple[tuple[str, int], ...]
Sum = Mapping[tuple[int, Symbols], Fraction]
"""The coefficient of each square-free radicand with each product of symbols; none is zero."""

_ONE: Final[Sum] = {(1, ()): Fraction(1)}


class BeyondSurds(Exception):
    """Something is no such sum, or too big a one."""


@dataclass(frozen=True, slots=True)
class Surd:
    """A sum over another, which is 1 where it can be.

    Raises:
        BeyondSurds: by every operation, where the result is none.
    """

    above: Sum
    below: Sum = field(default_factory=lambda: _ONE)

    @classmethod
    def of(cls, value: Fraction) -> Surd:
        """A fraction."""
        return cls({(1, ()): value} if value else {})

    @classmethod
    def symbol(cls, name: str) -> Surd:
        """A letter, or the number that only its name writes."""
        return cls({(1, ((name, 1),)): Fraction(1)})

    @property
    def is_number(self) -> bool:
        """Whether it holds no letters."""
        parts = (*self.above, *self.below)
        return all(name == PI for _, symbols in parts for name, _ in symbols)

    def equals(self, other: Surd) -> bool:
        """Whether both are the same, whatever the letters stand for."""
        return _product(self.above, other.below) == _product(other.above, self.below)

    def __float__(self) -> float:
        return _size(self.above) / _size(self.below)

    def __neg__(self) -> Surd:
        return Surd({key: -factor for key, factor in self.above.items()}, self.below)

    def __add__(self, other: Surd) -> Surd:
        if self.below == other.below:
            return Surd(_total(self.above, other.above), self.below)
        above = _total(_product(self.above, other.below), _product(other.above, self.below))
        return Surd(above, _product(self.below, other.below))

    def __mul__(self, other: Surd) -> Surd:
        return Surd(_product(self.above, other.above), _product(self.below, other.below))

    def inverse(self) -> Surd:
        """1 over it."""
        if not self.above:
            raise BeyondSurds
        if len(self.above) > 1:
            return Surd(self.below, self.above)
        [((radicand, symbols), factor)] = self.above.items()
        turned = (radicand, tuple((name, -power) for name, power in symbols))
        return Surd(_product(self.below, {turned: 1 / (factor * radicand)}))

    def raised(self, power: int) -> Surd:
        """It, multiplied so many times."""
        factors = (*self.above.values(), *self.below.values())
        bits = max(part.bit_length() for each in factors for part in each.as_integer_ratio())
        single = len(self.above) <= 1 and len(self.below) == 1
        if bits * power > MAX_BITS or (power > MAX_POWER and not single):
            raise BeyondSurds
        made = Surd(_ONE)
        for digit in f"{power:b}":
            made = made * made
            if digit == "1":
                made = made * self
        return made

    def root(self) -> Surd:
        """The square root of a fraction that is not negative."""
        factor = self.above.get((1, ()), Fraction(0))
        if self.below != _ONE or len(self.above) > bool(factor) or factor < 0:
            raise BeyondSurds
        above, below = factor.as_integer_ratio()
        outside, radicand = _square_free(above * below)
        return Surd({(radicand, ()): Fraction(outside, below)} if factor else {})


def _square_free(number: int) -> tuple[int, int]:
    """The `a` and the square-free `b` of `number = a * a * b`."""
    if number > MAX_RADICAND:
        raise BeyondSurds
    outside = radicand = 1
    prime = 2
    while prime**3 <= number:
        power = 0
        while number % prime == 0:
            number //= prime
            power += 1
        outside *= prime ** (power // 2)
        radicand *= prime ** (power % 2)
        prime += 1 + (prime > 2)  # noqa: PLR2004 - behind 2 the odd numbers
    # What is left is a prime, its square, or a product of two.
    whole = math.isqrt(number)
    return (outside * whole, radicand) if whole * whole == number else (outside, radicand * number)


def _size(terms: Sum) -> float:
    return math.fsum(
        float(factor) * math.sqrt(radicand) * math.pi ** sum(power for _, power in symbols)
        for (radicand, symbols), factor in terms.items()
    )


def _total(first: Sum, second: Sum) -> Sum:
    made = dict(first)
    for key, factor in second.items():
        made[key] = made.get(key, Fraction(0)) + factor
    return _bounded(made)


def _product(first: Sum, second: Sum) -> Sum:
    if first is _ONE or second is _ONE:
        return second if first is _ONE else first
    made: dict[tuple[int, Symbols], Fraction] = {}
    for (one, left), factor in first.items():
        for (other, right), multiplier in second.items():
            shared = math.gcd(one, other)
            key = (one * other // shared**2, _joined(left, right))
            made[key] = made.get(key, Fraction(0)) + factor * multiplier * shared
    return _bounded(made)


def _joined(left: Symbols, right: Symbols) -> Symbols:
    if not (left and right):
        return left or right
    powers = Counter(dict(left))
    for name, power in right:
        powers[name] += power
    return tuple(sorted((name, power) for name, power in powers.items() if power))


def _bounded(terms: Sum) -> Sum:
    made = {key: factor for key, factor in terms.items() if factor}
    if len(made) > MAX_TERMS:
        raise BeyondSurds
    return made
