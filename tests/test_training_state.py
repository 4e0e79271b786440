"""AdamW, its learning rate and the average of the weights in closed form; when checkpoints are due; validation."""

import errno
import json
import math
import os
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import nn

from fwdiff_lite import processes, training
from fwdiff_lite.observations import Observations
from fwdiff_lite.storage.files import UnwritableError
from fwdiff_lite.training import fit
from fwdiff_lite.training_state import Optimization, TrainingLog, TrainingState
from fwdiff_lite.validation import validation_loss

pytestmark = pytest.mark.filterwarnings("ignore:the targets have a standard deviation")

GRADIENTS = [0.3, 100.0, -1.0, 0.02, 7.0, -0.5, 2.0, -0.1]


class Linear(nn.Module):
    """The loss w times the mean of the target: a gradient that a batch chooses."""

    def __init__(self):
        super().__init__()
        self.denoiser = nn.Module()
        self.denoiser.w = nn.Parameter(torch.tensor(0.5, dtype=torch.float64))

    def sample_time_and_noise(self, target, generator):
        return (torch.rand(len(target), generator=generator),)

    def forward(self, context, target, random):
        return {"loss": self.denoiser.w * target.value.mean(), "random": random.mean()}


def constant(value, b=2):
    observations = Observations(torch.full((b, 1), value, dtype=torch.float64), torch.ones(b, 1, 1))
    return {"context": observations, "target": observations}


def train(model=None, gradients=GRADIENTS, **options):
    """Trains on these gradients, one a step; returns the model and the log."""
    model = model or Linear()
    values = iter(gradients)
    options = {"steps": len(GRADIENTS), "progress": False} | options
    return model, fit(model, lambda generator: constant(next(values)), **options)


@dataclass
class Reference:
    """fit's update of one weight, written out."""

    learning_rate: float = 0.1
    weight_decay: float = 0.3
    warmup: float = 3
    clip: float = 2.0
    ema: float = 0.9
    cosine: bool = True
    ema_warmup: bool = True

    def run(self) -> list[tuple[float, float]]:
        """Weight and average after each step."""
        w = average = 0.5
        m = v = 0.0
        steps = []
        for n, gradient in enumerate(GRADIENTS):
            gradient *= min(1.0, self.clip / (abs(gradient) + 1e-6))
            rate = self.learning_rate * min(1, (n + 1) / self.warmup)
            rate *= 0.5 * (1 + math.cos(math.pi * n / len(GRADIENTS))) if self.cosine else 1
            m, v = 0.9 * m + 0.1 * gradient, 0.99 * v + 0.01 * gradient**2
            w *= 1 - rate * self.weight_decay
            w -= rate * m / (1 - 0.9 ** (n + 1)) / (math.sqrt(v / (1 - 0.99 ** (n + 1))) + 1e-8)
            decay = min(self.ema, (1 + n) / (10 + n)) if self.ema_warmup else self.ema
            average = decay * average + (1 - decay) * w
            steps.append((w, average))
        return steps


OPTIONS = {"learning_rate": 0.1, "weight_decay": 0.3, "warmup": 3, "clip": 2.0, "ema": 0.9}


def test_every_step_is_the_written_out_update():
    """The average at every step, by `validate`, and the raw weights, by ema=0."""
    averages, weights = [], []
    model, _ = train(validate=lambda model: averages.append(float(model.denoiser.w)) or 0, validate_every=1, **OPTIONS)
    train(validate=lambda model: weights.append(float(model.denoiser.w)) or 0, validate_every=1, **OPTIONS | {"ema": 0})
    wanted_weights, wanted_averages = zip(*Reference().run(), strict=True)
    assert averages == pytest.approx(wanted_averages, abs=1e-12)
    assert weights == pytest.approx(wanted_weights, abs=1e-12)
    assert model.denoiser.w.item() == averages[-1]


