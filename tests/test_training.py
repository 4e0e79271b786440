"""fit() learns, averages, shares its batches, survives being killed, and refuses what it cannot use."""

import argparse
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from training_script import scenes

from fwdiff_lite.command_line import positive_int
from fwdiff_lite.devices import CUDAGraphCallable
from fwdiff_lite.diffusion import ForwardDiffusion
from fwdiff_lite.observations import Observations
from fwdiff_lite.problems.toy import projections as p
from fwdiff_lite.processes import process_rows
from fwdiff_lite.storage.provenance import merge_provenance
from fwdiff_lite.training import fit
from fwdiff_lite.training_state import Optimization

SCRIPT = Path(__file__).with_name("training_script.py")
ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(SCRIPT.parents[1])}


def model_and_batch(size=64):
    torch.manual_seed(0)
    return p.build_diffusion(2, width=16, depth=2), p.infinite_batches(p.make_prior(2), size)


def trained(**options):
    model, batch = model_and_batch()
    done = fit(model, batch, progress=False, **options)
    return model, done


def command(out, **options):
    return [sys.executable, str(SCRIPT), str(out), json.dumps(options)]


def run(out, **options):
    subprocess.run(command(out, **options), env=ONE_THREAD, check=True)


@pytest.fixture(autouse=True, scope="module")
def interrupts_arrive():
    """A shell starts commands in the background with SIGINT ignored."""
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, handler)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "whole"
    run(out)
    return out


def read(out):
    return load_file(f"{out}.safetensors"), json.loads(Path(f"{out}.json").read_text())


def test_the_loss_falls_and_the_curve_has_every_step():
    torch.manual_seed(0)
    model = p.build_diffusion(2, width=32, depth=3)
    batch = p.infinite_batches(p.make_prior(2), 512)
    done = fit(model, batch, steps=400, learning_rate=1e-2, warmup=20, progress=False)
    loss = torch.tensor(done.curve["loss"])
    assert done.steps == len(loss) == len(done.curve["novel"]) == 400
    assert loss[-100:].mean() < loss[:20].mean() - 0.02, "most of the loss is noise that nothing can learn"
    assert not model.denoiser.training


def test_same_seed_same_bits_and_another_seed_others():
    a, b, c = (trained(steps=20, seed=seed)[0].state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert not all(torch.equal(a[k], c[k]) for k in a)


def test_a_budget_of_seconds_ends_in_time():
    start = time.monotonic()
    _, done = trained(seconds=1.5)
    assert 1.4 < time.monotonic() - start < 5 and done.steps > 10


def test_a_first_step_that_compiles_takes_none_of_the_budget(tmp_path):
    """However long it takes; so it is where a training is gone on with."""
    model, batch = model_and_batch()
    for seconds in (0.4, 0.8):
        pauses = iter([2.0])

        def slow_at_first(generator, pauses=pauses):
            time.sleep(next(pauses, 0.05))
            return batch(generator)

        start = time.monotonic()
        done = fit(model, slow_at_first, seconds=seconds, checkpoint=tmp_path / "run", progress=False)
        assert seconds <= done.seconds < seconds + 0.5 and time.monotonic() - start > 2.2


def test_killed_and_resumed_is_bit_for_bit_the_same(tmp_path, uninterrupted):
    checkpoint = tmp_path / "run.safetensors"
    slow = subprocess.Popen(command(tmp_path / "never", checkpoint=str(checkpoint), pause=0.05), env=ONE_THREAD)
    deadline = time.monotonic() + 120
    while not checkpoint.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.5)  # in the middle of something
    slow.send_signal(signal.SIGKILL)
    assert slow.wait() == -signal.SIGKILL and not (tmp_path / "never.json").exists()
    run(tmp_path / "resumed", checkpoint=str(checkpoint))
    weights, record = read(tmp_path / "resumed")
    wanted, wanted_record = read(uninterrupted)
    assert all(torch.equal(weights[k], wanted[k]) for k in wanted)
    assert record["curve"] == wanted_record["curve"]


def run_on_two_processes(out, **options):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "ACCELERATE_USE_CPU": "true"}
    both = [
        subprocess.Popen(command(out, **options), env={**ONE_THREAD, **group, "RANK": str(r), "LOCAL_RANK": str(r)})
        for r in range(2)
    ]
    try:
        assert [process.wait(timeout=120) for process in both] == [0, 0]
    finally:
        for process in both:
            process.kill()


