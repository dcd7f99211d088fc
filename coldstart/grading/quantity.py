"""Exact numbers with their units, read from a cleaned answer; it evaluates no expressions."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Final

from coldstart.grading.notation import MARK

Dimension = tuple[tuple[str, int], ...]

MAX_DIGITS: Final = 400
MAX_POWER_OF_TEN: Final = 400


@dataclass(frozen=True, slots=True)
class Unit:
    """Powers of base units and the factor to them; an unknown word is its own base unit."""

    dimension: Dimension
    factor: Fraction = Fraction(1)


DEGREE: Final = Unit((("degree", 1),))
ORDINAL: Final = Unit((("ordinal", 1),))


@dataclass(frozen=True, slots=True)
class Quantity:
    """A stated number. `percent` is kept apart from `unit`: 50% equals both 50 and 0.5."""

    value: Fraction
    unit: Unit | None = None
    percent: bool = False


# base, factor: names. `m3` is a volume, so that litres convert to cubic metres.
_ROWS: Final = """
m 1: m meter metre
m 1/100: cm centimeter centimetre
m 1/1000: mm millimeter millimetre
m 1/10: dm decimeter decimetre
m 1000: km kilometer kilometre
m 1/1000000: um micrometer micrometre
m 1/1000000000: nm nanometer nanometre
m 254/10000: in inch inches
m 3048/10000: ft foot feet
m 9144/10000: yd yard
m 1609344/1000: mi mile
m3 1/1000: l liter litre
m3 1/1000000: ml milliliter millilitre
g 1: g gram gramme
g 1/1000: mg milligram
g 1000: kg kilogram
g 1000000: t ton tonne
g 45359237/100000: lb lbs pound
g 28349523125/1000000000: oz ounce
s 1: s sec second
s 1/1000: ms millisecond
s 60: min minute
s 3600: h hr hour
s 86400: day
s 604800: week
month 1: month
month 12: year yr
watt 1: w watt
watt 1000: kw kilowatt
joule 1: j joule
joule 1000: kj kilojoule
newton 1: n newton
newton 1000: kn kilonewton
pascal 1: pa pascal
pascal 1000: kpa kilopascal
volt 1: v volt
ampere 1: amp ampere
ohm 1: ohm
hertz 1: hz hertz
kelvin 1: k kelvin
mole 1: mol mole
usd 1: dollar usd
usd 1/100: cent
eur 1: euro eur
degree 1: degree deg
radian 1: rad radian
celsius 1: celsius degc
fahrenheit 1: fahrenheit degf
"""
_UNITS: Final = {
    name: tuple(head.split())
    for head, names in (row.split(":") for row in _ROWS.strip().splitlines())
    for name in names.split()
}
_CURRENCY: Final = {"$": "usd", "€": "eur", "£": "gbp", "¥": "cny"}
# Words of three letters and more after a number are units, except these.
_NO_UNIT: Final = frozenset(
    ("sin", "cos", "tan", "cot", "csc", "log", "exp", "mod", "lim", "max", "and", "the", "not")
)
# One letter glued to a number is a variable ("5t"), except those that figures are labelled with.
_GLUED: Final = frozenset("mL")
_MAX_UNIT: Final = 80
# Before it is in one spelling.
_LONGEST_UNIT: Final = 400
_SHORTEST_WORD: Final = 3

_DIGITS = r"(?:\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d{1,3}(?: \d{3})+(?!\d)(?:\.\d+)?|\d+(?:\.\d*)?|\.\d+)"
_SIGNED = rf"[+-]?\s*{_DIGITS}"
_EXPONENT = r"10\s*\^\s*(?:\{\s*(?P<%s>[+-]?\s*\d{1,4})\s*\}|(?P<%s>\d))"
_SCIENTIFIC = r"\\(?:times|cdot)\s*" + _EXPONENT % ("braced", "single")
_NUMBER = re.compile(
    rf"(?P<currency>\\?\$|[€£¥])?\s*(?P<sign>[+-]?)\s*(?P<price>\\?\$|[€£¥])?\s*(?:"
    rf"(?P<whole>\d+)\s*(?:\\frac\{{\s*(?P<mn>\d+)\s*\}}\{{\s*(?P<md>\d+)\s*\}}"
    rf"|\s(?P<pn>\d+)\s*/\s*(?P<pd>\d+))"
    rf"|\\frac\{{\s*(?P<fn>{_SIGNED})\s*\}}\s*\{{\s*(?P<fd>{_SIGNED})\s*\}}"
    rf"|(?P<sn>{_DIGITS})\s*/\s*(?P<sd>{_DIGITS})"
    rf"|{_EXPONENT % ('power', 'digit')}"
    rf"|(?P<base>{_DIGITS})(?:\s*{_SCIENTIFIC}|[eE](?P<e>[+-]?\d{{1,4}})(?![A-Za-z0-9]))?"
    rf")"
)
_BARRED = re.compile(
    r"(?P<sign>[+-]?)\s*(?P<whole>\d{0,20})\.(?P<head>\d{0,20})"
    r"(?P<tail>\\overline\s*\{?\s*\d{1,20}\s*\}?|(?:\\dot\s*\{?\s*\d\s*\}?){1,9}|\(\d{1,20}\))\Z"
)
_OPEN_ENDED = re.compile(r"([+-]?)\s*(\d{0,20})\.(\d{0,20}?)(\d{1,10}?)(\4{1,20})\.\.\.\Z")
_SEEN_REPEATING: Final = 3
_ORDINAL = re.compile(r"(\d{1,6})\s*(?:st|nd|rd|th)\Z")
_ORDINALS: Final = [
    "first",
    "second",
    "third",
    "fourth",
    "fifth",
    "sixth",
    "seventh",
    "eighth",
    "ninth",
    "tenth",
    "eleventh",
    "twelfth",
]
_ONES: Final = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
]
_TENS: Final = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
_ARC = re.compile(
    r"(?P<sign>-?)(?P<d>\d{1,3})\s*\^\s*\\circ\s*(?P<m>\d{1,2})\s*(?:'|\^\s*\{?\\prime\}?)"
    r"(?:\s*(?P<s>\d{1,2}(?:\.\d{1,6})?)\s*(?:''|\"))?\Z"
)
_TRIGONOMETRIC = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)(?![A-Za-z])")
_DEGREES = re.compile(r"(\d+(?:\.\d+)?)\s*\^\s*\\circ")
_TOO_LONG = re.compile(rf"\d{{{MAX_DIGITS + 1}}}")
_PERCENT = re.compile(r"\\?%|percent|per cent", re.IGNORECASE)
_RAISED = re.compile(r"\s*\^\s*\{?\s*(-?\d)\s*\}?")
_UNIT_FACTOR = re.compile(r"([A-Za-z]+)\.?(?:\^(-?\d))?\Z")


@functools.lru_cache(maxsize=10_000)
def quantity(text: str) -> Quantity | None:
    """The number that all of `text` (cleaned) states, with its unit; None when it states none."""
    bare = text.strip()
    special = _repeating(bare) or _in_words(bare) or _arc(bare)
    if special is not None:
        return special
    if bare.startswith("(") and bare.endswith(")") and not set(bare[1:-1]) & set("(),"):
        bare = bare[1:-1].strip()
    found = _NUMBER.match(bare)
    value = _value(found) if found and not _TOO_LONG.search(bare) else None
    if found is None or value is None:
        return None
    rest = bare[found.end() :]
    words = rest.replace(MARK, " ").strip()
    currency = found.group("currency") or found.group("price")
    if currency:
        name = _CURRENCY[currency[-1]]
        named = unit(rest) if words else None
        same = not words or (named is not None and named.dimension == ((name, 1),))
        return Quantity(value, Unit(((name, 1),))) if same else None
    if _PERCENT.fullmatch(words):
        return Quantity(value, percent=True)
    measured = unit(rest) if words else None
    return None if words and measured is None else Quantity(value, measured)


def _repeating(text: str) -> Quantity | None:
    """A decimal that goes on for ever, by a bar, by dots, or by digits seen to repeat."""
    marked, open_ended = _BARRED.match(text), _OPEN_ENDED.match(text)
    if marked:
        sign, whole, head, tail = marked.group("sign", "whole", "head", "tail")
        period = re.sub(r"\D", "", re.sub(r"\\[A-Za-z]+", "", tail))
    elif open_ended:
        sign, whole, head, period, again = open_ended.groups()
        if len(period + again) < _SEEN_REPEATING:
            return None
    else:
        return None
    fraction = Fraction(int(period), 10 ** len(period) - 1) / 10 ** len(head)
    value = Fraction(f"{whole or 0}.{head or 0}") + fraction
    return Quantity(-value if sign == "-" else value)


def _in_words(text: str) -> Quantity | None:
    """A number that is written as words: seven, twenty-five, third, 3rd."""
    folded = text.replace(MARK, "").strip().casefold()
    ordinal = _ORDINAL.match(folded)
    if ordinal:
        return Quantity(Fraction(int(ordinal.group(1))), ORDINAL)
    if folded in _ORDINALS:
        return Quantity(Fraction(_ORDINALS.index(folded) + 1), ORDINAL)
    tens, _, ones = folded.replace(" ", "-").partition("-")
    if not ones and tens in _ONES:
        return Quantity(Fraction(_ONES.index(tens)))
    if tens in _TENS and (not ones or ones in _ONES[1:10]):
        return Quantity(Fraction(10 * _TENS.index(tens) + 20 + (_ONES.index(ones) if ones else 0)))
    return None


def _arc(text: str) -> Quantity | None:
    """An angle in degrees, minutes and seconds."""
    found = _ARC.match(text)
    if found is None:
        return None
    degrees, minutes, seconds = (Fraction(part or 0) for part in found.group("d", "m", "s"))
    value = degrees + minutes / 60 + seconds / 3600
    return Quantity(-value if found.group("sign") else value, DEGREE)


def in_radians(text: str) -> str:
    """`text` with the degrees within its trigonometric functions in radians."""
    if not _TRIGONOMETRIC.search(text):
        return text
    return _DEGREES.sub(r"(\\frac{\1 \\pi}{180})", text)


def _value(found: re.Match[str]) -> Fraction | None:
    part = found.group
    if part("whole"):
        value = _ratio(part("mn") or part("pn"), part("md") or part("pd"))
        value = None if value is None else value + int(part("whole"))
    elif part("fn"):
        value = _ratio(part("fn"), part("fd"))
    elif part("sn"):
        value = _ratio(part("sn"), part("sd"))
    else:
        names = ("power", "digit", "braced", "single", "e")
        exponent = int(next(filter(None, map(part, names)), "0").replace(" ", ""))
        if abs(exponent) > MAX_POWER_OF_TEN:
            return None
        value = _decimal(part("base") or "1") * Fraction(10) ** exponent
    if value is None:
        return None
    return -value if part("sign") == "-" else value


def _ratio(numerator: str, denominator: str) -> Fraction | None:
    below = _decimal(denominator)
    return _decimal(numerator) / below if below else None


def _decimal(digits: str) -> Fraction:
    return Fraction(digits.replace(",", "").replace(" ", ""))


def unit(text: str, *, known: bool = False) -> Unit | None:
    """The unit that `text` names, as it stands behind a number; None when it is something else.

    With `known` every word must be in the table: behind an expression a stray word is a product.
    """
    if len(text) > _LONGEST_UNIT:
        return None
    marked = MARK in text
    separated = marked or text[:1] in (" ", "^", "\\")
    words = text.replace(MARK, " ")
    words = re.sub(r"\^\s*\\circ\s*([CF])(?![A-Za-z])", r" deg\1", words)
    words = re.sub(r"\^\s*\\circ", " degree ", words)
    words = _RAISED.sub(r"^\1", words)
    words = re.sub(r"(?i)\b(?:square|sq\.?)\s+([A-Za-z]+)", r"\1^2", words)
    words = re.sub(r"(?i)\b(?:cubic|cu\.?)\s+([A-Za-z]+)", r"\1^3", words)
    words = re.sub(r"(?i)([A-Za-z]+)\s+squared\b", r"\1^2", words)
    words = re.sub(r"(?i)([A-Za-z]+)\s+cubed\b", r"\1^3", words)
    above, *below = re.split(r"/|\bper\b", words)
    if len(below) > 1 or len(words) > _MAX_UNIT:
        return None
    powers: dict[str, int] = {}
    factor = Fraction(1)
    for part, direction in zip((above, *below), (1, -1), strict=False):
        tokens = [token for token in re.split(r"\\cdot|\s+", part) if token]
        for token in tokens:
            single = _factor(token, separated=separated, marked=marked, known=known)
            if single is None:
                return None
            base, power, scale = single
            powers[base] = powers.get(base, 0) + direction * power
            factor *= scale**direction
        if not tokens:
            return None
    dimension = tuple(sorted((base, power) for base, power in powers.items() if power))
    return Unit(dimension, factor)


def _factor(
    token: str, *, separated: bool, marked: bool, known: bool
) -> tuple[str, int, Fraction] | None:
    found = _UNIT_FACTOR.match(token)
    if found is None:
        return None
    name, power = found.group(1), int(found.group(2) or 1)
    folded = name.casefold()
    entry = _UNITS.get(folded) or (_UNITS.get(folded[:-1]) if folded.endswith("s") else None)
    if entry is not None:
        if len(name) == 1 and not (marked or name in _GLUED or (separated and not known)):
            return None
        base, scale = entry
        if base == "m3":
            return "m", 3 * power, Fraction(scale) ** power
        return base, power, Fraction(scale) ** power
    shortest = _SHORTEST_WORD - 1 if marked else _SHORTEST_WORD
    if known or not separated or folded in _NO_UNIT or len(name) < shortest:
        return None
    singular = folded.removesuffix("s") if len(folded) > _SHORTEST_WORD else folded
    return singular, power, Fraction(1)


@dataclass(frozen=True, slots=True)
class Measured:
    """An expression and the unit behind it."""

    expression: str
    unit: Unit | None


_MARKED_TAIL = re.compile(rf"([^{MARK}]+)({MARK}.*)\Z", re.DOTALL)
_PLAIN_TAIL = re.compile(
    r"(.*[\d)}\]A-Za-z])(\s+[A-Za-z]{2,}\.?(?:\s*\^\s*\{?\d\}?)?|\s*\^\\circ)\s*\Z"
)


def split_unit(text: str) -> Measured:
    r"""Takes the unit off an expression ("2\sqrt{3} cm").

    Only a `\text{}` makes a unit of a word outside the table.
    """
    marked = _MARKED_TAIL.match(text)
    if marked and re.search(r"[\dA-Za-z]", marked.group(1)):
        measured = unit(marked.group(2))
        if measured is not None:
            return Measured(marked.group(1).strip(), measured)
    spaced = _PLAIN_TAIL.match(text)
    if spaced:
        measured = unit(spaced.group(2), known=True)
        if measured is not None:
            return Measured(spaced.group(1).strip(), measured)
    return Measured(text, None)


def same_quantity(stated: Quantity, gold: Quantity, tolerance: Fraction = Fraction(0)) -> bool:
    """Whether `stated` says what `gold` says.

    A bare number on one side takes the unit of the other. A percentage equals its number and its
    hundredth; a bare number never gains a percent sign by being a hundred times too large.
    """
    if stated.percent or gold.percent:
        if stated.unit or gold.unit:
            return False
        values = {stated.value, stated.value / 100} if stated.percent else {stated.value}
        golds = {gold.value, gold.value / 100} if gold.percent else {gold.value}
        if stated.percent and gold.percent:
            values, golds = {stated.value}, {gold.value}
        return any(abs(one - other) <= tolerance for one in values for other in golds)
    value = stated.value
    if stated.unit and gold.unit:
        if stated.unit.dimension != gold.unit.dimension:
            return False
        value *= stated.unit.factor / gold.unit.factor
    return abs(value - gold.value) <= tolerance
