"""OAuth 1.0a signatures, verified by an implementation that neither we nor our signer wrote."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from authlib.oauth1.rfc5849.signature import verify_hmac_sha1
from authlib.oauth1.rfc5849.wrapper import OAuth1Request
from hypothesis import given
from hypothesis import strategies as st

from tests.providers.conftest import NOW, a_connection, an_answer
from worker.domain.errors import ConfigurationError
from worker.domain.exchange import RevocationVerdict
from worker.domain.secret import Secret
from worker.domain.token_pair import joined
from worker.providers.oauth1 import authorization

URL = "https://api.x.com/1.1/oauth/invalidate_token"
# No percent sign: this verifier decodes a header's values twice, where RFC 5849 §3.5.1 says once.
_SIGNS = st.characters(codec="ascii", min_codepoint=33, max_codepoint=126, exclude_characters="%")
TEXTS = st.text(_SIGNS, min_size=1)


def verified(header: str, *, client: str, token: str, url: str = URL) -> bool:
    request = OAuth1Request("POST", url, headers={"Authorization": header})
    request.client = SimpleNamespace(get_client_secret=lambda: client)
    request.credential = SimpleNamespace(get_oauth_token_secret=lambda: token)
    return bool(verify_hmac_sha1(request))


@given(client=TEXTS, secret=TEXTS, token=TEXTS, token_secret=TEXTS)
def test_a_request_is_signed_with_both_secrets(client, secret, token, token_secret):
    header = authorization(
        "POST",
        URL,
        a_connection("twitter", client_id=client, client_secret=secret),
        token=Secret(token),
        token_secret=Secret(token_secret),
        now=NOW,
    )
    assert verified(header, client=secret, token=token_secret)
    assert not verified(header, client=secret + "x", token=token_secret)
    assert not verified(header, client=secret, token=token_secret + "x")
    assert not verified(header, client=secret, token=token_secret, url=URL + "/other")
    assert f'oauth_timestamp="{int(NOW.timestamp())}"' in header


def test_no_two_requests_bear_the_same_nonce():
    pair = {"token": Secret("t"), "token_secret": Secret("s")}
    headers = {authorization("POST", URL, a_connection("twitter"), **pair, now=NOW) for _ in "ab"}
    assert len(headers) == 2


def revocation(catalogue, kept, **connection):
    config = a_connection("twitter", {"protocol": "oauth1"}, **connection)
    provider = catalogue.resolve(config, has_refresh_token=False)
    asked = provider.revocation(config, access_token=kept, refresh_token=None, now=NOW)
    return provider, asked


def test_x_is_given_back_a_token_that_signs_its_own_end(catalogue):
    provider, asked = revocation(catalogue, joined(Secret("7-tok"), Secret("tok-secret")))
    assert (asked.method, asked.url, asked.body) == ("POST", URL, b"")
    assert verified(asked.headers["authorization"], client="our-secret", token="tok-secret")
    everything = str(dict(asked.headers)) + asked.url
    assert "tok-secret" not in everything
    assert "our-secret" not in everything
    assert "\x00" not in everything
    gone = an_answer({"errors": [{"code": 89, "message": "Invalid or expired token."}]}, status=401)
    assert provider.read_revocation(gone) is RevocationVerdict.REVOKED
    wrong = an_answer({"errors": [{"code": 32}]}, status=401)
    assert provider.read_revocation(wrong) is RevocationVerdict.REFUSED


def test_without_its_secret_nobody_can_give_it_back(catalogue):
    """Kept from before the secret was: the person is told where to do it by hand."""
    provider, asked = revocation(catalogue, Secret("7-tok"))
    assert asked is None
    assert provider.revocation_by_hand == "https://x.com/settings/connected_apps"


def test_without_a_client_nothing_is_signed(catalogue):
    with pytest.raises(ConfigurationError):
        revocation(catalogue, joined(Secret("t"), Secret("s")), client_id=None)


def test_a_bearer_of_itself_goes_without_its_secret(catalogue):
    """Whatever entry serves a pair, only the token is shown."""
    config = a_connection("dropbox")
    provider = catalogue.entry("dropbox", config)
    kept = joined(Secret("tok"), Secret("tok-secret"))
    asked = provider.revocation(config, access_token=kept, refresh_token=None, now=NOW)
    assert asked.headers["authorization"] == "Bearer tok"
