"""fit() warns of targets of another scale than the noise's, and leaves every part of a model on its device."""

import subprocess
import sys
import warnings

import pytest
import torch
from torch import nn

from fwdiff_lite.diffusion import ForwardDiffusion
from fwdiff_lite.observations import Observations
from fwdiff_lite.storage.files import repo_root
from fwdiff_lite.training import fit
from fwdiff_lite.training_checks import TargetScale, check_gradients
from tests.bad_input.training import Denoiser, build_model, make_batch, observations, project


def scaled(scale, mask=None):
    def batch(generator):
        value = scale * torch.randn(64, 2, generator=generator)
        observations = Observations(value, torch.ones(64, 2, 2))
        if mask is not None:
            hidden = mask.expand(64, 2)
            observations = Observations(torch.where(hidden, 100.0, value), observations.params, ~hidden)
        return {"context": observations, "target": observations}

    return batch


def warnings_of(batch, steps=12, observation_scale=None):
    model = build_model()
    if observation_scale:
        model.observation_scale = observation_scale
    with warnings.catch_warnings(record=True) as records:
        warnings.simplefilter("always")
        fit(model, batch, steps=steps, progress=False)
    return [str(x.message) for x in records]


def test_targets_of_another_scale_are_warned_of_once():
    for scale in (0.018, 0.2, 4.4, 30.0):
        for steps in (1, 12):
            (message,) = warnings_of(scaled(scale), steps)
            assert message.startswith("the targets have a standard deviation of ")
            assert float(message.split("of ")[1].split(",")[0]) == pytest.approx(scale, rel=0.2)
            assert (
                "unless the model is made with ForwardDiffusion(..., observation_scale=" in message
                and "\n" not in message
            )


def test_other_targets_are_not():
    assert [warnings_of(scaled(scale)) for scale in (0.3, 0.89, 3.5)] == [[], [], []]
    assert warnings_of(scaled(4.4), observation_scale=4.0) == [], "the model's own scale"
    assert "the noise has 0.1:" in warnings_of(scaled(1.0), observation_scale=0.1)[0]
    hidden = torch.tensor([True, False])
    assert warnings_of(scaled(1.0, hidden)) == [] != warnings_of(scaled(9.0, hidden)), "what is masked is left out"


class Window(nn.Module):
    """Shows the first of two numbers."""

    def forward(self, signal, params):
        return signal[:, None] * self.support(params)

    def support(self, params):
        return torch.tensor([1.0, 0.0]).expand(*params.shape[:2], 2)


def test_what_lies_outside_of_a_crop_does_not_count():
    model = nn.Module()
    model.forward_model = Window()
    value = torch.stack([torch.tensor([3.0, -3.0]), torch.zeros(2)], 1)[:, None]
    target = Observations(value, torch.ones(2, 1, 1))
    scale = TargetScale(model)
    scale.measure(target)
    assert scale.sums.tolist() == [2, 0, 18]
    for _ in range(20):
        scale.measure(target)
    assert scale.sums.tolist() == [20, 0, 180], "10 steps are measured, and no later one"


def test_the_warnings_name_the_callers_line():
    code = (
        "from tests.bad_input.training import *\n"
        "x = Observations(9 * torch.randn(64, 1), torch.ones(64, 1, 2))\n"
        "model = ForwardDiffusion(Denoiser(), lambda signal, params: project(signal, params).sign())\n"
        "fit(model, [{'context': x, 'target': x}], steps=1, progress=False)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=repo_root())
    assert "<string>:4: UserWarning: the targets have" in run.stderr, run.stderr
    assert "<string>:4: UserWarning: the gradient is 0 at steps 0 to 0" in run.stderr, run.stderr


def test_a_forward_model_without_a_gradient_is_warned_of_once():
    def trained(change, steps):
        model = ForwardDiffusion(Denoiser(), lambda signal, params: change(project(signal, params)))
        with warnings.catch_warnings(record=True) as records:
            warnings.simplefilter("always")
            fit(model, make_batch, steps=steps, progress=False)
        return [str(x.message) for x in records]

    (message,) = trained(torch.round, 120)
    assert message.startswith("the gradient is 0 at steps 0 to 49, so nothing is trained: is the forward model piece")
    calls = []
    assert trained(lambda x: calls.append(None) or (x.round() if len(calls) < 3 else x), 5) == [], "it moves later"


class Away(nn.Module):
    """A forward model whose weights note where they are moved."""

    def __init__(self, moves):
        super().__init__()
        self.gain, self.moves = nn.Parameter(torch.ones(()), requires_grad=False), moves

    def to(self, device):
        self.moves.append(torch.device(device).type)
        return self

    def forward(self, signal, params):
        return self.gain * (signal[:, None] * params).sum(-1)


def test_a_forward_model_is_moved_back_to_its_device():
    """A stand-in: the accelerator moves its weights to another type of device."""
    model, moves = build_model(), []
    model.forward_model = Away(moves)
    fit(model, make_batch, steps=1, progress=False)
    assert moves[-1] == "cpu" and not model.denoiser.training
    moves.clear()
    with pytest.raises(ZeroDivisionError):
        fit(model, lambda generator: 1 / 0, steps=1, progress=False)
    assert moves[-1] == "cpu" and not model.denoiser.training


def test_batches_of_another_size_on_each_process_are_refused(monkeypatch):
    """A stand-in: the other process has 6 signals."""
    monkeypatch.setattr("fwdiff_lite.processes.ProcessSync.is_equal", lambda sync, x: x == 6)
    with pytest.raises(ValueError, match="the batch at step 0 has another size on another process: all need"):
        fit(build_model(), make_batch, steps=1, progress=False)
    six = observations(6)
    fit(build_model(), lambda generator: {"context": six, "target": six}, steps=1, progress=False)


def test_a_weight_without_a_gradient_is_named():
    denoiser = build_model().denoiser
    denoiser.linear.bias.requires_grad_(False)
    with pytest.raises(ValueError, match="the denoiser's linear.weight got no gradient, and several processes"):
        check_gradients(denoiser)
    denoiser.linear.weight.grad = torch.zeros(2, 3)
    check_gradients(denoiser)
