"""The product on each broker: the store is the truth, the broker a doorbell."""

import pytest
import redis
from kombu import Connection

from tests.cli.conftest import started

BROKERS = ["files", "redis", "rabbitmq"]


def broker_url(request, kind):
    return "embedded" if kind == "files" else request.getfixturevalue(f"{kind}_url")


def flush(kind, url, directory):
    """Everything the broker holds is gone."""
    if kind == "files":
        for message in (directory / "data/queue/messages").glob("*.msg"):
            message.unlink(missing_ok=True)
    elif kind == "redis":
        redis.Redis.from_url(url).flushdb()
    else:
        with Connection(url) as connection:
            for queue in ("events", "upkeep", "renew.google-oauth2", "renew.bitbucket"):
                connection.default_channel.queue_purge(queue)


@pytest.mark.parametrize("kind", BROKERS)
def test_logins_are_pulled_and_renewed_and_a_flushed_broker_loses_nothing(request, tmp_path, kind):
    url = broker_url(request, kind)
    with started(tmp_path, EVERGRANT_BROKER_URL=url) as running:
        for subject in ("rosa", "emil"):
            running.login("google-oauth2", subject)
            running.login("acme-bitbucket", subject)
        running.wait_for_renewals(4)
        flush(kind, url, tmp_path)
        running.wait_for_renewals(6)
        status = running.product.status()["providers"]
        ledger = running.stage.ledger()["total"]
        assert "delayed delivery" not in running.product.log.read_text(), "we use no ETA"
    assert sum(line["active"] for line in status) == 4
    assert ledger["families_lost"] == ledger["reused"] == 0


def test_renewal_goes_on_with_the_broker_dead_from_the_start(tmp_path):
    """Nobody listens there; workers look at the store by themselves."""
    dead = "redis://127.0.0.1:1/0"
    with started(tmp_path, EVERGRANT_BROKER_URL=dead, EVERGRANT_TICK="1") as running:
        running.login("google-oauth2", "rosa")
        running.wait_for_renewals(2)
        assert running.stage.ledger()["total"]["reused"] == 0
