r"""The shape of an answer: several values, an interval, a named value, plain words.

It takes a cleaned answer apart and leaves it to the matcher to compare the parts.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Final, Literal

from coldstart.grading.notation import MARK, canonical, plain, top_level

Bracket = Literal["", "(", "[", "{"]

_SEPARATOR = re.compile(
    r"[,;]|\\cup(?![A-Za-z])|\\l?or(?![A-Za-z])|\\land(?![A-Za-z])|\b(?:and|or)\b", re.IGNORECASE
)
_BRACKETED = re.compile(r"(\\\{|[(\[])(.*?)(\\\}|[)\]])\Z", re.DOTALL)
_RELATION = re.compile(r"\\le(?![A-Za-z])|\\ge(?![A-Za-z])|<|>")
_DIFFERS = re.compile(r"(.+?)\\ne(?:q|)(?![A-Za-z])(.+)\Z", re.DOTALL)
_ALL_BUT = re.compile(r"\\(?:mathbb|mathbf)\{R\}\s*\\(?:setminus|backslash)\s*\\\{(.+)\\\}\Z")
_BUILDER = re.compile(
    r"\\\{\s*([A-Za-z])\s*(?:\\in\s*\\mathbb\{R\}\s*)?(?:\\mid(?![A-Za-z])|[|:])\s*(.+)\\\}\Z",
    re.DOTALL,
)
_REALS = re.compile(r"(?:[A-Za-z]\s*\\in\s*)?\\mathbb\{R\}\Z|all real numbers\Z", re.IGNORECASE)
_POINT = re.compile(r"([A-Z]'?)\s*(\(.*,.*\))\Z", re.DOTALL)
_MEMBER = re.compile(r"(.{1,20}?)\\in(?![A-Za-z])(.+)\Z", re.DOTALL)
_EQUALS = re.compile(r"(?<![<>!\\])=")
_NAME = re.compile(r"[A-Za-z\s'(){}|:%]+\Z")
_SUBSCRIPT = re.compile(r"_(?:\{[^{}]*\}|\w)")
_NAMING = re.compile(
    r"\\(?:angle|triangle|overline|overrightarrow|widehat|hat|vec|theta|alpha|beta|gamma|phi|varphi"
    r"|lambda|mu|rho|sigma|omega|Delta|delta|odot|square)(?![A-Za-z])"
)
_SYMBOL = re.compile(r"\\?[A-Za-z]+'?(?:_\w|_\{\w+\})?\Z")
_ENVIRONMENT = re.compile(r"\\(?:begin|end)\{\w+\*?\}")
_WORD = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{2,}")
_FUNCTIONS: Final = frozenset(
    {"sin", "cos", "tan", "cot", "sec", "csc", "log", "ln", "exp", "sqrt", "pi", "mod"}
    | {"gcd", "lcm", "min", "max", "lim", "det"}
)
_MONTHS: Final = frozenset(
    [
        "january",
        "february",
        "march",
        "april",
        "may",
        "june",
        "july",
        "august",
        "september",
        "october",
        "november",
        "december",
    ]
)
_SHORTEST_WORD: Final = 3
_MAX_NAME: Final = 60


@dataclass(frozen=True, slots=True)
class Items:
    """Several values. Only a bare list and a set in braces have no order."""

    parts: tuple[str, ...]
    bracket: Bracket

    @property
    def ordered(self) -> bool:
        """Whether the order of the values is part of the answer."""
        return self.bracket in ("(", "[")


@dataclass(frozen=True, slots=True)
class Interval:
    """What lies between two ends. `variable` is None when written in brackets."""

    low: str
    high: str
    low_closed: bool
    high_closed: bool
    variable: str | None = None


@dataclass(frozen=True, slots=True)
class Named:
    """A value and, when it has one, the name on the left of its equals sign."""

    name: str | None
    value: str


def items(text: str) -> Items | None:
    """The values that `text` lists, or None when it states one value."""
    sign = _plus_minus(text) or _all_but(text)
    if sign is not None:
        return sign
    bracketed = _BRACKETED.match(text)
    if bracketed and _encloses(text, bracketed.group(1)):
        parts = _split(bracketed.group(2))
        opening = bracketed.group(1)
        if opening == "\\{":
            return Items(parts, "{")
        # Mixed brackets are a half-open interval; (5) is a number in parentheses.
        pair = opening + bracketed.group(3)
        if pair == "[]" or (pair == "()" and len(parts) > 1):
            return Items(parts, "(" if pair == "()" else "[")
        return None
    parts = _split(text)
    return Items(parts, "") if len(parts) > 1 else None


def _plus_minus(text: str) -> Items | None:
    if len(re.findall(r"\\pm(?![A-Za-z])", text)) != 1 or "," in text:
        return None
    both = tuple(re.sub(r"\\pm\s*", sign, text) for sign in ("+", "-"))
    return Items(tuple(part.replace("=+", "=").strip().removeprefix("+") for part in both), "")


def _all_but(text: str) -> Items | None:
    """The two rays beside the one value that is left out."""
    differs, left_out = _DIFFERS.match(text), _ALL_BUT.match(text)
    if differs and _SYMBOL.match(canonical(differs.group(1))) and "," not in text:
        hole = differs.group(2)
        if _DIFFERS.match(hole):  # more than one thing is said
            return None
    elif left_out and "," not in left_out.group(1):
        hole = left_out.group(1)
    else:
        return None
    return Items((rf"(-\infty, {hole})", rf"({hole}, \infty)"), "")


def _encloses(text: str, opening: str) -> bool:
    """Whether the first bracket closes only at the end."""
    body = text[len(opening) :]
    depth = 1
    for place, character in enumerate(body):
        depth += (character in "([{") - (character in ")]}")
        if depth == 0:
            return place == len(body) - 1
    return False


def _split(text: str) -> tuple[str, ...]:
    outside = {place for place, _ in top_level(text)}
    parts, start = [], 0
    for found in _SEPARATOR.finditer(text):
        if found.start() in outside and not _inside_number(text, found):
            parts.append(text[start : found.start()])
            start = found.end()
    parts.append(text[start:])
    stripped = [part.replace(MARK, " ").strip() if not _unit_like(part) else part for part in parts]
    return tuple(part for part in stripped if part.strip(MARK + " "))


def _unit_like(part: str) -> bool:
    """Whether a border stands inside the part, where it tells a unit from a product."""
    return MARK in part.strip(MARK + " ")


def _inside_number(text: str, found: re.Match[str]) -> bool:
    """Whether the comma groups thousands: tight, while the list itself has commas with a space."""
    tight = re.compile(r"(?<!\d)\d{1,3},\d{3}(?!\d)").match
    first_digit = len(text[: found.start()].rstrip("0123456789"))
    return ", " in text and bool(tight(text, first_digit))


def interval(text: str) -> Interval | None:
    r"""The interval that `text` writes in brackets, as an inequality, or behind `x \in`."""
    if _REALS.match(plain(text)):
        return Interval("-\\infty", "\\infty", low_closed=False, high_closed=False)
    built = _BUILDER.match(text)
    if built:
        return interval(built.group(2).strip())
    # As in "]1, 3[", the brackets of open ends may be turned away.
    text = re.sub(r"\A\]", "(", re.sub(r"\[\Z", ")", text))
    member = _MEMBER.match(text)
    if member and _MEMBER.match(member.group(2).strip()):
        return None  # a member of what is itself a member
    if member:
        inner = interval(member.group(2).strip())
        known = inner is not None and inner.variable is None
        return replace(inner, variable=canonical(member.group(1))) if inner and known else None
    bracketed = re.match(r"([(\[])(.*)([)\]])\Z", text, re.DOTALL)
    if bracketed and _encloses(text, bracketed.group(1)):
        return _between(*bracketed.groups())
    return _inequality(text) or _both(text)


def _between(opening: str, ends: str, closing: str) -> Interval | None:
    match _split(ends):
        case (low, high) if "," in ends:
            return Interval(canonical(low), canonical(high), opening == "[", closing == "]")
    return None


def _both(text: str) -> Interval | None:
    """What two one-sided inequalities for the same variable leave between them."""
    parts = re.split(r"\band\b|,|\\land(?![A-Za-z])", plain(text))
    sides = [_inequality(part.strip()) for part in parts]
    match sides:
        case [Interval() as first, Interval() as second] if first.variable == second.variable:
            lower, upper = (first, second) if first.high == "\\infty" else (second, first)
            if (lower.high, upper.low) == ("\\infty", "-\\infty"):
                return replace(lower, high=upper.high, high_closed=upper.high_closed)
    return None


def _inequality(text: str) -> Interval | None:
    relations = [found.group() for found in _RELATION.finditer(text)]
    sides = [canonical(side) for side in _RELATION.split(text)]
    upward = {"<" in relation or "le" in relation for relation in relations}
    if not all(sides) or is_equation(text) or len(upward) != 1:
        return None
    if upward == {False}:
        sides, relations = sides[::-1], relations[::-1]
    closed = ["e" in relation for relation in relations]
    match sides:
        case [low, variable, high] if _SYMBOL.match(variable):
            return Interval(low, high, closed[0], closed[1], variable)
        case [variable, high] if _SYMBOL.match(variable) and not _SYMBOL.match(high):
            return Interval(
                "-\\infty", high, low_closed=False, high_closed=closed[0], variable=variable
            )
        case [low, variable] if _SYMBOL.match(variable):
            return Interval(
                low, "\\infty", low_closed=closed[0], high_closed=False, variable=variable
            )
    return None


def ratio(text: str) -> tuple[str, ...]:
    """The terms of a ratio as "2:3" or "2 to 3" writes it; a clock time looks the same."""
    terms = tuple(term.strip() for term in re.split(r":|\bto\b", plain(text)))
    return terms if len(terms) > 1 and all(terms) else ()


def named(text: str) -> Named:
    """`text` without the name that it gives its value; an equation keeps both sides."""
    member = _MEMBER.match(text)
    if member and member.group(2).strip().startswith("\\{"):
        return Named(canonical(member.group(1)), member.group(2).strip())
    point = _POINT.match(text)
    if point:
        return Named(canonical(point.group(1)), point.group(2))
    sides = [side.strip(MARK + " ") for side in _EQUALS.split(text)]
    match sides:
        case [_] | [*_, ""] | ["", *_]:
            return Named(None, text)
        case [left, *_, value] if is_name(plain(left)):
            return Named(canonical(left), value)
        case [value, right] if is_name(plain(right)):
            return Named(canonical(right), value)
    # "3 + 4 = 7" is a computation that states its result; "x + 4 = 7" is an equation.
    computation = not re.search(r"[A-Za-z]", re.sub(r"\\[A-Za-z]+", "", "".join(sides[:-1])))
    return Named(None, sides[-1] if computation else text)


def is_equation(text: str) -> bool:
    """Whether an equals sign stands in `text`."""
    return len(_EQUALS.split(text)) > 1


def is_name(text: str) -> bool:
    r"""Whether `text` names a value ("x", "f(x)", "m\angle A", "Area") and computes nothing."""
    bare = _NAMING.sub(" ", _SUBSCRIPT.sub("", text))
    return len(text) <= _MAX_NAME and bool(_NAME.match(bare) or (not bare.strip() and text))


def single_symbol(name: str) -> bool:
    """Whether `name` is one letter, with or without an index: two of them differ for certain."""
    return bool(_SYMBOL.match(name)) and len(re.sub(r"\\|_.*", "", name)) == 1


def is_prose(text: str) -> bool:
    """Whether `text` is words rather than symbols.

    Two letters are a product ("ab") unless a letter that names no variable is among them ("no").
    """
    for found in _WORD.finditer(_ENVIRONMENT.sub(" ", plain(text))):
        word = found.group()
        if word.casefold() in _FUNCTIONS:
            continue
        if (
            len(word) >= _SHORTEST_WORD
            or (word.islower() and set(word) & set("eio"))
            or word.istitle()
        ):
            return True
    return False


def same_words(stated: str, gold: str) -> bool:
    """Whether both sides are the same words; in a date their order says nothing."""
    first, second = words(stated), words(gold)
    if _MONTHS & set(first) and len({word for word in first if word.isdigit()}) > 1:
        return sorted(_in_dates(first)) == sorted(_in_dates(second))
    return first == second


def _in_dates(found: tuple[str, ...]) -> list[str]:
    return [re.sub(r"(?<=\d)(?:st|nd|rd|th)\Z", "", word) for word in found if word != "of"]


def words(text: str) -> tuple[str, ...]:
    """The words of `text`, without case, punctuation and articles."""
    folded = re.sub(r"[^\w.+/^=<>-]+|(?<=[a-z])-(?=[a-z])|\.(?!\d)", " ", plain(text).casefold())
    kept = [word for word in folded.split() if word not in ("a", "an", "the")]
    return tuple(kept or folded.split())
