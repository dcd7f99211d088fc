r"""One spelling for one answer: unwraps and normalises LaTeX, Unicode and plain-text notation.

It changes how an answer is written and never what it says; it does no arithmetic.
"""

from __future__ import annotations

import functools
import re
from itertools import accumulate
from typing import Final

# The border of a `\text{}`: what follows it is a word or a unit, never a product of letters.
MARK: Final = "\u2063"

_SIGNS: Final = {
    "\u2212\u2013\u2014\u2010\u2011": "-",  # minus, dashes, hyphens
    "\u00d7": r"\times ",
    "\u00b7\u22c5": r"\cdot ",
    "\u00f7": "/",
    "\u00b0\u00ba": r"^\circ ",
    "\u03c0": r"\pi ",
    "\u03b8": r"\theta ",
    "\u03b1": r"\alpha ",
    "\u03b2": r"\beta ",
    "\u221e": r"\infty ",
    "\u2264": r"\le ",
    "\u2265": r"\ge ",
    "\u2260": r"\ne ",
    "\u00b1": r"\pm ",
    "\u222a": r"\cup ",
    "\u2208": r"\in ",
    "\u2220": r"\angle ",
    "\u2213": r"\mp ",
    "\u2026": "...",
    "\u00bd": r"\frac{1}{2}",
    "\u00bc": r"\frac{1}{4}",
    "\u00be": r"\frac{3}{4}",
    "\u3001": ",",
    "\u2019\u2032": "'",
    "\u00a0\u2009\u202f\u3000": " ",
    MARK: "",
    # JSON and Python swallow the backslash of \frac, \boxed, \alpha and \vec into these.
    "\x0c": r"\f",
    "\x08": r"\b",
    "\x07": r"\a",
    "\x0b": r"\v",
}
# The full-width forms of ASCII, as Chinese text has them.
_FULL_WIDTH: Final = {0xFEE0 + code: chr(code) for code in range(0x21, 0x7F)}
_UNICODE: Final = _FULL_WIDTH | {ord(sign): out for signs, out in _SIGNS.items() for sign in signs}

_SUPERSCRIPTS: Final = {
    ord(sign): plain for sign, plain in zip("⁻⁺⁰¹²³⁴⁵⁶⁷⁸⁹", "-+0123456789", strict=True)
}
# Most answers: nothing in them has another spelling.
_SIMPLE = re.compile(r"-?[0-9]+(?:\.[0-9]+)?\Z|[A-Z]\Z")
_RAISED = re.compile(r"[⁻⁺]?[⁰¹²³⁴⁵⁶⁷⁸⁹]+")

