"""What an app that uses `worker.client` sees."""

import asyncio
import subprocess
import sys
import threading
from datetime import timedelta

import httpx
import pytest

from tests.api.conftest import KEY
from tests.client.conftest import USER
from worker.client import (
    KeyRefusedError,
    NeedsLoginError,
    NotAvailableError,
    NotFoundError,
    RevokedError,
    TokenClient,
    TokenError,
)


def test_a_request_is_signed_with_the_users_token(site, tokens, provider):
    site.grants.add()
    answer = provider.get(site.me, auth=tokens.auth(USER, "google"))
    assert answer.json() == {"name": "Ada"}
    assert site.seen == [("Bearer at-0", "")]


def test_the_token_is_kept_while_it_may_be_used(site, tokens, provider):
    site.grants.add()
    for _ in range(5):
        provider.get(site.me, auth=tokens.auth(USER, "google"))
    assert site.asked == 1


def test_after_use_until_it_is_asked_for_again(site, tokens):
    """Where a renewal kills the old token, that is when it falls due: here in no time."""
    site.grants.add(due_at=site.clock.now())
    site.outlives["google-oauth2"] = timedelta(0)
    tokens.get(USER, "google")
    tokens.get(USER, "google")
    assert site.asked == 2


def test_a_refused_token_is_replaced_and_the_request_sent_once_more(site, tokens, provider):
    grant = site.grants.add()
    tokens.get(USER, "google")
    site.rotate(grant)
    answer = provider.post(site.me, json={"a": 1}, auth=tokens.auth(USER, "google"))
    assert answer.status_code == 200
    assert [signed for signed, _ in site.seen] == ["Bearer at-0", "Bearer at-1"]
    assert {body for _, body in site.seen} == {'{"a":1}'}


def test_a_second_refusal_is_the_callers_to_see(site, tokens, provider):
    grant = site.grants.add()
    site.rotate(grant)
    site.accepted = "another"
    answer = provider.get(site.me, auth=tokens.auth(USER, "google"))
    assert (answer.status_code, len(site.seen)) == (401, 2)


def test_a_body_that_was_consumed_is_not_sent_again(site, tokens, provider):
    grant = site.grants.add()
    tokens.get(USER, "google")
    site.rotate(grant)
    chunks = (part for part in (b"a", b"b"))
    answer = provider.post(site.me, content=chunks, auth=tokens.auth(USER, "google"))
    assert (answer.status_code, len(site.seen)) == (401, 1)
    assert site.renewer.hints == []


def test_the_token_does_not_follow_a_redirect_to_another_host(site, tokens):
    site.grants.add()
    with httpx.Client(follow_redirects=True, auth=tokens.auth(USER, "google")) as provider:
        answer = provider.get(f"{site.url}/provider/moved")
    assert answer.status_code == 401
    assert site.seen == [(None, "")]
    assert site.renewer.hints == []


async def test_the_same_for_asyncio(site):
    grant = site.grants.add()
    async with TokenClient(site.url, KEY, tenant="acme") as tokens:
        await tokens.aget(USER, "google")
        site.rotate(grant)
        async with httpx.AsyncClient(auth=tokens.auth(USER, "google")) as provider:
            answers = await asyncio.gather(*(provider.get(site.me) for _ in range(8)))
    assert [answer.status_code for answer in answers] == [200] * 8
    assert len(site.renewer.hints) == 1


def test_threads_that_need_the_same_token_ask_once(site, tokens):
    site.grants.add()
    got = []
    threads = [
        threading.Thread(target=lambda: got.append(tokens.get(USER, "google"))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ({token.access_token for token in got}, site.asked) == ({"at-0"}, 1)


def test_one_of_several_accounts(site, tokens):
    site.grants.add(identity_user_id="a", access_token="of-a")
    site.grants.add(identity_user_id="b", access_token="of-b")
    assert tokens.get(USER, "google", "a").access_token == "of-a"
    assert tokens.get(USER, "google", "b").access_token == "of-b"
    with pytest.raises(TokenError) as which:
        tokens.get(USER, "google")
    assert which.value.code == "identity_needed"


def test_the_administrators_token(site, tokens, provider):
    site.grants.add(part="admin", user_id=None, identity_user_id="con_1")
    assert provider.get(site.me, auth=tokens.admin_auth("google")).status_code == 200


def test_a_login_is_needed(site, tokens):
    grant = site.grants.add(state="needs_reauth", reason="invalid_grant")
    site.clock.advance(3600)
    with pytest.raises(NeedsLoginError) as needs:
        tokens.get(USER, "google")
    assert (needs.value.reason, needs.value.who) == ("invalid_grant", "user")
    assert needs.value.grant == str(grant)


@pytest.mark.parametrize(
    ("columns", "later", "error"),
    [
        ({"state": "erased"}, 0, RevokedError),
        ({"connection": "elsewhere"}, 0, NotFoundError),
        ({"failures": 1, "last_error": "timeout"}, 3600, NotAvailableError),
    ],
)
def test_every_refusal_has_a_type(site, tokens, columns, later, error):
    site.grants.add(**columns)
    site.clock.advance(later)
    with pytest.raises(error):
        tokens.get(USER, "google")


def test_a_wrong_key_is_told_from_a_missing_grant(site):
    with TokenClient(site.url, "evg_wrong", tenant="acme") as tokens:
        with pytest.raises(KeyRefusedError):
            tokens.get(USER, "google")


def test_evergrant_out_of_reach_is_not_a_missing_login():
    with TokenClient("http://127.0.0.1:9", "evg_secret", tenant="acme") as tokens:
        with pytest.raises(NotAvailableError) as away:
            tokens.get(USER, "google")
    assert away.value.retry_after == 5


def test_neither_token_nor_key_shows(site, tokens):
    site.grants.add()
    token = tokens.get(USER, "google")
    assert "at-0" not in repr(token)
    assert KEY not in repr(vars(tokens.auth(USER, "google")))


def test_the_client_brings_nothing_of_the_house_along():
    code = (
        "import sys, worker.client;"
        "print(sorted(m for m in sys.modules if m.startswith('worker') "
        "and not m.startswith('worker.client') and m != 'worker'))"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "[]"
