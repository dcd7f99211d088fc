"""What responses add up to: shares, intervals, kinds, reflection; and what is refused."""

import subprocess
import sys

import pytest

from coldstart.estimates import reflection
from coldstart.evaluation import ResponseKind
from coldstart.grading import Grader
from coldstart.intervals import wilson
from coldstart.lexicon import WordList
from coldstart.results import Sample
from coldstart.summary import Origin, cases, graded, read_samples, regrade, regrade_run, summarise

DIGEST = "sha256:" + "0" * 64
ORIGIN = Origin(
    checkpoint="base",
    base_model=DIGEST,
    tokenizer=DIGEST,
    processor=DIGEST,
    conversation=DIGEST,
    benchmark="digits",
    data="f",
    decoding={"temperature": 0.0},
    responses=1,
    dropped={"prompt_too_long": 2},
)


def sample(identifier, outcome="correct", **changes):
    fields = {
        "id": identifier,
        "problem": "q",
        "gold": "7",
        "response": "It is \\boxed{7}.",
        "tokens": 10,
        "truncated": False,
        "boxed": True,
        "outcome": outcome,
    }
    return Sample.model_validate(fields | changes)


def test_shares_and_the_wilson_interval():
    samples = [
        sample("0"),
        sample("1", "wrong", tokens=20),
        sample("2", "no_answer", boxed=False, truncated=True),
        sample("3"),
    ]
    result = summarise(samples, ORIGIN)
    assert result.accuracy == 0.5
    assert (result.low, result.high) == (wilson(2, 4).low, wilson(2, 4).high)
    assert (result.n, result.problems) == (4, 4)
    assert (result.boxed_share, result.truncated_share, result.mean_tokens) == (0.75, 0.25, 12.5)
    assert result.outcomes == {"correct": 2, "wrong": 1, "no_answer": 1}
    assert result.dropped == {"prompt_too_long": 2}
    assert result.decoding == {"temperature": 0.0}


def test_several_responses_to_a_problem_are_not_several_problems():
    samples = [
        sample(str(problem), "correct" if problem % 2 else "wrong", sample=number)
        for problem in range(20)
        for number in range(10)
    ]
    result = summarise(samples, ORIGIN)
    assert (result.n, result.problems, result.accuracy) == (200, 20, 0.5)
    # As wide as for 20 problems, not as narrow as for 200.
    assert result.high - result.low > 0.35
    assert summarise(samples, ORIGIN) == result


def test_of_one_problem_nothing_follows_for_others():
    result = summarise([sample("0", sample=number) for number in range(5)], ORIGIN)
    assert (result.low, result.high) == (0, 1)


def test_a_response_is_of_the_first_kind_that_fits():
    kinds = (
        ResponseKind(name="careful", pattern="I read"),
        ResponseKind(name="boxed", pattern="boxed"),
        ResponseKind(name="never", pattern="xyz"),
    )
    samples = [
        sample("0", response="I read 7. \\boxed{7}"),
        sample("1", "wrong"),
        sample("2", "no_answer", response="?"),
        sample("3", response="\\boxed{7}"),
    ]
    found = summarise(samples, ORIGIN, kinds=kinds).kinds
    assert [(kind, item.n, item.share, item.accuracy) for kind, item in found.items()] == [
        ("careful", 1, 0.25, 1.0),
        ("boxed", 2, 0.5, 0.5),
        ("never", 0, 0.0, None),
    ]


def test_reflection_takes_the_words_that_it_is_given():
    samples = [sample("0", response="Wait, 7"), sample("1", "wrong", response="hm, 7")]
    assert summarise(samples, ORIGIN).reflection.ratio_correct.value == 1
    words = WordList(name="own", words=("hm",))
    assert summarise(samples, ORIGIN, words=words).reflection == reflection(samples, words)


def test_no_responses_add_up_to_nothing():
    with pytest.raises(ValueError, match="base on digits: there are no responses"):
        summarise([], ORIGIN)


def test_grading_fills_in_what_the_grader_found():
    drafts = [
        sample("0", "ungraded", boxed=False),
        sample("1", "ungraded", response="\\boxed{B}", choices=("6", "7")),
        sample("2", "ungraded", response="7"),
        sample("3", "ungraded", response="7", truncated=True),
    ]
    with Grader() as grader:
        found = graded(drafts, grader)
    assert [(s.outcome, s.boxed, s.extracted) for s in found] == [
        ("correct", True, "7"),
        ("correct", True, "B"),
        ("no_answer", False, None),
        ("truncated", False, None),
    ]
    assert len(cases(drafts)) == 4


def test_a_response_written_twice_counts_once(tmp_path):
    lines = [sample("0").model_dump_json(by_alias=True) for _ in range(2)]
    (tmp_path / "samples.jsonl").write_text("\n".join([*lines, '{"id": "torn']))
    assert read_samples(tmp_path) == [sample("0")]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "samples.jsonl: is missing"),
        ('{"id": "0"}', r"samples\.jsonl: .*: is required"),
        (sample("0").model_dump_json(by_alias=True), "origin.json: is missing"),
    ],
)
def test_what_cannot_be_regraded_is_named(tmp_path, content, words):
    if content:
        (tmp_path / "samples.jsonl").write_text(content)
    with pytest.raises(ValueError, match=words):
        regrade(tmp_path)


def test_a_directory_that_is_no_run_is_named(tmp_path):
    with pytest.raises(ValueError, match="is no run"):
        regrade_run(tmp_path)


def test_summing_up_needs_no_torch():
    script = "import sys, coldstart.summary; assert not {'torch', 'datasets'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
