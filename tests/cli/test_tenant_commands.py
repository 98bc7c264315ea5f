"""Commands about one Auth0 tenant, on a store that nothing else runs on."""

from __future__ import annotations

import asyncio
import gzip
import io
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from sqlalchemy import func, select, update

from tests.cli.conftest import TENANT
from tests.grants import GrantTable
from worker import settings as _settings
from worker.bootstrap import rounds as rounds_
from worker.bootstrap.base import Base, Role, intake_of, open_base
from worker.bootstrap.first_start import first_start
from worker.bootstrap.rounds import TenantRounds
from worker.bootstrap.working import Worker
from worker.cli.app import call
from worker.cli.one_reading import OneReading
from worker.domain.errors import NotFoundError
from worker.domain.event import Source
from worker.domain.ports import Notice
from worker.rehearsal import ConnectionSpec, RunningStage, StageSettings, rehearsal, write_config
from worker.store.engine import reading, writing
from worker.store.merging import Merged, MergeRepository
from worker.store.notices import NoticeRepository
from worker.store.pulls import PullRepository, user_subject
from worker.store.tables import AuditRow, ConnectionRow, GrantRow, OutboxRow, TenantRow
from worker.sync import Puller

GOOGLE = "google-oauth2"
CONNECTIONS = (
    ConnectionSpec(name=GOOGLE, profile="google-oauth2"),
    ConnectionSpec(name="acme-bitbucket", profile="bitbucket"),
    ConnectionSpec(name="acme-workspace", profile="google-apps"),
)


@pytest.fixture
def stage() -> Iterator[RunningStage]:
    with rehearsal(StageSettings(connections=CONNECTIONS)) as running:
        yield running


