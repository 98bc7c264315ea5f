"""Who is a stranger here, on both stores."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from tests.clock import T0, as_told
from tests.grants import GrantTable
from worker.store.findings import FindingRepository
from worker.store.pulls import PullRepository


@pytest.fixture
def findings(engine: Any) -> FindingRepository:
    return FindingRepository(engine)


def test_a_stranger_has_logged_in_since_he_was_read_and_has_no_grant(
    findings: FindingRepository, engine: Any, vault: Any, clock: Any
) -> None:
    grants, pulls = GrantTable(engine, vault, clock), PullRepository(engine, time=as_told)
    grants.add(user_id="x|held", identity_user_id="1")
    grants.add(user_id="x|erased", identity_user_id="2", state="erased", tombstoned_at=T0)
    for user_id, at in (("x|read", T0), ("x|before", T0 - timedelta(hours=1))):
        pulls.missed(pulls.begin("acme", f"user:{user_id}", now=at))
    logins = {f"x|{name}": T0 for name in ("held", "erased", "read", "before", "never")}
    assert findings.strangers("acme", logins) == ["x|erased", "x|before", "x|never"]
    assert findings.strangers("other", {"x|held": T0}) == ["x|held"]
    assert findings.strangers("acme", {}) == []
