"""What an operator types while the product runs, and what comes back."""

import json
import logging
import sys
from datetime import UTC, datetime

import pytest

from tests.canary import hunt_bytes
from tests.cli.conftest import TENANT
from worker.cli.app import call
from worker.domain.event import Source
from worker.store.engine import open_engine
from worker.store.inbox import InboxRepository


@pytest.fixture
def evergrant(embedded, monkeypatch, capsys):
    """`evergrant …`, in this process but in the product's directory and environment."""
    for name, value in embedded.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(embedded.directory)
    handlers = logging.getLogger().handlers[:]

    def run(*arguments, code=0, as_json=True):
        capsys.readouterr()
        ended = call([*arguments, *(["--json"] if as_json else [])])
        said = capsys.readouterr()
        assert ended == code, said.err
        return json.loads(said.out) if as_json and said.out else said.out + said.err

    yield run
    logging.getLogger().handlers[:] = handlers


@pytest.fixture
def rosa(evergrant):
    (grant,) = evergrant("grants", "list", "--connection", "google-oauth2")
    return grant


def test_status_counts_grants_per_provider(evergrant):
    told = evergrant("status")
    assert {line["provider"]: line["active"] for line in told["providers"]} == {
        "google-oauth2": 1,
        "bitbucket": 1,
    }
    assert "google-oauth2" in evergrant("status", as_json=False)


def test_grants_are_listed_by_what_is_asked(evergrant, rosa):
    assert rosa["tenant"] == TENANT
    assert rosa["state"] == "active"
    assert evergrant("grants", "list", "--user", rosa["user_id"])[0]["id"] == rosa["id"]
    assert evergrant("grants", "list", "--state", "needs_reauth") == []
    assert rosa["id"] in evergrant("grants", "list", as_json=False)


def test_a_grant_is_explained_with_its_history(evergrant, rosa):
    told = evergrant("grants", "explain", rosa["id"])
    assert told["state"] == "active"
    assert told["next_step"]
    assert told["timeline"]
    read = evergrant("grants", "explain", rosa["id"], as_json=False)
    assert "provider google-oauth2" in read
    assert "{" not in read


def test_a_renewal_is_shown_before_it_is_made_and_shows_no_secret(evergrant, embedded):
    told = evergrant("providers", "test", "bitbucket", "--connection", "acme-bitbucket")
    assert (told["method"], told["body"]["grant_type"]) == ("POST", "refresh_token")
    assert told["body"]["refresh_token"] == told["headers"]["authorization"] == "REDACTED"
    assert told["host"] in told["url"]
    assert not told["sent"]
    assert hunt_bytes(embedded.secrets(), json.dumps(told).encode()) == []


def test_one_grant_is_really_renewed_to_try_a_connection(evergrant, embedded):
    arguments = ("providers", "test", "bitbucket", "--connection", "acme-bitbucket", "--send")
    answer = evergrant(*arguments, "--wait", "30")
    assert answer["renewed"]
    assert answer["provider"] == "bitbucket"


@pytest.mark.parametrize(
    ("strategy", "says"), [("sms", "served by bitbucket"), ("gitlabb", "did you mean 'gitlab'?")]
)
def test_a_strategy_that_does_not_serve_the_connection_is_refused(evergrant, strategy, says):
    said = evergrant(
        "providers", "test", strategy, "--connection", "acme-bitbucket", code=2, as_json=False
    )
    assert says in said


def test_the_request_of_a_renewal_is_shown_as_it_would_go_out(evergrant):
    said = evergrant(
        "providers", "test", "bitbucket", "--connection", "acme-bitbucket", as_json=False
    )
    assert "\nauthorization: REDACTED\n" in said
    assert "\ngrant_type=refresh_token\nrefresh_token=REDACTED\n" in said


def test_an_unknown_grant_is_told_without_a_traceback(evergrant):
    said = evergrant("grants", "explain", "nonsense", code=3, as_json=False)
    assert "evergrant grants list" in said
    assert "Traceback" not in said
    said = evergrant("tokens", "get", "google-oauth2|no", "google-oauth2", code=3, as_json=False)
    assert "evergrant grants list --user 'google-oauth2|no'" in said


