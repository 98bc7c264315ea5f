"""`evergrant keys … --tenant`: a keyring of a tenant's own, from its making to its last key."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.planted import opened, plant
from tests.vault.fake_transit import TOKEN, fake_transit
from worker import settings as _settings
from worker.bootstrap.base import Role, open_base
from worker.bootstrap.first_start import first_start
from worker.cli.app import call
from worker.vault import OF_A_TENANT, Keyring, Purpose

PAGE = Path(__file__).parents[2] / "docs/keys.md"
TENANT = '[tenants.{0}]\ndomain = "{0}.auth0.com"\nclient_id = "c"\nclient_secret = "s"\n{1}\n'


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A store in which `acme` and `beta` hold a grant each, both under the deployment's keyring."""
    monkeypatch.setenv("EVERGRANT_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("EVERGRANT_BROKER_URL", "memory://")
    monkeypatch.chdir(tmp_path)
    configure(tmp_path)
    made = _settings.load()
    made.data_dir.mkdir()
    first_start(made)
    base = open_base(made, Role.WORKER)
    for tenant in ("acme", "beta"):
        plant(base.engine, base.vault(), now=base.clock.now(), tenant=tenant, rt=f"rt-{tenant}")
    base.close()
    return tmp_path


def configure(place: Path, **keyrings: object) -> None:
    tables = [
        TENANT.format(tenant, f'keyring = "{keyrings[tenant]}"' if tenant in keyrings else "")
        for tenant in ("acme", "beta")
    ]
    (place / "evergrant.toml").write_text("".join(tables))


@pytest.fixture
def evergrant(place, capsys):
    def run(*arguments, code=0):
        capsys.readouterr()
        ended = call([*arguments, "--json"])
        said = capsys.readouterr()
        assert ended == code, said
        return json.loads(said.out) if said.out else said.err

    return run


def tokens() -> dict[str, str]:
    """What a process that starts now opens, by tenant; "" where the keyring is shut."""
    from sqlalchemy import select

    from worker.domain.errors import WorkerError
    from worker.store.engine import reading
    from worker.store.tables import GrantRow

    base = open_base(_settings.load(), Role.WORKER)
    found = {}
    with reading(base.engine) as connection:
        rows = connection.execute(select(GrantRow.tenant, GrantRow.id)).all()
    for tenant, grant in rows:
        try:
            found[tenant] = opened(base.engine, base.vault(), grant)
        except WorkerError:
            found[tenant] = ""
    base.close()
    return found


ALL = {"acme": "rt-acme", "beta": "rt-beta"}


def test_a_tenant_moves_as_the_page_says(place, evergrant):
    """Each command of the page, in its order; after every one of them everything opens."""
    own, old = place / "acme.json", list[str]()
    for command in re.findall(r"^\$ (.* --tenant acme)$", PAGE.read_text(), re.MULTILINE):
        words = command.replace("/etc/evergrant/acme-keyring.json", str(own)).split()[1:]
        for key_id in old if "8f21c09a" in words else [""]:
            told = evergrant(*(key_id if word == "8f21c09a" else word for word in words))
            assert tokens() == ALL, words
        if words[1] == "move":
            assert "[tenants.acme]" in told["next"]
            configure(place, acme=own)  # and all processes are started anew
            old = [key.id for key in Keyring.load(own).keys]
    assert not set(old) & {key.id for key in Keyring.load(own).keys}


def test_each_step_of_a_move_can_be_looked_at(place, evergrant):
    own = place / "acme.json"
    evergrant("keys", "move", str(own), "--tenant", "acme")
    assert {key.purpose for key in Keyring.load(own).keys} == OF_A_TENANT
    assert tokens() == ALL
    configure(place, acme=own)
    assert tokens() == ALL
    listed = evergrant("keys", "list")
    old = [key["id"] for key in listed if key["tenants"] == "acme"]
    assert len(listed) == 4 + 3
    evergrant("keys", "rotate", "--tenant", "acme")
    assert tokens() == ALL
    refused = evergrant("keys", "disable", old[0], "--tenant", "acme")
    assert refused["state"] == "disabled"
    assert tokens()["beta"] == "rt-beta"
    assert "ciphertexts" in evergrant("keys", "destroy", old[0], "--tenant", "acme", code=2)
    evergrant("keys", "enable", old[0], "--tenant", "acme")
    assert evergrant("keys", "rewrap", "--tenant", "acme") == {"moved": 1, "left": 0}
    assert tokens() == ALL
    for key in old:
        evergrant("keys", "disable", key, "--tenant", "acme")
        evergrant("keys", "destroy", key, "--tenant", "acme")
    assert tokens() == ALL
    shared = {key["id"] for key in evergrant("keys", "list") if key["tenants"] != "acme"}
    theirs = {key["id"] for key in evergrant("keys", "list", "--tenant", "acme")}
    assert not shared & theirs
    assert set(old) < shared, "the others' keys were not touched"
    findings = evergrant("doctor", code=1)["checks"]
    told = [check for check in findings if check["name"].startswith("keyring")]
    assert {check["status"] for check in told} == {"ok"}
    assert {check["name"] for check in told} == {"keyring", "keyring of acme"}


def test_a_key_of_the_deployment_stays_as_long_as_a_tenant_that_moves_may_need_it(place, evergrant):
    """A process that was not started anew still opens acme's grants with it."""
    own = place / "acme.json"
    evergrant("keys", "move", str(own), "--tenant", "acme")
    configure(place, acme=own)
    old = [key["id"] for key in evergrant("keys", "list") if key["tenants"] == "(all others)"]
    evergrant("keys", "rotate", "rt")
    assert evergrant("keys", "rewrap") == {"moved": 1, "left": 0}  # beta's
    evergrant("keys", "disable", old[0])
    assert "1 ciphertexts" in evergrant("keys", "destroy", old[0], code=2)
    assert tokens() == ALL


def test_a_new_tenants_keyring_is_made_and_one_with_data_is_led_to_move(place, evergrant):
    configure(place, acme=place / "acme.json")
    assert "keys move FILE --tenant acme" in evergrant("keys", "create", "--tenant", "acme", code=2)
    text = (place / "evergrant.toml").read_text()
    more = TENANT.format("fresh", f'keyring = "{place / "fresh.json"}"')
    (place / "evergrant.toml").write_text(text + more)
    assert evergrant("keys", "create", "--tenant", "fresh")["keys"] == len(OF_A_TENANT)
    assert "never overwritten" in evergrant("keys", "create", "--tenant", "fresh", code=2)


def test_the_deployments_keyring_is_made_once_where_roles_run_apart(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EVERGRANT_KEYRING", str(tmp_path / "keys/ring.json"))
    (tmp_path / "evergrant.toml").write_text(TENANT.format("acme", ""))
    assert call(["migrate"]) == 0
    assert call(["keys", "list"]) == 2
    assert "`evergrant keys create` makes one" in capsys.readouterr().err
    assert call(["keys", "create"]) == 0
    made = Keyring.load(tmp_path / "keys/ring.json")
    assert {key.purpose for key in made.keys} == set(Purpose)
    assert call(["keys", "create"]) == 2
    assert "never overwritten" in capsys.readouterr().err


def test_a_lost_keyring_is_not_replaced_by_one_that_opens_nothing(place, evergrant):
    (place / "data/keyring.json").rename(place / "lost.json")
    assert "restore the one" in evergrant("keys", "create", code=2)
    assert not (place / "data/keyring.json").exists()


@pytest.mark.parametrize("verb", ["rotate", "list", "rewrap"])
def test_a_tenant_without_a_keyring_of_its_own_is_no_reason_to_touch_the_deployments(
    place, evergrant, verb
):
    assert "uses the deployment's keyring" in evergrant("keys", verb, "--tenant", "beta", code=2)
    assert "no tenant 'nobody'" in evergrant("keys", verb, "--tenant", "nobody", code=2)


def test_one_broken_keyring_is_told_by_name_and_holds_up_no_other(place, evergrant):
    own = place / "acme.json"
    evergrant("keys", "move", str(own), "--tenant", "acme")
    configure(place, acme=own)
    evergrant("keys", "rotate")
    own.write_text("{")
    findings = evergrant("doctor", code=1)["checks"]
    (bad,) = [c for c in findings if c["name"] == "keyring of acme"]
    assert bad["status"] == "fail"
    assert str(own) in bad["told"]
    assert "everything in the store opens with it" not in {
        c["told"] for c in findings if c["name"] == "keyring of acme"
    }
    assert any(c["name"] == "tenant beta" for c in findings), "the others are looked at as ever"
    evergrant("keys", "rewrap", code=2)
    assert tokens() == {**ALL, "acme": ""}
    shared = place / "data/keyring.json"
    ids = {key.id for key in Keyring.load(shared).keys if key.state == "primary"}
    base = open_base(_settings.load(), Role.CLI)
    from worker.store.rewrap import references
    from worker.store.whose import Whose

    assert set(references(base.engine, Whose(only=frozenset({"beta"})))) <= ids, "beta's moved"
    base.close()


def test_a_tenants_keyring_is_wrapped_by_vault_and_exported_for_a_role(
    place, evergrant, monkeypatch
):
    monkeypatch.setenv("VAULT_TOKEN", TOKEN)
    with fake_transit() as transit:
        address = transit.address(place / "acme.json")
        evergrant("keys", "move", address, "--tenant", "acme")
        configure(place, acme=address)
        assert tokens() == ALL
        evergrant("keys", "rotate", "--tenant", "acme")
        assert evergrant("keys", "rewrap") == {"moved": 1, "left": 0}
        assert tokens() == ALL
        web = transit.address(place / "web.json")
        told = evergrant("keys", "export", web, "--role", "web", "--tenant", "acme")
        assert told["for"] == ["access tokens"]
        transit.sealed = True
        assert tokens() == {**ALL, "acme": ""}, "and the process starts all the same"
        transit.sealed = False
        evergrant("keys", "move", str(place / "out.json"), "--tenant", "acme")
        configure(place, acme=place / "out.json")
        assert tokens() == ALL
