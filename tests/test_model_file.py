"""A model's file gives the same samples again; a file that is damaged or of another model is refused in one line."""

import json
import os

import pytest
import torch
from gaussian_problem import GaussianDenoiser, observe, project
from safetensors.torch import load_file, save_file
from torch import nn

from fwdiff_lite.diffusion import ForwardDiffusion, ForwardRegression
from fwdiff_lite.model_file import KEY
from fwdiff_lite.schedule import CosineSchedule, ShiftedCosineSchedule
from fwdiff_lite.training_checks import describe_model
from fwdiff_lite.training_state import Optimization, TrainingState


class Network(nn.Module):
    def __init__(self, width=2):
        super().__init__()
        self.linear = nn.Linear(2, width, dtype=torch.float64)
        self.linear_again = self.linear  # shared weights
        self.register_buffer("count", torch.tensor(3))

    def condition(self, context, target_params, target_mask=None):
        return context.value

    def forward(self, condition, noisy_target, t):
        return self.linear(torch.cat([condition, noisy_target], 1))


def build(model_class=ForwardDiffusion, schedule=None, width=2, **options):
    return model_class(Network(width), project, schedule or ShiftedCosineSchedule(0.5), **options)


def test_a_loaded_model_samples_as_the_saved_one(tmp_path):
    _, seen = observe(4, 2)
    path = tmp_path / "folder" / "model.safetensors"
    saved = build(observation_scale=2.5)
    saved.denoiser.count += 1
    saved.save(path)
    model = build()
    assert model.load(str(path)) is model
    assert model.observation_scale == 2.5 and model.denoiser.count == 4
    steps = [
        m.sample(seen.select([0]), seen.params[:, 1:], steps=3, generator=torch.Generator().manual_seed(0))
        for m in (saved, model)
    ]
    assert torch.equal(steps[0].signal, steps[1].signal) and torch.equal(steps[0].observation, steps[1].observation)
    assert [x.name for x in path.parent.iterdir()] == [path.name], "and leaves no other file"


class Compiled(nn.Module):
    """A module as torch.compile wraps it, without the seconds that the compiler's import takes."""

    def __init__(self, module):
        super().__init__()
        self._orig_mod = module

    condition, forward = Network.condition, Network.forward


def test_compiled_parts_do_not_change_the_names_in_a_file(tmp_path):
    def build_wrapped():
        model = build()
        model.denoiser.linear = Compiled(model.denoiser.linear)
        model.denoiser = Compiled(model.denoiser)
        return model

    path, wrapped = tmp_path / "model.safetensors", build_wrapped()
    wrapped.save(path)
    assert not any("_orig_mod" in name for name in load_file(path))
    plain = build().load(path)
    again = build_wrapped().load(path)
    assert describe_model(wrapped) == describe_model(plain), "which a checkpoint compares"
    for model in (plain, again):
        pairs = zip(model.denoiser.parameters(), wrapped.denoiser.parameters(), strict=True)
        assert all(torch.equal(w, x) for w, x in pairs)


def test_a_checkpoint_of_a_training_is_named_as_one(tmp_path):
    TrainingState(Network(), Optimization(1e-3, 0.0, 0, 1.0, 0.9, 0)).save(tmp_path / "checkpoint")
    with pytest.raises(ValueError, match="no file of a model .it is a checkpoint of fit: resume it there.: write"):
        build().load(tmp_path / "checkpoint")


def test_a_folder_is_refused_as_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder, name in ((tmp_path, tmp_path.name), (".", r"\."), ("", "an empty path")):
        with pytest.raises(ValueError, match=f"{name} is a folder: name a file in it"):
            build().save(folder)


def test_models_and_checkpoints_have_the_permissions_of_the_users_umask(tmp_path):
    previous = os.umask(0o027)
    try:
        build().save(tmp_path / "model.safetensors")
        state = TrainingState(Network(), Optimization(1e-3, 0.0, 0, 1.0, 0.9, 0))
        state.save(tmp_path / "checkpoint.safetensors")
    finally:
        os.umask(previous)
    assert [path.stat().st_mode & 0o777 for path in tmp_path.iterdir()] == [0o640, 0o640]


