"""Where a refresh token may be sent, and where it may not (I13)."""

from __future__ import annotations

import asyncio
import socket
import threading

import pytest

from tests.providers.conftest import NOW, a_connection
from worker.domain.errors import ConfigurationError
from worker.domain.exchange import NotSent, WireRequest
from worker.domain.secret import Secret
from worker.providers import HttpTokenEndpoint, addresses
from worker.providers.transport import TokenTransport

GOOD = {
    "https://id.acme.example/token": "id.acme.example",
    "https://ID.Acme.Example/token?x=y": "id.acme.example",
    "https://id.acme.example:443/token": "id.acme.example",
    "https://id.acme.example": "id.acme.example",
    "https://xn--bcher-kva.example/token": "xn--bcher-kva.example",
}


@pytest.mark.parametrize(("url", "host"), GOOD.items())
def test_a_plain_https_address_is_taken(url, host):
    assert addresses.target(url, approved_host=None, allow_loopback=False).host == host


BAD = {
    "http": "http://id.acme.example/token",
    "user": "https://google.com@evil.example/token",
    "user and password": "https://a:b@evil.example/token",
    "loopback": "https://127.0.0.1/token",
    "short loopback": "https://127.1/token",
    "metadata": "https://169.254.169.254/latest",
    "ipv6 loopback": "https://[::1]/token",
    "mapped": "https://[::ffff:10.0.0.1]/token",
    "open bracket": "https://[::1/token",
    "zone": "https://[fe80::1%25eth0]/token",
    "hexadecimal": "https://0x7f000001/token",
    "hexadecimal part": "https://127.0.0.0x1/token",
    "octal": "https://0177.0.0.01/token",
    "decimal": "https://2130706433/token",
    "public ip": "https://8.8.8.8/token",
    "ssh": "https://id.acme.example:22/token",
    "redis": "https://id.acme.example:6379/token",
    "port out of range": "https://id.acme.example:99999/token",
    "port zero": "https://id.acme.example:0/token",
    "backslash": "https://good.example\\@evil.example/token",
    "backslash in the path": "https://good.example/\\evil",
    "fragment": "https://good.example/token#@evil.example",
    "look-alike": "https://gооgle.com/token",
    "trailing dot": "https://id.acme.example./token",
    "two dots": "https://id..example/token",
    "single label": "https://localhost/token",
    "file": "file:///etc/passwd",
    "gopher": "gopher://id.acme.example/token",
    "nothing": "",
    "relative": "//id.acme.example/token",
    "space": "https://id.acme.example /token",
    "line break": "https://id.acme.example/a\r\nX: y",
    "tab in the host": "https://id.\tacme.example/",
    "percent": "https://%31%32%37.0.0.1/",
    "long": "https://" + "a" * 300 + ".example/",
}


@pytest.mark.parametrize("url", BAD.values(), ids=BAD)
def test_what_is_not_plain_is_refused(url):
    with pytest.raises(ConfigurationError) as refused:
        addresses.target(url, approved_host=None, allow_loopback=False)
    assert refused.value.code == "bad_endpoint"


@pytest.mark.parametrize("url", BAD.values(), ids=BAD)
async def test_and_no_request_is_built_for_it_and_none_sent(catalogue, url):
    connection = a_connection("oauth2", {"tokenURL": url})
    provider = catalogue.resolve(connection, has_refresh_token=True)
    with pytest.raises(ConfigurationError):
        provider.request(connection, subject=Secret("r"), scope=None, now=NOW)
    request = WireRequest(method="POST", url=url, host="x.example", headers={}, body=b"")
    endpoint = HttpTokenEndpoint()
    assert await endpoint.exchange(request, gate=lambda: True, read_timeout=1) == NotSent(
        reason="address"
    )
    await endpoint.close()


def test_another_port_needs_an_approval():
    url = "https://id.acme.example:8443/token"
    assert addresses.target(
        url, approved_host="id.acme.example:8443", allow_loopback=False
    ).host.endswith(":8443")
    with pytest.raises(ConfigurationError):
        addresses.target(url, approved_host="id.acme.example", allow_loopback=False)


def test_a_host_that_changed_silently_gets_nothing(catalogue):
    connection = a_connection(
        "oauth2",
        {"tokenURL": "https://id.evil.example/token"},
        approved_host="id.acme.example",
    )
    provider = catalogue.resolve(connection, has_refresh_token=True)
    with pytest.raises(ConfigurationError) as refused:
        provider.request(connection, subject=Secret("r"), scope=None, now=NOW)
    assert refused.value.code == "host_changed"


def test_a_revocation_is_pinned_too_unless_the_catalogue_names_its_host(catalogue):
    def asked(name: str, options: dict[str, object], approved: str):
        connection = a_connection(name, options, approved_host=approved)
        return catalogue.entry(name, connection).revocation(
            connection, access_token=Secret("a"), refresh_token=Secret("r"), now=NOW
        )

    evil = {"tokenURL": "https://id.evil.example/realms/a/protocol/openid-connect/token"}
    with pytest.raises(ConfigurationError) as refused:
        asked("keycloak", evil, "id.acme.example")
    assert refused.value.code == "host_changed"
    assert asked("github-app", {}, "github.com").host == "api.github.com"


