"""The training of the 3-D models, at toy size: it is resumed, and leaves what it says."""

import dataclasses

import pytest
import torch
from safetensors.torch import load_file

from fwdiff_lite.experiments.inverse_graphics import train
from fwdiff_lite.storage.checkpoints import FILE_MB
from fwdiff_lite.storage.files import read_json

TINY = {"side": 16, "samples": 8, "width": 16}
ENCODERS = {"unet": {"widths": (8, 16)}, "dit": {"width": 16, "depth": 1, "heads": 2}}


@pytest.mark.parametrize("arm", train.VARIANTS)
def test_a_training_is_gone_on_with(arm, tmp_path):
    options = TINY | ENCODERS[train.VARIANTS[arm].encoder]
    train.train(train.build_model(arm, **options), tmp_path, arm, size=2, pixels=16, steps=2)
    model = train.build_model(arm, **options)
    before = {key: value.clone() for key, value in model.denoiser.state_dict().items()}
    done = train.train(model, tmp_path, arm, size=2, pixels=16, steps=4)
    assert done.steps == 4 and len(done.curve["loss"]) == 4
    missing = {"no_novel": {"novel"}, "view_space": {"novel"}, "no_render": {"deterministic"}, "unconditional": {"deterministic"}}
    assert set(done.curve) == {"loss", "target", "novel", "deterministic"} - missing.get(arm, set())
    weights = load_file(tmp_path / f"{arm}.safetensors")
    assert weights.keys() == before.keys() and any((weights[key].float() != before[key]).any() for key in weights)
    record = read_json(tmp_path / f"{arm}.json")
    assert record["steps"] == 4 and record["batch"] == 2 and record["minutes"] > 0


def test_a_training_of_something_else_is_not_gone_on_with(tmp_path):
    options, asked = TINY | ENCODERS["unet"], {"data": "here", "ends": [1.0, 8.0]}

    def trained(steps, asked):
        return train.train(train.build_model("unet", **options), tmp_path, "unet", 2, 16, asked=asked, steps=steps).steps

    assert trained(1, asked) == 1
    (tmp_path / "unet.json").unlink()  # as after a kill
    assert trained(2, asked) == 2
    record = (tmp_path / "unet.json").read_bytes()
    with pytest.raises(ValueError, match="was trained with .*here.*, not with .*there.*: delete it, or name another"):
        trained(3, asked | {"data": "there"})
    assert (tmp_path / "unet.json").read_bytes() == record


def test_the_models_are_of_the_size_that_may_be_shipped():
    """At most 15 megabytes in half precision."""
    for arm in train.VARIANTS:
        with torch.device("meta"):
            model = train.build_model(arm)
        assert 2e6 < sum(w.numel() for w in model.parameters()) < FILE_MB * 1e6 / 2, arm


def test_finer_images_are_gone_on_to_from_the_weights_of_coarser_ones(tmp_path):
    """The same weights, and at the same time the same noise on what is large: per 2 x 2 pixels, half of it."""
    options = TINY | ENCODERS["unet"]
    coarse = train.build_model("unet", **options)
    train.train(coarse, tmp_path, "unet", size=2, pixels=16, steps=1)
    fine = train.build_model("unet", **(options | {"side": 32}))
    fine.denoiser.load_state_dict(coarse.denoiser.state_dict())
    assert fine.denoiser.renderer.height == 32
    done = train.train(fine, tmp_path, "finer", size=2, pixels=16, steps=1)
    assert done.steps == 1
    assert train.run_name("unet", 64) == "unet" and train.run_name("unet", 128) == "unet_128"
    t = torch.linspace(0.1, 0.9, 5)
    noise = [model.schedule.sigma(t) / model.schedule.alpha(t) for model in (coarse, fine)]
    torch.testing.assert_close(noise[1] / 2, noise[0])
    assert train.build_model("unet", width=8, widths=(8, 16)).schedule.scale == 0.5


def test_unknown_arms_are_refused():
    names = "unet, reseeded, dit, no_novel, no_render, no_features, no_depth, around, guided, deterministic, view_space"
    with pytest.raises(ValueError, match=f"unknown arm 'vit': choose one of {names}, unconditional"):
        train.build_model("vit")


def test_the_reseeded_arm_is_the_full_model_with_other_numbers(tmp_path):
    options = TINY | ENCODERS["unet"]
    first, again, other = (train.build_model(arm, **options) for arm in ("unet", "unet", "reseeded"))
    for name, weights in first.denoiser.state_dict().items():
        assert torch.equal(again.denoiser.state_dict()[name], weights)
    assert any((other.denoiser.state_dict()[name] != w).any() for name, w in first.denoiser.state_dict().items())
    assert train.VARIANTS["reseeded"] == dataclasses.replace(train.VARIANTS["unet"], seed=1)
    for seed in (0, 1):
        train.train(train.build_model("unet", **options), tmp_path, f"{seed}", size=2, pixels=16, seed=seed, steps=1)
    curves = [read_json(tmp_path / f"{seed}.json") for seed in (0, 1)]
    assert [record["seed"] for record in curves] == [0, 1] and curves[0]["curve"] != curves[1]["curve"]
