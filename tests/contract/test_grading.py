"""The grader's rules: the recipe's semantics, answers that are easy to get wrong, what is found."""

import json
from contextlib import suppress
from pathlib import Path

import pytest
from grading_cases import EXACT, OPTIONS, PIECES, SHAPES, SYMBOLIC
from hypothesis import given, settings
from hypothesis import strategies as st

from coldstart.grading import Case, Gold, Grader, Outcome, case, extract, grade, match
from coldstart.grading.match import UnreadableGold, decide
from coldstart.grading.symbolic import Question, within_bounds

PAIRS = Path(__file__).parents[1] / "grading_pairs.jsonl"


@pytest.fixture(scope="module")
def grader():
    with Grader() as shared:
        yield shared


@pytest.mark.parametrize(("span", "gold", "declared", "expected"), EXACT)
def test_exact_rules(grader, span, gold, declared, expected):
    [found] = grader.grade_all([(rf"So it is \boxed{{{span}}}.", gold, declared)])
    assert found.correct is expected
    assert found.outcome in {Outcome.CORRECT, Outcome.WRONG, Outcome.NO_ANSWER}


def test_adversarial_pairs():
    pytest.importorskip("math_verify")
    pytest.importorskip("pebble")
    rows = [json.loads(line) for line in PAIRS.read_text().splitlines()]
    assert len({row["id"] for row in rows}) == len(rows)
    with Grader(boxed_only=False) as evaluation:
        found = evaluation.grade_all(
            case(row["prediction"], row["gold"], **row.get("meta", {})) for row in rows
        )
    failed = [
        row["id"]
        for row, one in zip(rows, found, strict=True)
        if one.correct != row["should_match"]
    ]
    assert failed == []


def test_exact_rules_need_no_worker():
    alone = Grader()
    alone.grade_all([(rf"\boxed{{{span}}}", gold, meta) for span, gold, meta, _ in EXACT])
    assert alone._pool is None


@pytest.mark.parametrize(
    ("response", "span", "flag"),
    [
        (r"\boxed{4}. Wait, let me re-check: \boxed{5}", "5", None),
        (r"first \boxed{4}, then \boxed{5", None, "unclosed_box"),
        ("no box at all", None, None),
        (r"\boxed{ }", None, "empty_box"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}", None),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}", None),
        (r"\boxed{\boxed{7}}", "7", None),
        (r"<think>\boxed{5}</think> I give up.", None, None),
        (r"<think>\boxed{5}", None, "unclosed_reasoning"),
        (r"<think>6?</think>\boxed{5}", "5", None),
    ],
)
def test_the_last_closed_box_counts(response, span, flag):
    found = extract(response)
    assert (found.span, found.flag, found.boxed) == (span, flag, span is not None)


@pytest.mark.parametrize(
    ("response", "gold", "declared", "outcome"),
    [
        ("The answer is -6.", "-6", {}, Outcome.CORRECT),
        ("The answer is -6.", "6", {}, Outcome.WRONG),
        ("**Final Answer:** 2.5 cm", "2.5", {}, Outcome.CORRECT),
        ("<think>5?</think><answer>6</answer>", "6", {}, Outcome.CORRECT),
        ("6", "6", {}, Outcome.CORRECT),
        ("I do not know.", "None", {}, Outcome.WRONG),
        (r"Either \boxed{6} or \boxed{7}.", "7", {}, Outcome.WRONG),
        (r"Both \boxed{6} and \boxed{7}.", "7, 6", {}, Outcome.CORRECT),
        (r"\boxed{6} and then \boxed{7", "6", {}, Outcome.NO_ANSWER),
        ("<think>hmm, \\boxed{6}", "6", {}, Outcome.TRUNCATED),
        ("The answer is (B).", "9 cm", {"choices": OPTIONS}, Outcome.CORRECT),
        ("Thus 9 cm.\n**B**", "B", {"choices": OPTIONS}, Outcome.CORRECT),
        (r"\boxed{9}. So the answer is B.", "B", {"choices": OPTIONS}, Outcome.CORRECT),
        ("(A) 7 cm (B) 9 cm? I cannot tell.", "B", {"choices": OPTIONS}, Outcome.WRONG),
        ("The answer is A kite", "C", {"choices": SHAPES}, Outcome.CORRECT),
    ],
)
def test_evaluation_reads_unboxed_answers_that_the_reward_does_not(
    response, gold, declared, outcome
):
    assert grade(response, gold, boxed_only=False, **declared).outcome is outcome
    if "boxed" not in response:
        assert grade(response, gold, **declared).outcome is Outcome.NO_ANSWER


