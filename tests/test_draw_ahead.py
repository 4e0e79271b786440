"""Batches that a thread draws while a step is computed: the same numbers, at another time."""

import os
import signal
import threading
import time

import pytest
import torch
from training_script import make_loader, scenes, toy

from fwdiff_lite import training
from fwdiff_lite.batches import DrawAhead
from fwdiff_lite.training import fit


def threads_that_draw():
    return [x for x in threading.enumerate() if x.name.startswith("draw ahead")]


def trained(make, *, draw_ahead, steps=6, change_batch=lambda batch, step: batch):
    """The weights, the losses and the thread of every draw."""
    torch.manual_seed(0)
    model, batch = make()
    threads, draw_rows = [], getattr(batch, "draw_rows", None)

    def counted(generator):
        threads.append(threading.current_thread())
        return change_batch(batch(generator), len(threads) - 1)

    def counted_rows(generator, rows):
        threads.append(threading.current_thread())
        return draw_rows(generator, rows)

    if draw_rows:
        counted.batch_size, counted.draw_rows = batch.batch_size, counted_rows
    log = fit(model, counted, steps=steps, progress=False, draw_ahead=draw_ahead)
    return model.denoiser.state_dict(), log.curve, threads


@pytest.mark.parametrize("make", [toy, scenes])
def test_the_training_is_the_same_to_the_bit_and_no_batch_is_drawn_in_vain(make):
    (weights, curve, threads), (wanted, wanted_curve, own) = (trained(make, draw_ahead=x) for x in (True, False))
    assert all(torch.equal(weights[key], wanted[key]) for key in wanted) and curve == wanted_curve
    main = threading.current_thread()
    assert own == [main] * 6 and threads[:2] == [main] * 2 and len(threads) == 6
    assert len(set(threads[2:])) == 1 and threads[2] is not main and not threads[2].is_alive()


def test_a_batch_is_drawn_while_the_step_before_it_is_computed():
    torch.manual_seed(0)
    model, batch = toy()
    was_drawn = [threading.Event() for _ in range(4)]
    forward, calls = model.loss, iter(range(4))

    def draw(generator):
        next(event for event in was_drawn if not event.is_set()).set()
        return batch(generator)

    def wait_for_the_next_draw(*arguments, **options):
        step = next(calls)
        assert step in (0, 3) or was_drawn[step + 1].wait(20), "the next batch is drawn after this step only"
        return forward(*arguments, **options)

    model.forward = wait_for_the_next_draw
    fit(model, draw, steps=4, progress=False, draw_ahead=True)
    assert all(event.is_set() for event in was_drawn)


def test_a_budget_of_seconds_drops_the_last_draw():
    model, batch = toy()
    log = fit(model, batch, seconds=0.3, progress=False, draw_ahead=True)
    assert log.steps > 1 and not threads_that_draw()


def drop_the_target(batch, step):
    return {"context": batch["context"]} if step == 3 else batch


def stop(batch, step):
    if step == 3:
        raise StopIteration
    return batch


@pytest.mark.parametrize("change", [drop_the_target, stop])
def test_an_error_of_the_thread_is_that_of_its_step(change):
    messages = []
    for draw_ahead in (False, True):
        with pytest.raises(ValueError, match="the batch at step 3") as error:
            trained(toy, draw_ahead=draw_ahead, change_batch=change)
        messages.append(str(error.value))
    assert messages[0] == messages[1] and not threads_that_draw()


def test_a_data_loader_is_read_as_before():
    results = []
    for draw_ahead in (False, True):
        torch.manual_seed(0)
        model, _ = toy()
        fit(model, make_loader(), steps=6, progress=False, draw_ahead=draw_ahead)
        results.append(model.denoiser.state_dict())
    assert all(torch.equal(results[0][key], results[1][key]) for key in results[0])


def test_a_batch_in_pinned_or_shared_memory_is_copied_before_the_next_one_is_drawn(monkeypatch):
    """The order on a GPU: the draw of the next batch is started after the copies of this one."""
    events, to_device, start = [], training.to_device, DrawAhead.start
    monkeypatch.setattr(training, "to_device", lambda x, device: (events.append("copy"), to_device(x, device))[1])
    monkeypatch.setattr(DrawAhead, "start", lambda draws, step: (events.append("start"), start(draws, step))[1])
    model, batch = toy()
    fit(model, batch, steps=3, progress=False, draw_ahead=True)
    copies = ["copy"] * 5  # context, target, novel, t and noise
    assert events == copies + copies + ["start"] + copies


def test_an_interrupt_ends_the_wait_for_a_slow_draw(tmp_path):
    """A draw that hangs must not hold back Ctrl-C; the state of the last step is in the checkpoint."""
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    model, make_batch = toy()
    released, calls = threading.Event(), []

    def batch(generator):
        calls.append(0)
        if len(calls) == 5:  # drawn in the fourth step
            released.wait(30)
        return make_batch(generator)

    begin, path = time.monotonic(), tmp_path / "run"
    for seconds in (1.0, 2.0):
        threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGINT)).start()
    try:
        with pytest.raises(KeyboardInterrupt):
            fit(model, batch, steps=50, progress=False, draw_ahead=True, checkpoint=path)
        assert 1.5 < time.monotonic() - begin < 15
    finally:
        released.set()
        signal.signal(signal.SIGINT, handler)
    assert len(fit(toy()[0], make_batch, steps=6, progress=False, checkpoint=path, resume="ignore").curve["loss"]) == 6


@pytest.mark.parametrize("device", [torch.device("cuda", 1), torch.device("cuda")])
def test_the_generator_keeps_the_state_before_a_draw_until_the_draw_is_taken(device, monkeypatch):
    streams = []  # with the name of the thread that sets them
    monkeypatch.setattr(torch.cuda, "set_stream", lambda x: streams.append((x, threading.current_thread().name)))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: f"the caller's stream on {device}")
    generator, wanted = (torch.Generator().manual_seed(0) for _ in range(2))

    def draw(generator, step):
        return step, torch.randn(3, generator=generator).tolist()

    draws = DrawAhead(draw, generator, device)
    state = generator.get_state()
    draws.start(0)
    draws.pending[1].result()
    assert torch.equal(generator.get_state(), state) and threads_that_draw()
    assert draws.take(0) == draw(wanted, 0) and torch.equal(generator.get_state(), wanted.get_state())
    assert draws.take(1) == draw(wanted, 1)
    draws.close()
    assert not threads_that_draw()
    (stream, thread) = streams[0]
    assert len(streams) == 1 and thread.startswith("draw ahead"), "by itself, a thread uses the default stream"
    assert stream == f"the caller's stream on {device}"
