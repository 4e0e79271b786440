"""The evaluation of the 3-D models: exact posterior draws pass, wrong samples fail, and bad input is refused."""

from functools import partial

import numpy as np
import pytest
import torch
from small_variants import small_experiment, small_variant

from fwdiff_lite import metrics
from fwdiff_lite.experiments import export, harness
from fwdiff_lite.experiments.inverse_graphics import angles, evaluation, held_out, variants
from fwdiff_lite.experiments.inverse_graphics.posterior_samples import Sampling, sample_posterior
from fwdiff_lite.experiments.measurements import to_flat
from fwdiff_lite.problems.inverse_graphics import tabletop
from fwdiff_lite.problems.inverse_graphics.volume import RenderedImages
from fwdiff_lite.storage.checkpoints import read_manifest

SIDE, COUNT, K = 32, 24, 6


@pytest.fixture(scope="module")
def test_set():
    return held_out.make_test_set(COUNT, K, side=SIDE)


@pytest.fixture(scope="module")
def model():
    model = small_variant("unet").build_model().eval()
    with torch.no_grad():  # an initial encoder returns zero
        for weights in model.parameters():
            weights += 0.05 * torch.randn(weights.shape, generator=torch.Generator().manual_seed(len(weights)))
    return model


def make_small_set(make, *sizes, **options):
    """A test set of images of 16 x 16 pixels."""
    return make(*sizes, **options | {"side": 16})


def posterior_mean(test_set):
    return test_set.posterior_draws.mean(1, keepdim=True)


def test_a_smaller_test_set_has_the_first_scenes_of_a_larger_one(test_set):
    small_set = held_out.make_test_set(2, 1, side=SIDE)
    assert torch.equal(small_set.context.value, test_set.context.value[:2])
    assert torch.equal(small_set.cameras, test_set.cameras[:2]) and torch.equal(small_set.truth, test_set.truth[:2])


def test_posterior_draws_differ_only_in_the_disocclusion_mask(test_set):
    assert torch.equal(test_set.scenes.factor, held_out.held_out_scenes()[0].factor[:COUNT])
    changes = (test_set.posterior_draws.amax(1) - test_set.posterior_draws.amin(1)).amax(3) > 0.3
    assert float((changes & ~test_set.disocclusion_mask).sum() / changes.sum()) < 0.1  # pixels at edges show both sides
    assert changes.float().mean() < test_set.disocclusion_mask.float().mean() < 0.5


def test_exact_posterior_draws_pass(test_set):
    numbers = evaluation.evaluate(test_set, test_set.posterior_draws, posterior_mean(test_set))
    assert numbers["readings_right"] == 1
    assert numbers["factor_tv"] < 0.15 and numbers["factor_scene_rms"] < 0.2
    for angle in held_out.TARGET_ANGLES:
        assert numbers[f"energy_skill_{angle}"] == pytest.approx(1, abs=1e-6)
        assert numbers[f"sharpness_ratio_{angle}"] == pytest.approx(1, abs=0.03)
        assert numbers[f"variance_unseen_over_seen_{angle}"] > 100
    assert numbers["spread_skill_180"] == pytest.approx(1, abs=0.2)
    back_draws = test_set.posterior_draws[:, :, 2:]
    back = evaluation.evaluate(test_set, back_draws, posterior_mean(test_set), held_out.TARGET_ANGLES[2:])
    assert "energy_skill_60" not in back and back["factor_tv"] == numbers["factor_tv"]
    assert back["energy_ratio_180"] == numbers["energy_ratio_180"]


def test_draws_for_other_scenes_and_the_posterior_mean_fail(test_set):
    shuffled = evaluation.evaluate(test_set, test_set.posterior_draws.roll(1, 0), posterior_mean(test_set))
    assert shuffled["energy_skill_180"] < 0 and shuffled["psnr_seen_180"] < 20
    noise = torch.randn(test_set.posterior_draws.shape, generator=torch.Generator().manual_seed(0))
    collapsed = posterior_mean(test_set) + 1e-3 * noise
    numbers = evaluation.evaluate(test_set, collapsed, posterior_mean(test_set))
    assert numbers["spread_skill_180"] < 0.1
    assert numbers["energy_skill_180"] == pytest.approx(0, abs=0.05)


def test_without_a_baseline_there_is_no_comparison_with_it(test_set):
    numbers = evaluation.evaluate(test_set, test_set.posterior_draws)
    assert "spread_skill_60" in numbers and not any("energy" in name or "determ" in name for name in numbers)


def test_samples_do_not_depend_on_the_chunk_size(model):
    small_set = held_out.make_test_set(2, 1, side=16)
    samples = sample_posterior(model, small_set, Sampling(2, 2, chunk_size=4))
    assert samples.shape == (2, 2, len(held_out.TARGET_ANGLES), 2, 3, 16, 16)
    assert (sample_posterior(model, small_set, Sampling(2, 2, chunk_size=4)) == samples).all()
    angles = held_out.TARGET_ANGLES[:1]
    again = sample_posterior(model, small_set, Sampling(2, 2, chunk_size=1), angles)
    assert (again[:, :, 0] - samples[:, :, 0]).abs().max() < 1e-4
    assert (samples[:, 0] - samples[:, 1]).abs().max() > 1e-3, "samples differ"


