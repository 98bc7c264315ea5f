"""What single providers are known for, beyond the classes; their clock is moved by hand."""

from __future__ import annotations

import pytest

from tests.rehearsal.conftest import HTTP, Start, identity
from tests.rehearsal.test_issuer import issuer, token
from worker.rehearsal import ConnectionSpec, ControlError, RunningStage
from worker.rehearsal.families import RefusedError

DAY = 86_400


def test_intuits_refresh_token_changes_about_once_a_day() -> None:
    """intuit/oauth-jsclient#77: in between the same one comes; the one before is good for a day."""
    provider, time = issuer("quickbooks")
    first = token(provider.login("rosa", "app"))
    for _ in range(23):
        time.now += 3600
        assert token(provider.refresh(first, "app")) == first
    time.now += 3600
    second = token(provider.refresh(first, "app"))
    assert second != first
    time.now += DAY - 1
    provider.refresh(first, "app")
    time.now += 2
    with pytest.raises(RefusedError):
        provider.refresh(first, "app")


def test_yandex_may_answer_the_same_access_token_and_ends_both_together() -> None:
    """https://yandex.ru/dev/id/doc/en/tokens/refresh-client"""
    provider, time = issuer("yandex", access_lifetime_s=100)
    first = provider.login("rosa", "app")
    time.now += 40
    same = provider.refresh(token(first), "app")
    assert same.access_token == first.access_token
    assert same.lifetime == pytest.approx(60)
    time.now += 20
    younger = provider.refresh(token(same), "app")
    assert younger.access_token != first.access_token
    time.now += 101
    with pytest.raises(RefusedError, match="dead"):
        provider.refresh(token(younger), "app")


def test_linkedins_year_counts_down_and_cuts_the_last_access_token() -> None:
    """https://learn.microsoft.com/linkedin/shared/authentication/programmatic-refresh-tokens"""
    provider, time = issuer("linkedin")
    first = token(provider.login("rosa", "app"))
    time.now += 350 * DAY
    last = provider.refresh(first, "app")
    assert last.refresh_lifetime == pytest.approx(15 * DAY)
    assert last.lifetime == pytest.approx(15 * DAY)
    time.now += 15 * DAY + 1
    with pytest.raises(RefusedError, match="dead"):
        provider.refresh(first, "app")


def test_zoho_blocks_who_asks_eleven_times_in_ten_minutes() -> None:
    """https://zoho.com/accounts/protocol/oauth/token-limits.html"""
    provider, time = issuer("zoho")
    first = token(provider.login("rosa", "app"))
    for _ in range(10):
        provider.refresh(first, "app")
    with pytest.raises(RefusedError, match="throttled"):
        provider.refresh(first, "app")
    time.now += 601
    provider.refresh(first, "app")


def test_at_hubspot_an_access_token_outlives_its_revoked_refresh_token() -> None:
    """developers.hubspot.com, oauth-tokens v1 guide: DELETE refresh-tokens/{token}"""
    provider, _ = issuer("hubspot")
    issued = provider.login("rosa", "app")
    assert provider.revoke(token(issued), "refresh_token", kinds="r")
    assert provider.access(issued.access_token)
    with pytest.raises(RefusedError, match="dead"):
        provider.refresh(token(issued), "app")


def test_asana_takes_back_refresh_tokens_only() -> None:
    """Asana/developer-docs source/includes/markdown/_auth.html.md"""
    provider, _ = issuer("asana")
    issued = provider.login("rosa", "app")
    assert not provider.revoke(issued.access_token, "family", kinds="r")
    assert provider.access(issued.access_token)


# ---------------------------------------------------------------- over HTTP


def test_a_token_in_the_query_string_is_not_seen(start: Start) -> None:
    """Zoom refuses tokens there since 2023 (developers.zoom.us, oauth-error-messages)."""
    stage = start(connections=[ConnectionSpec(name="zoom", profile="zoom")])
    held = identity(stage, stage.login("zoom", "rosa")).refresh_token
    options = stage.stage.tenant.connections["zoom"].options
    url = f"{stage.stage.provider_urls['zoom']}/token"
    params = {"grant_type": "refresh_token", "refresh_token": held}
    auth = (options["client_id"], options["client_secret"])
    assert HTTP.post(url, params=params, auth=auth).status_code == 400
    assert HTTP.post(url, data=params, auth=auth).status_code == 200


def test_time_can_be_skipped(stage: RunningStage) -> None:
    """Tokens end when the stage says so, not when a test has slept long enough."""
    user_id = stage.login("acme-okta", "rosa")
    url = f"{stage.about()['providers']['okta']}/api/me"
    bearer = {"Authorization": f"Bearer {identity(stage, user_id).access_token}"}
    assert HTTP.get(url, headers=bearer).status_code == 200
    before = stage.do("pass_time", seconds=0)
    assert stage.do("pass_time", seconds=60) - before >= 60
    assert HTTP.get(url, headers=bearer).status_code == 401
    with pytest.raises(ControlError, match="backwards"):
        stage.do("pass_time", seconds=-1)
