"""The grader: the recipe's semantics, answers that are easy to get wrong, and hostile input."""

import json
import multiprocessing
import subprocess
import sys
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coldstart.grading import Case, Gold, Grader, Outcome, case, extract, grade, match
from coldstart.grading.match import UnreadableGold, decide
from coldstart.grading.symbolic import Question, within_bounds

OPTIONS = ["7 cm", "9 cm", "11 cm", "13 cm"]
PAIRS = Path(__file__).parents[1] / "grading_pairs.jsonl"
SHAPES = ["A square", "A trapezoid", "A kite"]

# span, gold, what the data declare, expected; all decided by the exact rules alone.
EXACT = [
    # the recipe, both ways round
    ("11.0", "11", {}, True),
    (r"\frac{1}{2}", "0.5", {}, True),
    ("1/2", r"\frac{1}{2}", {}, True),
    ("0.5", "1/2", {}, True),
    (r"\text{B}", "B", {}, True),
    (r"5\text{ cm}", "5", {}, True),
    ("5", r"5\text{ cm}", {}, True),
    (r"30^\circ", "30", {}, True),
    ("30", r"30^\circ", {}, True),
    (r"58\%", "58", {}, True),
    ("58", r"58\%", {}, True),
    ("Yes", "yes", {}, True),
    ("1,000", "1000", {}, True),
    ("1000", "1,000", {}, True),
    ("x=5", "5", {}, True),
    (r"2\sqrt{3}", r"2 \sqrt { 3 }", {}, True),
    ("B. 5", "B", {}, False),
    ("3.14", "3.1415", {}, False),
    # wrapped golds
    ("5", "$5$", {}, True),
    ("5", r"\boxed{5}", {}, True),
    ("5", r"Hence the side is $\boxed{5}$.", {}, True),
    (r"\mathbf{8}", "$$8$$", {}, True),
    (r"\dfrac{36}{13}", "\x0crac{36}{13}", {}, True),
    # numbers
    ("\u22127", "-7", {}, True),
    ("7", "-7", {}, False),
    (".25", "0.25", {}, True),
    (r"\dfrac58", r"\frac{5}{8}", {}, True),
    (r"\frac{6}{8}", r"\frac{3}{4}", {}, True),
    (r"\frac{4}{3}", r"\frac{3}{4}", {}, False),
    (r"4\tfrac14", "4.25", {}, True),
    ("9/2", "4 1/2", {}, True),
    (r"\frac{-1}{4}", "-0.25", {}, True),
    (r"2.5 \times 10^{3}", "2500", {}, True),
    ("4e-3", "0.004", {}, True),
    (r"3{,}500.0", "3500", {}, True),
    ("12 000", "12000", {}, True),
    ("3, 4", "34", {}, False),
    (r"\frac{1}{3}", "0.333", {}, False),
    ("80", "8", {}, False),
    ("98765432109", "-98765432109", {}, False),
    (r"\frac{1}{0}", "0", {"answer_type": "text"}, False),
    # percent
    (r"25\%", "0.25", {}, True),
    ("0.25", r"25\%", {}, True),
    ("25", "0.25", {}, False),
    (r"25\%", "2500", {}, False),
    # units
    ("30 cm", "0.3 m", {}, True),
    (r"30\text{ cm}", r"30\text{ m}", {}, False),
    ("4 m", "4 m^2", {}, False),
    (r"7 \mathrm{~cm}^2", "7", {}, True),
    (r"6.5 \text{ square meters}", "6.5", {}, True),
    ("2 hours", "120 minutes", {}, True),
    ("90 km/h", "25 m/s", {}, True),
    (r"0.25\text{ L}", "250 mL", {}, True),
    (r"\$2{,}500", "2500", {}, True),
    ("40 dollars", r"\$40", {}, True),
    (r"9\text{ apples}", "9", {}, True),
    ("8m", "8", {}, True),
    ("45\u00b0", "45", {}, True),
    ("45 degrees", r"45^{\circ}", {}, True),
    ("35", "35\u63b3", {}, True),
    ("20 cm", "0.2", {"unit": "m"}, True),
    ("20 cm", "20", {"unit": "m"}, False),
    ("31 years", "31", {"unit": "years"}, True),
    (r"3\sqrt{5}\text{ cm}", r"3\sqrt5", {}, True),
    (r"12\pi \text{ cm}^3", r"12\pi", {}, True),
    (r"3\sqrt{5}\text{ cm}", r"3\sqrt{5}\text{ kg}", {}, False),
    # declared types
    ("6.184", "6.18", {"precision": 2}, True),
    ("6.2", "6.18", {"precision": 2}, False),
    ("6.18", "6.18", {"precision": 2.0}, True),
    ("23.9", "23", {"answer_type": "integer"}, False),
    ("23.0", "23", {"answer_type": "integer"}, True),
    ("1999, 2004", "[1999, 2004]", {"answer_type": "list"}, True),
    ("2004, 1999", "[1999, 2004]", {"answer_type": "list"}, False),
    ("1999", "[1999, 2004]", {"answer_type": "list"}, False),
    ("Blue.", "blue", {"answer_type": "text"}, True),
    # choices
    ("(b)", "B", {"choices": OPTIONS}, True),
    ("B. 9 cm", "B", {"choices": OPTIONS}, True),
    (r"\text{(B)}\ 9\text{ cm}", "B", {"choices": OPTIONS}, True),
    ("9", "B", {"choices": OPTIONS}, True),
    ("B", "9 cm", {"choices": OPTIONS}, True),
    ("option B", "B", {"choices": OPTIONS}, True),
    ("C", "B", {"choices": OPTIONS}, False),
    ("11", "B", {"choices": OPTIONS}, False),
    ("B. 11 cm", "B", {"choices": OPTIONS}, False),
    ("B or C", "B", {"choices": OPTIONS}, False),
    ("E", "B", {"choices": OPTIONS}, False),
    ("10 cm", "B", {"choices": OPTIONS}, False),
    ("cannot be determined", "9 cm", {"choices": OPTIONS}, False),
    ("A trapezoid", "B", {"choices": SHAPES}, True),
    ("A", "B", {"choices": SHAPES}, False),
    ("C", "C", {"choices": list("ABCDE")}, True),
    ("9", "9", {"choices": ["9", "9", "10"]}, True),
    ("(C)", "C", {}, True),
    ("D", "Distance = 12", {}, False),
    # lists, intervals, names
    (r"\{4,5,6\}", r"\{6,5,4\}", {}, True),
    ("x = 3 or x = -3", "3, -3", {}, True),
    (r"\pm 3", "-3, 3", {}, True),
    (r"x \in \{1, 3\}", "1, 3", {}, True),
    ("3", "3, -3", {}, False),
    ("3, -3", "3", {}, False),
    ("(3, 4)", "(4, 3)", {}, False),
    (r"(\frac12, 4)", "(0.5,4)", {}, True),
    ("(3, 4)", "[3, 4]", {}, False),
    ("x=3, y=4", "(3,4)", {}, True),
    ("x=4, y=3", "(3,4)", {}, False),
    ("x=3,y=4", "x=4,y=3", {}, False),
    ("P = (3, 4)", "(3,4)", {}, True),
    ("( 0 , 6 ]", "(0,6]", {}, True),
    ("(0, 6)", "(0,6]", {}, False),
    (r"0 < x \le 6", "(0,6]", {}, True),
    (r"6 \geq x > 0", r"x \in (0, 6]", {}, True),
    ("y < 2", r"(-\infty,2)", {}, True),
    (r"x \ge 2", r"(2,\infty)", {}, False),
    ("2", r"x \le 2", {}, False),
    (r"x < 1 \text{ or } x > 5", r"(5,+\infty)\cup(-\infty,1)", {}, True),
    (r"\angle PQR = 70^\circ", "70", {}, True),
    ("Area = 18", "18", {}, True),
    ("5 + 6 = 11", "11", {}, True),
    ("y=4", "x=4", {}, False),
    # words
    ("listen", "silent", {}, False),
    (r"\text{acute triangle}", "Acute Triangle", {}, True),
    ("concave", "convex", {}, False),
    ("no", "on", {}, False),
    (r"\text{cannot be determined}", "5", {}, False),
    ("", "5", {}, False),
]