@pytest.mark.parametrize("draw_ahead", [False, True])
def test_two_processes_give_the_loss_curve_of_one(draw_ahead, tmp_path, uninterrupted):
    run_on_two_processes(tmp_path / "two", draw_ahead=draw_ahead)
    _, two = read(tmp_path / "two")
    _, one = read(uninterrupted)
    assert two["processes"] == 2 and one["processes"] == 1
    for name in one["curve"]:
        assert two["curve"][name] == pytest.approx(one["curve"][name], abs=1e-4)


def test_two_processes_that_draw_their_own_rows_give_the_curve_of_one_and_one_goes_on_with_it(tmp_path):
    """20 steps on two processes, then 2 on one, against 22 on one."""
    options = {"steps": 22, "warmup": 5, "seed": 3, "checkpoint_every": 20, "progress": False}
    options["muon_learning_rate"] = 1e-3
    checkpoint = str(tmp_path / "state")
    one = fit(*scenes(), **options)
    run_on_two_processes(tmp_path / "two", problem="scenes", checkpoint=checkpoint, interrupt=[1, 20], **options)
    ends = [json.loads((tmp_path / f"two.{rank}").read_text()) for rank in range(2)]
    assert ends == [[20, True, [[0, 2]]], [20, True, [[2, 4]]]], "each process asks for its own rows only"
    _, two = read(tmp_path / "two")
    resumed = fit(*scenes(), **options, checkpoint=checkpoint)
    assert resumed.steps == len(one.curve["loss"]) == 22
    for name, values in one.curve.items():
        assert two["curve"][name] == pytest.approx(values[:20], abs=1e-4)
        assert resumed.curve[name] == pytest.approx(values, abs=1e-4)
    other_rows = fit(*scenes(), **options | {"seed": 4, "steps": 1}).curve["loss"]
    assert other_rows != pytest.approx(one.curve["loss"][:1], abs=1e-2), "the control"


def test_a_budget_of_seconds_ends_at_one_step_on_all_processes(tmp_path):
    """Though the second one's clock goes twice as fast: the first one's holds for both."""
    run_on_two_processes(tmp_path / "two", steps=None, seconds=1.0, pace=[1.0, 2.0])
    steps = [json.loads((tmp_path / f"two.{r}").read_text())[0] for r in range(2)]
    assert steps[0] == steps[1] > 4


@pytest.mark.skipif(shutil.which("c++") is None, reason="torch.compile needs a C++ compiler")
def test_a_compiled_loss_is_the_same_loss(tmp_path, uninterrupted):
    run(tmp_path / "compiled", compile=True)
    _, compiled_run = read(tmp_path / "compiled")
    _, eager = read(uninterrupted)
    assert compiled_run["curve"]["loss"] == pytest.approx(eager["curve"]["loss"], abs=1e-4)


def test_bf16_stays_near_float32():
    _, full = trained(steps=30)
    _, half = trained(steps=30, bf16=True)
    assert half.curve["loss"] != full.curve["loss"]
    assert half.curve["loss"] == pytest.approx(full.curve["loss"], rel=0.05)


def test_nan_observations_are_named_before_the_first_step():
    model, _ = model_and_batch()
    x = Observations(torch.full((4, 1), torch.nan), torch.ones(4, 1, 2))
    with pytest.raises(ValueError, match="context holds 4 NaN or infinite values"):
        fit(model, lambda generator: {"context": x, "target": x}, steps=2, progress=False)


@pytest.mark.parametrize("draw_ahead", [False, True])
@pytest.mark.parametrize(
    "part, message",
    [
        ("value", "the batch at step 2: target holds 64 NaN"),
        ("params", "the batch at step 2: target has NaN .* params"),
    ],
)
def test_a_batch_that_is_not_finite_is_named_and_nothing_is_written(part, message, draw_ahead, tmp_path):
    model, make_batch = model_and_batch()

    def batch(generator):
        full_batch = make_batch(generator)
        batch.calls += 1
        parts = {name: getattr(full_batch["target"], name) for name in ("value", "params")}
        parts[part] = parts[part] * (torch.nan if batch.calls == 3 else 1)
        return full_batch | {"target": Observations(**parts)}

    batch.calls = 0
    path = tmp_path / "run.safetensors"
    with pytest.raises(ValueError, match=message):
        fit(model, batch, steps=5, progress=False, checkpoint=path, draw_ahead=draw_ahead)
    assert list(tmp_path.iterdir()) == []