def rewrite(path, change=lambda weights: weights, metadata=None):
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        description = file.metadata()
    save_file(change(load_file(path)), path, description if metadata is None else metadata)


def drop(weights):
    return {name: x for name, x in weights.items() if name != "count"}


DESCRIPTION = {"model": "ForwardDiffusion", "schedule": "ShiftedCosineSchedule(scale=0.5)", "observation_scale": 1.0}


@pytest.mark.parametrize(
    "spoil, message",
    [
        (lambda path: path.unlink(), "there is no model file"),
        (lambda path: path.write_bytes(path.read_bytes()[:-9]), "is no file of a model"),
        (lambda path: path.write_bytes(b"\x80\x05pickled"), "is no file of a model"),
        (lambda path: rewrite(path, metadata={}), "is no file of a model"),
        (lambda path: rewrite(path, metadata={KEY: "{"}), "is no file of a model"),
        (lambda path: rewrite(path, metadata={KEY: "[]"}), "is no file of a model"),
        (lambda path: rewrite(path, metadata={KEY: json.dumps(DESCRIPTION | {"observation_scale": -1})}), "is no file"),
        (lambda path: rewrite(path, metadata={KEY: json.dumps(DESCRIPTION | {"model": "X"})}), "has the model X"),
        (lambda path: rewrite(path, drop), "another network: count is nothing there"),
        (lambda path: rewrite(path, lambda w: w | {"more": torch.ones(1)}), "more is .* there and nothing here"),
        (lambda path: rewrite(path, lambda w: w | {"count": torch.ones(2)}), "count is torch.float32"),
        (lambda path: rewrite(path, lambda w: w | {"count": torch.tensor(1.0)}), "count is torch.float32"),
        (lambda path: rewrite(path, lambda w: w | {"linear.bias": w["linear.bias"] * torch.nan}), "NaN or infinite"),
        (lambda path: build(width=3).save(path), r"is torch.float64 \(3,\) there and .* \(2,\) here"),
        (lambda path: build(ForwardRegression).save(path), "has the model ForwardRegression, this model"),
        (lambda path: build(schedule=CosineSchedule()).save(path), r"has the schedule CosineSchedule\(\), this model"),
    ],
)
def test_a_damaged_or_foreign_file_changes_nothing(tmp_path, spoil, message):
    path = tmp_path / "model.safetensors"
    build().save(path)
    model = build()
    before = {name: x.clone() for name, x in model.denoiser.state_dict().items()}
    spoil(path)
    with pytest.raises(ValueError, match=message) as error:
        model.load(path)
    assert "\n" not in str(error.value)
    assert all(torch.equal(x, before[name]) for name, x in model.denoiser.state_dict().items())
    assert model.observation_scale == 1


def test_a_schedule_that_is_no_dataclass_is_known_by_its_type(tmp_path):
    class Custom:
        def alpha(self, t):
            return 1 - t

        def sigma(self, t):
            return (1 - (1 - t) ** 2) ** 0.5

    path = tmp_path / "model.safetensors"
    build(schedule=Custom()).save(path)
    build(schedule=Custom()).load(path)
    with pytest.raises(ValueError, match="has the schedule Custom"):
        build().load(path)


def test_a_denoiser_that_wants_the_scale_gets_it_from_the_model_and_its_file(tmp_path):
    class ScaledLinear(GaussianDenoiser):
        observation_scale = 1.0

    model = ForwardDiffusion(ScaledLinear(), project, observation_scale=41.0)
    assert model.denoiser.observation_scale == 41.0
    model.save(tmp_path / "model.safetensors")
    loaded = ForwardDiffusion(ScaledLinear(), project).load(tmp_path / "model.safetensors")
    assert loaded.observation_scale == loaded.denoiser.observation_scale == 41.0