# Left to computer algebra.
SYMBOLIC = [
    (r"\sqrt{20}", r"2\sqrt{5}", {}, True),
    ("2", r"2\sqrt{5}", {}, False),
    (r"\frac{\sqrt{2}}{2}", r"\frac{1}{\sqrt{2}}", {}, True),
    ("3\u221a7", r"\sqrt{63}", {}, True),
    (r"9\pi", "9", {}, False),
    ("(x-3)^2", "x^2-6x+9", {}, True),
    ("(x-3)^2", "x^2-9", {}, False),
    ("y = 4x - 7", "y=4x+7", {}, False),
    (r"\frac{x^2}{4}+\frac{y^2}{25}=1", "y^2/25 + x^2/4 = 1", {}, True),
    ("x^2 = 9", "9", {}, False),
    (r"4\pi r", r"4 \pi r h", {}, False),
    ("2^{8}", "256", {}, True),
    ("ab", "ba", {}, True),
    (r"3\pi", "9.42", {"precision": 2}, True),
    (r"3\pi", "9.43", {"precision": 2}, False),
    (r"3\pi", "9.42", {}, False),
    (r"\sqrt{12}", "A", {"choices": [r"$2\sqrt{3}$", r"$3\sqrt{2}$"]}, True),
    (r"\sqrt{12}", "B", {"choices": [r"$2\sqrt{3}$", r"$3\sqrt{2}$"]}, False),
    (r"1, \sqrt{8}", r"2\sqrt{2}, 1", {}, True),
    (r"(\sqrt{8}, \sqrt{18})", r"(2\sqrt{2}, 3\sqrt{2})", {}, True),
    (r"x > \sqrt{8}", r"(2\sqrt{2}, \infty)", {}, True),
    (r"2 \pm \sqrt{12}", r"2-2\sqrt3, 2+2\sqrt3", {}, True),
    (r"\sqrt{2500}\text{ cm}", r"\frac12 \text{ m}", {}, True),
]