class Spoilt(torch.nn.Module):
    """A model whose loss has one more term at one step."""

    def __init__(self, model, step, term):
        super().__init__()
        self.model, self.denoiser, self.sample_time_and_noise = model, model.denoiser, model.sample_time_and_noise
        self.step, self.term = step, term

    def forward(self, *args, **options):
        losses, self.step = self.model(*args, **options), self.step - 1
        if self.step == -1:
            losses["loss"] = losses["loss"] + self.term(next(self.denoiser.parameters()))
        return losses


def interrupt(w):
    raise KeyboardInterrupt


@pytest.mark.parametrize("fused, muon", [(False, None), (True, None), (True, 0.02)])
@pytest.mark.parametrize(
    "term, message",
    [
        (lambda w: (w * torch.inf).sum(), "the loss loss is (nan|inf|-inf) at step 4: look for NaN observations"),
        (lambda w: w.new_tensor(torch.nan), "the loss loss is nan at step 4"),  # its gradient is finite
        (lambda w: (0 * w).square().sum().sqrt(), "the gradient's norm is nan at step 4, with a finite loss"),
    ],
    ids=["loss", "constant", "gradient"],
)
def test_a_step_that_is_not_finite_does_not_reach_the_weights(term, message, fused, muon, monkeypatch):
    """A fused optimizer looks at the gradient on the device, as on a GPU, and the error comes a few steps later."""
    if fused:
        adam, implementation = torch.optim.AdamW, {"fused": True, "foreach": False}
        monkeypatch.setattr(torch.optim, "AdamW", lambda *args, **options: adam(*args, **options | implementation))
    options = {"steps": 5 if fused else 50, "warmup": 1, "muon_learning_rate": muon, "progress": False}
    options["ema"] = 0.0  # no average: the raw weights
    model, batch = model_and_batch()
    with pytest.raises(ValueError, match=message):
        fit(Spoilt(model, 4, term), batch, **options)
    control, batch = model_and_batch()
    fit(Spoilt(control, 4, interrupt), batch, **options)
    untouched, _ = model_and_batch()
    after_four_steps, first = (list(x.denoiser.parameters()) for x in (control, untouched))
    for w, wanted, start in zip(model.denoiser.parameters(), after_four_steps, first, strict=True):
        assert torch.equal(w, wanted) and not torch.equal(w, start)
    assert not model.denoiser.training


@pytest.mark.parametrize(
    "where, draw_ahead", [("in the batch", False), ("in the update", False), ("in the update", True)]
)
def test_an_interrupt_keeps_the_training(where, draw_ahead, tmp_path, monkeypatch, capsys):
    """Ctrl-C: curve, average and state are kept, and what is resumed is bit for bit the uninterrupted training."""
    uninterrupted_model, wanted = trained(steps=30)
    model, make_batch = model_and_batch()
    calls, ema_decay_at = [], Optimization.ema_decay_at

    def press(place):
        calls.append(place)
        if calls.count(where) == 12 and place == where:
            signal.raise_signal(signal.SIGINT)

    def batch(generator):
        full_batch = make_batch(generator)
        press("in the batch")
        return full_batch

    monkeypatch.setattr(Optimization, "ema_decay_at", lambda *args: (press("in the update"), ema_decay_at(*args))[1])
    path = tmp_path / "run.safetensors"
    done = fit(model, batch, steps=30, progress=False, checkpoint=path, draw_ahead=draw_ahead)
    steps = 11 if where == "in the batch" else 12
    assert done.interrupted and done.steps == len(done.curve["loss"]) == steps
    assert capsys.readouterr().out == (
        f"interrupted after step {steps}: the model holds the EMA of its weights; "
        f"call fit again to resume from {path}\n"
    )
    assert not model.denoiser.training
    average = [load_file(path)[f"average.{i}"] for i in range(len(list(model.denoiser.parameters())))]
    assert all(torch.equal(w, a) for w, a in zip(model.denoiser.parameters(), average, strict=True))
    resumed, batch = model_and_batch()
    done = fit(resumed, batch, steps=30, progress=False, checkpoint=path)
    assert done.curve == wanted.curve and not done.interrupted
    assert all(torch.equal(w, x) for w, x in zip(resumed.parameters(), uninterrupted_model.parameters(), strict=True))


