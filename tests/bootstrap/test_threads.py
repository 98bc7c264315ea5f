"""Calls that the loop hands to threads."""

from __future__ import annotations

import asyncio
import os

import pytest

from worker.bootstrap.runtime import Threads


@pytest.fixture
def threads():
    pool = Threads(1)
    yield pool
    pool.close()


@pytest.fixture
def allowed():
    """The CPUs of this process; whoever changes them finds them again."""
    cpus = os.sched_getaffinity(0)
    yield sorted(cpus)
    os.sched_setaffinity(0, cpus)


def test_a_call_runs_on_the_cpu_where_the_loop_is(threads, allowed):
    """And moves with it; of a pool of one, it is the same thread each time."""

    async def main():
        for cpu in (allowed[0], allowed[-1], allowed[0]):
            os.sched_setaffinity(0, {cpu})
            assert await threads(os.sched_getaffinity, 0) == {cpu}

    asyncio.run(main())


def test_where_no_cpu_may_be_chosen_a_call_runs_all_the_same(threads, monkeypatch):
    def refuse(*_):
        raise PermissionError

    monkeypatch.setattr(os, "sched_setaffinity", refuse)
    assert asyncio.run(_of(threads)) == "done"


async def _of(threads):
    return await threads(lambda: "done")
