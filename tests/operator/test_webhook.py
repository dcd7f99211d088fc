"""The admission webhook over real HTTPS: it refuses what the models refuse, and nothing ends it."""

import asyncio
import copy
import http.client
import json
import logging
import re
import shutil
import socket
import ssl
import subprocess
import threading
import time
from contextlib import contextmanager

import pytest
from click.testing import CliRunner
from operating import SFT_ONLY, world
from spec_cases import ASCII, CASES, CHANGES, PYDANTIC_ONLY, document

from coldstart.generate.rules import MUTABLE
from coldstart.schema import MAX_PROBLEMS
from coldstart_operator import webhook
from coldstart_operator.__main__ import main
from coldstart_operator.web import Ports
from coldstart_operator.webhook import BODY_BYTES, Webhook

LOCAL = "127.0.0.1"
EC = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1")
RSA = ("-newkey", "rsa:2048")


def certify(directory, kind=EC, key=("-nodes",)):
    """A throw-away certificate of its own making in a directory."""
    program = shutil.which("openssl")
    if program is None:
        pytest.skip("no openssl on PATH")
    directory.mkdir(exist_ok=True)
    options = ["-subj", "/CN=test", "-addext", f"subjectAltName=IP:{LOCAL}", "-days", "1", *key]
    files = ["-keyout", str(directory / "tls.key"), "-out", str(directory / "tls.crt")]
    command = [program, "req", "-x509", *kind, *options, *files]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    return directory


class Client:
    """Asks a webhook whose certificate it was told."""

    def __init__(self, port, directory):
        trust = ssl.create_default_context(cafile=directory / "tls.crt")
        self.connection = http.client.HTTPSConnection(LOCAL, port, timeout=30, context=trust)

    def post(self, body, path="/validate", method="POST"):
        """The code and the text of an answer."""
        self.connection.request(method, path, body, {"Content-Type": "application/json"})
        answer = self.connection.getresponse()
        return answer.status, answer.read().decode()

    def ask(self, asked):
        """What a well-formed review is answered."""
        code, text = self.post(json.dumps(asked))
        assert code == 200, text
        found = json.loads(text)
        assert (found["apiVersion"], found["kind"]) == ("admission.k8s.io/v1", "AdmissionReview")
        assert found["response"]["uid"] == asked["request"]["uid"]
        return found["response"]


@contextmanager
def serving(directory):
    """The port of a webhook in a thread of its own."""
    ports, started, end = [], threading.Event(), []

    async def main():
        server, listening = Webhook(directory), Ports(LOCAL)
        ports.append(await server.start(listening, 0))
        stop = asyncio.Event()
        end.append((asyncio.get_running_loop(), stop))
        started.set()
        await stop.wait()
        await server.stop()
        listening.close()

    thread = threading.Thread(target=lambda: asyncio.run(main()), daemon=True)
    thread.start()
    assert started.wait(20)
    try:
        yield ports[0]
    finally:
        loop, stop = end[0]
        loop.call_soon_threadsafe(stop.set)
        thread.join(20)


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    directory = certify(tmp_path_factory.mktemp("certificate"))
    with serving(directory) as port:
        yield Client(port, directory)


def stored(changes=None, name="r"):
    """A run as it reaches the webhook: on a cluster, so with a claim."""
    run = document(changes, name)
    run["metadata"] |= {"namespace": "ml", "uid": "u", "generation": 1}
    run["spec"]["storage"] = {"claimName": "runs"} | (run["spec"].get("storage") or {})
    return run


def review(new, old=None, **more):
    """What the API server asks for a run."""
    return {
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "request": {
            "uid": "705ab4f5",
            "kind": {"group": "coldstart.dev", "version": "v1alpha1", "kind": "ReasoningRun"},
            "resource": {
                "group": "coldstart.dev",
                "version": "v1alpha1",
                "resource": "reasoningruns",
            },
            "name": "r",
            "namespace": "ml",
            "operation": "UPDATE" if old else "CREATE",
            "object": new,
            "oldObject": old,
            "dryRun": False,
            **more,
        },
    }