@pytest.mark.parametrize("accelerator", [lambda: None, Accelerator])
def test_processes_that_would_train_apart_are_refused(accelerator, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="started 2 processes, and accelerate connects 1 of them: to train on"):
        trained(steps=1, accelerator=accelerator())


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("progress", "terminal", "shown"),
    [(None, True, True), (None, False, False), (True, False, True), (False, True, False)],
)
def test_the_bar_is_shown_where_someone_reads_it(progress, terminal, shown, monkeypatch):
    error = Terminal() if terminal else io.StringIO()
    monkeypatch.setattr(sys, "stderr", error)
    monkeypatch.setattr("fwdiff_lite.training.compile_model", lambda loss: loss)
    model, batch = model_and_batch()
    fit(model, batch, steps=2, compile=True, progress=progress)
    assert ("the first step compiles the model" in error.getvalue()) == ("2/2" in error.getvalue()) == shown


def test_an_interrupt_without_a_checkpoint_says_so_and_keeps_the_average(capsys):
    model, make_batch = model_and_batch()
    fit(Spoilt(model, 3, interrupt), make_batch, steps=30, progress=False)
    assert "interrupted after step 3: " in (said := capsys.readouterr().out)
    assert "no checkpoint was named to resume from" in said and said.count("\n") == 1
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_interrupt_before_the_first_step_ends_well(capsys):
    model, make_batch = model_and_batch()
    done = fit(Spoilt(model, 0, interrupt), make_batch, steps=30, progress=False)
    assert (done.steps, done.curve, done.interrupted) == (0, {}, True)
    assert "interrupted after step 0" in capsys.readouterr().out


def test_a_training_in_another_thread_needs_no_signals():
    model, make_batch = model_and_batch()
    wanted, _ = trained(steps=3)
    with ThreadPoolExecutor(1) as pool:
        log = pool.submit(fit, model, make_batch, steps=3, progress=False).result()
    assert log.steps == 3 and all(
        torch.equal(w, x) for w, x in zip(model.parameters(), wanted.parameters(), strict=True)
    )


def test_whatever_ends_a_training_the_model_is_left_in_eval_mode():
    model, make_batch = model_and_batch()
    with pytest.raises(ZeroDivisionError):
        fit(Spoilt(model, 3, lambda w: 1 / 0), make_batch, steps=30, progress=False)
    assert not model.denoiser.training and all(w.isfinite().all() for w in model.parameters())