def test_an_orbit_begins_at_the_context_camera(model):
    small_set = held_out.make_test_set(1, 1, side=16)
    images = evaluation.render_orbit(model, small_set, k=2, steps=1, frames=3)
    assert images.rgb.shape == (2, 3, 3, 16, 16) and images.distance.shape == (2, 3, 16, 16)
    generator, camera = torch.Generator().manual_seed(0), small_set.context.params
    target = tabletop.rotate_about_z(camera, 180).expand(2, -1, -1, -1)
    step = model.sample(small_set.context.repeat(2), target, steps=1, generator=generator)
    assert torch.allclose(images.rgb[:, 0], step.signal.render(camera.expand(2, -1, -1, -1)).rgb[:, 0])


def test_a_transparent_pixel_has_infinite_depth():
    image = RenderedImages(torch.zeros(1, 1, 3, 1, 2), torch.tensor([[[[1.0, 2.0]]]]), torch.tensor([[[[0.9, 0.1]]]]))
    assert evaluation.surface_depth(image).flatten().tolist() == [1.0, torch.inf]


def test_a_test_set_has_at_most_256_scenes():
    with pytest.raises(ValueError, match="the test set has 256 scenes, got count = 257"):
        held_out.make_test_set(257)


def test_evaluations_are_exported_in_the_form_that_the_notebook_reads(tmp_path, monkeypatch):
    for module in (evaluation, angles):
        monkeypatch.setattr(module, "make_test_set", partial(make_small_set, module.make_test_set))
    monkeypatch.setattr(angles.metrics, "bootstrap", partial(metrics.bootstrap, resamples=20))
    experiment = small_experiment(evaluation.EXPERIMENT, width=8, samples_per_ray=4)
    names = variants.MAIN_MODEL, variants.MAIN_BASELINE, "supersampled_view_space"
    for name in names:
        harness.train(experiment, name, tmp_path, steps=1)
    harness.evaluate(experiment, (), tmp_path, {"scenes": 4, "samples": 3, "steps": 1, "supersampling": 2})
    monkeypatch.setenv("FWDIFF_ROOT", str(tmp_path))
    export.export(experiment, [variants.MAIN_MODEL], tmp_path)
    entry = read_manifest()[f"{variants.PRETRAINED}.safetensors"]
    assert set(entry["metrics"]) == set(experiment.headline) and entry["steps"] == 1
    results = harness.load_results(experiment)
    samplers = {f"supersampled_maps_angles_eta_{eta}" for eta in (0, 1)} | {"supersampled_view_space_angles_eta_1"}
    assert set(results.evaluations) == samplers | {"supersampled_deterministic_angles", "ceiling", "orbit", "reference"}
    assert set(results.trainings) == set(names)
    numbers, arrays = evaluation.numbers_of(results), results.arrays
    assert {"energy_skill_60", "novel_energy_over_true_150", "psnr_mean_over_deterministic_180"} <= set(numbers)
    sampler = evaluation.MAIN_SAMPLER
    images = arrays[f"{sampler}_images"]
    assert images.shape == (4, 3, 5, 2, 3, 16, 16) and images.dtype == np.uint8
    assert arrays[f"{sampler}_deviation"].shape == (4, 5, 2, 16, 16) and arrays[f"{sampler}_labels"].shape == (4, 2, 3)
    assert arrays["supersampled_deterministic_images"].shape == (4, 5, 2, 3, 16, 16)
    assert "supersampled_maps_angles_eta_0_images" not in arrays, "images of the main sampler alone"
    assert arrays["orbit"].shape == (2 * evaluation.ORBIT_SCENES, evaluation.ORBIT_FRAMES, 3, 16, 16)
    assert arrays["live"].shape == (2, 2, 1, 1, 3, 16, 16)


def test_the_shipped_results_have_the_same_form():
    results = harness.load_results(evaluation.EXPERIMENT)
    assert {"ceiling", "supersampled_view_space_angles_eta_1"} < set(to_flat(results.rows))
    for name in (variants.MAIN_MODEL, variants.MAIN_BASELINE):
        assert results.trainings[name]["curve"]["loss"] and results.trainings[name]["steps"] > 1000
    minutes = [results.trainings[name]["gpu_minutes"] for name in (variants.MAIN_MODEL, variants.MAIN_BASELINE)]
    assert minutes[0] == pytest.approx(minutes[1], rel=0.02), "the baseline has the same compute"
    assert {"orbit", "orbit_depth", "live"} <= set(results.arrays)
    assert len(results.arrays[f"{evaluation.MAIN_SAMPLER}_labels"]) == 256
