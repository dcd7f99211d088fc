"""The validating admission webhook: says at once what the operator would say later; off by default.

aiohttp serves it, as it does the other pages. kopf's own server would need kopf's handlers behind
it, takes no body beyond aiohttp's 1 MiB, and closes its port to take up a renewed certificate
(kopf 1.45, `WebhookServer`). Nothing depends on this one: what the API server could not ask it
about, the operator refuses with `Accepted=False`.
"""

from __future__ import annotations

import asyncio
import json
import logging
import ssl
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from aiohttp import web
from pydantic import ValidationError

from coldstart.children import documents
from coldstart.children.backend import BACKENDS, backend
from coldstart.children.pod import IMAGE, STORAGE
from coldstart.generate.rules import root_rules
from coldstart.order import build_order
from coldstart.run import ReasoningRun
from coldstart.schema import problems
from coldstart_operator.cluster import RUNS
from coldstart_operator.metrics import ADMISSIONS
from coldstart_operator.statuses import InvalidRun, read_run
from coldstart_operator.web import Ports, port_of

Json = dict[str, Any]

API_VERSION = "admission.k8s.io/v1"
OPERATIONS = ("CREATE", "UPDATE", "DELETE", "CONNECT")

BODY_BYTES = 3 * 1024 * 1024
"""The longest review: etcd takes objects of 1.5 MiB, and an update has two of them."""

SECONDS = 5.0
"""How long a review may take to arrive and be judged; nobody waits longer for the answer."""

AT_ONCE = 8
"""Reviews that are held in memory at the same time; others wait."""

WARNING_CHARACTERS = 256
"""The API server cuts longer warnings."""

logger = logging.getLogger(__name__)


class MalformedReview(ValueError):
    """What was sent is no AdmissionReview."""


# What is right: pure.


def answer(body: bytes) -> Json:
    """The AdmissionReview that answers one.

    Raises:
        MalformedReview: it is none.
    """
    request = _request(body)
    try:
        wrong, unwise = _verdict(request)
    except RecursionError as error:
        raise MalformedReview("the objects are nested too deeply") from error
    response: Json = {"uid": request["uid"], "allowed": not wrong}
    if wrong:
        response["status"] = _status(request, wrong)
    if unwise:
        response["warnings"] = [line[:WARNING_CHARACTERS] for line in unwise]
    return {"apiVersion": API_VERSION, "kind": "AdmissionReview", "response": response}


def _request(body: bytes) -> Json:
    try:
        review = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise MalformedReview(f"the body is not JSON: {error}") from error
    named = [documents.value(review, key) for key in ("apiVersion", "kind")]
    if named != [API_VERSION, "AdmissionReview"]:
        raise MalformedReview(f"the body is no AdmissionReview of {API_VERSION}")
    request = documents.value(review, "request")
    if not isinstance(request, dict):
        raise MalformedReview("request: is required")
    if not documents.text(request, "uid"):
        raise MalformedReview("request.uid: is required")
    if not isinstance(request.get("kind"), dict):
        raise MalformedReview("request.kind: must have group, version and kind")
    if request.get("operation") not in OPERATIONS:
        raise MalformedReview(f"request.operation: must be one of {', '.join(OPERATIONS)}")
    return request


def _verdict(request: Json) -> tuple[list[str], list[str]]:
    """What is wrong with what is asked for, and what is unwise in it; a line for each field."""
    kind, operation = request["kind"], request["operation"]
    asked = tuple(kind.get(key) for key in ("group", "version", "kind"))
    ours = asked == (RUNS.group, RUNS.version, RUNS.kind) and not request.get("subResource")
    if not ours or operation not in ("CREATE", "UPDATE"):
        return [], []
    new = _object(request, "object")
    if operation == "CREATE":
        return mistakes(new), []
    old = _object(request, "oldObject")
    if new.get("spec") == old.get("spec"):
        # Owners, labels and finalizers change on runs that an earlier version took, too: refused,
        # such a run could not even be deleted.
        return [], mistakes(new)
    return [*_fixed_changes(old, new), *mistakes(new)], []


def _object(request: Json, key: str) -> Json:
    found = request.get(key)
    if not isinstance(found, dict):
        raise MalformedReview(f"request.{key}: is required")
    return found


def mistakes(document: Json) -> list[str]:
    """Why the operator could do nothing for a run, as `spec.sft.epochs: …`; empty if it can."""
    asked = {key: document.get(key) for key in ("apiVersion", "kind", "metadata", "spec")}
    try:
        _render(read_run(asked))
    except InvalidRun as error:
        found = error.__cause__
        if isinstance(found, ValidationError):
            return problems(found, model=ReasoningRun)
        return [error.message]
    except RecursionError:
        return ["spec: is nested too deeply"]
    except ValueError as error:
        return [str(error)]
    return []


