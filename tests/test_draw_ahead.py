"""Batches that a thread draws while a step is computed: the same numbers, at another time."""

import threading

import pytest
import torch
from training_script import make_loader, scenes, toy

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
    assert own == [main] * 6 and threads[0] is main and len(threads) == 6
    assert len(set(threads[1:])) == 1 and threads[1] is not main and not threads[1].is_alive()


def test_a_batch_is_drawn_while_the_step_before_it_is_computed():
    torch.manual_seed(0)
    model, batch = toy()
    drawn = [threading.Event() for _ in range(4)]
    forward, calls = model.loss, iter(range(4))

    def draw(generator):
        next(event for event in drawn if not event.is_set()).set()
        return batch(generator)

    def wait_for_the_next_draw(*arguments, **options):
        step = next(calls)
        assert step == 3 or drawn[step + 1].wait(20), "the next batch is drawn after this step only"
        return forward(*arguments, **options)

    model.forward = wait_for_the_next_draw
    fit(model, draw, steps=4, progress=False, draw_ahead=True)
    assert all(event.is_set() for event in drawn)


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


def test_the_generator_keeps_the_state_before_a_draw_until_the_draw_is_taken(monkeypatch):
    devices = []
    monkeypatch.setattr(torch.cuda, "set_device", devices.append)
    generator, wanted = (torch.Generator().manual_seed(0) for _ in range(2))

    def draw(generator, step):
        return step, torch.randn(3, generator=generator).tolist()

    draws = DrawAhead(draw, generator, torch.device("cuda", 1))
    state = generator.get_state()
    draws.start(0)
    draws.pending[1].result()
    assert torch.equal(generator.get_state(), state) and threads_that_draw()
    assert draws.take(0) == draw(wanted, 0) and torch.equal(generator.get_state(), wanted.get_state())
    assert draws.take(1) == draw(wanted, 1)
    draws.close()
    assert not threads_that_draw()
    assert devices == [torch.device("cuda", 1)], "by itself, a thread uses the first GPU"
