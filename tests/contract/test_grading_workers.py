"""Computer algebra in the grader's workers: verdicts, deadlines, threads, what is not installed."""

import multiprocessing
import subprocess
import sys
import threading
import time
from concurrent.futures import ProcessPoolExecutor

import pytest
from grading_cases import HOSTILE, SYMBOLIC

from coldstart.grading import Grader, Outcome, extract, grade

RUNAWAY = (r"\boxed{(x+y+z)^{900}}", r"2\sqrt{5}")


def question(number, gold=None):
    """What the exact rules leave open, the same as its gold unless another is given."""
    return rf"\boxed{{|-{number}|}}", str(gold or number)


@pytest.fixture(scope="module")
def algebra():
    pytest.importorskip("math_verify")
    pytest.importorskip("pebble")
    with Grader() as shared:
        shared.grade_all([question(20)])
        yield shared


def test_computer_algebra(algebra):
    cases = [(rf"\boxed{{{span}}}", gold, meta) for span, gold, meta, _ in SYMBOLIC]
    found = algebra.grade_all(cases)
    wrong = [row[:2] for row, one in zip(SYMBOLIC, found, strict=True) if one.correct != row[3]]
    assert wrong == []


@pytest.mark.parametrize("gold", [r"2\sqrt{3}", "5"])
def test_hostile_input_is_quick(algebra, gold):
    for response in HOSTILE:
        start = time.monotonic()
        [found] = algebra.grade_all([(response, gold)])
        assert time.monotonic() - start < 2.0, response[:40]
        assert found.outcome in {Outcome.WRONG, Outcome.NO_ANSWER, Outcome.TRUNCATED}
    for response in HOSTILE:
        assert extract(response, boxed_only=False, lettered=True).method != "answer_tag"


@pytest.mark.parametrize("response", [r"\boxed{2\sqrt{3}}", r"\boxed{5}"])
def test_a_hostile_gold_is_quick(algebra, response):
    for gold in HOSTILE:
        start = time.monotonic()
        [found] = algebra.grade_all([(response, gold)])
        assert time.monotonic() - start < 2.0, gold[:40]
        assert found.outcome in {Outcome.WRONG, Outcome.GOLD_UNPARSEABLE}, gold[:40]


@pytest.mark.usefixtures("algebra")
def test_a_runaway_is_killed_and_the_next_question_answered():
    with Grader(timeout=1.0, workers=1) as short:
        short.grade_all([question(20)])
        start = time.monotonic()
        found = short.grade_all([RUNAWAY, question(28)])
        assert time.monotonic() - start < 8.0
        assert {one.outcome for one in found} == {Outcome.GRADER_TIMEOUT, Outcome.CORRECT}
        assert short.counts[Outcome.GRADER_TIMEOUT] == 1


@pytest.mark.usefixtures("algebra")
def test_of_many_questions_only_the_runaway_is_lost():
    questions = [question(number) for number in range(2, 26)]
    questions[11] = RUNAWAY
    with Grader(timeout=1.0, workers=1) as short:
        found = [one.outcome for one in short.grade_all(questions)]
    assert found.pop(11) is Outcome.GRADER_TIMEOUT
    assert set(found) == {Outcome.CORRECT}


def test_any_thread_and_any_process_grades_alike(algebra):
    questions = [question(number, gold=28) for number in (26, 27, 28, 29)] * 300
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
    thread = threading.Thread(target=lambda: found.extend(algebra.grade_all([question(44)])))
    thread.start()
    thread.join(timeout=15)
    assert [one.outcome for one in found] == [Outcome.CORRECT]


def test_answers_are_remembered(algebra):
    algebra.grade_all([question(52)])
    start = time.monotonic()
    assert all(found.correct for found in algebra.grade_all([question(52)] * 1_000))
    assert time.monotonic() - start < 1.0


@pytest.mark.parametrize("missing", ["math_verify", "pebble"])
def test_a_missing_package_is_named_with_the_way_to_install_it(monkeypatch, missing):
    monkeypatch.setitem(sys.modules, missing, None)
    with (
        Grader() as alone,
        pytest.raises(ModuleNotFoundError, match=r"pip install 'coldstart-operator\[trainer\]'"),
    ):
        alone.grade_all([question(20)])


def test_a_script_without_a_main_guard_is_told_so(tmp_path):
    pytest.importorskip("math_verify")
    pytest.importorskip("pebble")
    script = tmp_path / "bare.py"
    script.write_text(
        "import sys\n"
        f"sys.path[:0] = {sys.path!r}\n"
        "from coldstart.grading import grade\n"
        r"grade('\\boxed{|-20|}', '20')"
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
        r"assert verdict(Question('|-20|', '20')) == 'equal'"
        "\nassert 'torch' not in sys.modules and 'pydantic' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
