"""Interrupts that wait until a block of code is complete: SIGINT (Ctrl-C, a notebook's stop button) and SIGTERM.

Only the main thread gets signals; in another thread, these functions do nothing.
"""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Handler = Callable[[int, object], None]


@contextmanager
def collected_interrupts(interrupts: list[int]) -> Iterator[None]:
    """Appends the numbers of the signals that arrive in the block to the list."""
    with _handlers((signal.SIGINT, signal.SIGTERM), lambda number, frame: interrupts.append(number)):
        yield


@contextmanager
def deferred_interrupt() -> Iterator[None]:
    """Sends signals that arrive in the block again at its end."""
    interrupts: list[int] = []
    with collected_interrupts(interrupts):
        yield
    for number in interrupts:
        signal.raise_signal(number)


@contextmanager
def sigterm_as_interrupt(interrupts: list[int]) -> Iterator[None]:
    """SIGTERM raises a KeyboardInterrupt in the block, and is sent again after it.

    interrupts: gets the number of the signal; where it is collected in the block, it must be in this list, too
    """

    def interrupt(number: int, frame: object) -> None:
        interrupts.append(number)
        raise KeyboardInterrupt

    try:
        with _handlers((signal.SIGTERM,), interrupt):
            yield
    finally:
        if signal.SIGTERM in interrupts:
            signal.raise_signal(signal.SIGTERM)


def raise_interrupt(interrupted: bool) -> None:
    """KeyboardInterrupt if `interrupted`."""
    if interrupted:
        raise KeyboardInterrupt


@contextmanager
def _handlers(numbers: tuple[int, ...], handler: Handler) -> Iterator[None]:
    """The handler of these signals in the block. SIGTERM ends a process that is forked in it, as workers are ended."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    process, defaults = os.getpid(), {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}

    def handle(number: int, frame: object) -> None:
        if number == signal.SIGTERM and os.getpid() != process:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        handler(number, frame)

    previous = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield
    finally:
        for number, old in previous.items():
            signal.signal(number, defaults[number] if old is None else old)
