"""The published benchmarks: released rows as ours, and We-Math's metric worked out by hand."""

import re
from pathlib import Path

import pytest
from released import GEOMETRY3K, MATHVERSE, MATHVISION, MATHVISTA, WEMATH

from coldstart.benchmarks import FACETS, NAMES, RowError, problem, published
from coldstart.benchmarks.rows import options
from coldstart.benchmarks.wemath import Composite, composites, dimensions
from coldstart.dataset import Columns, Dataset
from coldstart.evaluation import Benchmark
from coldstart.grading import Grader, case

COUNTS = {
    "mathvista": 1000,
    "mathverse": 3940,
    "mathvision": 3040,
    "mathvision-testmini": 304,
    "wemath": 1740,
    "geometry3k": 601,
}


def test_the_table_has_the_published_counts_and_the_guide_shows_them():
    assert {name: published(name).rows for name in NAMES} == COUNTS
    guide = (Path(__file__).parents[2] / "docs" / "guide.md").read_text()
    rows = [re.split(r" *\| *", line)[1:-1] for line in guide.splitlines() if line[:2] == "| "]
    for name in NAMES:
        known = published(name)
        (row,) = [row for row in rows if row[0] == f"`{name}`"]
        assert row[1:5] == [known.title, known.hub, f"{known.rows:,}", known.licence]


def test_a_named_benchmark_comes_from_the_hub_unless_the_run_says_otherwise():
    hub = Benchmark(name="mathverse").rows
    assert (hub.name, hub.config, hub.split) == ("AI4Math/MathVerse", "testmini", "testmini")
    assert hub.columns == Columns(images="image", problem="question")
    pinned = Dataset(name="AI4Math/MathVerse", revision="abc", limit=5)
    found = Benchmark(name="mathverse", dataset=pinned).rows
    assert (found.revision, found.config, found.split, found.limit) == (
        *("abc", "testmini", "testmini"),
        5,
    )
    local = Benchmark(name="mathverse", dataset=Dataset(name="x.parquet", split="mine")).rows
    assert (local.name, local.config, local.split) == ("x.parquet", None, "mine")
    own = Dataset(name="x.parquet", columns=Columns(answer="gold"))
    assert Benchmark(name="ours", dataset=own).rows == own


def read(schema, rows):
    return [problem(schema, row) for row in rows]


def test_mathvista_gives_options_as_texts_units_and_places():
    chosen, whole, decimal, listed = read("mathvista", MATHVISTA)
    assert chosen.problem == "How high is the bar?\nChoices:\n(A) 10\n(B) 12\n(C) 14"
    assert (chosen.answer, chosen.choices, chosen.answer_type) == ("12", ("10", "12", "14"), None)
    assert whole.problem == "How old is he? (Unit: years)"
    assert (whole.choices, whole.answer_type, whole.unit) == ((), "integer", "years")
    assert whole.precision is None
    assert (decimal.answer_type, decimal.precision) == ("float", 1)
    assert listed.answer_type == "list"
    assert chosen.facets == {
        "subject": "figure question answering",
        "level": "elementary school",
        "category": "math-targeted-vqa",
        "question_type": "multi_choice",
    }


def test_mathverse_holds_its_options_in_the_question_or_in_the_picture():
    text, vision, free = read("mathverse", MATHVERSE)
    assert text.problem == MATHVERSE[0]["question"]
    assert text.choices == vision.choices == ("30°", "40°", "50°", "60°")
    assert vision.problem == "Answer the question that is shown in the image."
    assert (free.choices, free.answer) == ((), "118°")
    assert text.cluster == vision.cluster != free.cluster
    assert vision.facets["problem_version"] == "Vision Only"


def test_mathvision_loses_its_image_marks_and_keeps_the_letters_of_pictures():
    texts, pictures, free = read("mathvision", MATHVISION)
    assert texts.problem == "Which is  larger?\nChoices:\n(A) $1$\n(B) $2$".replace("  ", " ")
    assert pictures.problem.endswith("\nChoices: A, B, C, D, E")
    assert pictures.choices == tuple("ABCDE")
    assert "<image" not in texts.problem + pictures.problem
    assert (free.choices, free.answer) == ((), "\x0crac{36}{13}")
    assert texts.facets == {"subject": "algebra", "level": "2", "question_type": "multi_choice"}


def test_wemath_joins_its_composites_and_splits_its_options():
    rows = read("wemath", WEMATH)
    assert rows[0].id == "1/2steps_1"
    assert rows[0].choices == ("5", "6", "No correct answer")
    assert rows[0].problem == "q\nChoices:\n(A) 5\n(B) 6\n(C) No correct answer"
    assert len({item.cluster for item in rows}) == 2
    assert rows[0].facets == {"level": "S1", "step": "2steps_1", "concept": "Angles"}
    assert [item.facets["level"] for item in rows].count("S1") == 5
    (irregular,) = read("wemath", [WEMATH[0] | {"option": "A. 5; B. 6; F. None"}])
    assert irregular.problem == "q\nChoices:\nA. 5; B. 6; F. None"
    assert irregular.choices == ()