# Of which notations are made, to be put together in any way.
PIECES = [
    *"0123:;,.()[]{}<>=+-^_|'%$x ",
    *(r"\{", r"\}", r"\frac{", r"\sqrt{", r"\overline{", r"\dot{", r"\mid ", r"\ne ", r"\in "),
    *(r"\cup ", r"\pm ", r"\mp ", r"\le ", r"\mathbb{R}", r"\over ", r"\setminus ", r"\sin "),
    *(r"^\circ ", r"\pi ", r"\text{", r"\boxed ", r"\binom{", r"\begin{aligned}", "...", "cm"),
    *(" to ", " and ", " or ", "seven", "twenty-", "3rd", " May ", "2020"),
]

HOSTILE = [
    r"\boxed{9**9**9}",
    r"\boxed{9^{9^{9^9}}}",
    r"\boxed{99999999!}",
    r"\boxed{\int}",
    r"\boxed{\sum_{n=1}^{100000000} \frac{1}{n}}",
    r"\boxed{(2^{1000})^{1000}}",
    r"\boxed{" + r"\[ x " * 8_000 + "}",
    r"\[ x " * 8_000,
    "1 " * 8_000,
    r"\boxed{" * 5_000,
    r"\boxed{" + "{" * 3_000 + "}" * 3_000 + "}",
    r"\boxed{" + "(" * 2_000 + ")" * 2_000 + "}",
    r"\boxed{" + "1" * 1_000_000 + "}",
    "1" * 1_000_000,
    r"\boxed{1} and " * 50_000 + r"\boxed{2}",
    r"\boxed" * 100_000,
    "answer is " * 50_000,
    "<think>" * 100_000,
    " " * 1_000_000,
    r"\boxed{" + "1," * 900 + "1}",
    r"\boxed{{" + " " * 1_900 + "}}",
    r"\boxed{0." + "12" * 900 + "...}",
    r"\boxed{" + r"\frac{1}{" * 200 + "2" + "}" * 201,
    r"\boxed{" + "A(1," * 450 + "}",
    r"\boxed{" + r"x \ne " * 300 + "}",
    r"\boxed{" + "1:" * 900 + "1}",
    r"\boxed{__import__('os').system('exit')}",
]


@pytest.fixture(scope="module")
def grader():
    with Grader() as shared:
        yield shared


@pytest.fixture(scope="module")
def algebra(grader):
    pytest.importorskip("math_verify")
    pytest.importorskip("pebble")
    grader.grade_all([(r"\boxed{\sqrt{20}}", r"2\sqrt{5}")])
    return grader


@pytest.mark.parametrize(("span", "gold", "declared", "expected"), EXACT)
def test_exact_rules(grader, span, gold, declared, expected):
    [found] = grader.grade_all([(rf"So it is \boxed{{{span}}}.", gold, declared)])
    assert found.correct is expected
    assert found.outcome in {Outcome.CORRECT, Outcome.WRONG, Outcome.NO_ANSWER}


@pytest.mark.usefixtures("algebra")
def test_adversarial_pairs():
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


def test_computer_algebra(algebra):
    cases = [(rf"\boxed{{{span}}}", gold, meta) for span, gold, meta, _ in SYMBOLIC]
    found = algebra.grade_all(cases)
    wrong = [row[:2] for row, one in zip(SYMBOLIC, found, strict=True) if one.correct != row[3]]
    assert wrong == []


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


