"""A namespace of a real API server where tests of the stand-in expect the stand-in; no operator."""

import http.client
import json
import ssl
from contextlib import contextmanager
from urllib.parse import urlencode, urlsplit

import pytest
import yaml
from apiserver.client import KINDS, Client
from apiserver.owners import Owners
from apiserver.remote import running_remote
from apiserver.wire import Wire, namespace_of_its_own
from cluster_world import InNamespace
from control_plane import plane


@contextmanager
def serving(*definitions):
    """Direct access to a namespace of a server that serves these definitions."""
    found = plane()
    if not found.ours:
        pytest.skip("changes more than a namespace: not in a cluster that is lent")
    if found.training:
        found.training.stop()
    with namespace_of_its_own(Wire(found.kubeconfig), found.managed) as namespace:
        remote = InNamespace(found.kubeconfig, namespace)
        with running_remote(remote):
            for definition in definitions:
                remote.create("customresourcedefinitions", definition)
            owners = None if found.managed else remote.call(lambda: Owners(remote))
            yield remote
            if owners:
                remote.call(owners.stop)


class RealClient(Client):
    """Requests to a real server, to one namespace in place of `default`."""

    def __init__(self, remote):
        document = yaml.safe_load(remote.kubeconfig_path.read_text())
        cluster = document["clusters"][0]["cluster"]
        super().__init__(urlsplit(cluster["server"]).port, seconds=60)
        self.trusted = ssl.create_default_context(cafile=cluster["certificate-authority"])
        self.token = document["users"][0]["user"]["token"]
        self.namespace = remote.own_namespace

    def _request(self, method, path, body, patch, headers, query):
        connection = http.client.HTTPSConnection(
            "127.0.0.1", self.port, timeout=self.seconds, context=self.trusted
        )
        data = None if body is None else body if isinstance(body, str) else json.dumps(body)
        named = {"Content-Type": KINDS[patch] if patch else "application/json"}
        named |= {"User-Agent": self.agent, "Authorization": f"Bearer {self.token}", **headers}
        path = path.replace("/namespaces/default/", f"/namespaces/{self.namespace}/")
        connection.request(method, f"{path}?{urlencode(query)}" if query else path, data, named)
        return connection.getresponse()