_EATEN_TAB = re.compile(r"\t(?=ext\b|imes\b|heta\b|an\b|frac\b|riangle\b)")
_MOJIBAKE_DEGREE = re.compile(r"(?<=\d)掳")
_TEXT = re.compile(
    r"\\(?:text(?:bf|it|rm|sf|tt|normal)?|mathrm|mathbf|mathit|mathsf|mathtt|mbox|hbox|bm"
    r"|boldsymbol|operatorname)\s*\*?\s*\{([^{}]*)\}"
)
_LETTER_STYLE = re.compile(r"\\(?:mathbf|boldsymbol|bm|mathit)\s*\{([^{}]*)\}")
_SPACING = re.compile(
    r"(?<!\\)\\(?:[,;:! ]"
    r"|(?:q?quad|thinspace|displaystyle|textstyle|limits|rm|bf|it)\b)|~"
)
_SIZE = re.compile(r"\\(?:left|right|[bB]igg?[lr]?)(?![A-Za-z])\.?")
_FRACTION_NAME = re.compile(r"\\[dtc]frac(?![A-Za-z])")
_ARGUMENT = r"(\\[A-Za-z]+|[0-9A-Za-z])"
_REWRITES: Final = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"\{,\}", ","),
        (r"\\boxed(?![A-Za-z{])", ""),
        (r"\\(?:begin|end)\s*\{(?:aligned|align|gathered|equation|split)\*?\}", ""),
        (r"\{([^{}]*?)\\over(?![A-Za-z])([^{}]*)\}", r"\\frac{\1}{\2}"),
        (r"(?<=\d)\s*[xX]\s*(?=10\s*\^)", r"\\times "),
        (r"\\\{\s*\\\}", r"\\emptyset "),
        (r"\\(?:ldots|cdots|dots)(?![A-Za-z])", "..."),
        (r"(?<![A-Za-z\\])oo(?![A-Za-z])", r"\\infty "),
        (r"\\leq(?:slant)?(?![A-Za-z])", r"\\le "),
        (r"\\geq(?:slant)?(?![A-Za-z])", r"\\ge "),
        (r"\\lt(?![A-Za-z])", "<"),
        (r"\\gt(?![A-Za-z])", ">"),
        (r"<=", r"\\le "),
        (r">=", r"\\ge "),
        (r"\\(?:colon|mathrel)(?![A-Za-z])", ":"),
        (r"\\(?:degree|textdegree)(?![A-Za-z])", r"^\\circ "),
        (r"\^\s*\{\s*\\circ\s*\}", r"^\\circ "),
        (r"\\varnothing|\\O(?![A-Za-z])", r"\\emptyset "),
        (r"\\lbrace(?![A-Za-z])", r"\\{"),
        (r"\\rbrace(?![A-Za-z])", r"\\}"),
        (r"√\s*\(([^()]*)\)", r"\\sqrt{\1}"),
        (r"√\s*(\d+|[A-Za-z])", r"\\sqrt{\1}"),
        (r"(?<![A-Za-z\\])sqrt\s*\(([^()]*)\)", r"\\sqrt{\1}"),
        (r"(?<![A-Za-z\\])pi(?![A-Za-z])", r"\\pi "),
        (r"(?<![A-Za-z\\])(?:infinity|infty|inf)(?![A-Za-z])", r"\\infty "),
        (r"(?<![A-Za-z\\])(sin|cos|tan|log|ln)\s*(?=[(\d])", r"\\\1 "),
        (r"\\frac\s*" + _ARGUMENT + r"\s*" + _ARGUMENT, r"\\frac{\1}{\2}"),
        (r"\\frac\s*" + _ARGUMENT + r"\s*(?=\{)", r"\\frac{\1}"),
        (r"(\\frac\s*\{[^{}]*\})\s*" + _ARGUMENT, r"\1{\2}"),
        (r"\\sqrt\s*([0-9A-Za-z])", r"\\sqrt{\1}"),
        (r"\*\*", "^"),
        (r"\^\s*\(([^()]*)\)", r"^{\1}"),
        (r"\^\s*(-?\d{2,}|-\d)", r"^{\1}"),
        (r"\s*\*\s*", r" \\cdot "),
        (r"\s+", " "),
    )
)
_PAIRS: Final = (("$$", "$$"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]"), ("**", "**"), ("`", "`"))
_SINGLE_BRACE = re.compile(r"([\^_])\s*\{\s*(\w)\s*\}")
_LOOSE_SPACE = re.compile(r"(?<![0-9A-Za-z])\s+|\s+(?![0-9A-Za-z])")


@functools.lru_cache(maxsize=10_000)
def clean(span: str) -> str:
    r"""`span` without wrappers and in one notation; the borders of `\text{}` remain as MARK."""
    if _SIMPLE.match(span):
        return span
    text = _RAISED.sub(lambda found: "^{" + found.group().translate(_SUPERSCRIPTS) + "}", span)
    text = _EATEN_TAB.sub(r"\\t", text).translate(_UNICODE)
    text = unwrapped(_MOJIBAKE_DEGREE.sub(r"^\\circ ", text))
    text = _FRACTION_NAME.sub(r"\\frac", _SIZE.sub("", _SPACING.sub(" ", text)))
    for _ in range(4):
        styled = _LETTER_STYLE.sub(r"\1", text)
        styled = _TEXT.sub(lambda found: MARK + found.group(1) + MARK, styled)
        if styled == text:
            break
        text = styled
    for pattern, replacement in _REWRITES:
        text = pattern.sub(replacement, text)
    # Alone, both signs say the same; beside a plus-minus, its order counts.
    return unwrapped(text if "\\pm" in text else text.replace("\\mp", "\\pm"))


def unwrapped(text: str) -> str:
    """`text` without math delimiters, emphasis, a final stop, and borders of nothing."""
    previous = None
    while previous != text:
        previous = text
        text = text.strip().removeprefix(MARK).removesuffix(MARK).strip()
        if text.endswith((".", ";", ",")) and not text.endswith("..."):
            text = text[:-1]
        for opening, closing in _PAIRS:
            inner = text[len(opening) : -len(closing)]
            if inner and text == opening + inner + closing and closing not in inner:
                text = inner
        if text.startswith("{") and _closes_at_end(text):
            text = text[1:-1]
    return text


def _closes_at_end(text: str) -> bool:
    depth = 0
    for found in re.finditer(r"\\.|[{}]", text):
        depth += {"{": 1, "}": -1}.get(found.group(), 0)
        if depth == 0:
            return found.end() == len(text)
    return False


def plain(text: str) -> str:
    """A cleaned text without the borders."""
    return re.sub(r"\s+", " ", text.replace(MARK, " ")).strip()


@functools.lru_cache(maxsize=10_000)
def canonical(text: str) -> str:
    """A cleaned text without the spaces that separate nothing: equal strings are equal answers."""
    joined = _SINGLE_BRACE.sub(r"\1\2", plain(text)).replace(r"\%", "%")
    return _LOOSE_SPACE.sub("", joined).removeprefix("+")


def nesting(text: str) -> int:
    """How many brackets stand in one another, at most."""
    steps = ({"(": 1, "[": 1, "{": 1, ")": -1, "]": -1, "}": -1}.get(each, 0) for each in text)
    return max(accumulate(steps), default=0)


def top_level(text: str) -> list[tuple[int, str]]:
    """The characters of `text` that stand inside no bracket, with their places."""
    depth = 0
    outside: list[tuple[int, str]] = []
    for place, character in enumerate(text):
        if character in "([{":
            depth += 1
        elif character in ")]}":
            depth -= 1
        elif depth == 0:
            outside.append((place, character))
    return outside
