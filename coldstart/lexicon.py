"""Lists of words that mark reflection, and where they stand in a response; nothing is counted.

`maye` is the list of MAYE (arXiv 2504.02587): a usable substitute for that of the paper, which is
unknown. MAYE itself counts parts of words, too (`wait` in `waiter`), so its numbers are no others.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Final, NamedTuple, Self

from pydantic import Field, StringConstraints, field_validator, model_validator

from coldstart.schema import Contract

MAYE: Final = "maye"
LISTS: Final[Mapping[str, tuple[str, ...]]] = {
    MAYE: (
        "re-check",
        "re-evaluate",
        "re-examine",
        "re-think",
        "recheck",
        "reevaluate",
        "reexamine",
        "reevaluation",
        "rethink",
        "check again",
        "think again",
        "try again",
        "verify",
        "wait",
        "yet",
    )
}
"""The lists that have a name."""

# Scripts that put no space between words: there, a word may stand anywhere.
_UNSPACED: Final = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]"
)
_MARKS: Final = "\u0300-\u036f"
"""Combining accents: they belong to the letter before them, but are no letters to `re`."""

_ALIKE: Final = dict.fromkeys("\u2010\u2011\u2012\u2013", "-") | dict.fromkeys(
    "\u2018\u2019\u02bc\uff07", "'"
)
"""Hyphens and apostrophes, of which Unicode has several."""


class WordList(Contract):
    """Words that mark reflection, the same for evaluations and for GRPO's rollouts."""

    name: Annotated[str, StringConstraints(min_length=1, max_length=40)] = MAYE
    """`maye` is the list of MAYE (arXiv 2504.02587), not that of the paper, which is unknown; any
    other name is what reports call a list of your own."""
    words: Annotated[
        tuple[Annotated[str, StringConstraints(min_length=1, max_length=100)], ...],
        Field(max_length=200),
    ] = ()
    """The words and phrases of a list of your own; they are found whole, in either case, whatever
    the white space between them."""

    @field_validator("words")
    @classmethod
    def _words_can_be_told_apart(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        folded = [folded_word(word) for word in value]
        for word in folded:
            if not word or not (_is_part(word[0]) and _is_part(word[-1])):
                raise ValueError(f"{word!r} must begin and end with a letter or a digit")
        twice = sorted(word for word, count in Counter(folded).items() if count > 1)
        if twice:
            raise ValueError(f"{', '.join(twice)} stands in the list more than once")
        return value

    @model_validator(mode="after")
    def _words_have_a_name(self) -> Self:
        if self.words and self.name in LISTS:
            raise ValueError(
                f"words is given, but {self.name} has its own: give the list another name"
            )
        if not self.words and self.name not in LISTS:
            raise ValueError(
                f"{self.name} is no known list ({', '.join(LISTS)}), so words is required"
            )
        return self

    @property
    def entries(self) -> tuple[str, ...]:
        """The words, whoever's list it is, as results show them."""
        return tuple(folded_word(word) for word in self.words) or LISTS[self.name]


MAYE_LIST: Final = WordList()
"""The list of MAYE."""


class Place(NamedTuple):
    """Where a word stands in a text."""

    start: int
    end: int
    word: str


class Lexicon:
    """Finds the words of a list as wholes: no letter, digit or `_` stands before or after them.

    Letters match in either case, hyphens and apostrophes in all their forms, and between the words
    of a phrase any white space. Every stretch of text counts for one word: that which begins first,
    of several the longest. Words of scripts without spaces are found inside a text, too.
    """

    def __init__(self, entries: Sequence[str]) -> None:
        self._entries = {folded_word(entry): entry for entry in entries}
        longest = sorted(self._entries, key=len, reverse=True)
        free = [word for word in longest if _UNSPACED.search(word)]
        bounded = [word for word in longest if word not in free]
        parts = [_any(free)] if free else []
        if bounded:
            parts.append(rf"(?<![\w{_MARKS}]){_any(bounded)}(?![\w{_MARKS}])")
        # A list without words is found nowhere.
        self._pattern = re.compile("|".join(parts) or r"(?!)")

    def places(self, text: str) -> Iterator[Place]:
        """Where the words of the list stand, from the first to the last."""
        for match in self._pattern.finditer(_folded(text)):
            yield Place(match.start(), match.end(), self._entries[" ".join(match[0].split())])

    def found(self, text: str) -> Counter[str]:
        """How often each word stands in a text; empty when none does."""
        return Counter(place.word for place in self.places(text))


def folded_word(word: str) -> str:
    """An entry of a list in the form in which it is compared with others."""
    return " ".join(_folded(word).split())


def _is_part(char: str) -> bool:
    """Whether it is of a word: a letter, a number, or a mark on a letter."""
    return unicodedata.category(char)[0] in "LNM"


class _Forms(dict[int, str]):
    """The form in which a character is compared, by its code; always one character."""

    def __missing__(self, code: int) -> str:
        char = chr(code)
        form = " " if char.isspace() else _ALIKE.get(char, char)
        # What would become two characters is left: it would move all places behind it.
        self[code] = next((f for f in (form.casefold(), form.lower()) if len(f) == 1), form)
        return self[code]


_FORMS: Final = _Forms()


def _folded(text: str) -> str:
    return text.translate(_FORMS)


def _any(words: Sequence[str]) -> str:
    # No spaces are given back (`++`), so that a long run of them costs its length once.
    return f"(?:{'|'.join(' ++'.join(map(re.escape, word.split())) for word in words)})"
