"""Rewards as TRL calls them: right scores, and users' functions that raise, hang or lie."""

import threading
import time

import pytest

from coldstart.spec import Conversation, Reward
from coldstart.status import ErrorCode
from coldstart_trainer import custom_reward
from coldstart_trainer.rewards import RewardError, ends_with_one_box, rewards

MODULE = '''
import os, sys, time

def length(completions, **columns):
    return [float(len(c[0]["content"])) for c in completions]

def answers(prompts, completions, answer, **columns):
    assert sorted(columns) == ["completion_ids", "id", "problem"], sorted(columns)
    assert all("image" not in part for prompt in prompts for part in prompt[-1]["content"])
    return [None if a == "skip" else int(a) for a in answer]

async def later(completions, **columns):
    return [1.0] * len(completions)

def told(completions, **columns):
    """Does what the first completion says."""
    do = completions[0][0]["content"]
    if do == "hang":
        time.sleep(600)
    if do == "die":
        os._exit(3)
    if do == "raise":
        raise KeyError("no such thing")
    return {
        "short": [1.0], "nan": [float("nan")] * 2, "text": ["1", "2"], "number": 3, "none": None,
        "truth": [True, False],
    }.get(do, [0.5] * len(completions))

def raises(**columns):
    raise ValueError("always")

def hangs(**columns):
    time.sleep(600)

def torch_is_absent(completions, **columns):
    return [float("torch" not in sys.modules)] * len(completions)

number = 5
'''


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    directory = tmp_path_factory.mktemp("workdir")
    (directory / "mine.py").write_text(MODULE)
    (directory / "broken.py").write_text("import nothing_of_this_name\n")
    return directory


def call(function, *texts, **columns):
    image = {"type": "image", "image": object()}
    return function(
        prompts=[
            [{"role": "user", "content": [image, {"type": "text", "text": "q"}]}] for _ in texts
        ],
        completions=[[{"role": "assistant", "content": text}] for text in texts],
        completion_ids=[[1, 2] for _ in texts],
        images=[[object()] for _ in texts],
        trainer_state=object(),
        log_extra=print,
        log_metric=print,
        **columns,
    )


def test_accuracy_takes_the_last_box_and_knows_no_none():
    with rewards((Reward(name="accuracy", weight=2),), workdir=None) as made:
        (accuracy,) = made.functions
        assert accuracy.__name__ == "accuracy"
        assert made.weights == [2]
        scores = call(
            accuracy,
            r"\boxed{3} then \boxed{\frac{1}{2}}",
            r"\boxed{0.5} then \boxed{3}",
            "no box",
            r"\boxed{B}",
            answer=["0.5", "0.5", "None", "five"],
            choices=[[], None, [], ["four", "five"]],
        )
        assert scores == [1.0, 0.0, 0.0, 1.0]
        assert call(accuracy, r"\boxed{7}", answer=["7"]) == [1.0]
        assert set(made.counters.values()) == {0.0}


BOXES = [
    (r"The sum is \boxed{12}.", True),
    (r"\boxed{\frac{1}{2}}", True),
    (r"so $\boxed{x_{1}}$.", True),
    (r"so \[ \boxed{5} \]" + "\n", True),
    (r"**\boxed{5}**", True),
    (r"\boxed {5}", True),
    (r"\boxed{\{1, 2\}}", True),
    (r"\boxed{5} is it", False),
    (r"\boxed{4} or \boxed{5}", False),
    (r"\boxed{4", False),
    (r"\boxed{4 \boxed{5}", False),
    (r"\boxed{}", False),
    (r"\boxed 5", False),
    ("5", False),
    ("", False),
]


@pytest.mark.parametrize(("text", "good"), BOXES)
def test_format_asks_for_one_closed_box_at_the_end(text, good):
    assert ends_with_one_box(text) is good
    with rewards((Reward(name="format"),), workdir=None) as made:
        assert call(made.functions[0], text) == [float(good)]


def test_format_is_quick_on_long_responses():
    began = time.monotonic()
    ends_with_one_box("\\boxed{" + "{" * 200_000)
    ends_with_one_box("\\boxed{" * 20_000)
    assert time.monotonic() - began < 1


@pytest.fixture
def custom(workdir):
    """A user's function as TRL calls it, with the counters of its set."""
    made = []

    def make(name, **spec):
        made.append(rewards((Reward(name=f"mine:{name}", **spec),), workdir=workdir))
        return made[-1].functions[0], made[-1].counters

    yield make
    for each in made:
        each.close()


def test_a_users_function_is_called_as_trl_would(custom):
    length, _ = custom("length")
    assert length.__name__ == "mine:length"
    assert call(length, "abc", "") == [3.0, 0.0]
    answers, _ = custom("answers")
    columns = {"answer": ["4", "skip"], "id": ["0", "1"], "problem": ["q", "q"]}
    assert call(answers, "a", "b", **columns) == [4.0, None]
    later, _ = custom("later")
    assert call(later, "a", "b") == [1.0, 1.0]


def test_a_users_function_has_nothing_of_torch(custom):
    assert call(custom("torch_is_absent")[0], "a") == [1.0]


def test_a_hang_is_killed_scores_nothing_and_is_counted(custom):
    told, counters = custom("told", timeout_seconds=1)
    assert call(told, "fine", "") == [0.5, 0.5]
    began = time.monotonic()
    assert call(told, "hang", "") == [0.0, 0.0]
    assert time.monotonic() - began < 10
    assert counters == {"reward_timeouts_total": 1, "reward_errors_total": 0}
    assert call(told, "fine", "") == [0.5, 0.5]


