"""C18: one refresh token for two grants, where one of them only keeps it beside its current one.

Whoever held it first spends it. The other's copy must never be sent: not while it is held, and not
when its holder has spent it and moved on, which no index tells by then.
"""

from __future__ import annotations

import pytest

from tests.planted import plant, row_of
from tests.store.world import NOW, World
from worker.domain.attempt import Fate


@pytest.fixture
def world(engine, vault):
    return World(engine, vault)


def planted(world, *tokens):
    return [plant(world.engine, world.vault, now=NOW, rt=token) for token in tokens]


def by_grant(claims):
    return {claim.grant: claim for claim in claims}


def follows(world, grant):
    """Whom; it has nothing to spend itself."""
    row = row_of(world.engine, grant)
    assert (row.rt_fp, row.refresh_token, row.due_at, row.attempt) == (None,) * 4
    assert (row.state, row.reason) == ("active", "alias")
    return row.alias_of


def late_with(world, grant, token):
    """All are taken over, and then an answer comes with a token. Returns: the claims."""
    first = by_grant(world.claim())
    taken = by_grant(world.take_over())
    assert world.settle(world.brought(first[grant], rt=token)) == [Fate.CANDIDATE]
    return taken


def test_a_late_answer_with_the_token_of_another_grant_is_never_sent(world):
    """It was kept, and sent when its grant's own was refused. Its holder had spent it by then: a
    provider that revokes would have ended the holder's family."""
    grant, holder = planted(world, "own", "others")
    taken = late_with(world, grant, "others")
    assert world.settle(world.brought(taken[holder], rt="its next")) == [Fate.APPLIED]
    assert world.settle(world.refused(taken[grant])) == [Fate.NEXT_CANDIDATE]
    assert follows(world, grant) == holder


def test_a_successor_that_another_grant_holds_makes_an_alias_at_the_takeover(world):
    """And what else is taken over in that transaction is not lost with it."""
    grant, holder = planted(world, "own", "others")
    late_with(world, grant, "others")
    assert [claim.grant for claim in world.take_over(by="p1", dead="p2")] == [holder]
    assert follows(world, grant) == holder


def test_so_does_a_login_during_an_exchange_whose_token_another_grant_holds(world):
    """M7: or else the end of that exchange could never be written."""
    grant, holder = planted(world, "own", "others")
    claims = by_grant(world.claim())
    world.login_arrives(grant, "others")
    assert world.settle(world.brought(claims[grant], rt="next")) == [Fate.APPLIED]
    assert follows(world, grant) == holder


def test_the_latest_refused_is_not_taken_back_from_who_holds_it_by_now(world):
    """I8 has the last word be about the latest; if another grant came by it, that one says it."""
    grant, holder = planted(world, "own", "others")
    claims = by_grant(world.claim())
    world.login_arrives(grant, "latest")
    world.settle(world.brought(claims[grant], rt="next"))
    (of_latest,) = world.claim()
    assert world.settle(world.refused(of_latest)) == [Fate.NEXT_CANDIDATE]
    assert world.settle(world.brought(claims[holder], rt="latest")) == [Fate.APPLIED]
    (of_next,) = world.claim()
    world.settle(world.refused(of_next))
    assert follows(world, grant) == holder