def test_the_update_has_the_bits_of_one_weight_after_another():
    denoisers = [nn.Sequential(nn.Linear(7, 33), nn.Linear(33, 5)) for _ in range(2)]
    denoisers[1].load_state_dict(denoisers[0].state_dict())
    state = TrainingState(denoisers[0], Optimization(0.01, weight_decay=0.1, warmup=0, clip=1.0, ema=0.9, seed=0))
    adamw = torch.optim.AdamW(denoisers[1].parameters(), 0.01, (0.9, 0.99), weight_decay=0.1, foreach=False)
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        for weights in zip(*(denoiser.parameters() for denoiser in denoisers), strict=True):
            gradient = torch.randn(weights[0].shape, generator=generator)
            for w in weights:
                w.grad = gradient.clone()
        state.update(torch.tensor(1.0), (0, 0))
        adamw.step()
    for w, wanted in zip(*(denoiser.parameters() for denoiser in denoisers), strict=True):
        assert torch.equal(w, wanted)


def test_the_defaults_of_the_update():
    model, _ = train()
    defaults = Reference(learning_rate=1e-3, weight_decay=0.0, warmup=100, clip=1.0, ema=0.999)
    assert model.denoiser.w.item() == pytest.approx(defaults.run()[-1][1], abs=1e-12)


@pytest.mark.parametrize(
    "change",
    [
        {"learning_rate": 0.11},
        {"weight_decay": 0.0},
        {"warmup": 1},
        {"clip": math.inf},
        {"ema": 0.0},
        {"cosine": False},
        {"ema_warmup": False},
    ],
    ids=lambda change: next(iter(change)),
)
def test_each_part_of_the_update_is_seen(change):
    """The control: the written-out update without one part is another."""
    model, _ = train(**OPTIONS)
    assert abs(model.denoiser.w.item() - Reference(**change).run()[-1][1]) > 1e-3
    if set(change) <= set(OPTIONS):
        model, _ = train(**OPTIONS | change)
        assert model.denoiser.w.item() == pytest.approx(Reference(**change).run()[-1][1], abs=1e-12)


def test_a_budget_of_seconds_sets_the_learning_rate(monkeypatch):
    """Of two budgets, the one that is spent further; the first step's seconds do not count."""
    clock = iter(range(100))
    monkeypatch.setattr(processes.time, "monotonic", lambda: next(clock))
    rates, steps = [], []

    def batch(generator):
        steps.append(None)
        return constant(1.0)

    adamw = torch.optim.AdamW.step

    def step(self, *args):
        rates.append(self.param_groups[0]["lr"])
        return adamw(self, *args)

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    log = fit(Linear(), batch, steps=100, seconds=4.0, warmup=0, learning_rate=1.0, progress=False)
    fractions = [0, 1 / 100, 1 / 4, 2 / 4, 3 / 4]
    assert rates == pytest.approx([0.5 * (1 + math.cos(math.pi * x)) for x in fractions])
    assert (log.steps, log.seconds) == (5, 4.0)


# --- checkpoints ---


def saves(monkeypatch, tmp_path, seconds_per_step=1.0, **options):
    """The steps at which a checkpoint was written."""
    clock = iter(x * seconds_per_step for x in range(1000))
    monkeypatch.setattr(processes.time, "monotonic", lambda: next(clock))
    steps, save = [], training.TrainingState.save

    def note(state, path):
        steps.append(state.log.steps)
        save(state, path)

    monkeypatch.setattr(training.TrainingState, "save", note)
    fit(Linear(), lambda g: constant(1.0), checkpoint=tmp_path / "a", progress=False, **options)
    return steps


def test_a_checkpoint_is_due_after_steps_or_minutes(monkeypatch, tmp_path):
    assert saves(monkeypatch, tmp_path, steps=10, checkpoint_every=4) == [4, 8, 10]
    monkeypatch.undo()
    (tmp_path / "a").unlink()
    late = saves(monkeypatch, tmp_path, 20.0, steps=9, checkpoint_every=5, checkpoint_minutes=1.0)
    assert late == [4, 5, 8, 9], "60 seconds after the first step, and after each save"
    monkeypatch.undo()
    resumed = saves(monkeypatch, tmp_path, 20.0, steps=14, checkpoint_minutes=1.0)
    assert resumed == [13, 14], "from the resume on"


