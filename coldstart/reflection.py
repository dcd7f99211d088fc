"""How often responses reflect, and whether that goes with being right; it grades nothing itself.

The words are those of MAYE (arXiv 2504.02587): a usable substitute for the list of the paper,
which is unknown. A marker shows a habit of wording, not that a thought helped.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

MAYE_WORDS: Final = (
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

# A hyphen has several forms in Unicode, and a phrase may run over the end of a line.
_HYPHEN: Final = "[-\u2010\u2011\u2012\u2013]"


@dataclass(frozen=True, slots=True)
class Reflection:
    """The five ratios of a set of responses, with their counts.

    A ratio without a denominator is None. `word_responses` counts the responses in which a word
    stands, in the order of the list, words without any included.
    """

    responses: int
    correct: int
    reflecting: int
    reflecting_correct: int
    word_responses: dict[str, int]

    @property
    def reflection_ratio(self) -> float | None:
        """The share of responses that reflect."""
        return _ratio(self.reflecting, self.responses)

    @property
    def reflection_ratio_correct(self) -> float | None:
        """The share that reflects among the correct responses."""
        return _ratio(self.reflecting_correct, self.correct)

    @property
    def reflection_ratio_incorrect(self) -> float | None:
        """The share that reflects among the incorrect responses."""
        return _ratio(self.reflecting - self.reflecting_correct, self.responses - self.correct)

    @property
    def accuracy_reflecting(self) -> float | None:
        """The accuracy of the responses that reflect."""
        return _ratio(self.reflecting_correct, self.reflecting)

    @property
    def accuracy_not_reflecting(self) -> float | None:
        """The accuracy of the responses that do not reflect."""
        return _ratio(self.correct - self.reflecting_correct, self.responses - self.reflecting)

    def ratios(self) -> dict[str, float | None]:
        """The five ratios by name, as reports and metrics carry them."""
        return {
            "reflection_ratio": self.reflection_ratio,
            "reflection_ratio_correct": self.reflection_ratio_correct,
            "reflection_ratio_incorrect": self.reflection_ratio_incorrect,
            "accuracy_reflecting": self.accuracy_reflecting,
            "accuracy_not_reflecting": self.accuracy_not_reflecting,
        }


class Lexicon:
    """Words and phrases to find in responses: whole words, in either case.

    Raises:
        ValueError: the list is empty, or an entry is blank or stands in it twice.
    """

    def __init__(self, words: Sequence[str] = MAYE_WORDS) -> None:
        folded = [" ".join(word.casefold().split()) for word in words]
        if not folded or not all(folded):
            raise ValueError("words: the list must hold at least one word, and no blank ones")
        if len(set(folded)) < len(folded):
            twice = sorted(word for word, count in Counter(folded).items() if count > 1)
            raise ValueError(f"words: {', '.join(twice)} stands in the list more than once")
        self.words = tuple(folded)
        # One group for each word, the longest first, so that no word hides a longer phrase.
        longest = sorted(range(len(folded)), key=lambda place: -len(folded[place]))
        alternatives = "|".join(f"(?P<w{place}>{_pattern(folded[place])})" for place in longest)
        self._pattern = re.compile(rf"(?<!\w)(?:{alternatives})(?!\w)", re.IGNORECASE)

    def found(self, text: str) -> Counter[str]:
        """How often each word stands in `text`; empty when it does not reflect."""
        groups = (match.lastgroup for match in self._pattern.finditer(text))
        return Counter(self.words[int(group[1:])] for group in groups if group)


def _pattern(word: str) -> str:
    return re.escape(word).replace(r"\ ", r"\s+").replace(r"\-", _HYPHEN)


def reflection(graded: Iterable[tuple[str, bool]], words: Sequence[str] = MAYE_WORDS) -> Reflection:
    """The reflection of `graded`: pairs of a response and whether its answer is correct.

    Raises:
        ValueError: `words` is no usable list (see `Lexicon`).
    """
    lexicon = Lexicon(words)
    per_word: Counter[str] = Counter()
    responses = right = reflecting = reflecting_right = 0
    for response, is_correct in graded:
        found = lexicon.found(response)
        per_word.update(found.keys())
        responses += 1
        right += is_correct
        reflecting += bool(found)
        reflecting_right += bool(found) and is_correct
    return Reflection(
        responses,
        right,
        reflecting,
        reflecting_right,
        {word: per_word[word] for word in lexicon.words},
    )


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None
