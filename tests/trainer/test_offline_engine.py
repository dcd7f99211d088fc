"""Evaluation and a served teacher with what stands in for vLLM: bounds, seeds, kills, refusals."""

import json
import os
import signal
import socket
import sys
from pathlib import Path

import pytest
from stage_attempts import CONVERSATION, again, here, stage_order
from vllm_model import DIGITS_BY_VLLM

from coldstart import layout
from coldstart.files import json_lines
from coldstart.layout import output
from coldstart.results import BenchmarkResult
from coldstart.status import ErrorCode
from coldstart.summary import read_samples
from coldstart_trainer import evaluation, inputs
from coldstart_trainer.distill import serving
from coldstart_trainer.errors import StageFailure
from coldstart_trainer.offline.surroundings import surroundings
from coldstart_trainer.progress import ProgressLog
from coldstart_trainer.termination import TERMINATION, Terminated

STAND_IN = Path(__file__).parents[1] / "fake_vllm"


@pytest.fixture
def stand_in(monkeypatch):
    """The stand-in's `LLM`, as if it were installed, here and in processes started from here."""
    monkeypatch.syspath_prepend(str(STAND_IN))
    path = os.pathsep.join([str(STAND_IN), *filter(None, [os.environ.get("PYTHONPATH")])])
    monkeypatch.setenv("PYTHONPATH", path)
    import vllm

    yield vllm.LLM
    for name in [name for name in sys.modules if name.split(".")[0] == "vllm"]:
        del sys.modules[name]
    sys.modules.pop("coldstart_trainer.offline.engine", None)


@pytest.fixture
def order(tmp_path, tiny_model, tiny_rows, conversation):
    def make(storage="runs", **section):
        evaluation = DIGITS_BY_VLLM | {"decoding": {"temperature": 1.0, "samples": 2}}
        spec = {"conversation": conversation.document(), "evaluation": evaluation | section}
        return stage_order("evaluation", tiny_model, tmp_path / storage, tiny_rows.parent, spec)

    return make


def run(order):
    """Carry out an evaluation; its samples by problem and number."""
    log = output(order)
    log.root.mkdir(parents=True, exist_ok=True)
    evaluation.run(order, inputs.resolve(order), ProgressLog(log.metrics, 1))
    return samples(order)


def directory(order):
    return layout.RunLayout(Path(order.storage) / order.run.name).benchmark("base", "digits")


def samples(order):
    return {(sample.id, sample.sample): sample for sample in read_samples(directory(order))}


def test_a_full_engine_answers_every_problem_as_often_as_asked(stand_in, order, processor):
    given = order()
    found = run(given)
    assert len(found) == 24 * 2
    assert len({sample.response for sample in found.values()}) > 40
    assert all(sample.truncated == (sample.tokens == 40) for sample in found.values())
    [engine] = stand_in.plan.engines
    assert (engine.most_open, engine.closed) == (5, True)  # one is ready beside those that run
    assert engine.arguments["max_model_len"] == 240
    assert engine.arguments["load_format"] == "safetensors"  # no pickles
    assert engine.arguments["mm_processor_kwargs"] == {"min_pixels": 784, "max_pixels": 16 * 784}
    assert engine.arguments["limit_mm_per_prompt"] == {"image": 1, "video": 0}
    assert engine.calls == [("coldstart_end_with", (os.getpid(),))]
    result = BenchmarkResult.parse(json.loads(layout.results(directory(given)).read_text()))
    assert result.decoding["engine"] == "vllm"
    assert "batchSize" not in result.decoding
    values = [line["values"] for line in json_lines(output(given).metrics)]
    told = max(value.get("tokens_total{completion}", 0) for value in values)
    assert told == sum(sample.tokens for sample in found.values())