def test_a_token_is_printed_only_with_show(evergrant, embedded, rosa):
    hidden = evergrant("tokens", "get", rosa["user_id"], "google-oauth2")
    assert hidden["access_token"].startswith("(hidden")
    shown = evergrant("tokens", "get", rosa["user_id"], "google-oauth2", "--show")
    token = shown["access_token"]
    assert len(token) > 20
    everything = [
        evergrant(*command.split(), as_json=False)
        for command in ("status", "grants list", "events failed", "keys list", "doctor")
    ]
    assert hunt_bytes([token], "".join(everything).encode()) == []
    assert hunt_bytes([token], embedded.product.log.read_bytes()) == []


def test_a_renewal_can_be_asked_for_and_waited_for(evergrant, rosa):
    told = evergrant("grants", "renew", rosa["id"])
    assert told["renewed"]
    assert told["generation"] > rosa["generation"]


def test_a_whole_tenant_is_read_anew(evergrant):
    assert evergrant("sync", "connections")["done"] == 2
    assert evergrant("sync", "users")["done"] == 2


def test_an_outage_is_played_before_it_comes(evergrant, rosa):
    told = evergrant("plan", "--outage", "google-oauth2=2h", "--add", "100000", "--workers", "4")
    assert told["grants"] > 100_000, "those of the store, and those added"
    assert told["peak_to_mean"] <= 1.5
    assert max(told["curve"]) <= told["most_per_second"]
    assert told["fresh_at"] <= told["drained_at"]
    drawn = evergrant("plan", "--outage", "google-oauth2=10m", as_json=False)
    assert "away for 10 min" in drawn
    assert "renewals per second, from the outage's beginning to " in drawn
    assert " after its end:" in drawn
    flooded = ("plan", "--outage", "google-oauth2=10m", "--add", "10000000")
    assert "never: more falls due than may be renewed" in evergrant(*flooded, as_json=False)
    brief = evergrant("plan", "--outage", "hubspot=1m", "--add", "1000", as_json=False)
    assert "nothing expired       at any time" in brief
    evergrant("plan", "--outage", "google-oauth2", code=2, as_json=False)
    evergrant("plan", "--outage", "nobody=2h", code=2, as_json=False)


def test_an_app_gets_a_key_once_and_loses_it(evergrant):
    made = evergrant("api-keys", "create", "crm", "--scope", f"read:{TENANT}", "--days", "3")
    assert made["key"].startswith("evg_")
    listed = evergrant("api-keys", "list")
    assert [key["name"] for key in listed] == ["crm"]
    assert made["key"] not in json.dumps(listed)
    evergrant("api-keys", "create", "crm", code=2)
    evergrant("api-keys", "revoke", "crm")
    evergrant("api-keys", "revoke", "crm", code=3)


def test_keys_rotate_under_the_running_product(evergrant, embedded):
    before = {key["id"] for key in evergrant("keys", "list")}
    evergrant("keys", "rotate")
    after = evergrant("keys", "list")
    assert sum(key["state"] == "primary" for key in after) == 4
    assert len({key["id"] for key in after} - before) == 3
    embedded.wait_for_renewals(2)  # the processes have noticed
    assert evergrant("keys", "rewrap")["left"] == 0
    old = next(key["id"] for key in after if key["state"] == "enabled")
    evergrant("keys", "disable", old)
    evergrant("keys", "destroy", old)
    assert old not in {key["id"] for key in evergrant("keys", "list")}
    evergrant("keys", "destroy", next(key["id"] for key in after if key["id"] != old), code=2)
    evergrant("keys", "destroy", "none", code=3)


def test_the_doctor_finds_a_running_product_well(evergrant):
    told = evergrant("doctor", "--deep")
    assert told["ok"], [check for check in told["checks"] if check["status"] == "fail"]
    names = {check["name"] for check in told["checks"] if check["status"] == "ok"}
    assert names >= {"keyring", "database", "broker", "workers", "web", f"tenant {TENANT}", "audit"}


def test_the_doctor_names_what_is_wrong_and_what_to_do(evergrant, monkeypatch):
    monkeypatch.setenv("EVERGRANT_KEYRING", "/nowhere/keyring.json")
    monkeypatch.setenv("EVERGRANT_BROKER_URL", "redis://127.0.0.1:1/0")
    told = evergrant("doctor", code=1)
    failed = {check["name"]: check for check in told["checks"] if check["status"] == "fail"}
    assert "`evergrant keys create` makes one" in failed["keyring"]["told"]
    assert "slower" in failed["broker"]["advice"]


