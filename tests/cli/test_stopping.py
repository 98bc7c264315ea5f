"""A worker that is told to stop takes no new work, and ends when its exchanges have."""

import signal
import time

from tests.cli.conftest import Running, started

SLOW = 6.0  # seconds until the provider's answer arrives


def _exchanges_under_way(running: Running) -> int:
    issuers = [provider.issuer for provider in running.stage.stage.providers.values()]
    return sum(len(family.in_flight) for i in issuers for family in list(i._families.values()))


def test_sigterm_waits_for_the_exchange_under_way_and_for_nothing_else(tmp_path):
    """Also where the environment asks Celery for its soft shutdown: that sleeps for 150 s, and
    we would claim until the end of it and be killed at an exchange."""
    with started(tmp_path, REMAP_SIGTERM="SIGQUIT") as running:
        running.login("acme-bitbucket", "emil")
        for one in range(8):
            running.login("google-oauth2", f"rosa{one}")
        running.wait_for_renewals(9)
        running.stage.do("faults", provider="*", profile="slow_answer", delay_after=SLOW)
        running.wait_for(lambda: _exchanges_under_way(running))
        began = time.monotonic()
        running.product.process.send_signal(signal.SIGTERM)
        assert running.product.process.wait(120) == 0
        took = time.monotonic() - began
        assert took < 60, f"{took:.0f} s"
        assert "Soft Shutdown" not in running.product.log.read_text()
        ledger = running.stage.ledger()["total"]
        assert ledger["answers_lost"] == ledger["reused"] == 0
