"""Every accepted event has its effect once, whatever fails on the way."""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta
from typing import Any

import pytest

from tests.events.payloads import (
    FACTS,
    ROSA,
    action_message,
    api_write,
    array,
    cloud_event,
    jsonl,
    log,
    login,
    prompt,
)
from tests.events.world import World
from worker.actions import Action, ActionEvent, Api
from worker.domain.errors import ConfigurationError, PermanentError, TransientError
from worker.domain.event import Source, Trigger
from worker.events.ports import Limits
from worker.store.notices import NoticeRepository


def action(run: Any, *, trigger: Trigger = Trigger.LOGIN, **more: Any) -> Action:
    return Action(**{"name": "mine", "trigger": trigger, "run": run, **more})


async def test_a_login_pulls_its_user(world: World) -> None:
    world.deliver(array(login("1")))
    assert await world.work() == {"done": 1}
    assert world.pull.users == [("acme", ROSA)]
    assert await world.work() == {}


async def test_a_thousand_events_about_one_user_are_one_pull(world: World) -> None:
    world.deliver(array(*(login(str(n)) for n in range(1000))))
    assert await world.work() == {"done": 1000}
    assert len(world.pull.users) == 1


async def test_a_burst_spread_over_a_second_is_two_pulls(world: World) -> None:
    for burst in range(20):
        world.deliver(array(*(login(f"{burst}-{n}") for n in range(50))))
        await world.work()
        world.clock.advance(0.05)
    await world.work_for(4)
    assert world.inbox.counts() == {"done": 1000}
    assert len(world.pull.users) == 2


async def test_a_login_after_a_pull_is_pulled_again(world: World) -> None:
    """The second login's tokens are newer than the first pull, however close behind it came."""
    world.deliver(array(login("1")))
    await world.work()
    world.deliver(array(login("2")))
    assert await world.work() == {"retry": 1}
    assert len(world.pull.users) == 1
    await world.work_for(3)
    assert len(world.pull.users) == 2


async def test_users_do_not_share_a_pull(world: World) -> None:
    world.deliver(array(*(login(str(n), user_id=f"auth0|{n}") for n in range(40))))
    await world.work()
    assert len(set(world.pull.users)) == len(world.pull.users) == 40


async def test_what_fails_is_tried_again_later_and_later(world: World) -> None:
    world.pull.broken["acme"] = TransientError("auth0: 502", code="auth0_away")
    world.deliver(array(login("1")))
    assert await world.work() == {"retry": 1}
    assert await world.work() == {}
    world.clock.advance(3)
    assert await world.work() == {"retry": 1}
    world.clock.advance(3)
    assert await world.work() == {}
    del world.pull.broken["acme"]
    world.clock.advance(3)
    assert await world.work() == {"done": 1}


async def test_a_tenant_that_names_a_time_is_not_asked_before(world: World) -> None:
    wait = timedelta(minutes=10)
    world.pull.broken["acme"] = TransientError("429", code="limited", retry_after=wait)
    world.deliver(array(login("1")))
    await world.work_for(590, step=10)
    assert len(world.pull.users) == 1
    await world.work_for(200, step=10)
    assert len(world.pull.users) == 2


async def test_what_fails_for_ever_waits_for_a_human_with_its_reason(world: World) -> None:
    world.pull.broken["acme"] = TransientError("auth0: 502", code="auth0_away")
    world.deliver(array(login("1")))
    await world.work_for(24 * 3600, step=600)
    [stuck] = world.stuck.newest()
    assert stuck.state == "failed"
    assert stuck.error == "pull_user: auth0_away: auth0: 502"
    del world.pull.broken["acme"]
    world.stuck.replay(None, now=world.clock.now())
    assert await world.work() == {"done": 1}


async def test_a_setting_that_is_mended_heals_what_it_broke(world: World) -> None:
    world.pull.broken["acme"] = ConfigurationError("AUTH0_CLIENT_SECRET is wrong")
    world.deliver(array(login("1")))
    await world.work()
    assert world.inbox.counts() == {"new": 1}
    del world.pull.broken["acme"]
    await world.work_for(300, step=30)
    assert world.inbox.counts() == {"done": 1}


async def test_what_nobody_can_mend_fails_at_once(world: World) -> None:
    world.pull.broken["acme"] = PermanentError("never", code="never")
    world.deliver(array(login("1")))
    assert await world.work() == {"failed": 1}


