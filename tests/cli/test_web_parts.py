"""What the web process is told of the catalogue."""

from __future__ import annotations

from datetime import timedelta

from worker.cli.asgi import outlives_renewal
from worker.providers import load_catalogue


def test_no_cache_keeps_a_token_for_longer_than_it_outlives_its_renewal():
    """GitHub Apps and GitLab end the old one at once, Atlassian after ten minutes."""
    told = outlives_renewal(load_catalogue({}, allow_loopback=False))
    at_once, later = timedelta(0), timedelta(minutes=10)
    assert told == {"github-app": at_once, "gitlab": at_once, "atlassian": later}
