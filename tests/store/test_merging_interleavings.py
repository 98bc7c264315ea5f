"""The store does what the enumerated model does, step for step, in orders drawn at random."""

from __future__ import annotations

from random import Random

import pytest
from sqlalchemy import insert, update

from tests.domain.merge_world import Rules, World
from tests.store.test_merging import Tenant, copy
from worker.domain.secret import Secret
from worker.store.engine import writing
from worker.store.pulls import Begun
from worker.store.tables import GrantRow, SeenRefreshTokenRow

CHAINS = {"login": 2, "renew": 2, "first": 4, "second": 3}  # as `merge_world.chains`


def an_order(seed: int) -> list[str]:
    steps = [name for name, length in CHAINS.items() for _ in range(length)]
    Random(seed).shuffle(steps)
    return steps


def named(token: tuple[int, int]) -> str:
    return f"{token[0]}/{token[1]}"


class Twin:
    """The model's world and the store, side by side."""

    def __init__(self, tenant: Tenant) -> None:
        self.tenant, self.world = tenant, World()
        self.begun: dict[str, Begun] = {}
        self.at: dict[str, int] = {}
        tenant.pull(copy("0/0", "at-0", login="0"))

    def step(self, name: str) -> None:
        if name == "login":
            self.world = self.world.login_happens()
        elif name == "renew":
            self.world = self.world.renew()
            self._renew()
        else:
            self._pull(name)
        assert self.current() == self.world.ours

    def _pull(self, name: str) -> None:
        place = self.at[name] = self.at.get(name, 0) + 1
        if place == 1:
            self.world = self.world.begin(name)
            self.begun[name] = self.tenant.begin()
        elif place == 2:
            self.world = self.world.get(name)
        else:
            read = self.world.read[name]
            self.world = self.world.merge(name, Rules())
            copied = copy(named(read.token), f"at {read.token}", login=str(read.logins))
            self.tenant.merge(self.begun[name], copied)

    def _renew(self) -> None:
        """What a renewal leaves behind, as far as merging looks."""
        row, rt = self.tenant.grant(), self._fp(named(self.world.ours))
        values = {"rt_fp": rt, "generation": row.generation + 1, "at_fp": rt}
        seen = {"grant_id": row.id, "fp": rt, "generation": 0, "seen_at": self.tenant.now}
        with writing(self.tenant.engine) as database:
            database.execute(update(GrantRow).values(**values))
            database.execute(insert(SeenRefreshTokenRow).values(**seen))

    def current(self) -> tuple[int, int]:
        row = self.tenant.grant()
        every = [(f, n) for f, latest in enumerate(self.world.latest) for n in range(latest + 1)]
        return next(token for token in every if self._fp(named(token)) == row.rt_fp)

    def _fp(self, token: str) -> bytes:
        return self.tenant.vault.fingerprint(Secret(token))


@pytest.mark.parametrize("seed", range(12))
def test_the_store_agrees_with_the_model_in_every_order(engine, vault, seed):
    twin = Twin(Tenant(engine, vault))
    for name in an_order(seed):
        twin.step(name)
    assert not twin.world.wrong
