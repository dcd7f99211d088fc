"""A stage whose vLLM server does what no server should: it ends, and says what was wrong where."""

import contextlib
import gzip
import json
import socket
import socketserver
import struct
import time

import hostile_server
import pytest
import requests
from requests.adapters import HTTPAdapter
from serving import in_threads
from urllib3.util.retry import Retry

from coldstart.status import ErrorCode
from coldstart_trainer.errors import StageFailure
from coldstart_trainer.rollout import asking, server
from coldstart_trainer.rollout.asking import Server
from coldstart_trainer.rollout.server import require_server

MODELS = hostile_server._models()[0]
OK = b"HTTP/1.1 200 OK\r\n"


def whole(body, status=b"HTTP/1.1 200 OK", more=b""):
    """A well-formed answer."""
    length = b"Connection: close\r\nContent-Length: %d\r\n" % len(body)
    return lambda send: send(status + b"\r\n" + length + more + b"\r\n" + body)


def dripping(beginning, piece):
    """An answer that goes on for as long as anybody listens."""

    def answer(send):
        send(beginning)
        while True:
            send(piece)
            time.sleep(0.02)

    return answer


def flood(send):
    send(OK + b"\r\n")
    while True:
        send(b" " * (1 << 16))


def silence(_):
    time.sleep(3)


def path_of(stream):
    """The path of a request, which is read to its end: what is left would cut the answer off."""
    asked, length = stream.readline().split(), 0
    while line := stream.readline().strip():
        name, _, value = line.partition(b":")
        length = int(value) if name.lower() == b"content-length" else length
    stream.read(length)
    return asked[1].decode().partition("?")[0] if len(asked) > 1 else ""


@pytest.fixture
def serving():
    """Starts a server that answers by path, or always so; what it does not know, it hangs up on."""
    with in_threads() as begin:

        def start(answers):
            class Handler(socketserver.StreamRequestHandler):
                def handle(self):
                    with contextlib.suppress(OSError):
                        path = path_of(self.rfile)
                        answer = answers.get(path) if isinstance(answers, dict) else answers
                        if answer is not None:
                            answer(self.request.sendall)
                        else:
                            reset = struct.pack("ii", 1, 0)
                            self.request.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)

            class Listening(socketserver.ThreadingTCPServer):
                daemon_threads = True

            return begin(Listening(("127.0.0.1", 0), Handler))

        yield start


BAD = {
    "drips": (dripping(OK + b"\r\n", b" "), "no whole answer within"),
    "drips headers": (dripping(OK + b"X: ", b"a"), "no whole answer within"),
    "says nothing": (silence, "no whole answer within|timed out"),
    "never ends": (flood, "an answer of more than"),
    "explodes": (
        whole(gzip.compress(b" " * (1 << 24)), more=b"Content-Encoding: gzip\r\n"),
        "an answer of more than",
    ),
    "is no gzip": (whole(b"abc", more=b"Content-Encoding: gzip\r\n"), "gzip"),
    "is cut": (
        lambda send: send(OK + b"Content-Length: 99\r\n\r\n{"),
        "0 bytes|1 bytes|Incomplete",
    ),
    "hangs up": (None, "reset|aborted|closed"),
    "is no HTTP": (lambda send: send(b"\x16\x03\x01" * 9), "BadStatusLine|aborted|closed"),
    "is no JSON": (whole(b"<html>"), "no JSON"),
    "is deep": (whole(b"[" * 200_000), "no JSON"),
    "redirects": (
        whole(b"", b"HTTP/1.1 302 Found", b"Location: http://127.0.0.1:1/\r\n"),
        "302",
    ),
    "redirects nowhere": (
        whole(b"", b"HTTP/1.1 302 Found", b"Location: http://[::1\r\n"),
        "Invalid IPv6",
    ),
}


@pytest.fixture
def hasty(monkeypatch):
    """All bounds are small."""
    monkeypatch.setattr(server, "SECONDS", 0.5)
    monkeypatch.setattr(server, "MAX_BYTES", 1 << 20)
    monkeypatch.setattr(asking, "QUICK", 0.5)
    monkeypatch.setattr(asking, "LONG", 0.5)


@pytest.mark.parametrize("place", ["/v1/models", "/server_info"])
@pytest.mark.parametrize("name", BAD)
def test_before_it_begins_a_stage_outlives_any_answer(serving, hasty, name, place):
    answer, said = BAD[name]
    url = serving({"/v1/models": whole(MODELS), place: answer})
    began = time.monotonic()
    with pytest.raises(StageFailure) as caught:
        require_server(url, 0, ("org/m",), 4096)
    assert time.monotonic() - began < 20
    if (name, place) == ("redirects", "/server_info"):
        assert caught.value.code is ErrorCode.INVALID_ORDER
        return
    assert caught.value.code is ErrorCode.WORKER_LOST
    assert caught.match(
        f"^spec.grpo.rollout.serverUrl: no vLLM server answers at {url}: .*({said})"
    )


def asked(url, retries=0, path="/collective_rpc"):
    """An answer to a question of TRL's client, which asks again a few times."""
    session = requests.Session()
    again = Retry(retries, status_forcelist=[503], allowed_methods=None, backoff_factor=0)
    session.mount("http://", HTTPAdapter(max_retries=again))
    return Server(url, session).post(f"{url}{path}", json={}).json()


@pytest.mark.parametrize("name", BAD)
def test_while_it_trains_a_stage_outlives_any_answer(serving, hasty, monkeypatch, name):
    monkeypatch.setattr(asking, "MAX_BYTES", 1 << 20)
    monkeypatch.setattr(asking.fetched, "__kwdefaults__", {"most": 1 << 20})
    answer, said = BAD[name]
    url = serving(answer)
    with pytest.raises(StageFailure, match=f"serverUrl: .* {url}.*({said})") as caught:
        asked(url)
    wrong = name == "redirects"
    assert caught.value.code is (ErrorCode.INVALID_ORDER if wrong else ErrorCode.WORKER_LOST)