PUBLIC = ["8.8.8.8", "1.1.1.1", "2606:4700::1111", "64:ff9b::808:808"]
_PRIVATE = """127.0.0.1 127.8.8.8 10.0.0.1 172.16.0.1 192.168.1.1 169.254.169.254 100.64.0.1 0.0.0.0
255.255.255.255 224.0.0.1 240.0.0.1 198.18.0.1 192.0.2.1 ::1 :: fe80::1 fe80::1%eth0 fc00::1
ff02::1 ::ffff:10.0.0.1 ::ffff:127.0.0.1 64:ff9b::a00:1 2002:a00:1:: 2001:db8::1
2001:0:a00:1::1"""
PRIVATE = _PRIVATE.split()


@pytest.mark.parametrize("address", PUBLIC)
def test_a_public_address_is_taken(address):
    assert addresses.is_public(address)


@pytest.mark.parametrize("address", PRIVATE)
def test_a_private_address_is_refused_however_it_is_wrapped(address):
    assert not addresses.is_public(address)


class Resolver:
    """Answers each question with the next of its answers."""

    def __init__(self, *answers: list[str]) -> None:
        self.answers = list(answers)
        self.asked = 0

    async def __call__(self, name: str, port: int) -> list[str]:
        self.asked += 1
        return self.answers.pop(0)


A_REQUEST = WireRequest(
    method="POST", url="https://id.acme.example/token", host="id.acme.example", headers={}, body=b""
)


@pytest.mark.parametrize(
    "answer", [["10.0.0.1"], ["8.8.8.8", "10.0.0.1"], ["8.8.8.8", "::1"], []], ids=str
)
async def test_a_name_that_leads_inside_gets_nothing(answer):
    resolver = Resolver(answer)
    endpoint = HttpTokenEndpoint(transport=TokenTransport(resolve=resolver))
    outcome = await endpoint.exchange(A_REQUEST, gate=lambda: True, read_timeout=1)
    assert outcome == NotSent(reason="address")


async def test_a_name_is_asked_once_and_the_checked_address_is_the_one_connected_to(monkeypatch):
    """Rebinding: the second answer would be a private one; nobody asks for it."""
    connected = []

    async def create_connection(self, factory, host, port):
        connected.append((host, port, factory()._session.server_hostname))
        raise OSError("no network in tests")

    monkeypatch.setattr(asyncio.BaseEventLoop, "create_connection", create_connection)
    resolver = Resolver(["8.8.8.8"], ["10.0.0.1"])
    endpoint = HttpTokenEndpoint(transport=TokenTransport(resolve=resolver))
    outcome = await endpoint.exchange(A_REQUEST, gate=lambda: True, read_timeout=1)
    assert outcome == NotSent(reason="connect")
    assert connected == [("8.8.8.8", 443, "id.acme.example")]
    assert resolver.asked == 1


async def test_a_name_that_is_unknown_is_not_sent_to():
    async def unknown(name: str, port: int) -> list[str]:
        raise OSError("no such name")

    endpoint = HttpTokenEndpoint(transport=TokenTransport(resolve=unknown))
    outcome = await endpoint.exchange(A_REQUEST, gate=lambda: True, read_timeout=1)
    assert outcome == NotSent(reason="dns")


async def test_one_name_is_looked_up_once_for_all_who_ask_at_a_time(monkeypatch):
    """A name server that hangs holds one thread per name, so another provider is not delayed."""
    looked_up = []
    go = threading.Event()

    def getaddrinfo(name: str, port: int, **more: object) -> list[tuple[object, ...]]:
        looked_up.append(name)
        if name == "id.slow.example":
            go.wait(5)
        return [(2, 1, 6, "", ("8.8.8.8", port)), (2, 1, 6, "", ("8.8.8.8", port))]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    resolver = addresses.SystemResolver()
    slow = [asyncio.create_task(resolver("id.slow.example", 443)) for _ in range(100)]
    await asyncio.sleep(0)
    slow[0].cancel()
    assert await asyncio.wait_for(resolver("id.quick.example", 443), 2) == ["8.8.8.8"]
    go.set()
    assert await slow[1] == ["8.8.8.8"]
    await asyncio.gather(*slow, return_exceptions=True)
    assert sorted(looked_up) == ["id.quick.example", "id.slow.example"]
    await resolver("id.slow.example", 443)
    assert len(looked_up) == 3, "nothing is remembered"
    resolver.close()


def test_loopback_is_for_the_rehearsal():
    found = addresses.target("http://127.0.0.1:8400/t", approved_host=None, allow_loopback=True)
    assert (found.name, found.host, found.path) == ("127.0.0.1", "127.0.0.1:8400", "/t")
    found = addresses.target("http://[::1]:8400/t", approved_host=None, allow_loopback=True)
    assert (found.name, found.host) == ("::1", "[::1]:8400")
