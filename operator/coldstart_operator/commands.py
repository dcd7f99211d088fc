"""A cluster as a place with runs, for the commands: asks its API server as the user who asks.

`place` is the entry point by which the command line finds it.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from rich.console import RenderableType

from coldstart.children import documents
from coldstart.children.backend import backend
from coldstart.children.pod import CONTAINER, IMAGE
from coldstart.files import write_atomic
from coldstart.places import (
    LogQuery,
    NoAnswer,
    NoPage,
    NoPlace,
    NoRun,
    NotYet,
    PageQuery,
    PlaceError,
    RunView,
    Where,
    bare,
)
from coldstart.report import RunResults, told_results, told_table
from coldstart.run import ReasoningRun
from coldstart.status import StageState
from coldstart_operator.cluster import (
    EVENTS,
    RUNS,
    ApiError,
    Cluster,
    Credentials,
    Login,
    NoCluster,
    connect,
    login,
)
from coldstart_operator.commands_logs import Logs
from coldstart_operator.commands_report import fetched
from coldstart_operator.commands_view import run_view
from coldstart_operator.statuses import InvalidRun, read_run

Json = dict[str, Any]
Answer = TypeVar("Answer")

_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")
_BUSY = 429
_BROKEN = 500
_REPORT = "report.html"

_REFUSALS = {
    401: "{server} does not know you: log in again",
    403: "you have no right to this: {message}",
    404: "{server} does not serve ReasoningRuns: `kubectl apply -f manifests/crd.yaml`",
}


def place(where: Where) -> ClusterPlace:
    """The cluster that is meant; nothing is asked before it is entered."""
    return ClusterPlace(where)


class ClusterPlace:
    """One namespace of a cluster."""

    def __init__(self, where: Where) -> None:
        self._where = where
        self._runner = asyncio.Runner()
        self._entered: tuple[Login, Cluster] | None = None

    def __enter__(self) -> Self:
        """Log in.

        Raises:
            NoPlace: there is no kubeconfig, or it has no such context.
        """
        try:
            self._entered = self._runner.run(_connected(self._where))
        except NoCluster as error:
            self._runner.close()
            raise NoPlace(str(error)) from error
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the connection."""
        self._runner.run(self._cluster.close())
        self._runner.close()

    @property
    def _login(self) -> Login:
        assert self._entered is not None, "a place is entered before it is asked"
        return self._entered[0]

    @property
    def _cluster(self) -> Cluster:
        assert self._entered is not None, "a place is entered before it is asked"
        return self._entered[1]

    @property
    def _namespace(self) -> str:
        return self._where.namespace or self._login.namespace

    @property
    def _name(self) -> str:
        """Where it is, for people."""
        context = f" of {self._login.context}" if self._login.context else ""
        return f"namespace {self._namespace}{context}"

    def view(self, name: str) -> RunView:
        """A run with what was said about it.

        Raises:
            PlaceError: it is not there, or the cluster does not tell.
        """
        return self._ask(self._view(_bare(name)), _bare(name))

    def results(self, name: str) -> RunResults:
        """The scores that the run's status tells.

        Raises:
            PlaceError: as `view`.
        """
        return told_results(self._shown(name).status)

    def table(self, name: str) -> RenderableType:
        """The same as a table, with the gates.

        Raises:
            PlaceError: as `view`.
        """
        view = self._shown(name)
        return told_table(view.name, view.status)

    def logs(self, name: str, query: LogQuery, tell: Callable[[str], None]) -> Iterator[bytes]:
        """The log of an attempt, in pieces.

        Raises:
            PlaceError: it is gone, has not begun, or the cluster does not tell.
        """
        name = _bare(name)
        stream = Logs(self._cluster, self._namespace, name, query, tell).pieces()

        async def following() -> bytes | None:
            return await anext(stream, None)

        try:
            while (piece := self._ask(following(), name)) is not None:
                yield piece
        finally:
            self._runner.run(stream.aclose())

    def page(self, name: str, query: PageQuery, tell: Callable[[str], None]) -> Path:
        """Fetch the page that the evaluation has written.

        Raises:
            PlaceError: there is none yet, it cannot be had, or not be written here.
        """
        name = _bare(name)
        data = self._ask(self._page(name, query.seconds, tell), name)
        path = query.output or Path(f"{name}-{_REPORT}")
        try:
            write_atomic(path, data)
        except OSError as error:
            raise PlaceError(f"{path}: cannot be written: {error.strerror}") from error
        return path

    def start(self, run: ReasoningRun) -> bool:
        """Create a run unless it is there; whether it was not.

        Raises:
            PlaceError: one of this name is there that is scored otherwise, or the cluster refuses.
        """
        return self._ask(self._started(run), run.metadata.name)

    def file(self, name: str, path: str, seconds: int, tell: Callable[[str], None]) -> bytes:
        """Fetch a file of a run's directory from its storage.

        Raises:
            PlaceError: it cannot be had.
        """
        name = _bare(name)
        return self._ask(self._file(name, path, seconds, tell), name)

    def suspend(self, name: str, *, value: bool) -> str:
        """Set `spec.suspend`.

        Raises:
            PlaceError: the run has ended, is not there, or may not be changed.
        """
        return self._ask(self._suspended(_bare(name), value=value), _bare(name))

    def _shown(self, name: str) -> RunView:
        name = _bare(name)
        return run_view(self._ask(self._get(name), name), self._name)

    async def _get(self, name: str) -> Json:
        return await self._cluster.get(RUNS, self._namespace, name)

    async def _view(self, name: str) -> RunView:
        document = await self._get(name)
        selector = f"involvedObject.uid={document['metadata']['uid']}"
        events: list[Json] = []
        note = ""
        try:
            events = await self._cluster.listed(EVENTS, self._namespace, fieldSelector=selector)
        except ApiError as error:
            note = f"Its events cannot be shown: {error.message}"
        return run_view(document, self._name, events, note)

    async def _suspended(self, name: str, *, value: bool) -> str:
        document = await self._get(name)
        status = run_view(document, self._name).status
        if status.finished:
            raise PlaceError(f"{name}: has ended ({status.phase}): there is nothing to suspend")
        if bool(documents.value(document, "spec", "suspend")) == value:
            return f"{name} is {'' if value else 'not '}to be suspended already"
        await self._cluster.patch(RUNS, self._namespace, name, {"spec": {"suspend": value}})
        return f"{name} is to be suspended, after it has saved" if value else f"{name} goes on"

    async def _started(self, run: ReasoningRun) -> bool:
        metadata = {"name": run.metadata.name, "labels": run.metadata.labels}
        try:
            await self._cluster.create(
                RUNS, self._namespace, run.document() | {"metadata": metadata}
            )
        except ApiError as error:
            if not error.exists:
                raise
        else:
            return True
        there = await self._read(run.metadata.name)
        if there.spec.evaluation != run.spec.evaluation:
            raise PlaceError(
                f"{run.metadata.name}: is there and is scored otherwise (spec.evaluation), which "
                "cannot be changed: delete it, or give the study another name"
            )
        return False

    async def _read(self, name: str) -> ReasoningRun:
        try:
            return read_run(await self._get(name))
        except InvalidRun as error:
            raise NoPage(f"{name}: {error.message}") from error

    async def _page(self, name: str, seconds: int, tell: Callable[[str], None]) -> bytes:
        run = await self._read(name)
        if run.spec.evaluation is None:
            raise NotYet(f"{name} has no evaluation, which is what writes {_REPORT} on a cluster")
        entry = run.status.stage("evaluation") if run.status else None
        if entry is None or entry.state is not StageState.SUCCEEDED:
            state = entry.state if entry else StageState.WAITING
            raise NotYet(f"{_REPORT} is written at the end of the evaluation, which is {state}")
        return await self._fetched(run, _REPORT, seconds, tell)

    async def _file(self, name: str, path: str, seconds: int, tell: Callable[[str], None]) -> bytes:
        return await self._fetched(await self._read(name), path, seconds, tell)

    async def _fetched(
        self, run: ReasoningRun, path: str, seconds: int, tell: Callable[[str], None]
    ) -> bytes:
        where, image = f"{run.metadata.name}/{path}", await self._image(run)
        return await fetched(self._cluster, run, where, image=image, seconds=seconds, tell=tell)

    async def _image(self, run: ReasoningRun) -> str:
        """The image of the run's last job; who started it may have named one of their own."""
        status = run.status
        child = (
            next((s.child for s in reversed(status.stages) if s.child), None) if status else None
        )
        if run.spec.image or status is None or status.backend is None or child is None:
            return IMAGE
        try:
            job = await self._cluster.get(backend(status.backend).resource, self._namespace, child)
        except ApiError:
            return IMAGE
        replica = documents.value(job, "spec", "pytorchReplicaSpecs", "Master")
        template = documents.value(replica or job.get("spec"), "template", "spec")
        containers = documents.items(template, "containers")
        found = next((item for item in containers if item.get("name") == CONTAINER), {})
        return documents.text(found, "image") or IMAGE

    def _ask(self, question: Coroutine[Any, Any, Answer], name: str) -> Answer:
        """What comes of a question; an API server's refusal becomes a sentence.

        Raises:
            PlaceError: there is no answer, or it is a refusal.
        """
        try:
            return self._runner.run(question)
        except ApiError as error:
            raise self._explained(error, name) from error
        except asyncio.CancelledError:
            raise SystemExit(143) from None  # SIGTERM, after what it left was cleaned up

    def _explained(self, error: ApiError, name: str) -> PlaceError:
        server = f"the API server {self._login.credentials.host}"
        if error.missing and f'"{name}"' in error.message:
            return NoRun(f"{name}: no such run in {self._name}")
        if error.code in _REFUSALS:
            return PlaceError(_REFUSALS[error.code].format(server=server, message=error.message))
        if error.code == 0:
            return NoAnswer(f"{server} does not answer: {error.message}")
        if error.code == _BUSY or error.code >= _BROKEN:
            return NoAnswer(f"{server} answers with {error.code}: {error.message}")
        return PlaceError(f"{server} refuses: {error.message}")


async def _connected(where: Where) -> tuple[Login, Cluster]:
    found = await login(where.kubeconfig, where.context)

    async def known() -> Credentials:
        return found.credentials

    return found, await connect(known)


def _bare(name: str) -> str:
    """The name of a run, without its kind.

    Raises:
        NoRun: no object can have such a name.
    """
    found = bare(name)
    if not _NAME.fullmatch(found):
        raise NoRun(f"{name}: is not the name of a run")
    return found
