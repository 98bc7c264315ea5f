"""A provider that hangs for two minutes on every call delays no other's renewals."""

from __future__ import annotations

import pytest

from tests.drills.drill import drilled
from tests.drills.judging import GRACE, N_AND_M

ROUNDS = 3  # lives of an access token, which is a fifth of what the provider hangs


def _attempts(drill):
    """The exchanges under way at the one that hangs."""
    rows = [row for row in drill.rows() if row.connection == "acme-tracker"]
    return {row.attempt for row in rows if row.attempt is not None}


@pytest.mark.timeout(300)
def test_while_one_provider_hangs_every_grant_of_the_others_goes_on_renewing(tmp_path, own_server):
    """Real workers, PostgreSQL, Redis: the tracker takes each request and never answers; not one of
    its exchanges has ended when all grants of the others have renewed three times more."""
    with drilled(tmp_path, own_server("postgres"), own_server("redis"), users=6) as drill:
        drill.all_renew()
        drill.stage.do("faults", profile="hang", provider="oauth2")
        drill.wait_for("all its exchanges hang", lambda: len(_attempts(drill)) == 6)
        hanging = _attempts(drill)
        for _ in range(ROUNDS):
            drill.all_renew()
        assert _attempts(drill) == hanging, "none has ended"
        late = [
            row for row in drill.rows() if row.connection in {**N_AND_M, **GRACE} and row.failures
        ]
        assert late == []
