"""Exact comparison of roots, powers of pi and letters: against sympy, and what it leaves alone."""

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coldstart.grading.exact import same, value

sympy = pytest.importorskip("sympy")

NUMBERS = [str(number) for number in range(13)] + ["0.5", "2.25", "100"]
ROOTS = [*range(1, 13), 18, 27, 50, 72, "\\frac{3}{4}", "\\frac{1}{2}", "0.02"]


def number(text):
    return text, sympy.Rational(text)


def root(inside):
    above, _, below = str(inside).removeprefix("\\frac{").removesuffix("}").partition("}{")
    return rf"\sqrt{{{inside}}}", sympy.sqrt(sympy.Rational(above) / sympy.Rational(below or 1))


def joined(parts):
    """Two expressions, put together in one of the ways that notation has."""
    (left, first), (right, second), way = parts
    if way == "frac" and sympy.simplify(second) != 0:
        return rf"\frac{{{left}}}{{{right}}}", first / second
    if way == "square":
        return rf"({left})^2 - {{{right}}}", first**2 - second
    sign = {"-": "-", "+": "+"}.get(way, "\\cdot ")
    value = first - second if way == "-" else first + second if way == "+" else first * second
    return f"({left}){sign}({right})", value


ATOMS = st.one_of(
    st.sampled_from(NUMBERS).map(number),
    st.sampled_from(ROOTS).map(root),
    st.just(("\\pi", sympy.pi)),
    st.sampled_from(list("xyr")).map(lambda name: (name, sympy.Symbol(name))),
)
EXPRESSIONS = st.recursive(
    ATOMS,
    lambda inner: st.tuples(
        inner, inner, st.sampled_from(["+", "-", "\\cdot", "frac", "square"])
    ).map(joined),
    max_leaves=5,
)
REWRITTEN = [
    lambda text: rf"\frac{{\sqrt{{2}} \cdot ({text})}}{{\sqrt{{2}}}}",
    lambda text: rf"{{{text}}} + \sqrt{{12}} - 2\sqrt{{3}}",
    lambda text: rf"({text})\left(1+\pi\right)/(1+\pi)".replace("\\left", "").replace(
        "\\right", ""
    ),
]


@given(EXPRESSIONS, EXPRESSIONS)
@settings(max_examples=60, deadline=None)
def test_two_expressions_are_equal_just_where_sympy_says_so(first, second):
    (stated, one), (gold, other) = first, second
    found = same(stated, gold)
    if found is not None:
        assert found == (sympy.simplify(sympy.expand(one - other)) == 0)


@given(EXPRESSIONS, st.sampled_from(REWRITTEN))
@settings(max_examples=60, deadline=None)
def test_an_expression_equals_itself_in_other_words_and_no_neighbour(expression, rewritten):
    text, _ = expression
    if value(text) is not None:
        assert same(rewritten(text), text) in (True, None)
        assert same(f"({text}) + 1", text) in (False, None)


@pytest.mark.parametrize(
    ("text", "same_as"),
    [
        (r"\frac{1}{2+\sqrt{3}}", r"2-\sqrt{3}"),
        (r"(\sqrt{2}+\sqrt{3})^2", r"5+2\sqrt{6}"),
        (r"\sqrt{999999999989}", r"\sqrt{999999999989}\cdot 1"),
        (r"\sqrt{3^2+4^2}", "5"),
        (r"\frac{4}{3}\pi r^3", r"4\pi r^3/3"),
        (r"\frac{x^2-1}{x+1}", "x-1"),
        ("2^{-3}", r"\frac{1}{8}"),
        (r"-\sqrt{0}", "0"),
    ],
)
def test_what_is_equal(text, same_as):
    assert same(text, same_as) is True
    assert same(text, same_as + "+1") is False


@pytest.mark.parametrize(
    "text",
    [
        *("2 3", "x 2", r"2\frac{1}{2}", r"1/2\sqrt{3}", "1/2/3", "{2}{3}", "x^12", "2^3^2"),
        *("1/0", r"\frac{1}{\sqrt{2}-\sqrt{2}}", r"\sqrt{-1}", r"\sqrt{x}", r"\sqrt{\pi}"),
        *(r"\sqrt[3]{8}", r"\sqrt{1+\sqrt{2}}", r"\sqrt{99999999999999}", "2^{9999}"),
        *("(x+y)^{99}", "e", "3i", "f(x)", "R", "5!", "50%", "|x|", "1,000", "5.", "", "(", "2)"),
        r"(a+b+c+h+k+m)^9",
    ],
)
def test_what_is_not_read_here(text):
    assert value(text) is None
    assert same(text, "1") is None


def test_what_is_near_is_told_from_what_is_equal():
    assert same("9.42", r"3\pi") is False
    assert same("9.42", r"3\pi", Fraction(1, 200)) is True
    assert same("9.43", r"3\pi", Fraction(1, 200)) is False
    assert same("9.42477796", r"3\pi") is None  # computer algebra says how near is equal
    assert same(r"10^{40} \cdot 0.5", r"\sqrt{2}") is None