@pytest.fixture
def base(stage: RunningStage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Base]:
    config = write_config(tmp_path / "evergrant.toml", stage.stage)
    monkeypatch.setenv("EVERGRANT_CONFIG", str(config))
    monkeypatch.setenv("EVERGRANT_ALLOW_LOOPBACK", "1")
    monkeypatch.setenv("EVERGRANT_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("EVERGRANT_BROKER_URL", "memory://")
    monkeypatch.setenv("EVERGRANT_DELETION_CONFIRM", "0")
    monkeypatch.setenv("EVERGRANT_DELETION_QUIET", "1.5")
    settings = _settings.load()
    settings.data_dir.mkdir()
    first_start(settings)
    opened = open_base(settings, Role.WORKER)
    yield opened
    opened.close()


Run = Callable[..., Any]


@pytest.fixture
def evergrant(base: Base, capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*arguments: str, code: int = 0) -> Any:
        capsys.readouterr()
        ended = call([*arguments, "--json"])
        said = capsys.readouterr()
        assert ended == code, said
        return json.loads(said.out) if said.out else said.err

    return run


def pull(base: Base, user_id: str) -> None:
    async def once() -> None:
        async with OneReading(base) as reading_:
            await reading_.puller.read(TENANT, user_id)

    asyncio.run(once())


def vanish(base: Base, user_id: str) -> None:
    """What two 404s lead to."""

    async def twice() -> None:
        async with OneReading(base) as reading_:
            for _ in range(2):
                with pytest.raises(NotFoundError):
                    await reading_.puller.read(TENANT, user_id)

    asyncio.run(twice())


def look_again(worker: Worker, holds: Callable[[], bool]) -> None:
    """The worker's own rounds, until they have brought something about."""
    until = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < until
        worker.upkeep("sweep")
        time.sleep(0.1)


def grants_of(base: Base, user_id: str) -> list[Any]:
    table = GrantRow.__table__
    with reading(base.engine) as connection:
        return list(connection.execute(select(table).where(table.c.user_id == user_id)))


def change(base: Base, table: Any, **values: Any) -> None:
    with writing(base.engine) as connection:
        connection.execute(update(table).values(**values))


def notices(base: Base) -> list[str]:
    with reading(base.engine) as connection:
        return list(connection.execute(select(OutboxRow.kind).order_by(OutboxRow.id)).scalars())


def verbs(base: Base) -> set[str]:
    with reading(base.engine) as connection:
        return set(connection.execute(select(AuditRow.verb)).scalars())


# ------------------------------------------------------------------ diff


def test_a_diff_tells_what_a_merge_would_do_and_does_nothing(stage, base, evergrant):
    known, deleted = stage.login(GOOGLE, "rosa"), stage.login(GOOGLE, "emil")
    evergrant("sync", "users")
    again = evergrant("sync", "diff")
    assert (again["read"], again["differences"]) == (2, [])

    new = stage.login(GOOGLE, "ida")
    stage.login(GOOGLE, "rosa", prompt_consent=True)
    stage.do("delete_user", user_id=deleted)
    for everybody in ([], ["--all"]):
        told = evergrant("sync", "diff", *everybody, code=1)
        assert {one["user_id"]: one["kind"] for one in told["differences"]} == {
            new: "missing_here",
            known: "newer_upstream",
            deleted: "orphaned_here",
        }
        assert (told["missing_here"], told["newer_upstream"], told["orphaned_here"]) == (1, 1, 1)
    assert grants_of(base, new) == []
    assert grants_of(base, known)[0].family == 0

    evergrant("sync", "users")
    assert [one["kind"] for one in evergrant("sync", "diff", code=1)["differences"]] == [
        "orphaned_here"
    ]


# ------------------------------------------------------------------ the whole tenant


def test_a_tenant_of_more_users_than_a_search_shows_is_read_whole(
    stage, base, evergrant, monkeypatch
):
    """A thousand hits of a query, whatever is asked: the command asks anew from there."""
    pulled: list[str] = []

    async def noted(self: Puller, tenant: str, user_id: str, **_more: Any) -> None:
        pulled.append(user_id)

    monkeypatch.setattr(Puller, "user", noted)  # what a pull does is tested with fewer users
    crowd = stage.do("logins", connection=GOOGLE, subjects=[f"u{n}" for n in range(1_103)])
    told = evergrant("sync", "users")
    assert (told["done"], told["total"], told["failed"]) == (1_103, 1_103, [])
    assert sorted(pulled) == sorted(crowd)


@pytest.mark.parametrize("how", ["by search", "by a list", "by export"])
def test_a_backfill_that_was_killed_goes_on_where_it_was(stage, base, evergrant, tmp_path, how):
    """A process of its own, killed outright once it has saved its place."""
    crowd = stage.do("logins", connection=GOOGLE, subjects=[f"u{n}" for n in range(220)])
    (tmp_path / "ids.txt").write_text("\n".join(crowd))
    more = {"by search": [], "by a list": ["--ids", str(tmp_path / "ids.txt")],
            "by export": ["--export"]}[how]  # fmt: skip
    command = [sys.executable, "-m", "worker.cli", "sync", "users", *more]
    killed = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until(lambda: places(base))
    killed.kill()
    killed.wait()
    (saved,) = places(base)
    assert 0 < saved["done"] < 220
    before = stage.ledger()["management_requests"]["users"]
    told = evergrant("sync", "users", *more)
    assert (told["done"], told["total"], told["before"]) == (220, 220, saved["done"])
    asked = stage.ledger()["management_requests"]["users"] - before
    assert asked <= 220 - saved["done"] + 8  # nobody twice; the rest are pages of the search
    assert places(base) == []
    assert not list(base.settings.data_dir.glob("export-*"))
    assert count_of_grants(base) == 220


def places(base: Base) -> list[dict[str, Any]]:
    """Of backfills under way: what was saved."""
    with reading(base.engine) as connection:
        kept = connection.execute(select(TenantRow.backfill)).scalars().all()
    return [one["state"] for told in kept for one in told.values() if one["state"]]


def count_of_grants(base: Base) -> int:
    with reading(base.engine) as connection:
        return connection.execute(select(func.count()).select_from(GrantRow)).scalar_one()


def until(holds: Callable[[], object]) -> None:
    end = time.monotonic() + 120
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.02)