def test_the_tokens_of_pixels_are_forbidden_and_the_models_own_end(stand_in, order, processor):
    asked = []
    original = stand_in.add_request
    stand_in.add_request = lambda self, name, prompt, params: (
        asked.append(params) or original(self, name, prompt, params)
    )
    run(order())
    assert {word for params in asked for word in params.bad_words} >= {"<|image_pad|>"}
    assert asked[0].stop_token_ids == [processor.tokenizer.eos_token_id]
    assert len({params.seed for params in asked}) == len(asked)


def test_what_is_missing_comes_out_as_it_would_have_whatever_runs_beside_it(stand_in, order):
    whole = run(order())
    again_ = order("again", concurrency=3)
    directory(again_).parent.mkdir(parents=True)
    directory(order()).rename(directory(again_))
    path = layout.samples(directory(again_))
    path.write_bytes(path.read_bytes()[:2000])
    kept = len(samples(again_))
    assert 0 < kept < 24
    assert run(again_) == whole
    assert stand_in.plan.engines[-1].most_open == 4


def test_sigterm_takes_back_what_is_open_and_keeps_what_has_ended(stand_in, order):
    whole = run(order("whole"))
    stand_in.plan.told = 20
    before = signal.getsignal(signal.SIGTERM)
    TERMINATION.install()
    given = order()
    try:
        with pytest.raises(Terminated, match="every response so far is kept"):
            run(given)
    finally:
        signal.signal(signal.SIGTERM, before)
        TERMINATION.requested = False
    engine = stand_in.plan.engines[-1]
    assert (engine.closed, engine.steps) == (True, 20)
    assert 0 < engine.ended < 48
    assert len(samples(given)) == engine.ended
    stand_in.plan.told = None
    assert run(given) == whole


@pytest.mark.parametrize("ending", ["dies", "killed"])
def test_an_engine_that_is_gone_ends_the_stage_and_another_goes_on(stand_in, order, ending):
    setattr(stand_in.plan, ending, 20)
    with pytest.raises(StageFailure, match="vLLM's engine has ended") as caught:
        run(order())
    assert caught.value.code is ErrorCode.WORKER_LOST
    assert stand_in.plan.engines[-1].closed
    setattr(stand_in.plan, ending, None)
    assert len(run(order())) == 48


def test_an_engine_that_counts_image_tokens_otherwise_is_refused(stand_in, order):
    stand_in.plan.images = 2
    with pytest.raises(StageFailure, match=r"has \d image tokens for the trainer and \d") as caught:
        run(order())
    assert caught.value.code is ErrorCode.SAMPLER_MISMATCH


@pytest.mark.parametrize(
    ("error", "code"),
    [(ValueError, ErrorCode.INVALID_ORDER), (RuntimeError, ErrorCode.INTERNAL)],
)
def test_an_engine_that_does_not_start_is_named_by_its_field(
    stand_in, order, monkeypatch, error, code
):
    def start(self, **_):
        raise error("the KV cache\nneeds more memory")

    monkeypatch.setattr(stand_in, "__init__", start)
    with pytest.raises(StageFailure, match=r"evaluation\.engine: .*: the KV cache needs") as caught:
        run(order())
    assert caught.value.code is code


def test_what_vllm_cannot_do_is_refused_before_anything_is_loaded(stand_in, order):
    with pytest.raises(StageFailure, match=r"evaluation\.decoding\.temperature: is 3, but vLLM"):
        run(order(decoding={"temperature": 3.0}))
    assert not stand_in.plan.engines


def test_vllm_that_is_not_installed_is_named(order, monkeypatch):
    monkeypatch.setattr("coldstart.engine._DISTRIBUTIONS", ("no-such-vllm",))
    with pytest.raises(
        StageFailure, match=r"evaluation\.engine: vLLM is not installed: pip install"
    ):
        run(order())


def test_nothing_is_started_when_every_response_is_there(stand_in, order):
    whole = run(order())
    assert run(order()) == whole
    assert len(stand_in.plan.engines) == 1


