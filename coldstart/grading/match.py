"""Whether a stated answer equals the gold answer: exact rules first, computer algebra last.

`decide` is pure, quick and needs no optional package. What it cannot decide it returns as a
`Question`, for the pool of workers. It reads no whole responses: that is `extract`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Final, Literal, get_args

from coldstart.grading import choices as options_of
from coldstart.grading import exact
from coldstart.grading.extract import extract
from coldstart.grading.notation import canonical, clean, nesting, plain
from coldstart.grading.quantity import (
    DEGREE,
    Unit,
    in_radians,
    quantity,
    same_quantity,
    split_unit,
    unit,
)
from coldstart.grading.structure import (
    Interval,
    Items,
    interval,
    is_equation,
    is_prose,
    items,
    named,
    ratio,
    same_words,
    single_symbol,
)
from coldstart.grading.symbolic import Question, gold_within_bounds, within_bounds

AnswerType = Literal["auto", "choice", "integer", "float", "list", "expression", "text", "interval"]
Decision = bool | Question

# Nobody answers a benchmark question in more; longer spans match only letter by letter.
MAX_SPAN: Final = 2_000
MAX_ITEMS: Final = 40
# Of brackets in one another; each costs some calls within calls.
MAX_DEPTH: Final = 50
# Of parts with each other, which sets in sets multiply without end.
MAX_COMPARISONS: Final = 5_000
MAX_PRECISION: Final = 100
MAX_OPTIONS: Final = 200
PAIR: Final = 2


class UnreadableGold(ValueError):
    """The gold answer is empty, has an unclosed box, or is beyond every bound."""


class _TooIntricate(Exception):
    """Two answers have more parts than are compared."""


@dataclass(frozen=True, slots=True)
class Gold:
    """A gold answer and what the data declare about it.

    `precision` counts decimal places; `unit` is the unit that the question asks for.

    Raises:
        ValueError: an unknown answer type, or a precision that is negative or beyond every bound.
    """

    text: str
    choices: tuple[str, ...] | None = None
    answer_type: AnswerType | None = None
    precision: int | None = None
    unit: str | None = None

    def __post_init__(self) -> None:
        if self.answer_type is not None and self.answer_type not in get_args(AnswerType):
            known = ", ".join(get_args(AnswerType))
            raise ValueError(f"answer_type: {self.answer_type!r} is unknown; it is one of {known}")
        if self.precision is not None and not 0 <= self.precision <= MAX_PRECISION:
            raise ValueError(
                f"precision: {self.precision} decimal places; it must be from 0 to {MAX_PRECISION}"
            )

    @property
    def tolerance(self) -> Fraction:
        """Half of the last declared place; exact without a declaration."""
        return Fraction(0) if self.precision is None else Fraction(1, 2 * 10**self.precision)


@dataclass(slots=True)
class _Budget:
    """Comparisons that are left."""

    left: int = MAX_COMPARISONS

    def spend(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise _TooIntricate


@dataclass(frozen=True, slots=True)
class _Terms:
    """What the comparison of the parts has to know of the gold answer."""

    kind: AnswerType
    tolerance: Fraction
    unit: Unit | None
    budget: _Budget = field(default_factory=_Budget)


def decide(span: str, gold: Gold) -> Decision:
    """Whether `span` equals `gold`, or the question that is left to computer algebra.

    Raises:
        UnreadableGold: no answer can be right.
    """
    target = gold_span(gold.text)
    if span.strip() == target:
        return True
    if len(target) > MAX_SPAN:
        raise UnreadableGold(f"the gold answer has more than {MAX_SPAN:,} characters")
    if len(span) > MAX_SPAN:
        return False
    stated, wanted = clean(span), clean(target)
    _require_flat(wanted)
    if not plain(stated) or nesting(stated) > MAX_DEPTH:
        return False
    declared = unit(" " + clean(gold.unit[:MAX_SPAN])) if gold.unit else None
    terms = _Terms(gold.answer_type or "auto", gold.tolerance, declared)
    try:
        return _compared(stated, wanted, gold.choices, terms)
    except _TooIntricate:
        return False


def _compared(stated: str, wanted: str, choices: Sequence[str] | None, terms: _Terms) -> Decision:
    if choices and canonical(stated) != canonical(wanted):
        if len(choices) > MAX_OPTIONS or any(len(choice) > MAX_SPAN for choice in choices):
            raise UnreadableGold(
                f"there are over {MAX_OPTIONS} options, or one has over {MAX_SPAN:,} characters"
            )
        options = options_of.option_texts(choices)
        _require_flat(*options)
        place = options_of.place(wanted, options)
        if place is not None:
            return _same_choice(stated, place, options, replace(terms, kind="auto"))
    return _same(stated, wanted, terms)


def _require_flat(*texts: str) -> None:
    """Refuse what is nested deeper than anything that is read here."""
    if any(nesting(text) > MAX_DEPTH for text in texts):
        raise UnreadableGold(f"the gold answer or an option nests more than {MAX_DEPTH} brackets")


def gold_span(text: str) -> str:
    r"""The answer within a gold text, which may be a whole response that ends in a `\boxed{}`.

    Raises:
        UnreadableGold: it holds no answer.
    """
    if "\\boxed" in text:
        found = extract(text)
        if found.span is None:
            raise UnreadableGold(f"the gold answer {text[-80:]!r} holds no closed \\boxed{{}}")
        text = found.span
    stripped = text.strip(" \n\r")  # a leading form feed is an eaten \\f
    if not stripped or not plain(clean(stripped[:MAX_SPAN])):
        raise UnreadableGold("the gold answer is empty")
    return stripped


def lists_several(gold: Gold) -> bool:
    """Whether the gold answer itself consists of several values."""
    wanted = clean(gold_span(gold.text)[:MAX_SPAN])
    parts = None if quantity(wanted) else items(wanted)
    return parts is not None and len(parts.parts) > 1


def _same_choice(stated: str, place: int, options: Sequence[str], terms: _Terms) -> Decision:
    """Whether just the option at `place` is named, by letter, by text, or by both in agreement."""
    exact = [at for at, option in enumerate(options) if canonical(option) == canonical(stated)]
    if len(exact) == 1:
        return exact == [place]
    if options_of.letter(stated) is not None:
        return options_of.lettered_place(stated, options) == place
    marked = options_of.label(stated, options)
    if marked is not None:
        at, rest, certain = marked
        agrees = _same(clean(rest), options[at], terms)
        if certain or agrees is True:
            return agrees if at == place else False
    named_places = [at for at, text in enumerate(options) if _same(stated, text, terms) is True]
    if named_places:
        return named_places == [place]
    return _same(stated, options[place], terms)


def _same(stated: str, gold: str, terms: _Terms) -> Decision:
    """Compares two cleaned answers by their shape, then part by part."""
    terms.budget.spend()
    left, right = canonical(stated), canonical(gold)
    if left == right:
        return bool(left)
    wanted = options_of.letter(gold)
    if wanted is not None and (terms.kind == "choice" or right.strip("()[].:") in "ABCDEFGH"):
        return options_of.letter(stated) == wanted
    if terms.kind == "text":
        return _same_text(stated, gold, terms)
    for shape in (_same_ratio, _same_interval, _same_items, _same_named):
        decision = shape(stated, gold, terms)
        if decision is not None:
            return decision
    return _same_value(stated, gold, terms)


def _same_text(stated: str, gold: str, terms: _Terms) -> bool:
    first, second = quantity(stated), quantity(gold)
    if first and second:
        return same_quantity(first, second, terms.tolerance)
    return same_words(stated, gold)


def _same_ratio(stated: str, gold: str, _: _Terms) -> Decision | None:
    first, second = _terms_of(stated), _terms_of(gold)
    if not second:
        return None
    if not first:
        alone = quantity(stated)
        known = len(second) == PAIR and second[1] and alone and not alone.unit
        return alone.value == second[0] / second[1] if known and alone else None
    lowest = math.gcd(*(term.numerator for term in second)) == 1
    if _is_clock(stated) and _is_clock(gold) and not lowest:
        return first == second
    return len(first) == len(second) and all(
        one * second[0] == other * first[0] for one, other in zip(first, second, strict=True)
    )


def _terms_of(text: str) -> tuple[Fraction, ...]:
    """The terms of a ratio of bare numbers; none where `text` is something else."""
    found = [quantity(term) for term in ratio(text)]
    known = [each.value for each in found if each and not each.unit and not each.percent]
    return tuple(known) if len(known) == len(found) and any(known) else ()


def _is_clock(text: str) -> bool:
    """Whether `text` could be a time of day, which has no lowest terms."""
    return bool(re.match(r"\d{1,2}:[0-5]\d\Z", plain(text)))


def _same_interval(stated: str, gold: str, terms: _Terms) -> Decision | None:
    first, second = interval(stated), interval(gold)
    if first is None or second is None:
        # An inequality never equals one value; what only algebra can read is left to it.
        other, known = (gold, first) if first else (stated, second)
        one_sided = known is not None and known.variable is not None
        return False if one_sided and quantity(other) is not None else None
    if (first.low_closed, first.high_closed) != (second.low_closed, second.high_closed):
        return False
    if first.variable and second.variable and first.variable != second.variable:
        return False
    return _in_order(_ends(first), _ends(second), terms)


def _ends(found: Interval) -> tuple[str, str]:
    return found.low.removeprefix("+"), found.high.removeprefix("+")


def _same_items(stated: str, gold: str, terms: _Terms) -> Decision | None:
    first = None if quantity(stated) else items(stated)
    second = items(gold) if terms.kind == "list" or not quantity(gold) else None
    if first is None and second is not None and "," in stated:
        first = items(stated)
    if first is None and second is None:
        return None
    if second is None and is_prose(gold):
        return same_words(stated, gold)
    if first is not None and second is not None and first.bracket == second.bracket == "{":
        first, second = _distinct(first), _distinct(second)
    first = first or Items((stated,), "")
    second = second or Items((gold,), "")
    if len(first.parts) != len(second.parts) or len(first.parts) > MAX_ITEMS:
        # "x = \{1, 2\}" names its set before it lists it.
        return None if len(first.parts) == 1 and named(stated).name else False
    if len(first.parts) == 1:
        return _same(first.parts[0], second.parts[0], terms)
    if not _comparable(first, second, terms):
        return False
    if second.ordered and first.bracket == "":
        first = _by_name(first)
    ordered = first.ordered or second.ordered or _names_differ(first, second)
    return (_in_order if ordered else _in_any_order)(first.parts, second.parts, terms)


def _comparable(stated: Items, gold: Items, terms: _Terms) -> bool:
    if gold.bracket in (stated.bracket, ""):
        return True
    if stated.bracket == "":
        listed = terms.kind == "list" or gold.bracket in "[{"
        return listed or all(named(part).name for part in stated.parts)
    return terms.kind == "list" and stated.ordered and gold.ordered


def _distinct(listed: Items) -> Items:
    """A set holds each of its elements once."""
    return Items(tuple({canonical(part): part for part in listed.parts}.values()), listed.bracket)


def _by_name(listed: Items) -> Items:
    """Coordinates in the order of their names: "y = 2, x = 1" is the point (1, 2)."""
    names = [named(part).name or "" for part in listed.parts]
    if "".join(sorted(names)) not in ("xy", "xyz", "yz", "ab", "abc"):
        return listed
    return Items(tuple(sorted(listed.parts, key=lambda part: named(part).name or "")), "")


def _names_differ(first: Items, second: Items) -> bool:
    """Whether one side alone says which value belongs to which name: then the order decides."""
    names = [{named(part).name for part in side.parts} for side in (first, second)]
    several = [len(each) > 1 and None not in each for each in names]
    nameless = [each == {None} for each in names]
    return (several[0] and nameless[1]) or (several[1] and nameless[0])


def _in_order(stated: Sequence[str], gold: Sequence[str], terms: _Terms) -> Decision:
    open_questions = []
    for one, other in zip(stated, gold, strict=True):
        decision = _same(one, other, terms)
        if decision is False:
            return False
        if isinstance(decision, Question):
            open_questions.append(decision)
    if not open_questions:
        return True
    if len(open_questions) == 1:
        return open_questions[0]
    return Question(
        "(" + ", ".join(question.stated for question in open_questions) + ")",
        "(" + ", ".join(question.gold for question in open_questions) + ")",
    )


def _in_any_order(stated: Sequence[str], gold: Sequence[str], terms: _Terms) -> Decision:
    left_over = list(gold)
    unmatched = []
    for one in stated:
        match = next((other for other in left_over if _same(one, other, terms) is True), None)
        if match is None:
            unmatched.append(one)
        else:
            left_over.remove(match)
    if not unmatched:
        return True
    if any(all(_same(one, other, terms) is False for other in left_over) for one in unmatched):
        return False
    if len(unmatched) == 1:
        return _same(unmatched[0], left_over[0], terms)
    values = [[plain(named(part).value) for part in side] for side in (unmatched, left_over)]
    first, second = ("\\{" + ", ".join(side) + "\\}" for side in values)
    return _asked(first, second, terms)


def _same_named(stated: str, gold: str, terms: _Terms) -> Decision | None:
    first, second = named(stated), named(gold)
    if first.value == stated and second.value == gold:
        return None
    both = [name for name in (first.name, second.name) if name is not None]
    if len(set(both)) > 1 and all(map(single_symbol, both)):
        if quantity(first.value) and quantity(second.value):
            return False
        return _asked(plain(stated), plain(gold), terms)
    # "2x - y = 0" is the line that "y = 2x" is, but an unsolved equation is no value.
    if len(both) == 1 and is_equation(stated) and is_equation(gold):
        solved = first if first.name else second
        if single_symbol(both[0]) and not quantity(solved.value):
            return _asked(plain(stated), plain(gold), terms)
    return _same(first.value, second.value, terms)


def _same_value(stated: str, gold: str, terms: _Terms) -> Decision:
    first, second = quantity(stated), quantity(gold)
    if first and second:
        if terms.unit and second.unit is None and not second.percent:
            second = replace(second, unit=terms.unit)
        return same_quantity(first, second, terms.tolerance)
    if (first or second) and any(map(_is_variable, (canonical(stated), canonical(gold)))):
        return False
    if second is None and is_prose(gold) and split_unit(gold).unit is None:
        return same_words(stated, gold)
    return _same_expression(stated, gold, terms)


def _same_expression(stated: str, gold: str, terms: _Terms) -> Decision:
    left, right = split_unit(in_radians(stated)), split_unit(in_radians(gold))
    if is_prose(left.expression) or is_prose(right.expression):
        return same_words(stated, gold)
    scale = Fraction(1)
    if left.unit and right.unit:
        if left.unit.dimension != right.unit.dimension:
            return False
        scale = left.unit.factor / right.unit.factor
    expression = plain(left.expression)
    if left.unit == DEGREE and not right.unit and "\\pi" in right.expression:
        return _asked(rf"\frac{{\pi}}{{180}} \cdot ({expression})", plain(right.expression), terms)
    if right.unit == DEGREE and not left.unit and "\\pi" in left.expression:
        return _asked(rf"\frac{{180}}{{\pi}} \cdot ({expression})", plain(right.expression), terms)
    if scale != 1:
        expression = rf"\frac{{{scale.numerator}}}{{{scale.denominator}}} \cdot ({expression})"
    elif canonical(expression) == canonical(right.expression):
        return True
    return _asked(expression, plain(right.expression), terms)


def _is_variable(name: str) -> bool:
    """Whether `name` is a symbol without a value of its own."""
    return single_symbol(name) and name not in ("e", "i")


def _asked(stated: str, gold: str, terms: _Terms) -> Decision:
    if not gold_within_bounds(gold):
        raise UnreadableGold(
            f"the gold answer {gold[:80]!r} is beyond the bounds of computer algebra"
        )
    endless = "\\infty" in stated and canonical(stated).lstrip("+-") == "\\infty"
    # math-verify takes "x^2 = 4" for an assignment of 4.
    one_equation = is_equation(stated) != is_equation(gold)
    if endless or one_equation or not within_bounds(stated, gold):
        return False
    known = exact.same(stated, gold, terms.tolerance)
    return Question(stated, gold, terms.tolerance) if known is None else known
