"""SIGTERM, the end of a job's time, as a request that is answered between two steps."""

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
    """Note SIGTERM instead of ending, as long as the context lasts.

    The handler from before is then put back. It gets the signal after all if the context ends without
    an error: what was asked for too late to be answered here is not lost. Outside of the main thread,
    where Python cannot set handlers, and where a library has set one that Python cannot put back,
    signals are left alone and the request is never made.
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
    """Let a loader process live on: SIGTERM goes to all processes of a job, and the trainer still needs its batches."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
