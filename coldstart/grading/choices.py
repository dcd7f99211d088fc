"""Which of the given options an answer names; it never guesses the nearest one."""

from __future__ import annotations

import re
from collections.abc import Sequence

from coldstart.grading.notation import canonical, clean, plain

_LETTER = re.compile(
    r"(?:(?:the )?(?:correct )?(?:option|choice|answer)(?: is)?:?\s*)?"
    r"[(\[]?\s*([A-Za-z])\s*[)\]]?\s*[.:]?\Z",
    re.IGNORECASE,
)
_LABELLED = re.compile(
    r"(?:(?:option|choice)\s+)?(?:[(\[]\s*([A-Za-z])\s*[)\]]|([A-Za-z])\s*[.:)])\s*[:.]?\s*(\S.*)\Z",
    re.IGNORECASE | re.DOTALL,
)
_LOOSE_LABEL = re.compile(r"([A-Z])\s+(\S.*)\Z", re.DOTALL)


def letter(text: str) -> str | None:
    """The letter that a cleaned answer consists of: "B", "(b)", "B.", "option B"."""
    found = _LETTER.match(plain(text))
    return found.group(1).upper() if found else None


def option_texts(choices: Sequence[str]) -> tuple[str, ...]:
    """The options, cleaned, without the labels that some datasets write before each."""
    cleaned = [clean(choice) for choice in choices]
    labels = [_LABELLED.match(plain(option)) for option in cleaned]
    if labels and all(
        found and (found.group(1) or found.group(2)).upper() == chr(ord("A") + place)
        for place, found in enumerate(labels)
    ):
        return tuple(found.group(3) for found in labels if found)
    return tuple(cleaned)


def label(text: str, options: Sequence[str]) -> tuple[int, str, bool] | None:
    """A leading option letter: its place, the text behind it, and whether it is marked as a label.

    "(B) 12" and "B. 12" are marked; in "B 12" the letter may as well be a word of the text.
    """
    for pattern, marked in ((_LABELLED, True), (_LOOSE_LABEL, False)):
        found = pattern.match(plain(text))
        if found:
            place = ord(next(filter(None, found.groups())).upper()) - ord("A")
            return (place, found.groups()[-1], marked) if place < len(options) else None
    return None


def place(text: str, options: Sequence[str]) -> int | None:
    """The place of the option that a gold answer means: its letter, or exactly its text."""
    same = [at for at, option in enumerate(options) if canonical(option) == canonical(text)]
    # Options that are letters themselves are meant by their text.
    if len(same) == 1 and len(canonical(text)) == 1:
        return same[0]
    alone = lettered_place(text, options)
    if alone is not None:
        return alone
    marked = label(text, options)
    if marked and marked[2] and canonical(options[marked[0]]) == canonical(clean(marked[1])):
        return marked[0]
    return same[0] if same else None


def lettered_place(text: str, options: Sequence[str]) -> int | None:
    """The place of the option that a cleaned answer names by its letter alone."""
    alone = letter(text)
    at = ord(alone) - ord("A") if alone else len(options)
    return at if at < len(options) else None