async def test_a_retry_resumes_at_the_action_that_failed(world: World) -> None:
    ran: list[str] = []

    async def first(event: ActionEvent, api: Api) -> None:
        ran.append("first")

    async def second(event: ActionEvent, api: Api) -> None:
        ran.append("second")
        if len(ran) < 3:
            raise RuntimeError("with a secret in its message")

    world.bind(action(first, name="first"), action(second, name="second", position=200))
    world.deliver(array(login("1")))
    await world.work_for(5)
    assert ran == ["first", "second", "second"]
    assert len(world.pull.users) == 1
    assert world.inbox.counts() == {"done": 1}


async def test_an_operators_failing_action_stops_no_other(world: World) -> None:
    ran: list[str] = []

    async def broken(event: ActionEvent, api: Api) -> None:
        ran.append("broken")
        raise RuntimeError("token=SECRET-IN-A-MESSAGE")

    async def behind(event: ActionEvent, api: Api) -> None:
        ran.append("behind")

    world.bind(action(broken, name="broken", position=1), action(behind, name="behind"))
    world.deliver(array(login("1")))
    await world.work_for(600, step=5)
    assert (len(world.pull.users), ran.count("behind"), ran.count("broken")) == (1, 1, 5)
    [stuck] = world.stuck.newest()
    assert stuck.error == "broken: RuntimeError"  # a stranger's message may hold anything
    assert "SECRET" not in repr(stuck)


async def test_a_hanging_action_is_cut_off_and_the_others_run(world: World) -> None:
    ran: list[str] = []

    async def hanging(event: ActionEvent, api: Api) -> None:
        await asyncio.Event().wait()

    async def behind(event: ActionEvent, api: Api) -> None:
        ran.append("behind")

    world.bind(action(hanging, name="hanging", position=1, timeout=0.01), action(behind, name="b"))
    world.deliver(array(login("1")))
    await world.work()
    assert (len(world.pull.users), ran) == (1, ["behind"])
    assert world.stuck.newest()[0].error == "hanging: timeout"


async def test_a_built_in_that_fails_holds_back_what_may_build_on_it(world: World) -> None:
    ran: list[str] = []
    world.bind(action(lambda event, api: ran.append("mine")))
    world.pull.broken["acme"] = TransientError("502", code="auth0_away")
    world.deliver(array(login("1")))
    await world.work()
    assert ran == []
    del world.pull.broken["acme"]
    await world.work_for(5)
    assert ran == ["mine"]


async def test_a_plain_function_is_an_action_too(world: World) -> None:
    seen: list[ActionEvent] = []
    world.bind(action(lambda event, api: seen.append(event)))
    world.deliver(array(login("1")))
    await world.work()
    assert (seen[0].trigger, seen[0].user_id, seen[0].source) == ("login", ROSA, "logs")


async def test_an_action_of_one_tenant_runs_for_no_other(world: World) -> None:
    seen: list[str] = []
    world.bind(action(lambda event, api: seen.append(event.tenant), tenants=frozenset({"other"})))
    world.deliver(array(login("1")))
    world.deliver(array(login("1", tenant_name="other")), tenant="other")
    await world.work()
    assert seen == ["other"]


async def test_a_forged_deletion_of_a_living_user_only_reads_it_anew(world: World) -> None:
    world.deliver(array(log("sdu", "1", user_id=ROSA)))
    await world.work_for(120, step=10)
    assert world.forgotten == []
    assert world.pull.users == [("acme", ROSA)]
    assert world.inbox.counts() == {"done": 1}


async def test_a_deletion_acts_on_the_second_of_two_reads_some_time_apart(world: World) -> None:
    world.pull.gone.add(ROSA)
    world.deliver(array(log("sdu", "1", user_id=ROSA)))
    await world.work()
    assert world.forgotten == []
    await world.work_for(20)
    assert (world.forgotten, len(world.pull.users)) == ([], 1)
    await world.work_for(30)
    assert (world.forgotten, len(world.pull.users)) == ([("acme", ROSA)], 2)


async def test_a_user_who_reappears_between_the_reads_is_not_dropped(world: World) -> None:
    world.pull.gone.add(ROSA)
    world.deliver(array(log("sdu", "1", user_id=ROSA)))
    await world.work()
    world.pull.gone.clear()
    await world.work_for(60, step=5)
    assert world.forgotten == []
    assert world.inbox.counts() == {"done": 1}