def test_unusable_checkpoints_are_named(tmp_path):
    path = tmp_path / "run.safetensors"
    trained(steps=3, checkpoint=path)
    assert [x.name for x in tmp_path.iterdir()] == ["run.safetensors"]
    model = p.build_diffusion(2, width=17, depth=2)
    with pytest.raises(ValueError, match="run.safetensors is of another network: it has .* as average.0"):
        fit(model, p.infinite_batches(p.make_prior(2), 8), steps=5, progress=False, checkpoint=path)
    content = path.read_bytes()
    for damaged in (content[: len(content) // 2], b"", b"x" * 100):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="run.safetensors cannot be read"):
            trained(steps=5, checkpoint=path)


def test_a_batch_that_processes_cannot_share_is_refused():
    class Three:
        num_processes, process_index = 3, 1

    assert process_rows(9, Three()) == slice(3, 6)
    with pytest.raises(ValueError, match="a batch of 8 cannot be shared evenly by 3 processes"):
        process_rows(8, Three())


def test_a_captured_function_is_called_directly_on_a_cpu_and_keeps_to_its_generator():
    generator = torch.Generator().manual_seed(0)
    noisy = CUDAGraphCallable(lambda x, g: {"x": x + torch.rand((), generator=g)}, generator)
    values = torch.stack([noisy(torch.zeros(2), generator)["x"] for _ in range(6)])
    again = torch.rand(6, generator=torch.Generator().manual_seed(0))
    assert torch.equal(values, again[:, None].expand(-1, 2)), "every call draws anew, and none is left out"
    with pytest.raises(ValueError, match="draws from the generator that it was captured with: give that one"):
        noisy(torch.zeros(2), torch.Generator())


def test_where_several_commands_results_come_from():
    first = {"command": "a", "gpu_minutes": 1.26, "hardware": "one GPU", "commit": "1", "seed": 0}
    merged = merge_provenance([first, first | {"command": "b", "commit": "2", "seed": 5}])
    wanted = {"command": "a; b", "gpu_minutes": 2.5, "hardware": "one GPU", "commit": "1; 2", "seed": 5}
    assert merged == wanted


def test_what_counts_something_is_a_whole_number_above_0():
    assert positive_int("12") == 12
    for text in ("0", "-1", "1.5", "many", ""):
        with pytest.raises(argparse.ArgumentTypeError, match="is no whole number above 0"):
            positive_int(text)


class WithBuffers(torch.nn.Module):
    """Wraps a denoiser: a buffer counts its forward passes and adds up its outputs, as batch norm does."""

    def __init__(self, denoiser):
        super().__init__()
        self.inner = denoiser
        self.condition = denoiser.condition
        self.register_buffer("total", torch.zeros(()))
        self.register_buffer("passes", torch.zeros((), dtype=torch.long))

    def forward(self, condition, noisy_target, t):
        signal = self.inner(condition, noisy_target, t)
        if self.training:
            self.passes += 1
            self.total += signal.detach().sum()
        return signal


@pytest.mark.parametrize("spoil", ["nan", "interrupt"])
def test_buffers_stay_those_of_the_last_finite_step(spoil, tmp_path):
    model, make_batch = model_and_batch()
    model = ForwardDiffusion(WithBuffers(model.denoiser), model.forward_model)
    term = interrupt if spoil == "interrupt" else (lambda w: (w * torch.nan).sum())
    path = tmp_path / "run.safetensors"
    if spoil == "nan":
        with pytest.raises(ValueError, match="the loss loss is nan at step 4"):
            fit(Spoilt(model, 4, term), make_batch, steps=9, progress=False)
    else:
        fit(Spoilt(model, 4, term), make_batch, steps=9, progress=False, checkpoint=path)
        assert load_file(path)["buffers.1"] == 4
    assert model.denoiser.passes == 4 and model.denoiser.total.isfinite()


def test_an_interrupt_during_the_preparation_is_one_before_the_first_step(monkeypatch, capsys):
    monkeypatch.setattr(
        "fwdiff_lite.training.compile_model", lambda loss: (signal.raise_signal(signal.SIGINT), loss)[1]
    )
    model, make_batch = model_and_batch()
    log = fit(model, make_batch, steps=9, progress=False, compile=True)
    assert log.interrupted and log.steps == 0 and not model.denoiser.training
    assert "interrupted after step 0" in capsys.readouterr().out


def test_an_interrupt_in_the_last_step_is_none():
    model, make_batch = model_and_batch()
    steps = []

    def batch(generator):
        steps.append(None)
        return make_batch(generator)

    ema_decay_at = Optimization.ema_decay_at

    def press(*args):
        if len(steps) == 5:
            signal.raise_signal(signal.SIGINT)
        return ema_decay_at(*args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Optimization, "ema_decay_at", press)
        log = fit(model, batch, steps=5, progress=False)
    assert log.steps == 5 and not log.interrupted


@pytest.mark.parametrize("rank", [0, 1])
def test_an_interrupt_of_one_process_ends_both_at_one_step(rank, tmp_path):
    run_on_two_processes(tmp_path / "two", interrupt=[rank, 5], checkpoint=str(tmp_path / "run.safetensors"))
    ends = [json.loads((tmp_path / f"two.{r}").read_text()) for r in range(2)]
    assert ends[0] == ends[1] and ends[0][1] and 5 <= ends[0][0] <= 7


def test_a_refused_checkpoint_changes_nothing(tmp_path):
    path = tmp_path / "run.safetensors"
    trained(steps=3, checkpoint=path)
    tensors = load_file(path)
    for missing in ("random.batch", "weights.0", "average.1"):
        with safe_open(path, "pt") as file:
            metadata = file.metadata()
        damaged = tmp_path / "damaged.safetensors"
        save_file({name: x for name, x in tensors.items() if name != missing}, damaged, metadata=metadata)
        model, batch = model_and_batch()
        before = [w.detach().clone() for w in model.parameters()]
        with pytest.raises(ValueError, match=f"damaged.safetensors is of another network: it has nothing as {missing}"):
            fit(model, batch, steps=5, progress=False, checkpoint=damaged)
        assert all(torch.equal(w, x) for w, x in zip(model.parameters(), before, strict=True))
        assert not model.denoiser.training
