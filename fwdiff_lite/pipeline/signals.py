"""Signals that ask the process to stop: raised as an exception, or deferred until a block has ended."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass
class Stop(BaseException):
    """A signal asked this process to stop. It is no Exception, so that no handler of failures catches it."""

    signal: signal.Signals


@contextmanager
def handle_signals() -> Iterator[None]:
    """SIGNALS raise Stop in the block, so that all open contexts are closed."""

    def stop(number, frame):
        if DEFERRED_SIGNALS:
            DEFERRED_SIGNALS.append(number)
        else:
            raise Stop(signal.Signals(number))

    handlers = {number: signal.signal(number, stop) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


DEFERRED_SIGNALS: list[int] = []  # not empty inside defer_signals: a zero, then the signals that arrived


@contextmanager
def defer_signals() -> Iterator[None]:
    """Defers signals to the end of the block, so that results are published whole and no process is lost."""
    DEFERRED_SIGNALS.append(0)  # a flag in place of the process's signal mask, which a kernel would inherit
    try:
        yield
    finally:
        arrived = DEFERRED_SIGNALS[1:]
        DEFERRED_SIGNALS.clear()
        if arrived:
            raise Stop(signal.Signals(arrived[0]))