def lines(response):
    """What a refusal says, one line for each field, after a look at its form."""
    assert response["allowed"] is False
    status = response["status"]
    assert (status["code"], status["reason"]) == (422, "Invalid")
    found = status["message"].split("\n")
    for line, cause in zip(found, status["details"]["causes"], strict=True):
        assert re.match(r"(spec|metadata|document)[\w.…\[\]-]*: \S", line), line
        assert line == f"{cause['field']}: {cause['message']}"
    return found


def test_every_case_is_judged_as_the_models_judge_it(client):
    wrong = {}
    for case in (*CASES, *PYDANTIC_ONLY, *ASCII):
        response = client.ask(review(stored(case.spec, case.run)))
        if response["allowed"] != case.valid:
            wrong[case.name] = response
        if not case.valid:
            assert lines(response)
    assert wrong == {}


TOLD = {
    "two fields": (
        {"sft.epochs": -1, "grpo.seed": "x"},
        ["spec.sft.epochs: should be greater than", "spec.grpo.seed: should be a valid integer"],
    ),
    "a misspelt one": ({"sft.epoch": 3}, ["spec.sft.epoch: unknown key; did you mean epochs?"]),
    "no stage": (dict.fromkeys(("sft", "grpo", "evaluation")), ["spec: has no stage"]),
    "no claim": ({"storage.claimName": None}, ["spec.storage.claimName: is required on a cluster"]),
    "an environment of ours": (
        {"podTemplate.env": [{"name": "COLDSTART_ORDER", "value": "mine"}]},
        ["spec.podTemplate.env[0].name: "],
    ),
    "a volume that no cluster lets pass": (
        {"podTemplate.volumes": [{"name": "a", "hostPath": {"path": "/"}}], "backend": "Job"},
        ["spec.podTemplate.volumes[0]"],
    ),
}


@pytest.mark.parametrize("name", TOLD)
def test_a_refusal_names_each_field_in_a_line(client, name):
    changes, expected = TOLD[name]
    found = lines(client.ask(review(stored(changes))))
    assert len(found) == len(expected)
    for line, beginning in zip(sorted(found), sorted(expected), strict=True):
        assert line.startswith(beginning)


def test_a_thousand_mistakes_are_no_longer_answer_than_fifty(client):
    unknown = {f"sft.k{i}" + "x" * 1000: i for i in range(1000)}
    found = lines(client.ask(review(stored(unknown))))
    assert len(found) == MAX_PROBLEMS + 1
    assert max(map(len, found)) < 600


@pytest.mark.parametrize("started", [True, False], ids=["started", "before"])
def test_what_may_change(client, started):
    for what, changes, allowed in CHANGES:
        old, new = stored(), stored(changes)
        if started:
            old["status"] = new["status"] = {"startedAt": "2026-01-01T00:00:00Z"}
        response = client.ask(review(new, old))
        assert response["allowed"] == (allowed or not started), (what, response)
        if not response["allowed"]:
            (line,) = lines(response)
            assert line.endswith(
                f"cannot change after the run has started; only {', '.join(MUTABLE)} can"
            )


def test_a_change_is_judged_as_a_whole(client):
    old = stored() | {"status": {"startedAt": "2026-01-01T00:00:00Z"}}
    found = lines(client.ask(review(stored({"sft.epochs": -1, "suspend": 7}), old)))
    assert [line.partition(":")[0] for line in found] == [
        "spec.sft",
        "spec.sft.epochs",
        "spec.suspend",
    ]


def test_a_run_that_an_earlier_version_took_may_be_labelled_and_deleted(client):
    old = stored({"sft.novelty": 1})
    new = copy.deepcopy(old)
    new["metadata"] |= {"finalizers": [], "deletionTimestamp": "2026-01-01T00:00:00Z"}
    response = client.ask(review(new, old))
    assert response["allowed"] is True
    assert response["warnings"] == ["spec.sft.novelty: unknown key"]
    assert "warnings" not in client.ask(review(stored(), stored()))