async def test_deletions_of_users_of_whom_nothing_is_held_cost_no_read(world: World) -> None:
    """A purge of a hundred thousand password users would take the budget of half a day."""
    crowd = [f"auth0|{n}" for n in range(50)]
    world.strangers.update(crowd)
    world.pull.gone.update(crowd)
    world.deliver(array(*(log("sdu", user, user_id=user) for user in crowd)))
    await world.work_for(90, step=10)
    assert world.pull.users == []
    assert world.inbox.counts() == {"done": 50}


async def test_who_turns_out_to_have_a_grant_meanwhile_is_looked_at_twice(world: World) -> None:
    """A read that was under way when he was deleted, and merged a moment later."""
    world.strangers.add(ROSA)
    world.pull.gone.add(ROSA)
    world.deliver(array(log("sdu", "1", user_id=ROSA)))
    await world.work_for(30, step=10)
    world.strangers.clear()
    await world.work_for(120, step=10)
    assert world.forgotten == [("acme", ROSA)]


async def test_created_and_deleted_in_the_wrong_order_ends_as_auth0_says(world: World) -> None:
    world.deliver(jsonl(log("sdu", "2", user_id=ROSA), login("1")))
    await world.work_for(60, step=5)
    assert world.forgotten == []


async def test_a_login_of_a_user_who_is_gone_is_no_failure(world: World) -> None:
    world.pull.gone.add(ROSA)
    world.deliver(array(login("1")))
    assert await world.work() == {"done": 1}
    assert world.forgotten == []


async def test_a_login_told_by_an_action_has_a_head_start(world: World) -> None:
    """Actions run before the tokens of their login can be read."""
    world.deliver(array(action_message()), source=Source.ACTIONS)
    assert await world.work() == {}
    world.clock.advance(3)
    assert await world.work() == {"done": 1}


async def test_what_an_event_streams_action_passes_on_has_happened_and_does_not_wait(
    world: World,
) -> None:
    passed_on = {"kind": "event-stream", "event": cloud_event("user.updated")}
    world.deliver(array(passed_on), source=Source.ACTIONS)
    assert await world.work() == {"done": 1}


async def test_a_pull_knows_the_newest_login_of_each_account(world: World) -> None:
    """The puller dates tokens by it, and waits until those of that login can be read."""
    at = "2026-11-20T14:0{}:00Z"
    bitbucket = {"details": {"prompts": [prompt(connection="acme-bitbucket", identity="{6f}")]}}
    world.deliver(
        array(
            login("1", date=at.format(1)),
            login("2", date=at.format(3)),
            login("3", date=at.format(2)),
            login("4", date=at.format(1), **bitbucket),
        )
    )
    assert await world.work() == {"done": 4}
    told = [(e.connection, e.occurred_at.minute) for e in world.pull.logins if e and e.occurred_at]
    assert told == [("google-oauth2", 3), ("acme-bitbucket", 1)]


async def test_a_login_whose_tokens_are_not_there_yet_is_looked_at_again(world: World) -> None:
    wait = timedelta(seconds=5)
    world.pull.broken["acme"] = TransientError("later", code="not_visible", retry_after=wait)
    world.deliver(array(login("1")))
    assert await world.work() == {"retry": 1}
    del world.pull.broken["acme"]
    await world.work_for(4)
    assert world.inbox.counts() == {"new": 1}
    await world.work_for(4)
    assert world.inbox.counts() == {"done": 1}


async def test_a_connection_told_by_its_id_is_pulled_by_name(world: World) -> None:
    world.deliver(array(api_write("patch", "/api/v2/connections/con_gsuite", "1")))
    world.deliver(array(api_write("patch", "/api/v2/connections/con_new", "2")))
    await world.work()
    assert sorted(world.pull.connections) == [("acme", "acme-workspace"), ("acme", "con_new")]


def scim(method: str, path: str) -> dict[str, Any]:
    request = {"method": method, "path": f"/scim/v2/connections/con_gsuite/{path}"}
    return log("sscim", f"{method}-{path}", client_id="", details={"request": request})


async def test_scim_may_name_a_user_by_the_providers_own_id(world: World) -> None:
    """Whose it is our grants tell; of somebody without one there is nothing to keep up."""
    world.accounts["acme-workspace", "x"] = ROSA
    world.deliver(array(scim("patch", "Users/x"), scim("patch", "Users/nobody")))
    assert await world.work() == {"done": 2}
    assert world.pull.users == [("acme", ROSA)]


