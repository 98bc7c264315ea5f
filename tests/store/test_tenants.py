"""What all processes share about a tenant: one token, one budget, one brake."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from sqlalchemy import Engine, text

from tests.clock import T0
from worker.domain.ports import ApiToken
from worker.domain.secret import Secret
from worker.store.engine import reading
from worker.store.tenants import TenantRepository
from worker.vault import AesVault

SECOND = timedelta(seconds=1)


@pytest.fixture
def tenants(engine: Engine, vault: AesVault) -> TenantRepository:
    return TenantRepository(engine, vault)


def test_a_token_put_by_one_process_is_got_by_another(
    tenants: TenantRepository, engine: Engine, vault: AesVault
) -> None:
    token = ApiToken(token=Secret("mgmt-canary"), expires_at=T0, scope="read:users")
    assert tenants.token("acme") is None
    tenants.put_token("acme", token)
    assert TenantRepository(engine, vault).token("acme") == token
    with reading(engine) as connection:
        assert b"canary" not in connection.scalar(text("SELECT api_token FROM tenants"))
    tenants.drop_token("acme")
    assert tenants.token("acme") is None


def test_a_burst_is_granted_and_then_the_rate(tenants: TenantRepository) -> None:
    taken = [tenants.take("acme", "users", 2, 3, T0) for _ in range(4)]
    assert taken == [0, 0, 0, pytest.approx(0.5)]
    assert tenants.take("acme", "users", 2, 3, T0 + SECOND / 2) == 0
    assert tenants.take("acme", "connections", 2, 3, T0) == 0  # a bucket of its own
    assert tenants.take("other", "users", 2, 3, T0) == 0  # a tenant of its own


def test_a_bucket_never_holds_more_than_its_burst(tenants: TenantRepository) -> None:
    tenants.take("acme", "users", 2, 3, T0)
    later = T0 + 1000 * SECOND
    assert [tenants.take("acme", "users", 2, 3, later) for _ in range(4)][3] > 0


def test_a_reserve_is_left_for_more_urgent_callers(tenants: TenantRepository) -> None:
    backfill = [tenants.take("acme", "users", 1, 3, T0, reserve=2) for _ in range(2)]
    assert backfill == [0, pytest.approx(1)]
    assert [tenants.take("acme", "users", 1, 3, T0) for _ in range(2)] == [0, 0]


def test_an_own_part_is_taken_ahead_and_the_others_wait_for_it(tenants: TenantRepository) -> None:
    mine = ("forced", 0.25)
    assert [tenants.take("acme", "users", 1, 2, T0) for _ in range(2)] == [0, 0]
    assert tenants.take("acme", "users", 1, 2, T0, reserve=1) == pytest.approx(2)
    assert tenants.take("acme", "users", 1, 2, T0, reserve=1, own=mine) == 0
    assert tenants.take("acme", "users", 1, 2, T0) == pytest.approx(2)
    # never two ahead, and not before its own time has come again
    assert tenants.take("acme", "users", 1, 2, T0, reserve=1, own=("backfill", 1)) == 1
    later = T0 + 2 * SECOND
    assert tenants.take("acme", "users", 1, 2, later) == 0
    assert tenants.take("acme", "users", 1, 2, later, reserve=1, own=mine) == pytest.approx(2)
    assert tenants.take("acme", "users", 1, 2, T0 + 4 * SECOND, reserve=2, own=mine) == 0


def test_several_are_taken_at_once_or_not_at_all(tenants: TenantRepository) -> None:
    assert tenants.take("acme", "users", 1, 3, T0, n=4) == pytest.approx(1)
    assert tenants.take("acme", "users", 1, 3, T0, n=3) == 0


def test_a_clock_that_steps_back_gives_nothing_away(tenants: TenantRepository) -> None:
    assert [tenants.take("acme", "users", 1, 2, T0) for _ in range(2)] == [0, 0]
    assert tenants.take("acme", "users", 1, 2, T0 - 3600 * SECOND) > 0
    assert tenants.take("acme", "users", 1, 2, T0) > 0


def test_many_processes_together_take_no_more_than_the_burst(tenants: TenantRepository) -> None:
    with ThreadPoolExecutor(6) as pool:
        waits = list(pool.map(lambda _: tenants.take("acme", "users", 1, 10, T0), range(30)))
    assert waits.count(0) == 10


def test_a_block_stops_every_bucket_and_is_never_shortened(tenants: TenantRepository) -> None:
    tenants.block("acme", T0 + 60 * SECOND)
    tenants.block("acme", T0 + 5 * SECOND)
    assert tenants.blocked_until("acme") == T0 + 60 * SECOND
    assert tenants.take("acme", "users", 1, 10, T0) == 60
    assert tenants.take("acme", "users", 1, 10, T0 + 60 * SECOND) == 0


def test_a_tenant_that_lives_at_its_limit_is_read_all_the_same(tenants: TenantRepository) -> None:
    """A limit is named every ten seconds, for an hour, by its own applications' doing."""
    free = 0
    for second in range(3600):
        now = T0 + second * SECOND
        if second % 10 == 0:
            tenants.brake("acme", for_=60 * SECOND, now=now)
        free += tenants.take("acme", "users", 100, 100, now) == 0
    assert 0.75 * 3600 < free < 0.85 * 3600


def test_a_brake_does_not_shorten_what_auth0_asked_for(tenants: TenantRepository) -> None:
    tenants.block("acme", T0 + 3600 * SECOND)
    assert not tenants.brake("acme", for_=60 * SECOND, now=T0)
    assert tenants.blocked_until("acme") == T0 + 3600 * SECOND


def test_the_log_checkpoint_is_kept_and_moved_by_one_of_two(tenants: TenantRepository) -> None:
    assert tenants.checkpoint("acme") is None
    assert tenants.put_checkpoint("acme", "1", after=None)
    assert not tenants.put_checkpoint("acme", "7", after=None)
    assert tenants.put_checkpoint("acme", "2", after="1")
    assert not tenants.put_checkpoint("acme", "0", after="1")  # a late one never moves it back
    assert tenants.checkpoint("acme") == "2"