LET_PASS = {
    "a deletion": {"operation": "DELETE", "object": None, "oldObject": {"spec": 3}},
    "a connection": {"operation": "CONNECT", "object": {"kind": "x"}},
    "another kind": {"kind": {"group": "", "version": "v1", "kind": "Pod"}},
    "another group": {"kind": {"group": "x.y", "version": "v1alpha1", "kind": "ReasoningRun"}},
    "another version": {
        "kind": {"group": "coldstart.dev", "version": "v2", "kind": "ReasoningRun"}
    },
    "a status": {"subResource": "status", "operation": "UPDATE"},
}


@pytest.mark.parametrize("name", LET_PASS)
def test_what_is_not_ours_to_judge_passes(client, name):
    wrong = stored({"sft.epochs": -1})
    response = client.ask(review(wrong, **LET_PASS[name]))
    assert response == {"uid": "705ab4f5", "allowed": True}


def without(*path):
    """A right review with a part taken away."""
    found = review(stored())
    inner = found
    for key in path[:-1]:
        inner = inner[key]
    del inner[path[-1]]
    return found


MALFORMED = {
    "nothing": b"",
    "no JSON": b"{",
    "no text": b"\xff\xfe\x00",
    "a number without end": b"1" * 100_000,
    "depth without end": b"[" * 200_000,
    "a list": b"[]",
    "null": b"null",
    "another kind": b'{"kind": "Pod", "apiVersion": "v1"}',
    "v1beta1": {**review(stored()), "apiVersion": "admission.k8s.io/v1beta1"},
    "no request": without("request"),
    "a request that is a list": {**review(stored()), "request": []},
    "no uid": without("request", "uid"),
    "a uid that is a number": review(stored(), uid=7),
    "no kind": without("request", "kind"),
    "a kind that is a text": review(stored(), kind="ReasoningRun"),
    "no operation": without("request", "operation"),
    "an unknown operation": review(stored(), operation="create"),
    "an operation that is a list": review(stored(), operation=["CREATE"]),
    "no object": without("request", "object"),
    "an object that is a text": review("run"),
    "an update of nothing": review(stored(), operation="UPDATE"),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_review_is_told_so_and_the_next_one_is_answered(client, name):
    body = MALFORMED[name]
    code, text = client.post(body if isinstance(body, bytes) else json.dumps(body))
    assert code == 400
    assert text.strip()
    assert client.ask(review(stored()))["allowed"] is True


WEIRD = {
    "an empty object": {},
    "a spec that is a list": {**stored(), "spec": []},
    "metadata that is a text": {**stored(), "metadata": "r"},
    "a preset that is a mapping": stored({"preset": {}}),
    "a depth that no copy stands": stored(),
}
NESTED = 600
inner = WEIRD["a depth that no copy stands"]["spec"].setdefault("podTemplate", {})
inner["affinity"] = {"nodeAffinity": json.loads('{"a":' * NESTED + "1" + "}" * NESTED)}


@pytest.mark.parametrize("name", WEIRD)
def test_a_weird_object_is_refused(client, name):
    response = client.ask(review(WEIRD[name]))
    assert response["allowed"] is False
    assert response["status"]["message"]


def test_a_body_may_be_long_but_not_without_end(client):
    new = stored()
    new["metadata"]["annotations"] = {"a": "b" * (BODY_BYTES // 2)}
    assert client.ask(review(new))["allowed"] is True
    new["metadata"]["annotations"] = {"a": "b" * BODY_BYTES}
    assert client.post(json.dumps(review(new)))[0] == 413
    assert client.ask(review(stored()))["allowed"] is True


@pytest.mark.parametrize(
    ("method", "path", "code"), [("GET", "/validate", 405), ("POST", "/", 404), ("GET", "/", 404)]
)
def test_nothing_else_is_served(client, method, path, code):
    assert client.post(None, path, method)[0] == code


def test_a_mistake_of_ours_costs_one_answer(client, monkeypatch, caplog):
    with monkeypatch.context() as broken:
        broken.setattr(webhook, "read_run", lambda _: 1 / 0)
        assert client.post(json.dumps(review(stored())))[0] == 500
    assert "ZeroDivisionError" in caplog.text
    assert client.ask(review(stored()))["allowed"] is True


def test_a_request_that_never_ends_is_given_up(client, monkeypatch):
    monkeypatch.setattr(webhook, "SECONDS", 0.2)
    client.connection.putrequest("POST", "/validate")
    client.connection.putheader("Content-Length", "10")
    client.connection.endheaders(b"{")
    assert client.connection.getresponse().status == 503
    client.connection.close()
    monkeypatch.undo()
    assert client.ask(review(stored()))["allowed"] is True


def test_who_does_not_speak_tls_is_turned_away(client):
    with socket.create_connection((LOCAL, client.connection.port), timeout=10) as raw:
        raw.sendall(b"POST /validate HTTP/1.1\r\n\r\n")
        assert b"HTTP" not in raw.recv(1000)
    assert client.ask(review(stored()))["allowed"] is True


def swapped(directory, version):
    """Exchange what a directory shows, as the kubelet does with a secret: all in one step."""
    link = directory / "..new"
    link.symlink_to(version, target_is_directory=True)
    link.rename(directory / "..data")


def trusts(port, directory):
    """Whether a new connection shows the certificate of a directory."""
    try:
        return Client(port, directory).ask(review(stored()))["allowed"]
    except (ssl.SSLError, ConnectionError):
        return False


def test_a_renewed_certificate_is_taken_up(tmp_path, caplog):
    caplog.set_level(logging.INFO, webhook.__name__)
    first, second = certify(tmp_path / "1"), certify(tmp_path / "2", RSA)
    mounted = tmp_path / "mounted"
    mounted.mkdir()
    with serving(mounted) as port:
        assert not trusts(port, first)  # the secret is not there yet
        for name in ("tls.crt", "tls.key"):
            (mounted / name).symlink_to(f"..data/{name}")
        swapped(mounted, first)
        assert trusts(port, first)
        old = Client(port, first)
        old.ask(review(stored()))
        swapped(mounted, second)
        assert trusts(port, second)
        assert not trusts(port, first)
        assert old.ask(review(stored()))["allowed"]  # connections outlive a certificate
        torn = tmp_path / "torn"
        shutil.copytree(second, torn)
        (torn / "tls.key").write_bytes((first / "tls.key").read_bytes())
        swapped(mounted, torn)
        assert trusts(port, second)
        (mounted / "..data").unlink()
        assert trusts(port, second)
    told = [record.message for record in caplog.records if "certificate" in record.message]
    assert [line.split()[0] for line in told] == ["takes", "uses", "uses", "takes", "takes"]


def test_an_encrypted_key_is_refused_and_nobody_is_asked_for_its_password(tmp_path):
    directory = certify(tmp_path / "1", key=("-passout", "pass:secret"))
    assert "ENCRYPTED" in (directory / "tls.key").read_text()
    with serving(directory) as port:
        assert not trusts(port, directory)


def test_a_process_serves_it_if_told(tmp_path):
    directory = certify(tmp_path / "certificate")
    options = ("--webhook-port", "0", "--webhook-cert", str(directory))
    with world(tmp_path) as w, w.process(*options) as operator:
        operator.ports()
        deadline = time.monotonic() + 20
        while not (told := [line["message"] for line in operator.lines() if _serves(line)]):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        client = Client(int(told[0].split()[-1]), directory)
        assert client.ask(review(stored()))["allowed"] is True
        assert lines(client.ask(review(stored({"sft.epochs": -1}))))


def _serves(line):
    return "serves /validate" in line["message"]


def test_it_is_off_by_default(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    with world(tmp_path) as w, w.operator() as settings:
        assert settings.webhook_cert is None
        w.apply(**SFT_ONLY)
        w.end()
    assert any("serves /healthz" in record.message for record in caplog.records)
    assert not any("/validate" in record.message for record in caplog.records)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--webhook-port", "1"), "belong together"),
        (("--webhook-cert", "."), "belong together"),
        (("--webhook-port", "1", "--webhook-cert", "nowhere"), "nowhere"),
    ],
    ids=str,
)
def test_half_of_its_options_is_a_mistake(options, said):
    done = CliRunner().invoke(main, options)
    assert done.exit_code == 2
    assert said in done.output