def test_vllms_processes_find_their_gpus_and_no_launcher():
    stage = {"RANK": "3", "TORCHELASTIC_USE_AGENT_STORE": "True", "HOME": "/h"}
    assert surroundings(stage) == {"HOME": "/h"}
    assert surroundings(stage, (2, 3))["CUDA_VISIBLE_DEVICES"] == "2,3"
    stage["CUDA_VISIBLE_DEVICES"] = "4,GPU-a,GPU-b"
    assert surroundings(stage, (1, 2))["CUDA_VISIBLE_DEVICES"] == "GPU-a,GPU-b"
    assert surroundings(stage)["CUDA_VISIBLE_DEVICES"] == "4,GPU-a,GPU-b"


@pytest.fixture
def teaching(tmp_path, tiny_model, tiny_rows):
    def make(model, **section):
        (tmp_path / "work").mkdir(exist_ok=True)
        distill = {
            "dataset": {"name": str(tiny_rows)},
            "teacher": {"model": model, "revision": "abc"},
            "samples": 2,
            "requestRetries": 0,
        }
        spec = {
            "conversation": CONVERSATION | {"maxCompletionTokens": 200},
            "distill": distill | section,
        }
        return stage_order("distill", tiny_model, tmp_path / "runs", tmp_path / "work", spec)

    return make


def teacher_log(order):
    return output(order).attempt(order.attempt) / "teacher.log"


def options(order):
    """What the server was started with."""
    text = teacher_log(order).read_text()
    [line] = [line for line in text.splitlines() if line.startswith("options ")]
    return json.loads(line.removeprefix("options "))


def test_a_teacher_without_a_url_is_served_for_as_long_as_the_stage_runs(
    stand_in, teaching, monkeypatch
):
    monkeypatch.setenv("RANK", "0")
    order = teaching("org/teacher", concurrency=8)
    result = here(order)
    assert result.metrics["rows"] == 1  # one question's answer is 7
    started = options(order)
    assert (started["model"], started["revision"]) == ("org/teacher", "abc")
    assert (started["host"], started["max_num_seqs"]) == ("127.0.0.1", "8")
    assert json.loads(started["limit_mm_per_prompt"]) == {"image": 1, "video": 0}
    assert started["enforce_eager"]
    with pytest.raises(ConnectionRefusedError), socket.socket() as gone:
        gone.connect(("127.0.0.1", int(started["port"])))
    card = json.loads((output(order).final / "card.json").read_text())
    assert card["teacher"] == "org/teacher@abc"


def test_a_directory_beside_the_run_file_is_the_teacher(teaching):
    order = teaching("absent")
    beside = Path(order.workdir) / "absent"
    beside.mkdir()
    command = serving.arguments(order.spec.distill, Path(order.workdir), images=0, port=1)
    assert command[:4] == ["--model", str(beside), "--served-model-name", "absent"]
    assert command[command.index("--load-format") + 1] == "safetensors"  # no pickles
    assert "--trust-remote-code" not in command


def test_a_teacher_that_cannot_be_served_is_refused_with_the_first_error(stand_in, teaching):
    order = teaching("org/absent")
    with pytest.raises(StageFailure) as caught:
        here(order)
    assert caught.value.code is ErrorCode.ENDPOINT_REFUSED
    message = str(caught.value)
    assert "exit code 1 before it served 'org/absent': OSError: absent is not" in message
    assert str(teacher_log(order)) in message


def test_a_teacher_that_ends_in_between_ends_the_attempt_and_the_next_goes_on(stand_in, teaching):
    order = teaching("org/dies", concurrency=1, requestRetries=10)
    with pytest.raises(StageFailure) as caught:
        here(order)
    assert caught.value.code is ErrorCode.ENDPOINT_DOWN
    assert "has ended with exit code 3 while it served 'org/dies'" in str(caught.value)
    answered = len(list(json_lines(output(order).answers)))
    assert answered == 4  # the probe was the fifth
    with pytest.raises(StageFailure):
        here(again(order))
    assert len(list(json_lines(output(order).answers))) == 2 * answered