def test_a_checkpoint_has_the_users_permissions_and_leaves_no_other_file(tmp_path):
    (tmp_path / "other").write_text("")
    train(checkpoint=tmp_path / "folder" / "run", checkpoint_every=2)
    assert [x.name for x in (tmp_path / "folder").iterdir()] == ["run"]
    assert (tmp_path / "folder" / "run").stat().st_mode & 0o444 == 0o444


def test_a_resume_with_other_settings_is_refused_unless_told(tmp_path):
    path = tmp_path / "run"
    train(steps=4, checkpoint=path, **OPTIONS)
    with pytest.raises(ValueError, match=r"was trained with learning_rate 0.1; this call has learning_rate 0.2: give"):
        fit(model := Linear(), lambda g: constant(1.0), steps=8, checkpoint=path, **OPTIONS | {"learning_rate": 0.2})
    assert model.denoiser.w.item() == 0.5, "nothing is changed"
    with pytest.raises(ValueError, match="was trained with batch_size 2; this call has batch_size 3"):
        fit(Linear(), lambda g: constant(1.0, 3), steps=8, checkpoint=path, **OPTIONS)
    changed = OPTIONS | {"learning_rate": 0.2, "seed": 5}
    log = fit(Linear(), lambda g: constant(1.0, 3), steps=8, checkpoint=path, resume="ignore", **changed)
    assert log.steps == 8
    with safe_open(path, "pt") as file:
        settings = json.loads(file.metadata()["fit"])["settings"]
    assert (settings["learning_rate"], settings["seed"], settings["batch_size"]) == (0.2, 5, 3), (
        "those of the last call"
    )
    with pytest.raises(ValueError, match="was trained with seed 5; this call has seed 0"):
        fit(Linear(), lambda g: constant(1.0, 3), steps=9, checkpoint=path, **OPTIONS | {"learning_rate": 0.2})


def test_an_interrupt_before_the_first_batch_loses_no_settings(tmp_path):
    path = tmp_path / "run"

    def interrupt(generator):
        raise KeyboardInterrupt

    assert fit(Linear(), interrupt, steps=4, checkpoint=path, progress=False).steps == 0
    train(steps=4, checkpoint=path)
    assert fit(Linear(), interrupt, steps=8, checkpoint=path, progress=False).steps == 4
    with pytest.raises(ValueError, match="was trained with batch_size 2; this call has batch_size 3"):
        fit(Linear(), lambda g: constant(1.0, 3), steps=8, checkpoint=path)


def test_a_weight_without_a_gradient_is_resumed(tmp_path):
    """It has no state in the optimizer, and it stays as it is. So does a frozen one."""

    def build():
        model = Linear()
        model.denoiser.unused = nn.Parameter(torch.ones(2, dtype=torch.float64))
        model.denoiser.frozen = nn.Parameter(torch.full((2,), 3.0, dtype=torch.float64), requires_grad=False)
        return model

    gradients = iter(GRADIENTS)
    fit(build(), lambda g: stop_after(gradients, 4), steps=8, checkpoint=tmp_path / "a", progress=False)
    resumed = build()
    fit(resumed, lambda g: constant(next(gradients)), steps=8, checkpoint=tmp_path / "a", progress=False)
    wanted, _ = train()
    assert torch.equal(resumed.denoiser.w, wanted.denoiser.w)
    assert resumed.denoiser.unused.tolist() == [1, 1] and resumed.denoiser.frozen.tolist() == [3, 3]


def stop_after(gradients, count):
    """The next batch; after so many, an interrupt in its place."""
    if len(GRADIENTS) - gradients.__length_hint__() == count:
        raise KeyboardInterrupt
    return constant(next(gradients))


def test_a_folder_that_cannot_be_written_is_named_at_the_start(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path)
    with pytest.raises(
        ValueError, match="checkpoint .*a cannot be written .no permission in its folder.: name another"
    ):
        fit(Linear(), lambda g: pytest.fail("a batch was drawn"), steps=1, checkpoint=tmp_path / "a")


