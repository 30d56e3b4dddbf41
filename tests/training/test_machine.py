from __future__ import annotations

import signal
import threading

import pytest

from xland.training.machine import deferred_termination


@pytest.fixture
def handled():
    """Signals that reach the handler of this test."""
    calls = []
    before = signal.signal(signal.SIGTERM, lambda number, _: calls.append(number))
    yield calls
    signal.signal(signal.SIGTERM, before)


def test_a_request_is_noted_and_does_not_end_the_process(handled):
    def work():
        with deferred_termination() as request:
            assert not request.asked
            signal.raise_signal(signal.SIGTERM)
            assert request.asked
            raise RuntimeError

    with pytest.raises(RuntimeError):
        work()
    assert handled == [], "answered with an error"


def test_the_handler_from_before_is_put_back(handled):
    own = signal.getsignal(signal.SIGTERM)
    with deferred_termination():
        assert signal.getsignal(signal.SIGTERM) is not own
    assert signal.getsignal(signal.SIGTERM) is own
    with pytest.raises(RuntimeError), deferred_termination():
        raise RuntimeError
    assert signal.getsignal(signal.SIGTERM) is own
    assert handled == []


def test_a_request_that_nobody_answered_reaches_the_handler_from_before(handled):
    with deferred_termination():
        signal.raise_signal(signal.SIGTERM)
        assert handled == []
    assert handled == [signal.SIGTERM]


def test_other_threads_leave_signals_alone(handled):
    own, seen = signal.getsignal(signal.SIGTERM), []

    def work():
        with deferred_termination() as request:
            seen.append((signal.getsignal(signal.SIGTERM), request.asked))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(own, False)]
