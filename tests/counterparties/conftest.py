"""`toolkit` and `authlib`: one server each per session, set back to its defaults for each test."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.counterparties import authlib_server
from tests.counterparties.counterparty import Counterparty, environment

# Library authors' own defaults, but for a lifetime that a test can see the end of.
TOOLKIT = {"ACCESS_TOKEN_EXPIRE_SECONDS": 60}
AUTHLIB = {"rotate": True, "reuse_revokes": False, "lifetime": 60}


@pytest.fixture(scope="session")
def _toolkit(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Counterparty]:
    database = tmp_path_factory.mktemp("toolkit") / "toolkit.db"
    root = Path(__file__).parents[2]
    command = [sys.executable, "-m", "tests.counterparties.toolkit_server", str(database)]
    with subprocess.Popen(
        command, cwd=root, env=environment(), stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        port = process.stdout.readline().strip()
        assert port, "django-oauth-toolkit did not start"
        yield Counterparty("django-oauth-toolkit", f"http://127.0.0.1:{port}", TOOLKIT)
        process.kill()


@pytest.fixture(scope="session")
def _authlib() -> Iterator[Counterparty]:
    with authlib_server.serving() as url:
        yield Counterparty("Authlib", url, AUTHLIB)


@pytest.fixture
def toolkit(_toolkit: Counterparty) -> Counterparty:
    """django-oauth-toolkit: ROTATE_REFRESH_TOKEN and its kin by `configure`."""
    _toolkit.configure()
    return _toolkit


@pytest.fixture
def authlib(_authlib: Counterparty) -> Counterparty:
    """Authlib: rotate, reuse_revokes, lifetime by `configure`; private_key_jwt by `mint`."""
    _authlib.configure()
    return _authlib


@pytest.fixture(params=["toolkit", "authlib"])
def counterparty(request: pytest.FixtureRequest) -> Counterparty:
    """Either of them."""
    found: Counterparty = request.getfixturevalue(request.param)
    return found
