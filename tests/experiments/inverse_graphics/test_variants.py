"""The variants of the 3-D models: each is trained with what sets it apart, and fits into a checkpoint."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from small_variants import small_experiment, small_variant

from fwdiff_lite.experiments import harness
from fwdiff_lite.experiments.inverse_graphics import ablations, evaluation, variants
from fwdiff_lite.storage.checkpoints import FILE_MB
from fwdiff_lite.storage.files import read_json

EXPERIMENT = small_experiment(evaluation.EXPERIMENT)


@pytest.mark.parametrize("name", variants.VARIANTS)
def test_a_training_is_resumed(name, tmp_path):
    harness.train(EXPERIMENT, name, tmp_path, steps=2)
    log = harness.train(EXPERIMENT, name, tmp_path, steps=4)
    assert log.steps == 4 and len(log.curve["loss"]) == 4
    missing = {
        "no_novel": {"novel"},
        "view_space": {"novel"},
        "no_render": {"deterministic"},
        "unconditional": {"deterministic"},
    }
    assert set(log.curve) == {"loss", "target", "novel", "deterministic"} - missing.get(name, set())
    weights, initial = load_file(tmp_path / f"{name}.safetensors"), EXPERIMENT.variants[name].build_model()
    initial = initial.denoiser.state_dict()
    assert weights.keys() == initial.keys() and any((weights[key].float() != initial[key]).any() for key in weights)
    assert read_json(tmp_path / f"{name}.json")["steps"] == 4


def test_a_variant_draws_what_sets_it_apart():
    def batch(name):
        variant = small_variant(name)
        return variant.batches(torch.device("cpu"), 64)(torch.Generator().manual_seed(0))

    assert not batch("unet")["context"].mask.logical_not().any()
    share = float((~batch("guided")["context"].mask).float().mean())
    assert 0.03 < share < 0.4, "some contexts are masked out"
    assert not batch("unconditional")["context"].mask.any()
    assert batch("around")["context"].value.shape[1] == 2 and batch("unet")["context"].value.shape[1] == 1
    assert "pixel_indices" in batch("unet") and "pixel_indices" not in batch("view_space")


def test_the_weights_of_every_variant_fit_into_a_checkpoint():
    """At most 15 megabytes in half precision."""
    for name, variant in ablations.EXPERIMENT.variants.items():
        with torch.device("meta"):
            model = variant.build_model()
        assert 2e6 < sum(w.numel() for w in model.parameters()) < FILE_MB * 1e6 / 2, name


def test_a_model_of_larger_images_starts_from_the_weights_of_one_of_smaller_images():
    """At the same time, the mean of 2 x 2 pixels has the signal-to-noise ratio of one pixel of the smaller image."""
    coarse, fine = (small_variant("unet", side).build_model() for side in (16, 32))
    fine.denoiser.load_state_dict(coarse.denoiser.state_dict())
    assert fine.denoiser.renderer.height == 32
    t = torch.linspace(0.1, 0.9, 5)
    coarse_noise, fine_noise = (model.schedule.sigma(t) / model.schedule.alpha(t) for model in (coarse, fine))
    torch.testing.assert_close(fine_noise / 2, coarse_noise)
    assert small_variant("unet", variants.SIDE).build_model().schedule.scale == 0.5
    with torch.device("meta"):
        pair = [variants.SUPERSAMPLED_VARIANTS[f"supersampled_maps{end}"].build_model() for end in ("", "_128")]
    shapes = [{name: x.shape for name, x in model.denoiser.state_dict().items()} for model in pair]
    assert shapes[0] == shapes[1] and [model.forward_model.height for model in pair] == [64, 128]
    large = ablations.EXPERIMENT.variants["unet_128"]
    assert large.options["side"] == 128


def test_the_reseeded_variant_is_the_full_model_with_another_seed(tmp_path):
    states = [small_variant(name).build_model().denoiser.state_dict() for name in ("unet", "unet", "reseeded")]
    unet, again, reseeded = states
    assert all(torch.equal(again[name], weights) for name, weights in unet.items())
    assert any((reseeded[name] != weights).any() for name, weights in unet.items())
    assert variants.SETTINGS["reseeded"] == variants.SETTINGS["unet"]
    for name in ("unet", "reseeded"):
        harness.train(EXPERIMENT, name, tmp_path, steps=1)
    records = [read_json(tmp_path / f"{name}.json") for name in ("unet", "reseeded")]
    assert [record["seed"] for record in records] == [0, 1] and records[0]["curve"] != records[1]["curve"]


def test_supersampled_variants_have_as_many_rays_and_record_their_recipe():
    for name, variant in variants.SUPERSAMPLED_VARIANTS.items():
        with torch.device("meta"):
            model = variant.build_model()
        renderer, settings = model.denoiser.renderer, variants.SUPERSAMPLED_SETTINGS
        assert renderer.supersample_observations
        assert settings.pixels * renderer.supersampling**2 == variants.SETTINGS["unet"].pixels
        recipe = {"learning_rate": 8e-4, "muon_learning_rate": 2e-3, "warmup": 300, "supersample_observations": True}
        assert (recipe | {"supersampling": 4}).items() <= variant.options.items(), name
        assert sum(w.numel() for w in model.parameters()) < FILE_MB * 1e6 / 2
    assert "learning_rate" not in variants.VARIANTS["unet"].options, "recorded options stay as they are"


def test_supersampled_variants_are_trained_on_images_of_4_x_4_rays_a_pixel():
    def draw(name):
        all_variants = variants.VARIANTS | variants.SUPERSAMPLED_VARIANTS
        return all_variants[name].batches(torch.device("cpu"), 1)(torch.Generator().manual_seed(0))

    coarse, fine, fine_maps = (draw(name)["target"] for name in ("unet", "supersampled", "supersampled_maps"))
    assert torch.equal(fine.value, fine_maps.value) and torch.equal(fine.params, coarse.params)
    assert 0 < (fine.value - coarse.value).abs().mean() < 0.05  # the same scenes, other rays


def test_planes_are_ordered():
    with pytest.raises(ValueError, match="near and far are 2 and 1: wanted 0 < near < far"):
        small_variant("unet", near_far=(2.0, 1.0)).build_model()


def test_clip_variants_keep_settings_and_seed():
    variant = variants.make_clip_variant("reseeded", [], (8, 16), (1.0, 8.0), "folder", side=32)
    assert variant.seed == 1 and variant.options["side"] == 32
    assert variant.options["near_far"] == [1.0, 8.0] and variant.options["data"] == "folder"
    clip_settings = {name for name, settings in variants.SETTINGS.items() if settings.fits_clips}
    assert set(variants.SETTINGS) - clip_settings == {"around", "guided", "view_space", "unconditional"}
    assert not replace(variants.SETTINGS["unet"], contexts=2).fits_clips