def _render(run: ReasoningRun) -> None:
    """Describe the jobs of a run, as the operator will.

    Raises:
        ValueError: a pod of it cannot be; the message begins with the field.
    """
    name = run.spec.backend
    kind = BACKENDS[0] if name == "Auto" else backend(name)
    for stage in run.spec.stages:
        order = build_order(run, stage, 1, {}, storage=STORAGE, workdir=STORAGE)
        kind.manifests(run, order, IMAGE)


def _fixed_changes(old: Json, new: Json) -> Iterator[str]:
    """What changes that may not, once the run has started."""
    if not documents.text(old, "status", "startedAt"):
        return
    for field, message in _fixed().items():
        if documents.value(old, "spec", field) != documents.value(new, "spec", field):
            yield f"spec.{field}: {message}"


@cache
def _fixed() -> dict[str, str]:
    """The fields that may not change after the start, and what the CRD's rules say of each."""
    return {
        rule["fieldPath"].removeprefix(".spec."): rule["message"]
        for rule in root_rules()
        if "oldSelf" in rule["rule"]
    }


def _status(request: Json, lines: list[str]) -> Json:
    """The refusal; kubectl shows its causes as it shows those of the CRD's schema."""
    parts = [line.partition(": ") for line in lines]
    return {
        "status": "Failure",
        "code": 422,
        "reason": "Invalid",
        "message": "\n".join(lines),
        "details": {
            "group": RUNS.group,
            "kind": RUNS.kind,
            "name": documents.text(request, "name"),
            "causes": [
                {"reason": "FieldValueInvalid", "field": field, "message": message}
                for field, _, message in parts
            ],
        },
    }


# How it is served.


class Certificate:
    """`tls.crt` and `tls.key` of a directory, as cert-manager keeps them; read when they change.

    Each handshake looks at the files and takes what they hold then. A pair that cannot be used,
    because half of it is written, leaves the one before it in use.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._seen: list[tuple[int, int, int]] | None = None
        self._current: ssl.SSLContext | None = None
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        """What a server listens with."""
        self.context.sni_callback = self._choose
        self._refresh()

    def _choose(self, connection: ssl.SSLObject, _name: str | None, _: ssl.SSLContext) -> None:
        self._refresh()
        if self._current is not None:
            connection.context = self._current

    def _refresh(self) -> None:
        files = chain, key = self._directory / "tls.crt", self._directory / "tls.key"
        try:
            seen = [(s.st_mtime_ns, s.st_ino, s.st_size) for s in (file.stat() for file in files)]
        except OSError as error:
            if self._seen != []:
                logger.warning("takes no certificate: %s", error)
            self._seen = []
            return
        if seen == self._seen:
            return
        self._seen = seen
        fresh = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            # A password that is wrong: without one an encrypted key is asked for on the terminal.
            fresh.load_cert_chain(chain, key, password="")
        except OSError as error:
            logger.warning("takes no certificate: %s: no pair: %s", self._directory, error)
            return
        self._current = fresh
        logger.info("uses the certificate in %s", self._directory)


class Webhook:
    """The server; a bad request costs its sender the answer, and nobody else anything."""

    def __init__(self, directory: Path) -> None:
        """A server that does not serve yet.

        Args:
            directory: where the certificate and its key are, or will be.
        """
        self._certificate = Certificate(directory)
        self._slots = asyncio.Semaphore(AT_ONCE)
        self._runner: web.AppRunner | None = None

    async def start(self, ports: Ports, port: int) -> int:
        """Serve `POST /validate`.

        Returns:
            The port, if 0 was given.

        Raises:
            coldstart_operator.web.CannotListen: the port is taken, or not ours to take.
        """
        app = web.Application(client_max_size=BODY_BYTES)
        app.router.add_post("/validate", self._validate)
        context = self._certificate.context
        self._runner = await ports.listen("webhook", port, app, context)
        return port_of(self._runner)

    async def stop(self) -> None:
        """Stop serving."""
        if self._runner:
            await self._runner.cleanup()
            self._runner = None

    async def _validate(self, request: web.Request) -> web.Response:
        try:
            async with asyncio.timeout(SECONDS), self._slots:
                body = await request.read()
                # Beside the loop: a long review must not keep a run waiting.
                found = await asyncio.to_thread(answer, body)
        except MalformedReview as error:
            ADMISSIONS.labels("malformed").inc()
            return web.Response(text=f"{error}\n", status=400)
        except TimeoutError:
            return web.Response(text=f"took longer than {SECONDS:.0f} s\n", status=503)
        ADMISSIONS.labels("allowed" if found["response"]["allowed"] else "denied").inc()
        return web.json_response(found)