def test_the_time_limit_holds_off_the_main_thread(custom):
    told, counters = custom("told", timeout_seconds=1)
    call(told, "fine", "")
    found = []
    thread = threading.Thread(target=lambda: found.append(call(told, "hang", "")))
    thread.start()
    thread.join(30)
    assert found == [[0.0, 0.0]]
    assert counters["reward_timeouts_total"] == 1


def test_an_exception_and_a_dead_process_are_counted_and_logged_once(custom, caplog):
    told, counters = custom("told")
    call(told, "fine", "")
    for _ in range(2):
        assert call(told, "raise", "") == [0.0, 0.0]
    assert counters["reward_errors_total"] == 2
    assert len(caplog.records) == 1
    assert "KeyError: 'no such thing'" in caplog.text
    assert "mine.py, line" in caplog.text
    assert call(told, "die", "") == [0.0, 0.0]
    assert call(told, "fine", "") == [0.5, 0.5]
    assert counters == {"reward_timeouts_total": 0, "reward_errors_total": 3}


def test_truth_values_are_numbers(custom):
    assert call(custom("told")[0], "truth", "") == [1.0, 0.0]


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("short", "returned 1 scores for 2 completions"),
        ("nan", "returned nan as score 0, not a finite number"),
        ("text", "returned '1' as score 0"),
        ("number", "returned int, not a list of 2 numbers"),
        ("none", "returned NoneType"),
    ],
)
def test_what_is_no_score_ends_the_stage(custom, what, words):
    told, _ = custom("told")
    call(told, "fine", "")
    with pytest.raises(RewardError, match=rf"spec\.grpo\.rewards\[0\]: mine:told {words}") as error:
        call(told, what, "")
    assert error.value.code is ErrorCode.REWARD_INVALID


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nowhere:f", r"there is no nowhere\.py"),
        ("os:system", r"there is no os\.py"),
        ("trl.rewards:think_format_reward", r"there is no trl/rewards\.py"),
        ("mine..gone:f", r"there is no mine/gone\.py"),
        ("broken:f", "No module named 'nothing_of_this_name'"),
        ("mine:gone", "has no attribute 'gone'"),
        ("mine:number", "number is not callable"),
        ("acuracy", "is neither accuracy, format nor module:function"),
    ],
)
def test_a_reward_that_cannot_be_had_is_refused_before_training(workdir, name, words):
    with pytest.raises(RewardError, match=words) as error:
        rewards((Reward(name="format"), Reward(name=name)), workdir=workdir)
    assert str(error.value).startswith("spec.grpo.rewards[1].name: ")


SAYS_THAT_IT_RAN = "import pathlib\npathlib.Path(r'{}').touch()\ndef f(**_): return []\n"


def test_no_reward_is_taken_from_outside_the_working_directory(tmp_path):
    ran, workdir = tmp_path / "ran", tmp_path / "work"
    workdir.mkdir()
    outside = tmp_path / "outside"
    (outside / "package").mkdir(parents=True)
    for file in (outside / "mine.py", outside / "package" / "__init__.py"):
        file.write_text(SAYS_THAT_IT_RAN.format(ran))
    (workdir / "mine.py").symlink_to(outside / "mine.py")
    (workdir / "package").symlink_to(outside / "package")
    # A file that is called as a library is: the name means another.
    for name in ("json.py", "pebble.py"):
        (workdir / name).write_text(SAYS_THAT_IT_RAN.format(ran))
    for name, words in {
        "mine:f": r"mine\.py is a link that leads out",
        "package:f": r"package/__init__\.py is a link that leads out",
        "json:f": "a library is called json, too",
        "pebble:f": "a library is called pebble, too",
    }.items():
        with pytest.raises(RewardError, match=words):
            rewards((Reward(name=name),), workdir=workdir)
        assert not ran.exists()


def test_a_reward_may_be_in_a_package_of_the_working_directory(tmp_path):
    (tmp_path / "pack" / "inner").mkdir(parents=True)
    (tmp_path / "pack" / "__init__.py").touch()
    body = "from pack import one\ndef f(completions, **_): return [one.SCORE] * len(completions)\n"
    (tmp_path / "pack" / "one.py").write_text("SCORE = 1.0\n")
    (tmp_path / "pack" / "inner" / "deep.py").write_text(body)
    with rewards((Reward(name="pack.inner.deep:f"),), workdir=tmp_path) as made:
        assert call(made.functions[0], "a", "b") == [1.0, 1.0]


ROWS = [{"id": "0", "problem": "q", "answer": "7", "images": [object()]}]


@pytest.mark.parametrize(
    ("name", "words"), [("raises", "ValueError: always"), ("hangs", "took longer")]
)
def test_a_function_that_never_works_is_refused_before_training(workdir, name, words):
    spec = Reward(name=f"mine:{name}", timeout_seconds=1)
    with rewards((spec,), workdir=workdir) as made:
        with pytest.raises(RewardError, match=words):
            made.check(ROWS, Conversation())
        # Without that check, the first batch is the trial.
        with pytest.raises(RewardError, match=words):
            call(made.functions[0], "a")


def test_a_function_that_works_passes_the_check(workdir):
    specs = tuple(Reward(name=f"mine:{name}") for name in ("length", "answers"))
    with rewards((*specs, Reward(name="accuracy")), workdir=workdir) as made:
        made.check(ROWS, Conversation())
        assert made.counters == {custom_reward.TIMEOUTS: 0, custom_reward.ERRORS: 0}
