"""The key matrix (I17, T13): which process comes to hold which keys, built as it is in the field.

Asked of the garbage collector: what counts is what lies in the process's memory, not what its
code says it will use.
"""

from __future__ import annotations

import gc
import resource
from collections.abc import Callable

import pytest

from worker import settings as _settings
from worker.bootstrap.base import Role, load_entries, open_base
from worker.bootstrap.first_start import first_start
from worker.bootstrap.working import Worker
from worker.cli.asgi import build_web
from worker.cli.run import flower_arguments
from worker.domain.errors import ConfigurationError
from worker.domain.grant import GrantId
from worker.domain.secret import Secret
from worker.queue.app import celery_app
from worker.settings import Settings
from worker.vault import AesVault, Keyring, Purpose
from worker.vault.keyring import Key

TENANT, GRANT = "acme", GrantId.__supertype__(int=7)


@pytest.fixture
def settings(tmp_path, monkeypatch):
    """A first start on embedded defaults: a migrated store, and a keyring with every key."""
    environment = {
        "EVERGRANT_DATA_DIR": str(tmp_path / "data"),
        "EVERGRANT_BROKER_URL": "memory://",
    }
    made = _settings.load(environment, directory=tmp_path)
    made.data_dir.mkdir()
    first_start(made)
    return made


def web(settings: Settings) -> object:
    return build_web(settings)


def worker(settings: Settings) -> object:
    return Worker(settings)


def scheduler(settings: Settings) -> object:
    """As `worker.tasks.app` opens it when beat starts."""
    return open_base(settings, Role.SCHEDULER)


def flower(settings: Settings) -> object:
    return celery_app(settings, load_entries(settings).names()), flower_arguments(settings)


MATRIX: dict[Callable[[Settings], object], set[Purpose]] = {
    web: {Purpose.ACCESS},  # hands tokens out; API keys and webhook secrets are digests
    worker: set(Purpose),  # renews, merges, pulls, and signs the audit's anchors
    scheduler: set(),
    flower: set(),
}


@pytest.mark.parametrize(
    ("role", "purposes"), MATRIX.items(), ids=lambda x: getattr(x, "__name__", "")
)
def test_a_process_holds_the_keys_it_needs_and_no_other(settings, role, purposes):
    before = _keys()
    container = role(settings)
    held = {key.purpose for key in _keys() if all(key is not known for known in before)}
    assert held == purposes
    if isinstance(container, Worker):
        container.close()


def _keys() -> list[Key]:
    gc.collect()
    return [found for found in gc.get_objects() if isinstance(found, Key)]


@pytest.fixture
def sealed(settings):
    """An access token, a refresh token and a client secret, as a worker seals them."""
    vault = open_base(settings, Role.WORKER).vault()
    access_key, refresh_key = vault.new_keys(TENANT, GRANT)
    place = {"tenant": TENANT, "grant": GRANT, "generation": 0}
    at = {"kind": "at", "key": access_key, **place}
    rt = {"kind": "rt", "key": refresh_key, **place}
    access, refresh = vault.seal(Secret("a"), **at), vault.seal(Secret("r"), **rt)
    config = vault.seal_config(Secret("c"), tenant=TENANT, scope="x")
    return {
        "access token": lambda vault: vault.open(access, **at),
        "refresh token": lambda vault: vault.open(refresh, **rt),
        "client secret": lambda vault: vault.open_config(config, tenant=TENANT, scope="x"),
        "fingerprint": lambda vault: vault.fingerprint(Secret("r")),
        "signature": lambda vault: vault.authenticate(b"audit"),
    }


@pytest.mark.parametrize(
    ("role", "opens"),
    [
        (Role.WEB, {"access token"}),
        (Role.SCHEDULER, set()),
        (
            Role.WORKER,
            {"access token", "refresh token", "client secret", "fingerprint", "signature"},
        ),
    ],
)
def test_what_it_has_no_key_for_it_cannot_open(settings, sealed, role, opens):
    vault = open_base(settings, role).vault()
    for what, attempt in sealed.items():
        if what in opens:
            assert attempt(vault)
            continue
        with pytest.raises(ConfigurationError, match="was given no key"):
            attempt(vault)


def test_connections_are_read_without_their_secrets_by_who_may_not_open_them(settings):
    base = open_base(settings, Role.WEB)
    assert not isinstance(base.connections()._vault, AesVault)


def test_the_web_process_is_content_with_a_keyring_of_its_own(settings, tmp_path, monkeypatch):
    """On a machine of its own it need not even be given the file with the other keys."""
    whole = Keyring.load(settings.keyring)
    monkeypatch.setenv("WEB_KEYS", whole.limited_to({Purpose.ACCESS}).to_json().decode())
    told = settings.model_copy(update={"keyring": "env:WEB_KEYS"})
    assert build_web(told)
    with pytest.raises(ConfigurationError, match="was given no key"):
        Worker(told)._base.vault().seal_config(Secret("c"), tenant=TENANT, scope="x")


@pytest.mark.parametrize("role", Role)
def test_a_crash_writes_no_memory_to_disk(settings, role, monkeypatch):
    """A core file would hold every key and token in the clear."""
    limits = []
    monkeypatch.setattr(resource, "setrlimit", lambda what, to: limits.append((what, to[0])))
    open_base(settings, role)
    assert limits == [(resource.RLIMIT_CORE, 0)]
