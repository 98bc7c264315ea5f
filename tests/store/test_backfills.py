"""Where a backfill goes on, on both stores."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from tests.clock import T0
from worker.store.backfills import BackfillRepository


@pytest.fixture
def store(engine: Any) -> BackfillRepository:
    return BackfillRepository(engine)


def begin(store: BackfillRepository, run: str, *, what: str = "search", **more: Any) -> Any:
    return store.begin("acme", what, run, **{"now": T0, **more})


def save(store: BackfillRepository, run: str, at: int, *, what: str = "search") -> bool:
    return store.save("acme", what, run, {"done": at}, now=T0)


def test_the_next_run_begins_where_the_last_was_saved(store: BackfillRepository) -> None:
    assert begin(store, "a") == {}
    assert save(store, "a", 100)
    assert begin(store, "b") == {"done": 100}
    assert not save(store, "a", 200)  # it is b's now
    assert save(store, "b", 200)
    store.end("acme", "search", "a")  # not a's to end either
    assert begin(store, "c") == {"done": 200}
    store.end("acme", "search", "c")
    assert begin(store, "d") == {}


def test_each_list_and_tenant_has_its_own_place(store: BackfillRepository) -> None:
    begin(store, "a")
    save(store, "a", 100)
    assert begin(store, "b", what="ids:1") == {}
    assert store.begin("other", "search", "c", now=T0) == {}
    assert begin(store, "d", anew=True) == {}


def test_what_nobody_went_on_with_for_a_month_is_forgotten(store: BackfillRepository) -> None:
    begin(store, "a", what="ids:1")
    save(store, "a", 100, what="ids:1")
    begin(store, "b", what="ids:2", now=T0 + timedelta(days=31))
    assert begin(store, "c", what="ids:1", now=T0 + timedelta(days=31)) == {}
