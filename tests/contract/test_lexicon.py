"""Words that mark reflection: whole ones, in every form, as a slow search by hand finds them."""

import re
import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import ValidationError

from coldstart.lexicon import LISTS, MAYE, MAYE_LIST, Lexicon, WordList

LEXICON = Lexicon(MAYE_LIST.entries)


def test_the_list_is_that_of_the_recipe():
    assert MAYE_LIST.name == MAYE == "maye"
    assert MAYE_LIST.entries == LISTS[MAYE] == (
        "re-check", "re-evaluate", "re-examine", "re-think", "recheck", "reevaluate", "reexamine",
        "reevaluation", "rethink", "check again", "think again", "try again", "verify", "wait",
        "yet",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Wait, that is wrong.", {"wait": 1}),
        ("WAIT! Wait. *wait* (wait) \\text{wait}", {"wait": 5}),
        ("I await the waiter and verified it yesterday; wait_time, wait2.", {}),
        ("Let me re-check and recheck.", {"re-check": 1, "recheck": 1}),
        ("Let me re\u2011check, re\u2013examine.", {"re-check": 1, "re-examine": 1}),
        ("We check\n  again.", {"check again": 1}),
        ("We check\u00a0again.", {"check again": 1}),
        ("Check it again.", {}),
        ("A reevaluation, not to reevaluate.", {"reevaluation": 1, "reevaluate": 1}),
        ("re-check again", {"re-check": 1}),
        ("wait's and wait-and-see", {"wait": 2}),
        ("wait\u0301", {}),
        ("\u00e9wait", {}),
        ("", {}),
    ],
)
def test_words_are_matched_whole_and_in_either_case(text, found):
    assert dict(LEXICON.found(text)) == found


@pytest.mark.parametrize(
    ("words", "text", "found"),
    [
        (["hold on", "hold on a moment"], "Hold on a moment. Hold on.", [0, 18]),
        (["that's wrong"], "No: that\u2019s  wrong.", [4]),
        (["\u00fcberpr\u00fcfe"], "\u00dcberpr\u00fcfe das", [0]),
        (["stra\u00dfe"], "Stra\u00dfe", [0]),
        (["\u7b49\u7b49"], "\u4f46\u662f\u7b49\u7b49\uff0c\u8fd9\u4e0d\u5bf9", [2]),
        (["\u0e14\u0e39"], "\u0e25\u0e2d\u0e07\u0e14\u0e39\u0e2d\u0e35\u0e01", [3]),
        (["a+b"], "so a+b, aa+b", [3]),
        (["x y z"], "x y x y z", [4]),
    ],
)
def test_a_list_of_ones_own_is_found_where_it_stands(words, text, found):
    lexicon = Lexicon(WordList(name="own", words=words).entries)
    assert [place.start for place in lexicon.places(text)] == found


def test_a_place_is_that_of_the_text_as_it_was_written():
    # Folded as a whole, the first letter would become two, and every place behind it be wrong.
    text = "\u0130s it? Re\u2011Check\n AGAIN \u2013 or think  again"
    places = list(LEXICON.places(text))
    assert [text[place.start : place.end] for place in places] == ["Re\u2011Check", "think  again"]
    assert [place.word for place in places] == ["re-check", "think again"]


WORDS = ("wait", "re-check", "check again", "check", "again and again")
PARTS = ("wait", "Wait", "re-check", "re\u2010check", "check", "again", "and", "x", "_", "\u00e9")
TEXTS = st.lists(st.sampled_from((*PARTS, " ", "\n", "  ", ".", "-", "1")), max_size=14)


def by_hand(text):
    """The same by trying every word at every place, letter by letter."""
    text = text.lower().replace("\u2010", "-")
    found, at = [], 0
    while at < len(text):
        ends = [(end, word) for word in WORDS if (end := ending(text, at, word.split()))]
        if ends:
            at, word = max(ends)
            found.append(word)
        else:
            at += 1
    return found


def ending(text, at, parts):
    """Where a phrase ends that begins at a place; None where none does."""
    if at and is_letter(text[at - 1]):
        return None
    for number, part in enumerate(parts):
        if number:
            start, at = at, at + len(text[at:]) - len(text[at:].lstrip())
            if at == start:
                return None
        if not text.startswith(part, at):
            return None
        at += len(part)
    return None if at < len(text) and is_letter(text[at]) else at


def is_letter(char):
    return char.isalnum() or char == "_"


@given(TEXTS.map("".join))
@example("check again and again")
@example("re-check again")
def test_a_search_by_hand_finds_the_same(text):
    assert [place.word for place in Lexicon(WORDS).places(text)] == by_hand(text)


@pytest.mark.parametrize(
    "text",
    [
        "x" * 10**6,
        "check" + " " * 10**6,
        "wait " * 200_000,
        "check " * 166_000,
        "e\u0301" * 500_000,
    ],
    ids=["letters", "spaces", "words", "beginnings", "accents"],
)
def test_a_megabyte_is_searched_in_time_that_grows_with_its_length(text):
    lexicon = Lexicon((*WORDS, *(f"check {n}" for n in range(195))))
    began = time.process_time()
    lexicon.found(text)
    assert time.process_time() - began < 10


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"name": "own", "words": ["wait", "Wait"]}, "wait stands in the list more than once"),
        ({"name": "own", "words": ["a  b", "A b"]}, "a b stands in the list more than once"),
        ({"name": "own", "words": ["wait", " "]}, "'' must begin and end with a letter or a digit"),
        ({"name": "own", "words": ["hmm..."]}, "'hmm...' must begin and end with a letter"),
        ({"name": "own", "words": [""]}, "at least 1 character"),
        ({"name": "own"}, "own is no known list (maye), so words is required"),
        ({"words": ["wait"]}, "words is given, but maye has its own: give the list another name"),
    ],
)
def test_an_unusable_list_is_refused(document, message):
    with pytest.raises(ValidationError, match=re.escape(message)):
        WordList.parse(document)