def test_no_box_never_equals_the_gold_answer_none():
    assert grade("I cannot say. None", "None").outcome is Outcome.NO_ANSWER
    assert grade(r"\boxed{None}", "None").outcome is Outcome.CORRECT


def test_boxes_side_by_side_answer_a_gold_of_several():
    assert grade(r"$\boxed{2}$ and $\boxed{-2}$", "2, -2").correct
    assert grade(r"\boxed{2} or \boxed{-2}", "-2").correct  # the reward takes the last box
    assert not grade(r"\boxed{2} or \boxed{-2}", "2").correct


@pytest.mark.parametrize("gold", ["", "  ", "$$", r"\boxed{5", r"\text{}"])
def test_an_unreadable_gold_is_no_wrong_answer(gold):
    found = grade(r"\boxed{5}", gold)
    assert found.outcome is Outcome.GOLD_UNPARSEABLE
    assert found.reward == 0.0


def test_a_cut_response_is_told_from_one_without_an_answer(grader):
    cut = Case("so we get", Gold("5"), truncated=True)
    whole = Case("so we get", Gold("5"))
    done = Case(r"\boxed{5}", Gold("5"), truncated=True)
    outcomes = [found.outcome for found in grader.grade_all([cut, whole, done])]
    assert outcomes == [Outcome.TRUNCATED, Outcome.NO_ANSWER, Outcome.CORRECT]


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ({"answer_type": "number"}, "answer_type: 'number' is unknown"),
        ({"precision": -1}, "precision: -1"),
        ({"precision": 0.5}, "precision: 0.5"),
    ],
)
def test_bad_declarations_name_the_field(declared, message):
    with pytest.raises(ValueError, match=message):
        match("5", "5", **declared)


@pytest.mark.parametrize("arguments", [{"timeout": 0}, {"workers": 0}])
def test_bad_graders_name_the_argument(arguments):
    with pytest.raises(ValueError, match=next(iter(arguments))):
        Grader(**arguments)


@given(st.text(alphabet=r"0123456789x+-*/^_=<>(){}[],.;:!|&%$\ abAB√°π" + "\n\t", max_size=60))
@settings(max_examples=300, deadline=None)
def test_any_text_is_decided_or_a_bounded_question(text):
    for gold in (Gold("5"), Gold("B", choices=("1", "2")), Gold(r"2\sqrt{3}"), Gold("(1,2]")):
        decision = decide(text, gold)
        assert isinstance(decision, bool | Question)
        if isinstance(decision, Question):
            assert within_bounds(decision.stated, decision.gold)
    extract(text)
    extract(text, boxed_only=False, lettered=True)


@given(st.lists(st.sampled_from(PIECES), max_size=25).map("".join), st.sampled_from(PIECES))
@settings(max_examples=300, deadline=None)
def test_any_notation_is_decided_or_a_bounded_question(text, gold):
    for stated, wanted in ((text, gold + "1"), (gold, text + "2"), (text, text + " ")):
        with suppress(UnreadableGold):
            assert isinstance(decide(stated, Gold(wanted)), bool | Question)


@given(st.fractions(max_denominator=999))
def test_a_fraction_equals_itself_in_every_notation(value):
    latex = rf"\frac{{{value.numerator}}}{{{value.denominator}}}"
    assert decide(latex, Gold(f"{value.numerator}/{value.denominator}")) is True
    assert decide(latex, Gold(f"{value.numerator + 1}/{value.denominator}")) is False


def test_every_gold_matches_itself():
    for _, gold, declared, _ in EXACT + SYMBOLIC:
        if "boxed" not in gold:
            assert grade(rf"\boxed{{{gold}}}", gold, **declared).correct, gold
