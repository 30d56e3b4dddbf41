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


def test_a_request_is_noted_and_reaches_the_handler_from_before_if_nobody_answers(handled):
    own = signal.getsignal(signal.SIGTERM)
    with deferred_termination() as request:
        assert signal.getsignal(signal.SIGTERM) is not own
        assert not request.asked
        signal.raise_signal(signal.SIGTERM)
        assert request.asked
        assert handled == []
    assert handled == [signal.SIGTERM]
    assert signal.getsignal(signal.SIGTERM) is own


def test_a_request_that_is_answered_with_an_error_ends_there(handled):
    own = signal.getsignal(signal.SIGTERM)

    @deferred_termination()
    def work():
        signal.raise_signal(signal.SIGTERM)
        raise RuntimeError

    with pytest.raises(RuntimeError):
        work()
    assert signal.getsignal(signal.SIGTERM) is own
    assert handled == []


def test_other_threads_leave_signals_alone(handled):
    own, seen = signal.getsignal(signal.SIGTERM), []

    def work():
        with deferred_termination() as request:
            seen.append((signal.getsignal(signal.SIGTERM), request.asked))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(own, False)]
