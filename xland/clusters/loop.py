"""The event loop on which clusters that are started here run."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from threading import Thread
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tornado.ioloop import IOLoop


@contextmanager
def running_loop() -> Iterator[IOLoop]:
    """Yield an event loop that runs in a thread of its own, however long that thread takes to start.

    Without one, distributed starts its own and gives up after ten seconds, with an ``AssertionError``
    that says nothing: too few for a login node that is short of time.
    """
    from tornado.ioloop import IOLoop

    started: Future[tuple[IOLoop, asyncio.Event]] = Future()

    async def run() -> None:
        stopped = asyncio.Event()
        started.set_result((IOLoop.current(), stopped))
        await stopped.wait()

    thread = Thread(target=asyncio.run, args=(run(),), name="xland cluster", daemon=True)
    thread.start()
    loop, stopped = started.result()
    try:
        yield loop
    finally:
        loop.add_callback(stopped.set)
        thread.join()
