"""What a training hears from the machine that it runs on: SIGTERM at the end of a job's time, network interfaces."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any


@dataclass
class Termination:
    """Whether the process has been asked to end."""

    asked: bool = False


@contextmanager
def deferred_termination() -> Iterator[Termination]:
    """Note SIGTERM instead of ending, as long as the context lasts, and then put the handler from before back.

    That handler receives the signal if the context ends without an error. Other threads leave signals alone.
    """
    request = Termination()
    previous = signal.getsignal(signal.SIGTERM)
    if threading.current_thread() is not threading.main_thread() or previous is None:
        yield request
        return

    def note(*_: Any) -> None:
        request.asked = True

    signal.signal(signal.SIGTERM, note)
    try:
        yield request
    finally:
        signal.signal(signal.SIGTERM, previous)
    if request.asked:
        signal.raise_signal(signal.SIGTERM)


def ignore_termination(_: int) -> None:
    """Let a loader process continue: SIGTERM goes to all processes of a job, and the training still needs batches."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def interface_of(host: str) -> str | None:
    """Name of the network interface that has an address; None behind an address translation."""
    import psutil

    found = psutil.net_if_addrs().items()
    return next((name for name, addresses in found if any(each.address == host for each in addresses)), None)