@pytest.mark.parametrize(
    ("status", "code", "path", "said"),
    [
        (400, ErrorCode.INVALID_ORDER, "/v1/completions", "refuses /v1/completions: 400: too long"),
        (404, ErrorCode.INVALID_ORDER, "/v1/chat/completions/render", "--enable-scale-out"),
        (429, ErrorCode.WORKER_LOST, "/v1/completions", "429: too long"),
        (500, ErrorCode.WORKER_LOST, "/v1/completions", "500: too long"),
        (503, ErrorCode.WORKER_LOST, "/reset_prefix_cache", "503: too long"),
    ],
)
def test_an_error_is_told_in_the_servers_words(serving, status, code, path, said):
    body = json.dumps({"error": {"message": "too\nlong\x1b[2J"}}).encode()
    url = serving(whole(body, b"HTTP/1.1 %d Oh" % status, b"Retry-After: 3600\r\n"))
    began = time.monotonic()
    with pytest.raises(StageFailure, match=said) as caught:
        asked(url, retries=1, path=path)
    assert time.monotonic() - began < 20
    assert caught.value.code is code
    assert str(caught.value).isprintable()


def test_a_peer_that_is_gone_is_found_out(serving):
    """Its connection is probed: a server that samples sends nothing for many minutes."""
    seen = []

    class Seen(socket.socket):
        def setsockopt(self, *option):
            seen.append(option)
            super().setsockopt(*option)

    before, socket.socket = socket.socket, Seen
    try:
        assert asked(serving(whole(b'{"results": [1]}'))) == {"results": [1]}
    finally:
        socket.socket = before
    assert {(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)} <= {*seen}
    assert (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 60) in seen


@pytest.mark.parametrize(
    ("results", "said"),
    [
        ([], "at least 1"),
        ([{"worker": 0, "rank": 1, "size": 1, "shapes": {}, "dtypes": {}}], "rank 1 of 1"),
        ([{"worker": 0, "rank": 0, "size": 1, "shapes": {}, "dtypes": {}}] * 2, "twice"),
    ],
)
def test_a_server_that_tells_of_no_weights_does_not_pass_for_one_that_has_ours(results, said):
    """As it would, were nothing compared."""
    answer = json.dumps({"results": results}).encode()
    with pytest.raises(StageFailure, match=f"serverUrl: .*{said}") as caught:
        hostile_server.client(answer).held_weights()
    assert caught.value.code is ErrorCode.SAMPLER_MISMATCH


def sampled(change):
    """What becomes of completions of which something was changed."""
    document = json.loads(hostile_server._completions()[0])
    change(document["choices"])
    return hostile_server._sampled(None)(json.dumps(document).encode(), None)


def named(choice, token, place=0):
    """Another token, with its log-probability."""
    choice["token_ids"][place] = token
    choice["logprobs"]["tokens"][place] = f"token_id:{token}"
    choice["logprobs"]["top_logprobs"][place] = {f"token_id:{token}": -0.5}


CHANGES = {
    "a token that nobody knows": (lambda found: named(found[0], 10), "token 10, but .* 10 tokens"),
    "other tokens than sampled": (
        lambda found: found[0]["token_ids"].__setitem__(0, 8),
        "of other tokens",
    ),
    "a likelier token": (
        lambda found: found[0]["logprobs"]["top_logprobs"][0].update({"token_id:1": -0.1}),
        "of other tokens",
    ),
    "in another order": (lambda found: found.reverse(), "of another prompt"),
    "one too few": (lambda found: found.pop(), "3 completions, not 2 for each of 2"),
    "one too many": (lambda found: found.append(found[-1]), "5 completions"),
    "too long": (
        lambda found: [found[1][key].append(8) for key in ("token_ids",)],
        "a completion of 5 tokens, where 4",
    ),
    "infinite": (
        lambda found: found[0]["logprobs"]["top_logprobs"][0].update({"token_id:7": float("inf")}),
        "inf, which is no log-probability",
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_are_no_completions_of_the_prompts_is_not_learnt_from(name):
    change, said = CHANGES[name]
    sampled(len)
    with pytest.raises(
        StageFailure, match=f"serverUrl: the vLLM server returns .*{said}"
    ) as caught:
        sampled(change)
    assert caught.value.code is ErrorCode.SAMPLER_MISMATCH


def test_a_completion_that_was_given_up_is_asked_for_by_another_attempt():
    def emptied(found):
        found[0]["token_ids"] = []
        found[0]["logprobs"] = {"tokens": [], "token_logprobs": [], "top_logprobs": []}

    with pytest.raises(StageFailure, match="gave a completion up") as caught:
        sampled(emptied)
    assert caught.value.code is ErrorCode.WORKER_LOST


def test_completions_of_images_are_as_many_as_were_asked_for():
    """TRL would take the third for another prompt's."""
    document = json.loads(hostile_server._generated()[0])
    document["choices"] *= 2
    with pytest.raises(StageFailure, match=r"serverUrl: .*4 completions, not 2"):
        hostile_server._sampled([hostile_server.FEATURES])(json.dumps(document).encode(), None)


def test_a_server_that_takes_no_weights_is_named():
    document = json.loads(hostile_server._infos()[0])
    del document["vllm_config"]["weight_transfer_config"]
    with pytest.raises(StageFailure, match=r"cannot be given weights; .*--weight-transfer-config"):
        hostile_server.client(json.dumps(document).encode()).get_server_info()
