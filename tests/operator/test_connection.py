"""How the API server is reached: through the proxy of the environment, asked for once."""

import asyncio

import pytest
from kubernetes.aio.client import Configuration

from coldstart_operator.cluster import connect


def connection(**options):
    """The configuration of a connection, and whether its session reads the environment."""

    async def log_in():
        return Configuration(host="https://api.example:6443", **options)

    async def main():
        cluster = await connect(log_in)
        session = cluster.client.rest_client._create_pool_manager()
        trusts = session.trust_env
        await session.close()
        await cluster.close()
        return cluster.client.configuration, trusts

    return asyncio.run(main())


@pytest.fixture(autouse=True)
def _environment(monkeypatch):
    for name in ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("environment", "proxy"),
    [
        ({}, None),
        ({"HTTPS_PROXY": "http://proxy:3128"}, "http://proxy:3128"),
        ({"HTTPS_PROXY": "http://proxy:3128", "NO_PROXY": ".example"}, None),
        ({"HTTP_PROXY": "http://proxy:3128"}, None),
    ],
)
def test_the_proxy_is_that_of_the_environment(monkeypatch, environment, proxy):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert connection()[0].proxy == proxy


def test_the_proxy_of_the_credentials_goes_first(monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy:3128")
    assert connection(proxy="http://mine:1")[0].proxy == "http://mine:1"


def test_requests_do_not_ask_the_environment_again():
    """It would cost each request two threads: aiohttp looks for a proxy and for a netrc."""
    assert connection()[1] is False
