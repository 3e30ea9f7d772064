"""A first signal asks, a second one insists, and the exit code says which signal it was."""

import os
import signal

import pytest

from pipeline.processes.signals import StoppedError, stop_on_signal


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_is_noted_and_becomes_the_exit_code(number, code):
    with stop_on_signal() as stop:
        assert not stop()
        stop.raise_if_asked()
        os.kill(os.getpid(), number)
        assert stop()
        with pytest.raises(StoppedError, match=number.name) as caught:
            stop.raise_if_asked()
    assert caught.value.exit_code == code


def test_a_second_signal_stops_at_once():
    with stop_on_signal() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop()
        with pytest.raises(StoppedError):
            os.kill(os.getpid(), signal.SIGTERM)


def test_earlier_handlers_return():
    before = signal.getsignal(signal.SIGTERM)
    with stop_on_signal():
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before