@pytest.mark.parametrize("gold", [r"2\sqrt{3}", "5"])
def test_hostile_input_is_quick(algebra, gold):
    for response in HOSTILE:
        start = time.monotonic()
        [found] = algebra.grade_all([(response, gold)])
        assert time.monotonic() - start < 2.0, response[:40]
        assert found.outcome in {Outcome.WRONG, Outcome.NO_ANSWER, Outcome.TRUNCATED}
    for response in HOSTILE:
        assert extract(response, boxed_only=False, lettered=True).method != "answer_tag"


@pytest.mark.usefixtures("algebra")
def test_a_runaway_is_killed_and_the_next_question_answered():
    with Grader(timeout=1.0, workers=1) as short:
        short.grade_all([(r"\boxed{\sqrt{20}}", r"2\sqrt{5}")])
        start = time.monotonic()
        found = short.grade_all(
            [(r"\boxed{(x+y+z)^{900}}", r"2\sqrt{5}"), (r"\boxed{\sqrt{28}}", r"2\sqrt{7}")]
        )
        assert time.monotonic() - start < 8.0
        assert {one.outcome for one in found} == {Outcome.GRADER_TIMEOUT, Outcome.CORRECT}
        assert short.counts[Outcome.GRADER_TIMEOUT] == 1


@pytest.mark.usefixtures("algebra")
def test_of_many_questions_only_the_runaway_is_lost():
    questions = [(rf"\boxed{{\sqrt{{{3 * n * n}}}}}", rf"{n}\sqrt{{3}}") for n in range(2, 26)]
    questions[11] = (r"\boxed{(x+y+z)^{900}}", r"2\sqrt{5}")
    with Grader(timeout=1.0, workers=1) as short:
        found = [one.outcome for one in short.grade_all(questions)]
    assert found.pop(11) is Outcome.GRADER_TIMEOUT
    assert set(found) == {Outcome.CORRECT}


def test_any_thread_and_any_process_grades_alike(algebra):
    questions = [(rf"\boxed{{\sqrt{{{n}}}}}", r"2\sqrt{7}") for n in (26, 27, 28, 29)] * 300
    expected = [n % 4 == 2 for n in range(len(questions))]
    found = {}

    def graded(name):
        found[name] = [one.correct for one in algebra.grade_all(questions)]

    threads = [threading.Thread(target=graded, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
    assert list(found.values()) == [expected] * 4
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, mp_context=spawn) as processes:
        answers = list(processes.map(grade, *zip(*questions[:4], strict=True)))
    assert [one.correct for one in answers] == expected[:4]


def test_dead_workers_are_replaced_off_the_main_thread(algebra):
    for worker in multiprocessing.active_children():
        worker.kill()
    found = []
    question = (r"\boxed{\sqrt{44}}", r"2\sqrt{11}")
    thread = threading.Thread(target=lambda: found.extend(algebra.grade_all([question])))
    thread.start()
    thread.join(timeout=15)
    assert [one.outcome for one in found] == [Outcome.CORRECT]


def test_answers_are_remembered(algebra):
    case = (r"\boxed{\sqrt{52}}", r"2\sqrt{13}")
    algebra.grade_all([case])
    start = time.monotonic()
    assert all(found.correct for found in algebra.grade_all([case] * 1_000))
    assert time.monotonic() - start < 1.0


@pytest.mark.parametrize("missing", ["math_verify", "pebble"])
def test_a_missing_package_is_named_with_the_way_to_install_it(monkeypatch, missing):
    monkeypatch.setitem(sys.modules, missing, None)
    with (
        Grader() as alone,
        pytest.raises(ModuleNotFoundError, match=r"pip install 'coldstart-operator\[trainer\]'"),
    ):
        alone.grade_all([(r"\boxed{\sqrt{20}}", r"2\sqrt{5}")])


def test_a_script_without_a_main_guard_is_told_so(tmp_path):
    pytest.importorskip("math_verify")
    pytest.importorskip("pebble")
    script = tmp_path / "bare.py"
    script.write_text(
        "import sys\n"
        f"sys.path[:0] = {sys.path!r}\n"
        "from coldstart.grading import grade\n"
        r"grade('\\boxed{\\sqrt{20}}', '2\\sqrt{5}')"
    )
    ran = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, timeout=60, check=False
    )
    assert ran.returncode != 0
    assert "no grading worker starts" in ran.stderr


def test_a_worker_loads_no_torch():
    pytest.importorskip("math_verify")
    program = (
        f"import sys; sys.path[:0] = {sys.path!r}\n"
        "from coldstart.grading.symbolic import Question, prepare_worker, verdict\n"
        "prepare_worker()\n"
        r"assert verdict(Question('\\sqrt{20}', '2\\sqrt{5}')) == 'equal'"
        "\nassert 'torch' not in sys.modules and 'pydantic' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


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
