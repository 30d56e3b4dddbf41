from __future__ import annotations

import signal
import threading
from contextlib import suppress

import pytest

from xland.training.machine import deferred_termination


@pytest.fixture
def handled():
    """Signals that reach the handler of this test."""
    calls = []
    before = signal.signal(signal.SIGTERM, lambda number, _: calls.append(number))
    yield calls
    signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize("answered", [False, True])
def test_a_request_is_noted_and_reaches_the_handler_from_before_unless_an_error_answers_it(handled, answered):
    own = signal.getsignal(signal.SIGTERM)
    with suppress(RuntimeError), deferred_termination() as request:
        assert signal.getsignal(signal.SIGTERM) is not own
        assert not request.asked
        signal.raise_signal(signal.SIGTERM)
        assert request.asked
        assert handled == []
        if answered:
            raise RuntimeError
    assert handled == ([] if answered else [signal.SIGTERM])
    assert signal.getsignal(signal.SIGTERM) is own


def test_other_threads_leave_signals_alone(handled):
    own, seen = signal.getsignal(signal.SIGTERM), []

    def work():
        with deferred_termination() as request:
            seen.append((signal.getsignal(signal.SIGTERM), request.asked))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(own, False)]
