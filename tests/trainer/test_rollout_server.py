"""Which vLLM server a stage waits for, takes and refuses; the servers here only tell of a model."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from serving import in_threads

from coldstart.status import ErrorCode
from coldstart_trainer.errors import StageFailure
from coldstart_trainer.rollout import server
from coldstart_trainer.rollout.server import require_server
from coldstart_trainer.rollout.settings import EXTENSION

NAMES = ("org/model-7b", "/storage/run/sft/final")
MODEL = {"id": "org/model-7b", "root": "/cache/abc", "max_model_len": 4096}
SETTINGS = {
    "model_config": {"logprobs_mode": "processed_logprobs"},
    "parallel_config": {"worker_extension_cls": EXTENSION},
}
INFO = {"vllm_config": SETTINGS}
RIGHT = {"/v1/models": {"data": [MODEL]}, "/server_info": INFO}


def told(**settings):
    """A server that was started with other flags."""
    return {"/server_info": {"vllm_config": SETTINGS | settings}}


@pytest.fixture
def serving():
    """Starts a server that gives these answers, and 503 to every other question."""
    with in_threads() as begin:

        def start(answers):
            class Handler(BaseHTTPRequestHandler):
                def do_GET(self):
                    answer = answers.get(self.path.partition("?")[0])
                    self.send_response(503 if answer is None else 200)
                    self.end_headers()
                    self.wfile.write(json.dumps(answer).encode())

                def log_message(self, *_):
                    pass

            return begin(ThreadingHTTPServer(("127.0.0.1", 0), Handler))

        yield start


@pytest.mark.parametrize(
    "model",
    [
        MODEL,
        MODEL | {"id": "served-so", "root": "/models/model-7b"},
        MODEL | {"id": "/mnt/runs/final", "root": None},
        {"id": "model-7b"},
    ],
)
def test_the_runs_model_is_taken_by_the_last_part_of_its_name(serving, model):
    require_server(serving(RIGHT | {"/v1/models": {"data": [model]}}), 0, NAMES, 4096)


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        (
            {"/v1/models": {"data": [MODEL | {"id": "org/other", "root": "org/other"}]}},
            r"serves org/other, not final or model-7b; .* --served-model-name",
        ),
        ({"/v1/models": {"data": [MODEL | {"max_model_len": 4095}]}}, "--max-model-len 4096"),
        ({"/server_info": None}, "VLLM_SERVER_DEV_MODE=1"),
        (
            told(model_config={"logprobs_mode": "raw_logprobs"}),
            "reports raw_logprobs, .* --logprobs-mode processed_logprobs",
        ),
        (
            told(parallel_config={"worker_extension_cls": ""}),
            "does not tell which weights it has; .* --worker-extension-cls coldstart_trainer",
        ),
    ],
)
def test_a_server_that_would_sample_something_else_is_refused(serving, answers, message):
    with pytest.raises(StageFailure, match=message) as caught:
        require_server(serving(RIGHT | answers), 0, NAMES, 4096)
    assert caught.value.code is ErrorCode.INVALID_ORDER
    assert str(caught.value).startswith("spec.grpo.rollout.serverUrl: the vLLM server at http://")


@pytest.mark.parametrize("answers", [None, {}, {"/v1/models": {"error": "none"}}])
def test_a_server_that_is_not_there_is_waited_for_and_named(serving, answers):
    """Nothing listens; only errors are answered, at which TRL would wait forever; or nonsense."""
    url = "http://127.0.0.1:9" if answers is None else serving(answers)
    with pytest.raises(StageFailure, match=f"serverUrl: no vLLM server answers at {url}") as caught:
        require_server(url, 0, NAMES, 4096)
    assert caught.value.code is ErrorCode.WORKER_LOST
    assert caught.value.code.retryable


def test_a_server_that_comes_up_late_is_taken(serving, monkeypatch):
    monkeypatch.setattr(server, "PAUSE", 0.01)
    late = {}
    url = serving(late)
    threading.Timer(0.1, late.update, [RIGHT]).start()
    require_server(url, 30, NAMES, 4096)
