"""The demo's story, played at double speed, has the parts it promises."""

from __future__ import annotations

from worker.rehearsal import RunningStage
from worker.rehearsal.scenario import Story


def test_the_story_plays_to_the_end(stage: RunningStage) -> None:
    told: list[str] = []
    cast = Story(stage, seconds=1.5, users=20, trouble_for=0.5).play(told.append)
    types = {record["type"] for record in stage.stage.tenant.log.records}
    assert len(cast.members) == 20
    assert {one.connection for one in cast.members} == set(stage.about()["connections"])
    apart = [cast.withdrawn, cast.relogged, cast.deleted]
    assert len({one.user_id for one in apart if one}) == 3
    assert len(cast.living) == 18
    assert {"s", "ss", "sdu", "sapi", "directory_sync_completed"} <= types
    assert stage.ledger()["total"]["revoked_by_user"] == 1
    assert cast.deleted
    assert cast.deleted.user_id not in stage.stage.tenant.users
    assert len(told) == 26