def test_providers_say_which_serves_a_connection(evergrant):
    rows = evergrant("providers", "check")
    assert {row["connection"]: row["provider"] for row in rows} == {
        "google-oauth2": "google-oauth2",
        "acme-bitbucket": "bitbucket",
    }
    assert any(entry["name"] == "github-app" for entry in evergrant("providers", "list"))
    assert evergrant("providers", "show", "github-app")["display_name"]
    assert "did you mean" in evergrant("providers", "show", "githubapp", code=3, as_json=False)


def test_bound_actions_are_listed_and_tried(evergrant, embedded, monkeypatch):
    (embedded.directory / "chat.py").write_text(
        "async def post(event, api):\n    await api.notify('posted', reason=event.user_id)\n"
    )
    config = embedded.directory / "with_action.toml"
    config.write_text(
        (embedded.directory / "evergrant.toml").read_text()
        + '\n[[actions]]\nrun = "chat:post"\ntrigger = "grant_needs_login"\n'
    )
    monkeypatch.setenv("EVERGRANT_CONFIG", str(config))
    monkeypatch.syspath_prepend(str(embedded.directory))
    monkeypatch.delitem(sys.modules, "chat", raising=False)
    assert {"chat:post", "pull_user"} <= {row["action"] for row in evergrant("actions", "list")}
    event = embedded.directory / "event.json"
    event.write_text(
        json.dumps({"tenant": TENANT, "trigger": "grant_needs_login", "user_id": "auth0|1"})
    )
    told = evergrant("actions", "test", str(event))
    assert told["ran"] == ["chat:post"]
    assert told["asked"] == ["notify posted"]
    assert told["results"] == [{"action": "chat:post", "outcome": "done", "why": None}]


OWN = """
def broken(event, api):
    raise RuntimeError("with all that it holds")

def at_last(event, api):
    api.pull_user()

async def patient(event, api):
    api.again("not yet", after=5)
"""
BOUND = """
[[actions]]
run = "own:broken"
trigger = "login"
position = 5
[[actions]]
run = "own:at_last"
trigger = "login"
[[actions]]
run = "own:patient"
trigger = "login"
position = 7
tenants = ["rehearsal"]
"""


@pytest.fixture
def own(evergrant, embedded, monkeypatch):
    """Actions of one's own, and a way to try them on an event."""
    (embedded.directory / "own.py").write_text(OWN)
    config = embedded.directory / "with_own.toml"
    config.write_text((embedded.directory / "evergrant.toml").read_text() + BOUND)
    monkeypatch.setenv("EVERGRANT_CONFIG", str(config))
    monkeypatch.syspath_prepend(str(embedded.directory))
    monkeypatch.delitem(sys.modules, "own", raising=False)
    file = embedded.directory / "own.json"

    def test(event, *more, **how):
        file.write_text(event if isinstance(event, str) else json.dumps(event))
        return evergrant("actions", "test", str(file), *more, **how)

    return test


def test_actions_are_listed_in_the_order_they_run(own, evergrant):
    logins = [row for row in evergrant("actions", "list") if row["trigger"] == "login"]
    assert [row["action"] for row in logins] == [
        "own:broken", "own:patient", "pull_user", "own:at_last",
    ]  # fmt: skip
    assert logins[1]["tenants"] == ["rehearsal"]


def test_a_tried_action_that_fails_shows_in_the_exit_code_and_tells_no_message(own):
    event = {"trigger": "login", "user_id": "auth0|1", "occurred_at": "2026-11-20T14:02:11Z"}
    told = own(event, code=1)
    assert [(row["outcome"], row["why"]) for row in told["results"]] == [
        ("failed", "RuntimeError"), ("to be run again", None), ("done", None),
    ]  # fmt: skip
    assert told["asked"] == [f"pull_user {TENANT} auth0|1"]
    assert "with all that it holds" not in own(event, code=1, as_json=False)
    own(event, "--name", "own:at_last")


def test_a_tried_action_tells_where_it_raised_when_asked_to(own):
    said = own({"trigger": "login"}, "--trace", "--name", "own:broken", code=1, as_json=False)
    assert "own.py" in said
    assert "with all that it holds" in said


