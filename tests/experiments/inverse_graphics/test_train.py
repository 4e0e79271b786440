"""The training of the 3-D models, at toy size: it is resumed, and writes weights and a record."""

import dataclasses

import pytest
import torch
from safetensors.torch import load_file

from fwdiff_lite.experiments.inverse_graphics import train
from fwdiff_lite.storage.checkpoints import FILE_MB
from fwdiff_lite.storage.files import read_json

TINY = {"side": 16, "samples_per_ray": 8, "width": 16}
ENCODER_OPTIONS = {"unet": {"widths": (8, 16)}, "dit": {"width": 16, "depth": 1, "heads": 2}}


@pytest.mark.parametrize("variant", train.VARIANTS)
def test_a_training_is_resumed(variant, tmp_path):
    options = TINY | ENCODER_OPTIONS[train.VARIANTS[variant].encoder]
    train.train(train.build_model(variant, **options), tmp_path, variant, batch_size=2, pixels=16, steps=2)
    model = train.build_model(variant, **options)
    initial = {key: value.clone() for key, value in model.denoiser.state_dict().items()}
    log = train.train(model, tmp_path, variant, batch_size=2, pixels=16, steps=4)
    assert log.steps == 4 and len(log.curve["loss"]) == 4
    missing = {
        "no_novel": {"novel"},
        "view_space": {"novel"},
        "no_render": {"deterministic"},
        "unconditional": {"deterministic"},
    }
    assert set(log.curve) == {"loss", "target", "novel", "deterministic"} - missing.get(variant, set())
    weights = load_file(tmp_path / f"{variant}.safetensors")
    assert weights.keys() == initial.keys() and any((weights[key].float() != initial[key]).any() for key in weights)
    record = read_json(tmp_path / f"{variant}.json")
    assert record["steps"] == 4 and record["batch"] == 2 and record["minutes"] > 0


def test_a_training_with_another_configuration_is_not_resumed(tmp_path):
    options, config = TINY | ENCODER_OPTIONS["unet"], {"data": "folder_a", "near_far": [1.0, 8.0]}

    def run_training(steps, config):
        model = train.build_model("unet", **options)
        return train.train(model, tmp_path, "unet", 2, 16, resume_config=config, steps=steps).steps

    assert run_training(1, config) == 1
    (tmp_path / "unet.json").unlink()  # as after a kill
    assert run_training(2, config) == 2
    record = (tmp_path / "unet.json").read_bytes()
    with pytest.raises(ValueError, match="was trained with .*folder_a.*, not with .*folder_b.*: delete it, or name"):
        run_training(3, config | {"data": "folder_b"})
    assert (tmp_path / "unet.json").read_bytes() == record


def test_the_weights_of_every_variant_fit_into_a_checkpoint():
    """At most 15 megabytes in half precision."""
    for variant in train.VARIANTS:
        with torch.device("meta"):
            model = train.build_model(variant)
        assert 2e6 < sum(w.numel() for w in model.parameters()) < FILE_MB * 1e6 / 2, variant


def test_a_model_of_larger_images_starts_from_the_weights_of_one_of_smaller_images(tmp_path):
    """At the same time, the mean of 2 x 2 pixels has the signal-to-noise ratio of one pixel of the smaller image."""
    options = TINY | ENCODER_OPTIONS["unet"]
    coarse = train.build_model("unet", **options)
    train.train(coarse, tmp_path, "unet", batch_size=2, pixels=16, steps=1)
    fine = train.build_model("unet", **(options | {"side": 32}))
    fine.denoiser.load_state_dict(coarse.denoiser.state_dict())
    assert fine.denoiser.renderer.height == 32
    log = train.train(fine, tmp_path, "fine", batch_size=2, pixels=16, steps=1)
    assert log.steps == 1
    assert train.run_name("unet", 64) == "unet" and train.run_name("unet", 128) == "unet_128"
    t = torch.linspace(0.1, 0.9, 5)
    coarse_noise, fine_noise = (model.schedule.sigma(t) / model.schedule.alpha(t) for model in (coarse, fine))
    torch.testing.assert_close(fine_noise / 2, coarse_noise)
    assert train.build_model("unet", width=8, widths=(8, 16)).schedule.scale == 0.5


def test_unknown_variants_are_refused():
    names = "unet, reseeded, dit, no_novel, no_render, no_features, no_depth, around, guided, deterministic, view_space"
    with pytest.raises(ValueError, match=f"unknown variant 'vit': choose one of {names}, unconditional"):
        train.build_model("vit")


def test_the_reseeded_variant_is_the_full_model_with_another_seed(tmp_path):
    options = TINY | ENCODER_OPTIONS["unet"]
    states = [train.build_model(variant, **options).denoiser.state_dict() for variant in ("unet", "unet", "reseeded")]
    unet, again, reseeded = states
    assert all(torch.equal(again[name], weights) for name, weights in unet.items())
    assert any((reseeded[name] != weights).any() for name, weights in unet.items())
    assert train.VARIANTS["reseeded"] == dataclasses.replace(train.VARIANTS["unet"], seed=1)
    for seed in (0, 1):
        train.train(
            train.build_model("unet", **options), tmp_path, f"{seed}", batch_size=2, pixels=16, seed=seed, steps=1
        )
    records = [read_json(tmp_path / f"{seed}.json") for seed in (0, 1)]
    assert [record["seed"] for record in records] == [0, 1] and records[0]["curve"] != records[1]["curve"]