def test_a_finished_checkpoint_says_so_and_is_read_from_a_folder_that_takes_no_file(tmp_path, monkeypatch, capsys):
    path = tmp_path / "a"
    model, log = train(checkpoint=path)
    assert capsys.readouterr().out == ""
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path)
    loaded = Linear()
    assert fit(loaded, lambda g: pytest.fail("a batch was drawn"), steps=8, checkpoint=path, progress=False) == log
    assert capsys.readouterr().out == f"{path} has spent the budget, at step 8: nothing was trained\n"
    assert torch.equal(loaded.denoiser.w, model.denoiser.w)
    with pytest.raises(ValueError, match="no permission in its folder"):
        fit(loaded, lambda g: pytest.fail("a batch was drawn"), steps=9, checkpoint=path, progress=False)


def test_a_full_disk_leaves_a_model_that_can_be_saved(tmp_path, monkeypatch):
    def write(path, content):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", write)
    model, message = (
        Linear(),
        "a cannot be written: No space left on device; the model holds the EMA .* at step 3: free",
    )
    with pytest.raises(UnwritableError, match=message):
        train(model, checkpoint=tmp_path / "a", checkpoint_every=3, **OPTIONS)
    assert model.denoiser.w.item() == pytest.approx(Reference().run()[2][1], abs=1e-12)


def test_other_frozen_weights_are_named_as_the_reason(tmp_path):
    model = Linear()
    model.denoiser.bias = nn.Parameter(torch.ones(2, dtype=torch.float64), requires_grad=False)
    train(model, steps=2, checkpoint=tmp_path / "a")
    model.denoiser.bias.requires_grad_(True)
    with pytest.raises(ValueError, match="of other weights: it has nothing as optimizer.1.* freeze the same weights"):
        train(model, checkpoint=tmp_path / "a")


# --- validation ---


def test_validation_stands_beside_the_curve_and_changes_nothing(tmp_path):
    seen = []

    def validate(model):
        assert not model.denoiser.training and not torch.is_grad_enabled()
        torch.rand(3)
        seen.append(float(model.denoiser.w))
        return {"error": abs(seen[-1]), "weight": torch.tensor(seen[-1], dtype=torch.float64)}

    plain, plain_log = train(**OPTIONS)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    model, log = train(validate=validate, validate_every=3, **OPTIONS)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(model.denoiser.w, plain.denoiser.w) and log.curve == plain_log.curve
    assert log.validation["steps"] == [3, 6, 8] and log.validation["weight"] == seen
    assert seen == pytest.approx([Reference().run()[n - 1][1] for n in (3, 6, 8)])
    assert plain_log.validation == {} == TrainingLog().validation
    path = tmp_path / "run"
    train(steps=4, checkpoint=path, validate=validate, validate_every=3, **OPTIONS)
    _, resumed = train(gradients=GRADIENTS[4:], checkpoint=path, validate=validate, validate_every=3, **OPTIONS)
    assert resumed.validation["steps"] == [3, 4, 6, 8]
    with pytest.raises(ValueError, match=r"validate returned \['loss'\], and earlier \['error', 'weight'\]"):
        fit(Linear(), lambda g: constant(1.0), steps=9, checkpoint=path, validate=lambda model: 1.0, **OPTIONS)


def test_an_interrupt_of_the_validation_keeps_the_raw_weights(tmp_path):
    path: Path = tmp_path / "run"

    def validate(model):
        raise KeyboardInterrupt

    gradients = iter(GRADIENTS)
    options = OPTIONS | {"steps": 8, "checkpoint": path, "progress": False}
    log = fit(Linear(), lambda g: constant(next(gradients)), validate=validate, validate_every=4, **options)
    assert log.interrupted and log.steps == 4
    model = Linear()
    fit(model, lambda g: constant(next(gradients)), **options)
    assert model.denoiser.w.item() == pytest.approx(Reference().run()[-1][1], abs=1e-12)


def test_the_validation_loss_is_a_mean_over_signals_with_the_same_random_numbers():
    model = Linear()
    batches = [constant(1.0, 2), constant(4.0, 6)]
    losses = validation_loss(model, batches)
    assert losses["loss"] == pytest.approx(0.5 * (2 * 1 + 6 * 4) / 8)
    draws = torch.Generator().manual_seed(0)
    wanted = (torch.rand(2, generator=draws).sum() + torch.rand(6, generator=draws).sum()) / 8
    assert losses["random"] == pytest.approx(float(wanted))
    assert validation_loss(model, batches) == losses != validation_loss(model, batches, seed=1)