def heed_sigint() -> None:
    """What a shell starts in the background ignores it, and so would what that starts."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_a_backfill_says_on_interruption_how_to_go_on(stage, base):
    stage.do("logins", connection=GOOGLE, subjects=[f"u{n}" for n in range(220)])
    command = [sys.executable, "-m", "worker.cli", "sync", "users"]
    stopped = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=heed_sigint
    )
    until(lambda: places(base) or stopped.poll() is not None)
    stopped.send_signal(signal.SIGINT)
    _, said = stopped.communicate(timeout=30)
    assert stopped.returncode == 130
    assert "the same command goes on there" in said
    assert "Traceback" not in said


def test_ids_come_from_a_file_a_pipe_or_an_export(stage, base, evergrant, tmp_path, monkeypatch):
    rosa, emil = stage.login(GOOGLE, "rosa"), stage.login("acme-bitbucket", "emil")
    listed = tmp_path / "ids.txt"
    listed.write_text(f"# those of yesterday\r\n{rosa}\r\n\r\n{rosa}\n", encoding="utf-8-sig")
    assert evergrant("sync", "users", "--ids", str(listed))["done"] == 1
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(f"{emil}\nx|1\n".encode())))
    told = evergrant("sync", "users", "--ids", "-")
    assert (told["done"], told["gone"]) == (1, 1)
    exported = tmp_path / "acme.json.gz"
    exported.write_bytes(
        gzip.compress(f'{{"user_id":"{rosa}"}}\n{{"user_id":"{emil}"}}\n'.encode())
    )
    assert evergrant("sync", "users", "--ids", str(exported))["done"] == 2
    assert evergrant("sync", "users", "--export")["done"] == 2
    assert len(grants_of(base, rosa)) == len(grants_of(base, emil)) == 1


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"google-oauth2|1\nrosa@acme.example\n", "line 2: 'rosa@acme.example' is no Auth0 user"),
        (b'{"user_id": 7}\n', "line 1"),
        (b'{"email": "rosa@acme.example"}\n', "line 1"),
        (b"google-oauth2|\x1b[2J\n", "line 1"),
        (b"auth0|" + b"9" * 2000, "line 1"),
        (b"\xff\xfe\x00\x01", "not a text file"),
        (b"\x1f\x8b\x08\x00damaged", "gzip"),
        (b"\n# nobody\n", "no user id in it"),
        (None, "No such file"),
    ],
)
def test_a_list_with_a_mistake_in_it_is_refused_before_anybody_is_read(
    stage, base, evergrant, tmp_path, content, says
):
    path = tmp_path / "ids.txt"
    if content is not None:
        path.write_bytes(content)
    assert says in evergrant("sync", "users", "--ids", str(path), code=2).replace("\n", " ")
    assert stage.ledger()["management_requests"] == {}


def test_a_plan_without_exports_says_so(evergrant, stage, base):
    stage.call(setattr, stage.stage.management.buckets, "plan", "free")
    assert "plan does not include" in evergrant("sync", "users", "--export", code=2)


def test_the_nightly_round_goes_on_where_a_killed_worker_left_it(
    stage, base, evergrant, monkeypatch
):
    users = sorted(stage.do("logins", connection=GOOGLE, subjects=[f"u{n}" for n in range(6)]))
    evergrant("sync", "users")
    stage.login(GOOGLE, "u5", prompt_consent=True)
    read: list[str] = []

    async def night(*, dies_after: int | None) -> None:
        async with OneReading(base) as reading_:
            real = reading_.puller.read

            async def noted(tenant: str, user_id: str, **more: Any) -> Any:
                if len(read) == dies_after:
                    raise asyncio.CancelledError
                read.append(user_id)
                return await real(tenant, user_id, **more)

            monkeypatch.setattr(reading_.puller, "read", noted)
            rounds = TenantRounds(base, reading_, intake_of(base), tell=lambda _: None)
            await rounds.begin_night()
            await rounds.reconcile(TENANT)

    monkeypatch.setattr(rounds_, "_SLICE", 0.0)  # a checkpoint after each user
    monkeypatch.setattr(rounds_, "_LEASE", timedelta(0))
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(night(dies_after=4))
    assert read == users[:4]
    asyncio.run(night(dies_after=None))
    assert read == users
    (told,) = evergrant("sync", "status")
    assert (told["read"], told["newer_upstream"], told["orphaned_here"]) == (6, 1, 0)
    assert told["ended_at"] is not None


# ------------------------------------------------------------------ a user who vanished


def test_a_vanished_user_waits_for_the_operator_where_auth0_cannot_be_asked(stage, base, evergrant):
    rosa, emil = stage.login(GOOGLE, "rosa"), stage.login("acme-bitbucket", "emil")
    evergrant("sync", "users")
    stage.do("faults", provider="auth0", profile="search_refused")
    stage.do("delete_user", user_id=rosa)
    vanish(base, rosa)
    vanish(base, rosa)
    (waiting,) = evergrant("erasure", "waiting")
    assert (waiting["user_id"], waiting["grants"]) == (rosa, 1)
    assert notices(base) == ["user_missing"]
    assert "erasure waiting" not in json.dumps(evergrant("doctor"))
    change(base, GrantRow, withheld_at=datetime.now(UTC) - timedelta(hours=2))
    assert "erasure waiting" in json.dumps(evergrant("doctor"))
    evergrant("tokens", "get", rosa, GOOGLE, code=3)
    (grant,) = grants_of(base, rosa)
    assert "linked" in evergrant("grants", "explain", str(grant.id))["next_step"]

    evergrant("erasure", "confirm", emil, code=3)  # he does not wait
    told = evergrant("erasure", "confirm", rosa)
    assert told["grants"] == [str(grant.id)]
    assert grants_of(base, rosa)[0].state == "tombstoned"
    assert evergrant("erasure", "waiting") == []


def test_the_night_looks_again_and_ends_it_once_auth0_can_be_asked(stage, base, evergrant):
    rosa = stage.login(GOOGLE, "rosa")
    stage.login("acme-bitbucket", "emil")
    evergrant("sync", "users")
    stage.do("faults", provider="auth0", profile="search_blind")
    stage.do("delete_user", user_id=rosa)
    vanish(base, rosa)
    assert grants_of(base, rosa)[0].withheld == "user_missing"
    time.sleep(1.6)
    vanish(base, rosa)
    assert grants_of(base, rosa)[0].state == "active"
    stage.do("clear_faults")
    vanish(base, rosa)
    assert grants_of(base, rosa)[0].state == "tombstoned"
    assert evergrant("erasure", "waiting") == []


def test_a_user_whom_auth0_knows_is_not_erased_by_a_slip(stage, base, evergrant):
    rosa = stage.login(GOOGLE, "rosa")
    evergrant("sync", "users")
    change(base, GrantRow, withheld="user_missing", withheld_at=datetime.now(UTC))
    assert "nothing is erased" in evergrant("erasure", "confirm", rosa, code=2)
    assert grants_of(base, rosa)[0].withheld is None  # and he is there again


# ------------------------------------------------------------------ quarantine


def test_a_quarantined_grant_is_released_by_hand_and_only_then(stage, base, evergrant):
    rosa = stage.login(GOOGLE, "rosa")
    evergrant("sync", "users")
    (grant,) = grants_of(base, rosa)
    assert "not quarantined" in evergrant("grants", "release", str(grant.id), code=2)
    change(base, GrantRow, state="quarantined", reason="shared_spender", due_at=None)
    told = evergrant("grants", "release", str(grant.id))
    assert told == {"grant": str(grant.id), "released": True, "was": "shared_spender"}
    (grant,) = grants_of(base, rosa)
    assert (grant.state, grant.reason) == ("active", None)
    assert grant.due_at is not None
    assert "released" in verbs(base)


# ------------------------------------------------------------------ connections


@pytest.fixture
def stopped(stage: RunningStage, base: Base, evergrant: Run) -> str:
    """A connection that was approved for a host other than the one it names."""
    user_id: str = stage.login(GOOGLE, "rosa")
    evergrant("sync", "connections")
    evergrant("sync", "users")
    change(
        base, ConnectionRow, approved_host="elsewhere.example", stopped="its token host changed",
        stopped_at=datetime.now(UTC),
    )  # fmt: skip
    later = datetime.now(UTC) + timedelta(minutes=9)
    change(base, GrantRow, last_error="connection_stopped", due_at=later)
    return user_id


def test_a_stopped_connection_says_why_and_what_to_do(base, evergrant, stopped):
    told = evergrant("connections", "explain", GOOGLE)
    assert (told["stopped"], told["approved_host"]) == (
        "its token host changed",
        "elsewhere.example",
    )
    assert told["host_today"].startswith("127.0.0.1")
    assert (told["grants"], told["users"]) == (1, 1)
    assert told["do"][0].endswith(f"approve-host {GOOGLE} {told['host_today']}")
    listed = evergrant("connections", "list", "--bad")
    assert {one["name"] for one in listed} == {one.name for one in CONNECTIONS}
    evergrant("connections", "explain", "nonsense", code=3)


def test_a_changed_host_is_not_approved_by_reopening(base, evergrant, stopped):
    assert "approve-host" in evergrant("connections", "reopen", GOOGLE, code=2)
    assert evergrant("connections", "explain", GOOGLE)["stopped"]


@pytest.mark.parametrize("host", ["evil.example", "*", "127.0.0.1", "", "elsewhere.example"])
def test_no_host_is_approved_but_the_one_that_is_named_today(base, evergrant, stopped, host):
    evergrant("connections", "approve-host", GOOGLE, host, code=2)
    told = evergrant("connections", "explain", GOOGLE)
    assert (told["approved_host"], bool(told["stopped"])) == ("elsewhere.example", True)


def test_an_approved_host_opens_the_connection_and_its_grants_are_due(base, evergrant, stopped):
    today = evergrant("connections", "explain", GOOGLE)["host_today"]
    told = evergrant("connections", "approve-host", GOOGLE, today)
    assert (told["before"], told["grants_due"]) == ("elsewhere.example", 1)
    now = evergrant("connections", "explain", GOOGLE)
    assert (now["approved_host"], now["stopped"], now["do"]) == (today, None, [])
    assert grants_of(base, stopped)[0].due_at <= datetime.now(UTC) + timedelta(seconds=30)
    assert "host_approved" in verbs(base)


def test_a_mended_connection_is_reopened_with_its_held_verdicts(base, evergrant, stopped):
    later = datetime(2099, 1, 1, tzinfo=UTC)
    change(base, ConnectionRow, approved_host=None, brake_until=later)
    assert evergrant("connections", "explain", GOOGLE)["verdicts_held"]
    assert evergrant("connections", "reopen", GOOGLE)["grants_due"] == 1
    told = evergrant("connections", "explain", GOOGLE)
    assert (told["stopped"], told["verdicts_held"]) == (None, False)
    assert "connection_reopened" in verbs(base)


# ------------------------------------------------------------------ facts about a connection


FACTS = {
    "another client": (GOOGLE, {"options": {"client_id": "another", "client_secret": "x"}},
                       "client_swapped", "connection_problem"),
    "options wiped by another tool": ("acme-workspace", {"options": {
        "client_id": "c", "client_secret": "x"}}, "consent_lost", "consent_lost"),
    "a client wiped by another tool": (GOOGLE, {"options": {"client_id": None}}, "client_lost",
                                       "connection_problem"),
    "developer keys": (GOOGLE, {"options": {"client_id": "", "client_secret": ""}},
                       "developer_keys", "connection_problem"),
    "Token Vault switched on": (GOOGLE, {"connected_accounts": {"active": True}},
                                "token_vault", "connection_problem"),
}  # fmt: skip


@pytest.mark.parametrize(("name", "patch", "code", "kind"), FACTS.values(), ids=FACTS)
def test_an_edit_at_auth0_is_told_with_the_users_it_concerns(
    stage, base, evergrant, name, patch, code, kind
):
    users = [stage.login(name, subject) for subject in ("rosa", "emil")]
    evergrant("sync", "connections")
    evergrant("sync", "users")
    options = {**stage.stage.tenant.connections[name].options, **patch.get("options", {})}
    for admin in ("admin_access_token", "admin_refresh_token", "admin_access_token_expiresin"):
        options.pop(admin, None)
    stage.do("patch_connection", name=name, **{**patch, "options": options})
    evergrant("sync", "connections")
    evergrant("sync", "connections")
    assert notices(base).count(kind) == 1
    told = evergrant("connections", "explain", name)
    assert code in told["problems"]
    assert told["users"] == 2
    lasts = code in ("client_swapped", "consent_lost")
    assert any(("clear" if lasts else "sync connections") in one for one in told["do"])
    said = [one for one in evergrant("doctor")["checks"] if name in one["name"]]
    assert any("2 users" in one["told"] for one in said), said
    (grant,) = [g for g in grants_of(base, users[0]) if g.part == "user"]
    assert code in evergrant("grants", "explain", str(grant.id))["connection_problems"]
    assert grant.refresh_token is not None  # nothing that we hold is deleted by any of them
    assert evergrant("connections", "clear", name)["cleared"]


def test_a_deprecation_that_auth0_told_of_is_told_on(base, evergrant):
    def said() -> list[str]:
        return [one["told"] for one in evergrant("doctor")["checks"] if "to end" in one["told"]]

    assert said() == []
    for record in ("9001", "9002"):
        notice = Notice(
            tenant=TENANT, kind="auth0_deprecation", episode=record,
            reason=f"depnote, log record {record}",
        )  # fmt: skip
        NoticeRepository(base.engine).tell([notice], now=base.clock.now())
    (told,) = said()
    assert "told 2 times" in told
    assert "log record 9002" in told


# ------------------------------------------------------------------ deletion (I14)


@pytest.fixture
def worker(base: Base) -> Iterator[Worker]:
    made = Worker(base.settings)
    yield made
    made.close()


def test_a_deleted_user_is_revoked_erased_and_brought_back_by_nothing(
    stage, base, evergrant, worker, capsys
):
    rosa, emil = stage.login(GOOGLE, "rosa"), stage.login("acme-bitbucket", "emil")
    evergrant("sync", "connections")
    evergrant("sync", "users")
    (grant,) = grants_of(base, rosa)
    told = msgspec.json.encode([r for r in stage.stage.tenant.log.records if rosa in str(r)])
    late_pull = asyncio.run(read_but_not_merged(base, rosa))

    stage.do("delete_user", user_id=rosa)
    vanish(base, rosa)
    assert grants_of(base, rosa)[0].state == "active"
    assert "ended after the quiet time" in json.dumps(evergrant("doctor"))
    evergrant("tokens", "get", rosa, GOOGLE, code=3)
    evergrant("erasure", "show", rosa, code=3)
    look_again(worker, lambda: grants_of(base, rosa)[0].state == "tombstoned")
    evergrant("tokens", "get", rosa, GOOGLE, code=1)
    GrantTable(base.engine, base.vault(), base.clock).add_candidate(grant.id, "rt-late")
    assert worker.upkeep("revocations") == {"revoked": 2}  # a late answer's token too
    assert stage.ledger()["providers"]["google-oauth2"]["revoked_by_us"] >= 1

    def is_gone() -> bool:
        (row,) = grants_of(base, rosa)
        held = (row.access_token, row.refresh_token, row.access_key, row.refresh_key)
        return row.state == "erased" and held == (None,) * 4

    assert is_gone()
    assert late_pull().overtaken
    intake = intake_of(base)
    asyncio.run(intake.receive(TENANT, Source.LOGS, told, offload=base.offload))
    worker.events()
    evergrant("events", "replay")
    worker.events()
    with pytest.raises(NotFoundError):
        pull(base, rosa)
    evergrant("sync", "users")
    assert is_gone()
    receipt = evergrant("erasure", "show", str(grant.id))
    assert receipt == evergrant("erasure", "show", rosa)
    assert [entry["what"] for entry in receipt] == [
        "withheld",
        "tombstoned",
        "revocation",
        "revocation",
        "erased",
    ]
    assert receipt[1]["quiet_seconds"] >= 1
    assert receipt[-1]["keys_destroyed"]
    assert call(["grants", "list", "--user", rosa]) == 0
    said = capsys.readouterr().out
    assert "user_deleted" in said
    assert "user_missing" not in said
    assert grants_of(base, emil)[0].state == "active"


def test_what_a_deleted_connection_brought_is_revoked_at_its_provider(
    stage, base, evergrant, worker
):
    """With it go its users; the client that their tokens are revoked as is known from before."""
    rosa, _ = stage.login(GOOGLE, "rosa"), stage.login("acme-bitbucket", "emil")
    evergrant("sync", "connections")
    evergrant("sync", "users")
    stage.do("delete_connection", name=GOOGLE)
    assert evergrant("sync", "connections")["gone"] == 1
    vanish(base, rosa)
    look_again(worker, lambda: grants_of(base, rosa)[0].state == "tombstoned")
    assert worker.upkeep("revocations") == {"revoked": 1}
    assert stage.ledger()["providers"][GOOGLE]["revoked_by_us"] == 1
    assert grants_of(base, rosa)[0].state == "erased"


def test_linking_two_users_ends_nothing(stage, base, evergrant, worker):
    rosa, emil = stage.login(GOOGLE, "rosa"), stage.login("acme-bitbucket", "emil")
    evergrant("sync", "users")
    (grant,) = grants_of(base, emil)
    stage.do("link", primary=rosa, secondary=emil)
    vanish(base, emil)
    time.sleep(1.6)
    vanish(base, emil)
    assert worker.upkeep("revocations") == {}
    assert grants_of(base, emil) == []
    assert {row.state for row in grants_of(base, rosa)} == {"active"}
    assert len(grants_of(base, rosa)) == 2
    assert stage.ledger()["total"]["revoked_by_us"] == 0
    evergrant("erasure", "show", str(grant.id), code=3)


async def read_but_not_merged(base: Base, user_id: str) -> Callable[[], Merged]:
    """A pull that is overtaken by the deletion between its GET and its merge."""
    async with OneReading(base) as reading_:
        begun = PullRepository(base.engine).begin(
            TENANT, user_subject(user_id), now=base.clock.now()
        )
        user = await reading_.apis[TENANT].user(user_id)
        arrivals = await reading_.puller.arrivals(TENANT, user)
    merges = MergeRepository(base.engine, base.vault(), base.audit, actor="test")
    return lambda: merges.merge(begun, arrivals, user_id=user_id, now=base.clock.now())
