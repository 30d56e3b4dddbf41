"""Workers of a scheduler that runs already and goes on running afterwards."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from xland.clusters.waiting import Wanted, running_loop, wait_for_workers
from xland.errors import ClusterError

if TYPE_CHECKING:
    from distributed import Client
    from tornado.ioloop import IOLoop

ANSWER = 10.0
"""Seconds that a scheduler may take to answer."""

TIMEOUT = 120.0
"""Seconds to wait for its workers."""


@contextmanager
def connect(wanted: Wanted) -> Iterator[Client]:
    """Yield a client of the scheduler at an address."""
    address = wanted.spec
    with running_loop() as loop, _reach(address, wanted.timeout, loop) as client:
        wait_for_workers(client, wanted, 1, TIMEOUT, f"start workers with `dask worker {address}`")
        _check_versions(client, address)
        yield client


def _reach(address: str, timeout: float | None, loop: IOLoop) -> Client:
    from distributed import Client
    from distributed.comm import connect as call
    from distributed.security import Security

    limit = min(timeout or ANSWER, ANSWER)

    async def ring() -> None:
        comm = await call(address, timeout=limit, **Security().get_connection_args("client"))
        await comm.close()

    try:
        # a client that cannot connect would leave dask without any scheduler, so hear first whether somebody answers
        asyncio.run_coroutine_threadsafe(ring(), loop.asyncio_loop).result()  # type: ignore[attr-defined]
        return Client(address, timeout=limit, loop=loop)
    except (OSError, ValueError) as error:
        raise ClusterError(
            f"no dask scheduler answers at {address} within {limit:g} s: check host and port, and that it runs "
            f"(`dask scheduler`): {error}"
        ) from error
    except TypeError as error:
        raise ClusterError(
            f"{address} needs certificates: set distributed.comm.tls in dask's configuration: {error}"
        ) from error


def _check_versions(client: Client, address: str) -> None:
    """Refuse workers of another environment: they would fail, or give other maps."""
    own = version("xland")
    try:
        found = client.run(version, "xland")
    except PackageNotFoundError as error:
        raise ClusterError(
            f"xland is not installed where the workers of {address} run: start them in this environment"
        ) from error
    other = {worker: each for worker, each in found.items() if each != own}
    if other:
        worker, each = next(iter(other.items()))
        raise ClusterError(
            f"{len(other)} of {len(found)} workers of {address} have another xland than {own}, "
            f"such as {each} on {worker}: start them in this environment"
        )
