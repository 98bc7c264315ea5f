"""Salesforce tells no lifetime: it is asked for one, at the host that renewed."""

from __future__ import annotations

from datetime import timedelta
from urllib.parse import parse_qsl

import pytest

from tests.providers.conftest import NOW, a_connection, an_answer
from worker.domain.errors import ConfigurationError
from worker.domain.grant import ExpiryKind
from worker.domain.secret import Secret

AT = Secret("00D-opaque")


def salesforce(catalogue, strategy="salesforce", approved_host=None, **options):
    connection = a_connection(strategy, options, approved_host=approved_host)
    return catalogue.resolve(connection, has_refresh_token=True), connection


def test_an_opaque_token_without_a_lifetime_is_asked_about(catalogue):
    provider, connection = salesforce(catalogue, approved_host="login.salesforce.com")
    renewed = provider.read(an_answer({"access_token": "00D"}), asked_at=NOW)
    assert renewed.tokens.expiry is ExpiryKind.UNTOLD
    request = provider.introspection(connection, access_token=AT, now=NOW)
    assert request.url == "https://login.salesforce.com/services/oauth2/introspect"
    sent = dict(parse_qsl(request.body.decode()))
    assert sent == {
        "token": AT.text(),
        "token_type_hint": "access_token",
        "client_id": "our-client",
        "client_secret": "our-secret",
    }


ENDS = (NOW + timedelta(hours=2)).timestamp()
TOLD = {
    "active": ({"active": True, "exp": ENDS}, 200, NOW + timedelta(hours=2)),
    "as text": ({"active": True, "exp": str(int(ENDS))}, 200, NOW + timedelta(hours=2)),
    "not active": ({"active": False}, 200, None),
    "no end": ({"active": True}, 200, None),
    "an end that is over": ({"active": True, "exp": NOW.timestamp() - 1}, 200, None),
    "refused": ({"error": "invalid_client"}, 401, None),
    "not an object": ([1], 200, None),
}


@pytest.mark.parametrize(("content", "status", "ends"), TOLD.values(), ids=TOLD)
def test_what_is_told_is_read_and_nothing_else_believed(catalogue, content, status, ends):
    provider, _ = salesforce(catalogue)
    assert provider.read_introspection(an_answer(content, status=status), now=NOW) == ends


def test_an_access_token_is_shown_to_the_approved_host_only(catalogue):
    provider, connection = salesforce(
        catalogue,
        "salesforce-community",
        approved_host="acme.my.site.com",
        community_base_url="https://evil.example",
    )
    with pytest.raises(ConfigurationError) as refused:
        provider.introspection(connection, access_token=AT, now=NOW)
    assert refused.value.code == "host_changed"


def test_nobody_else_is_asked(catalogue):
    connection = a_connection("google-oauth2")
    provider = catalogue.resolve(connection, has_refresh_token=True)
    assert provider.introspection(connection, access_token=AT, now=NOW) is None
