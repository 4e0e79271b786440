"""KeyboardInterrupts (SIGINT: Ctrl-C, a notebook's stop button) that wait until a block of code is complete.

Only the main thread gets interrupts; in another thread, these functions do nothing.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def collected_interrupts(interrupts: list) -> Iterator[None]:
    """Appends interrupts that arrive in the block to the list."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.signal(signal.SIGINT, lambda *arguments: interrupts.append(arguments))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler if handler is None else handler)


@contextmanager
def deferred_interrupt() -> Iterator[None]:
    """Sends interrupts that arrive in the block again at its end."""
    interrupts: list = []
    with collected_interrupts(interrupts):
        yield
    for _ in interrupts:
        signal.raise_signal(signal.SIGINT)


def raise_interrupt(interrupted: bool) -> None:
    """KeyboardInterrupt if `interrupted`."""
    if interrupted:
        raise KeyboardInterrupt