async def test_a_scim_deletion_by_that_id_is_looked_at_twice_as_any_other(world: World) -> None:
    world.accounts["acme-workspace", "x"] = ROSA
    world.pull.gone.add(ROSA)
    world.deliver(array(scim("delete", "Users/x")))
    await world.work_for(40)
    assert world.forgotten == [("acme", ROSA)]
    assert world.inbox.counts() == {"done": 1}


async def test_how_a_directory_sync_ended_is_noted_after_the_connection_was_read(
    world: World,
) -> None:
    failed = log("directory_sync_failed", "1", connection="acme-workspace")
    done = log("directory_sync_completed", "2", connection="", connection_id="con_gsuite")
    world.deliver(array(failed, done))
    await world.work_for(5)
    assert {(name, ended) for _, name, ended, _ in world.syncs} == {
        ("acme-workspace", True),
        ("acme-workspace", False),
    }
    assert world.pull.connections


async def test_a_sync_of_years_ahead_does_not_outlive_those_after_it(world: World) -> None:
    """The time told orders syncs, so it may not be later than now."""
    now = world.clock.now()
    ahead = log("directory_sync_failed", "1", connection="w", date="2099-01-01T00:00:00Z")
    world.deliver(array(ahead))
    await world.work_for(3)
    assert [at <= now + timedelta(seconds=3) for *_, at in world.syncs] == [True]


async def test_a_sync_of_which_nothing_more_is_known_says_neither(world: World) -> None:
    told = cloud_event("evergrant.sync", data={"connection": "acme-workspace"})
    world.deliver(json.dumps(told).encode(), source=Source.QUEUE)
    await world.work_for(3)
    assert world.pull.connections == [("acme", "acme-workspace")]
    assert world.syncs == []


async def test_a_named_limit_brakes_and_a_deprecation_is_told(world: World) -> None:
    world.deliver(array(log("api_limit", "1"), log("depnote", "2", client_id=FACTS.own_client_id)))
    await world.work()
    assert [tenant for tenant, _ in world.braked] == ["acme"]
    due = NoticeRepository(world.engine).claim(
        now=world.clock.now(), lease_for=timedelta(seconds=1), limit=9
    )
    assert [(n.kind, n.notice["reason"]) for n in due] == [
        ("auth0_deprecation", "depnote, log record 2")
    ]


async def test_a_limit_of_an_hour_ago_brakes_no_more(world: World) -> None:
    """As told after an outage of ours, or by a page of the log."""
    then = (world.clock.now() - timedelta(hours=1)).isoformat()
    world.deliver(array(log("api_limit", "1", date=then)))
    await world.work()
    assert world.braked == []
    assert world.inbox.counts() == {"done": 1}


async def test_a_tenant_that_hangs_delays_no_other(world: World) -> None:
    world.pull.hangs.add("acme")
    world.deliver(array(*(login(str(n), user_id=f"auth0|{n}") for n in range(300))))
    world.deliver(array(login("1", tenant_name="other")), tenant="other")
    work = asyncio.create_task(world.work())
    for _ in range(300):
        await asyncio.sleep(0.01)
        if len(world.pull.users) > Limits().subjects_per_tenant:
            break
    assert ("other", ROSA) in world.pull.users
    assert len(world.pull.users) == Limits().subjects_per_tenant + 1
    work.cancel()
    for task in asyncio.all_tasks() - {asyncio.current_task()}:
        task.cancel()
    await asyncio.gather(work, return_exceptions=True)


async def test_what_was_not_begun_in_time_is_given_back(world: World) -> None:
    world.deliver(array(*(login(str(n), user_id=f"auth0|{n}") for n in range(100))))
    world.bind(action(lambda event, api: world.clock.advance(1), position=5))
    counts = await world.work(10)
    assert 0 < counts["done"] < 40
    assert world.inbox.due(now=world.clock.now())
    await world.work(200)
    assert world.inbox.counts() == {"done": 100}


async def test_stopping_begins_nothing_more(world: World) -> None:
    world.deliver(array(login("1")))
    world.processor.stop()
    assert await world.work() == {}
    assert world.inbox.due(now=world.clock.now())


async def test_a_store_that_goes_away_is_said_and_nothing_is_lost(world: World) -> None:
    world.bind(action(lambda event, api: setattr(world.store, "away", True)))
    world.deliver(array(login("1")))
    with pytest.raises(TransientError):
        await world.work()
    world.bind()
    world.store.away = False
    world.clock.advance(200)
    assert await world.work() == {"done": 1}
