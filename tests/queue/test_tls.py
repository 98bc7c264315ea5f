"""TLS to a broker: the chain and the name are checked, whatever the URL leaves unsaid."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress

import pytest

from tests.providers.wire import Authority
from worker.queue.app import celery_app
from worker.settings import load

BROKERS = {"rabbitmq": "amqps://u:p@{}:{}//", "redis": "rediss://:p@{}:{}/0"}


@pytest.fixture
def authority(tmp_path):
    made = Authority.create()
    (tmp_path / "authority.pem").write_text(made.pem)
    return made


@pytest.fixture
def server(authority, tmp_path):
    """Shakes hands as broker.test, and notes who went on to speak: whoever refuses us does not."""
    context = authority.serve_as(tmp_path, "broker.test")
    heard: list[bool] = []
    listening = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        try:
            with listening.accept()[0] as raw, context.wrap_socket(raw, server_side=True) as wire:
                heard.append(bool(wire.recv(1)))
        except OSError:
            heard.append(False)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()

    def heard_us() -> bool:
        thread.join(10)
        return heard[0]

    yield listening.getsockname()[1], heard_us
    listening.close()


def _speak(url, tmp_path):
    app = celery_app(load({"EVERGRANT_BROKER_URL": url}, directory=tmp_path), [])
    with app.connection_for_write(connect_timeout=5) as connection:
        transport = connection.transport
        # the server hangs up as soon as it has heard us, or we refuse it
        with suppress(Exception):
            transport.create_channel(transport.establish_connection())


@pytest.mark.parametrize(
    ("host", "trusted", "spoken"),
    [("broker.test", True, True), ("broker.test", False, False), ("other.test", True, False)],
    ids=["the right one", "nobody vouches for it", "of another name"],
)
@pytest.mark.parametrize("broker", BROKERS)
def test_we_speak_to_none_but_the_broker_meant(
    tmp_path, monkeypatch, server, broker, host, trusted, spoken
):
    port, heard_us = server
    here = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]
    monkeypatch.setattr("socket.getaddrinfo", lambda *_args, **_more: here)
    if trusted:
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "authority.pem"))
    _speak(BROKERS[broker].format(host, port), tmp_path)
    assert heard_us() is spoken
