"""Where operators' handlers run: apart from the loop that carries everything else.

A handler that blocks, that never ends, or that ends the interpreter for all it knows, must not
hold up a renewal. So `async` ones share an event loop on a thread of its own, which is left behind
for a new one when it does not answer any more; plain functions get a thread each. All of these
are daemons: a process that wants to stop does not wait for them.
"""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Awaitable, Callable, Coroutine, MutableMapping
from concurrent.futures import Future
from typing import Any, NoReturn, TypeVar

from worker.actions.api import ActionEvent, Api
from worker.monitoring.logs import logger

_log = logger(__name__)

T = TypeVar("T")

_AT_ONCE = 8  # plain functions that run in time; others wait for them
_MOST_LEFT = 64  # threads that never came back; more are not begun
_ANSWERS_WITHIN = 1.0  # seconds; a loop that does not is held up by a handler


class ActionEndedError(Exception):
    """A handler raised what is no exception of its own to raise: SystemExit, CancelledError."""


class ActionStuckError(Exception):
    """Too many handlers have never come back."""


class Apart:
    """One for a process; `run` is called on the main loop."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._threads: list[threading.Thread] = []
        self._looks: set[asyncio.Future[None]] = set()
        self._gate = asyncio.Semaphore(_AT_ONCE)

    async def run(self, handler: Callable[..., Any], event: ActionEvent, api: Api) -> None:
        """The caller sets the time-out. Raises: what the handler raises; the two above."""
        here = asyncio.get_running_loop()
        if _is_async(handler):
            await self._on_a_loop(handler(event, AwaitedApi(api, here)))
        else:
            async with self._gate:
                await self._on_a_thread(lambda: handler(event, BlockingApi(api, here)))

    async def _on_a_loop(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        loop = self._loop = self._loop or _new_loop()
        running = asyncio.run_coroutine_threadsafe(_tamed(coroutine), loop)
        try:
            await asyncio.wrap_future(running)
        except asyncio.CancelledError:
            ours = asyncio.current_task()
            if ours is not None and not ours.cancelling():
                raise ActionEndedError("CancelledError") from None
            self._looks.add(look := asyncio.ensure_future(self._leave_unless_it_answers(loop)))
            look.add_done_callback(self._looks.discard)
            raise

    async def _leave_unless_it_answers(self, loop: asyncio.AbstractEventLoop) -> None:
        asked = asyncio.run_coroutine_threadsafe(asyncio.sleep(0), loop)
        try:
            await asyncio.wait_for(asyncio.wrap_future(asked), _ANSWERS_WITHIN)
        except TimeoutError:
            if self._loop is loop:
                _log.error("an async action blocks; it is left behind")
                self._loop = None

    async def _on_a_thread(self, call: Callable[[], Any]) -> None:
        self._threads = [thread for thread in self._threads if thread.is_alive()]
        if len(self._threads) >= _MOST_LEFT:
            raise ActionStuckError
        done: Future[None] = Future()
        thread = threading.Thread(target=_call, args=(call, done), name="action", daemon=True)
        self._threads.append(thread)
        thread.start()
        await asyncio.wrap_future(done)


class _There:
    """An `Api` for handlers that run elsewhere: what it does is done on the main loop."""

    def __init__(self, api: Api, main: asyncio.AbstractEventLoop) -> None:
        self._api = api
        self._main = main
        self.memory: MutableMapping[str, Any] = api.memory

    def again(self, why: str, *, after: float) -> NoReturn:
        self._api.again(why, after=after)

    def log(self, message: str, **fields: Any) -> None:
        self._api.log(message, **fields)

    def _asked(self, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
        return asyncio.run_coroutine_threadsafe(coroutine, self._main)


class AwaitedApi(_There):
    """For `async` handlers; see `Api` for what each call does."""

    async def pull_user(self, user_id: str | None = None) -> bool:
        return await self._done(self._api.pull_user(user_id))

    async def pull_connection(self, name: str | None = None) -> bool:
        return await self._done(self._api.pull_connection(name))

    async def drop_user(self, user_id: str | None = None) -> bool:
        return await self._done(self._api.drop_user(user_id))

    async def notify(self, kind: str, reason: str = "") -> None:
        await self._done(self._api.notify(kind, reason))

    def _done(self, coroutine: Coroutine[Any, Any, T]) -> Awaitable[T]:
        return asyncio.wrap_future(self._asked(coroutine))


class BlockingApi(_There):
    """For plain functions: the same calls, without `await`."""

    def pull_user(self, user_id: str | None = None) -> bool:
        return self._asked(self._api.pull_user(user_id)).result()

    def pull_connection(self, name: str | None = None) -> bool:
        return self._asked(self._api.pull_connection(name)).result()

    def drop_user(self, user_id: str | None = None) -> bool:
        return self._asked(self._api.drop_user(user_id)).result()

    def notify(self, kind: str, reason: str = "") -> None:
        self._asked(self._api.notify(kind, reason)).result()


def _is_async(handler: Callable[..., Any]) -> bool:
    called = getattr(handler, "__call__", None)  # noqa: B004 - its kind is asked, not its being
    return inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(called)


async def _tamed(coroutine: Coroutine[Any, Any, Any]) -> None:
    """Some of what it may raise would end the loop, and with it all others."""
    try:
        await coroutine
    except (SystemExit, KeyboardInterrupt, GeneratorExit) as error:
        raise ActionEndedError(type(error).__name__) from None


def _call(call: Callable[[], Any], done: Future[None]) -> None:
    try:
        result = call()
    except Exception as error:
        _settle(done, error)
    except BaseException as error:
        _settle(done, ActionEndedError(type(error).__name__))
    else:
        forgot = inspect.isawaitable(result)
        _settle(done, TypeError("it returned an awaitable: `async def`?") if forgot else None)


def _settle(done: Future[None], error: Exception | None) -> None:
    if not done.set_running_or_notify_cancel():  # nobody waits any more
        return
    if error is not None:
        done.set_exception(error)
    else:
        done.set_result(None)


def _new_loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="actions", daemon=True).start()
    return loop