@pytest.mark.parametrize(
    ("event", "says"),
    [
        ("{", "not JSON"),
        ("[]", "one event"),
        ({"trigger": "logn"}, "trigger is one of login"),
        ({}, "trigger is one of login"),
        ({"trigger": "login", "tenant": "other"}, "no tenant 'other'"),
        ({"trigger": "login", "usr_id": "x"}, "did you mean user_id?"),
        ({"trigger": "login", "user_id": 7}, "user_id is str"),
        ({"trigger": "login", "detail": "x"}, "detail is dict"),
        ({"trigger": "login", "occurred_at": "today"}, "2026-11-20T14:02:11Z"),
        ({"trigger": "sync"}, "no action of yours is bound to sync"),
    ],
)
def test_an_event_that_is_none_is_answered_with_what_to_write(own, event, says):
    assert says in own(event, code=2).replace("\n", " ")


def test_an_action_that_is_not_bound_is_answered_with_those_that_are(own):
    assert "own:at_last (login)" in own({"trigger": "login"}, "--name", "nope", code=2)


def test_failed_events_are_listed_and_replayed(evergrant):
    assert evergrant("events", "failed") == {"events": [], "dead_messages": []}
    replayed = {"replayed": 0, "read_after_all": 0, "unreadable": 0}
    assert evergrant("events", "replay") == replayed


def test_what_could_not_be_read_is_looked_at_and_discarded(evergrant, embedded):
    raw = b'{"log_id": "1", "data": \x1b[2J "access_token": "ya29.canary"}'
    engine = open_engine(f"sqlite:///{embedded.environment['EVERGRANT_DATA_DIR']}/evergrant.db")
    rows = [("x", raw, "not_json")]
    InboxRepository(engine).add_unreadable(TENANT, Source.LOGS, rows, now=datetime.now(UTC))
    engine.dispose()
    (listed,) = evergrant("events", "failed")["events"]
    told = evergrant("events", "show", str(listed["id"]))
    assert told["error"] == "not_json"
    assert told["raw"].startswith('{"log_id": "1", "data": \\x1b[2J')
    assert "canary" not in told["raw"]
    assert evergrant("events", "discard", str(listed["id"])) == {"discarded": 1}
    assert evergrant("events", "failed")["events"] == []
    evergrant("events", "discard", str(listed["id"]), code=3)


def test_a_grant_given_up_is_served_no_more(evergrant, embedded):
    (grant,) = evergrant("grants", "list", "--connection", "acme-bitbucket")
    told = evergrant("grants", "revoke", grant["id"])
    assert told["state"] == "tombstoned"
    evergrant("tokens", "get", grant["user_id"], "acme-bitbucket", code=1)
    embedded.wait_for(
        lambda: (
            evergrant("grants", "list", "--connection", "acme-bitbucket")[0]["state"] == "erased"
        )
    )


def test_a_leak_is_answered_for_one_user_and_the_provider_knows_of_it(evergrant, embedded):
    """From the command to the provider's own ledger: nothing is handed out, and it is revoked."""
    user = embedded.login("google-oauth2", "vera")
    listed = ("grants", "list", "--user", user)
    embedded.wait_for(lambda: evergrant(*listed))
    (grant,) = evergrant(*listed)
    (kept,) = [one for one in evergrant("grants", "list") if "rosa" in (one["user_id"] or "")]
    answer = evergrant("compromise", "--user", user, "--yes")
    assert (answer["grants"], answer["report"]["pending"]) == ([grant["id"]], 0)
    evergrant("tokens", "get", user, "google-oauth2", code=1)
    assert evergrant(*listed)[0]["state"] == "erased"
    (seen,) = embedded.stage.grants(subject="vera")
    assert seen["revoked_by_us"] == 1
    entries = evergrant("erasure", "show", grant["id"])
    assert [entry["outcome"] for entry in entries if entry["what"] == "revocation"] == ["revoked"]
    assert evergrant("tokens", "get", kept["user_id"], "google-oauth2")["expires_at"]


def test_an_unknown_plan_of_a_rehearsal_is_answered_with_those_there_are(capsys):
    assert call(["rehearsal", "--plan", "gold"]) == 2
    assert "enterprise-nonproduction" in capsys.readouterr().err