def test_geometry3k_asks_for_the_value():
    (row,) = read("geometry3k", GEOMETRY3K)
    assert (row.problem, row.answer, row.choices) == ("<image>Find x.", "2 \\sqrt { 3 }", ())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A. 5;B. 6; C. 7", ("5", "6", "7")),
        ("A. 5 B. 6 C. 7", ("5", "6", "7")),
        ("A\uff0e 5; B\uff0e 6", ("5", "6")),
        ("(A) x = 1; y = 2 (B) 7", ("x = 1; y = 2", "7")),
        ("A. AB = 5;B. AC = 6", ("AB = 5", "AC = 6")),
        ("\nA:30°\nB:40°", ("30°", "40°")),
        ("A. 5; B. 6; C. 7; F. No correct answer", ()),
        ("no labels at all", ()),
        ("A. 5; B. ", ()),
    ],
)
def test_labelled_options_are_split(text, expected):
    assert options(text) == expected


@pytest.mark.parametrize(
    ("schema", "row", "message"),
    [
        ("mathvista", MATHVISTA[0] | {"choices": None}, "choices: are missing"),
        ("wemath", WEMATH[0] | {"option": ""}, "option: is empty"),
    ],
)
def test_choices_that_are_missing_are_an_error(schema, row, message):
    with pytest.raises(RowError, match=message):
        problem(schema, row)


@pytest.mark.parametrize(
    ("schema", "rows"),
    [
        ("mathvista", MATHVISTA),
        ("mathverse", MATHVERSE),
        ("mathvision", MATHVISION),
        ("wemath", WEMATH),
        ("geometry3k", GEOMETRY3K),
    ],
)
def test_every_gold_answer_equals_itself(schema, rows):
    found = read(schema, rows)
    asked = [
        case(
            f"\\boxed{{{item.answer}}}",
            item.answer,
            choices=item.choices or None,
            answer_type=item.answer_type,
            precision=item.precision,
            unit=item.unit,
        )
        for item in found
    ]
    with Grader(workers=1) as grader:
        assert all(grade.correct for grade in grader.grade_all(asked))
    assert all(set(item.facets) <= set(FACETS) for item in found)


# Of nine composites: steps, whole. Worked out by hand from the definitions.
NINE = [
    ((True, True), True),  # CM in both
    ((True, True, True), True),  # CM in both
    ((True, False), True),  # RM strict, CM loose
    ((False, False, True), True),  # RM strict, CM loose
    ((False, False), True),  # RM in both
    ((True, True), False),  # IG
    ((True, True, True), False),  # IG
    ((True, False), False),  # IK
    ((False, False, False), False),  # IK
]


def test_wemath_by_hand():
    found = [Composite(steps, whole) for steps, whole in NINE]
    strict, loose = dimensions(found, "strict"), dimensions(found, "loose")
    assert (strict.insufficient_knowledge, strict.inadequate_generalization) == (2, 2)
    assert (strict.complete_mastery, strict.rote_memorization) == (2, 3)
    assert strict.score == pytest.approx((2 + 0.5 * 2) / 9)
    assert strict.rote_share == pytest.approx(3 / 5)
    assert (loose.insufficient_knowledge, loose.inadequate_generalization) == (2, 2)
    assert (loose.complete_mastery, loose.rote_memorization) == (4, 1)
    assert loose.score == pytest.approx((4 + 0.5 * 2) / 9)
    assert loose.rote_share == pytest.approx(1 / 5)
    # The authors' form of the score: what is lost of one.
    for of in (strict, loose):
        lost = 0.5 * of.inadequate_generalization + of.rote_memorization
        assert of.score == pytest.approx((of.n - lost - of.insufficient_knowledge) / of.n)


@pytest.mark.parametrize(("right", "score"), [(True, 1.0), (False, 0.0)])
def test_wemath_at_its_ends(right, score):
    found = [Composite((right, right), right)] * 10
    assert dimensions(found, "strict").score == score
    assert dimensions(found, "strict").rote_share == 0
    with pytest.raises(ValueError, match="no whole composites"):
        dimensions([], "strict")


def test_a_composite_without_all_its_questions_is_left_out_not_guessed():
    answers = [
        ("a", "2steps_1", True),
        ("a", "2steps_2", False),
        ("a", "2steps_multi", True),
        ("b", "3steps_1", True),
        ("b", "3steps_2", True),
        ("b", "3steps_multi", True),
        ("c", "2steps_1", True),
        ("c", "2steps_2", True),
    ]
    assert composites(answers) == ([Composite((True, False), True)], 2)
