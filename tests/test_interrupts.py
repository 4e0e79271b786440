"""SIGTERM keeps a training, and then has its own effect."""

import os
import signal
import time

import pytest
import torch

from fwdiff_lite.interrupts import collected_interrupts, sigterm_as_interrupt
from fwdiff_lite.training import fit
from fwdiff_lite.training_state import Optimization
from tests.bad_input.training import build_model, make_batch

pytestmark = pytest.mark.filterwarnings("ignore:the targets have a standard deviation")


@pytest.fixture
def received():
    """The signals that reach this process's own handler of SIGTERM."""
    numbers = []
    previous = signal.signal(signal.SIGTERM, lambda number, frame: numbers.append(number))
    yield numbers
    signal.signal(signal.SIGTERM, previous)


@pytest.mark.parametrize("where", ["in the batch", "in the update"])
def test_sigterm_writes_the_checkpoint_and_is_sent_again(where, received, tmp_path, monkeypatch, capsys):
    path, calls, ema_decay_at = tmp_path / "run", [], Optimization.ema_decay_at

    def terminate(place):
        assert received == [], "not before the training has ended"
        calls.append(place)
        if place == where and calls.count(where) == 4:
            signal.raise_signal(signal.SIGTERM)

    def batch(generator):
        terminate("in the batch")
        return make_batch()

    monkeypatch.setattr(
        Optimization, "ema_decay_at", lambda *args: (terminate("in the update"), ema_decay_at(*args))[1]
    )
    log = fit(build_model(), batch, steps=9, progress=False, checkpoint=path)
    steps = 3 if where == "in the batch" else 4
    assert log.interrupted and log.steps == steps and received == [signal.SIGTERM]
    assert capsys.readouterr().out.startswith(f"interrupted after step {steps}: ")
    monkeypatch.undo()
    received.clear()
    resumed, uninterrupted = build_model(), build_model()
    assert fit(resumed, lambda generator: make_batch(), steps=9, progress=False, checkpoint=path).steps == 9
    fit(uninterrupted, lambda generator: make_batch(), steps=9, progress=False)
    assert all(torch.equal(w, x) for w, x in zip(resumed.parameters(), uninterrupted.parameters(), strict=True))


def test_a_collected_sigterm_is_sent_again_too(received):
    interrupts = []
    with sigterm_as_interrupt(interrupts), collected_interrupts(interrupts):
        signal.raise_signal(signal.SIGTERM)
        assert interrupts == [signal.SIGTERM] and received == []
    assert received == [signal.SIGTERM]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.parametrize("block", [collected_interrupts, sigterm_as_interrupt])
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_worker_that_is_forked_in_the_block_ends_by_sigterm(block):
    begun, begin = os.pipe()
    with block([]):
        child = os.fork()
        if not child:
            os.write(begin, b".")
            time.sleep(20)
            os._exit(0)
        os.read(begun, 1)  # Python drops a signal that comes earlier
        os.kill(child, signal.SIGTERM)
        _, status = os.waitpid(child, 0)
    os.close(begun)
    os.close(begin)
    assert os.waitstatus_to_exitcode(status) == -signal.SIGTERM
