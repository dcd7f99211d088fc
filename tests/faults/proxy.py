"""A proxy between the operator and an API server: faults happen here, and all is recorded here.

The faults and the record are those of `apiserver.faults`. It speaks HTTP to the operator, and what
a kubeconfig says to the API server; it holds no credentials of its own but a client certificate.
"""

import asyncio
import json
import threading
from contextlib import contextmanager, suppress

import aiohttp
import yaml
from aiohttp import web
from apiserver import paths
from apiserver.errors import ApiError
from apiserver.faults import Faults, Record
from apiserver.store import encode
from apiserver.tampering import Cut, Tampering, meet
from faults.past import Past
from kubernetes.aio import config
from kubernetes.aio.client import Configuration
from kubernetes.aio.client.rest import RESTClientObject

HEADERS = ("Authorization", "Content-Type", "Accept", "User-Agent")
"""What is passed on of a request."""

JSON = "application/json"


class Proxy:
    """The proxy; `running_proxy` starts and ends one.

    Args:
        source: the kubeconfig of whoever shall come through here.
    """

    def __init__(self, source):
        self.source = source
        self.faults = Faults()
        self.requests = Record()
        """Every request that came, with what was answered (`status`) and done (`done`)."""
        self.past = Past()
        self.errors = []
        """The proxy's own mistakes, answered with 500; a test should find it empty."""

    def kubeconfig(self):
        """A kubeconfig that leads here, beside the one that leads to the API server."""
        document = yaml.safe_load(self.source.read_text())
        for one in document["clusters"]:
            one["cluster"] = {"server": self.url}
        path = self.source.with_name(f"{self.source.name}.proxy")
        path.touch(mode=0o600)
        path.write_text(yaml.safe_dump(document))
        return path

    @property
    def url(self):
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    async def start(self):
        """Begin to listen."""
        upstream = Configuration()
        await config.load_kube_config(str(self.source), client_configuration=upstream)
        self._upstream = upstream.host
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ssl=RESTClientObject(upstream).ssl_context),
            timeout=aiohttp.ClientTimeout(total=None),
            auto_decompress=False,
        )
        server = web.Server(self._handle, access_log=None, handler_cancellation=True)
        self._runner = web.ServerRunner(server, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0, backlog=1024).start()
        self.port = self._runner.addresses[0][1]

    async def stop(self):
        """Listen no more."""
        await self._runner.cleanup()
        await self._session.close()

    async def _handle(self, http):
        request = paths.describe(http.method, http.path, dict(http.rel_url.query))
        request.agent = http.headers.get("User-Agent", "")
        request.at = asyncio.get_running_loop().time()
        self.requests.add(request)
        try:
            data = await http.content.read()
            request.body = json.loads(data) if data else None
            faults = self.faults.hitting(request)
            await meet([one for one in faults if not one.after], request)
            if request.verb == "watch":
                return await self._watch(http, request)
            response = self._earlier(http, request, faults)
            if response is None:
                # What has gone to the API server is done, whether its sender lives or not.
                response = await asyncio.shield(self._exchange(http, request, data))
            await meet([one for one in faults if one.after], request)
        except ApiError as error:
            request.status = error.code
            return _answer(encode(error.status()), error.code, error.headers)
        except Cut:
            request.status = -1
            with suppress(AttributeError):  # it has gone by itself
                http.transport.abort()
            return web.Response()
        except aiohttp.ClientError as error:
            request.status = 502
            return _answer(encode({"message": f"no API server: {error}"}), 502, {})
        except Exception as error:
            self.errors.append(error)
            raise
        request.status = response.status
        return response

    def _earlier(self, http, request, faults):
        """The answer of a server whose cache is old, where a fault says so."""
        versions = [one.stale for one in faults if one.stale is not None]
        if not versions or request.verb != "list":
            return None
        return _answer(encode(self.past.at(request, http.path, versions[0])), 200, {})

    def _ask(self, http, data):
        named = {key: http.headers[key] for key in HEADERS if key in http.headers}
        named["Accept-Encoding"] = "identity"
        return self._session.request(
            http.method, self._upstream + http.path_qs, data=data or None, headers=named
        )

    async def _exchange(self, http, request, data):
        """Have a request answered by the API server."""
        async with self._ask(http, data) as answer:
            body = await answer.read()
            request.done = answer.status
            if request.verb == "list" and answer.status == 200:
                document = json.loads(body)
                if "items" in document:
                    self.past.listed(request, http.path, document)
            kept = {key: answer.headers[key] for key in ("Retry-After",) if key in answer.headers}
            return _answer(body, answer.status, kept, answer.content_type)

    async def _watch(self, http, request):
        async with self._ask(http, None) as answer:
            request.status = request.done = answer.status
            if answer.status != 200:
                return _answer(await answer.read(), answer.status, {}, answer.content_type)
            response = web.StreamResponse(status=answer.status, headers={"Content-Type": JSON})
            await response.prepare(http)
            tampering = Tampering(self.faults, request.resource)
            async for line in _lines(answer.content):
                event = json.loads(line)
                kind, document = event.get("type", ""), event.get("object")
                self.past.told(request, http.path, kind, document)
                for piece in tampering.lines(kind, document, line):
                    await response.write(piece)
                if tampering.stalled:
                    await asyncio.sleep(tampering.stalled)
                    tampering.stalled = 0.0
                if tampering.ended:
                    break
            if tampering.cut:
                http.transport.close()
            if tampering.silent:
                await asyncio.Event().wait()  # until whoever watches has gone
            await response.write_eof()
            return response


async def _lines(content):
    """The lines of a body, however long."""
    rest = b""
    async for chunk in content.iter_any():
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            yield line + b"\n"
    if rest:
        yield rest


def _answer(body, status, headers, kind=JSON):
    return web.Response(body=body, status=status, headers=headers, content_type=kind)


@contextmanager
def running_proxy(source):
    """A running proxy before the API server of a kubeconfig."""
    loop, proxy = asyncio.new_event_loop(), Proxy(source)
    thread = threading.Thread(target=loop.run_forever, name="proxy", daemon=True)
    thread.start()
    try:
        asyncio.run_coroutine_threadsafe(proxy.start(), loop).result(30)
        yield proxy
    finally:
        asyncio.run_coroutine_threadsafe(proxy.stop(), loop).result(30)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()
