"""The evaluation passes samples of the true posterior, and fails all others."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from fwdiff_lite import ForwardDiffusion, ForwardRegression, metrics
from fwdiff_lite.experiments import export, harness
from fwdiff_lite.experiments import motion as experiment
from fwdiff_lite.experiments.measurements import to_flat
from fwdiff_lite.problems.motion import scenes as motion_scenes
from fwdiff_lite.problems.motion.warping import single_flow_signal
from fwdiff_lite.storage.checkpoints import read_manifest

NUM_SCENES = 40


@pytest.fixture(scope="module")
def textures():
    return motion_scenes.make_textures(motion_scenes.TEST_PHOTOGRAPHS, 32)


@pytest.fixture(scope="module")
def test_set(textures):
    return experiment.make_test_set(textures, NUM_SCENES, 16)


def make_samples(test_set, amplitudes):
    """Samples with the given amplitudes (C, K, S), their true displacements and their true frames."""
    scenes = test_set.scenes[torch.arange(NUM_SCENES).repeat_interleave(amplitudes.shape[1])]
    flat, tau = amplitudes.flatten(0, 1), torch.tensor(experiment.TEST_TIMES)
    chunks = [slice(i, i + 32) for i in range(0, len(flat), 32)]
    frames = torch.cat([
        motion_scenes.render(scenes[chunk], flat[chunk], tau.expand(len(flat[chunk]), -1), test_set.textures)
        for chunk in chunks
    ])  # fmt: skip
    displacement = motion_scenes.true_displacement(scenes, flat)
    sources = test_set.context.value[:, 0].repeat_interleave(amplitudes.shape[1], 0)
    signal = single_flow_signal(sources, displacement)
    return experiment.Samples(signal, *(x.unflatten(0, amplitudes.shape[:2]) for x in (displacement, frames)))


@pytest.fixture(scope="module")
def exact_amplitudes(test_set):
    generator = torch.Generator().manual_seed(5)
    return torch.stack([motion_scenes.sample_amplitudes(test_set.scenes, generator) for _ in range(16)], 1)


@pytest.fixture(scope="module")
def static_samples(test_set):
    return make_samples(test_set, torch.zeros(NUM_SCENES, 1, 3))


@pytest.fixture(scope="module")
def exact_samples(test_set, exact_amplitudes):
    """The samples of a perfect sampler."""
    return make_samples(test_set, exact_amplitudes)


@pytest.fixture(scope="module")
def exact_measures(test_set, exact_samples, static_samples):
    return experiment.evaluate(test_set, exact_samples, static_samples)


def test_exact_samples_pass(exact_measures):
    measures = exact_measures
    assert measures["factor_tv"] < 0.06 and measures["factor_scene_rms"] < 0.1
    assert measures["readings_agree"] > 0.99 and measures["readings_right"] == 1
    assert abs(measures["mode_coverage"] - measures["mode_coverage_of_exact_draws"]) < 0.05
    assert measures["epe_best_of_16"] < 0.25 * measures["epe_zero"]
    assert measures["epe_deterministic"] == measures["epe_zero"]
    assert measures["epe_sample"] > 0.7 * measures["epe_zero"], "a single exact sample is wrong half of the time"
    assert abs(measures["energy_skill"] - 1) < 0.1 and measures["energy_ratio"] < 0.75
    assert 0.9 < measures["spread_skill"] < 1.12
    assert measures["psnr_best"] > measures["psnr_deterministic"] + 2.5
    assert measures["static_pixels_move"] < 0.05
    assert abs(measures["variance_over_true"] - 1) < 0.1 and abs(measures["mean_error_over_true"] - 1) < 0.1


def test_exact_draws_have_the_errors_and_signs_of_their_displacements(test_set, textures):
    few = 3
    small = experiment.make_test_set(textures, few, 1)
    scenes, generators = experiment.make_test_scenes(few, len(textures))
    amplitudes = experiment.sample_test_amplitudes(scenes, generators, 4)
    assert torch.equal(amplitudes[:, 0], test_set.amplitudes[:few])
    draws = scenes[torch.arange(few).repeat_interleave(4)]
    displacement = motion_scenes.true_displacement(draws, amplitudes[:, 1:].flatten(0, 1)).unflatten(0, (few, 4))
    epe = experiment.endpoint_error(displacement, small)
    labels = experiment.classify_displacement(displacement, small)[scenes.present_mask]
    probabilities = torch.stack([1 - scenes.mode_probability, scenes.mode_probability], -1)[scenes.present_mask]
    tv = metrics.factor_tv(labels, probabilities.double(), torch.Generator().manual_seed(0))
    measures = experiment.evaluate_exact_draws(len(textures), few, 4)
    assert measures["epe"] == pytest.approx(float(epe.mean()), rel=1e-4)
    assert measures["epe_best_of_4"] == pytest.approx(float(epe.amin(1).mean()), rel=1e-4)
    assert [measures[f"factor_tv{end}"] for end in ("", "_low", "_high")] == pytest.approx(list(tv))


def test_the_mode_sign_in_every_sample_fails(test_set, exact_amplitudes, static_samples, exact_measures):
    mode_sign = test_set.scenes.mode_sign[:, None] * (exact_amplitudes != 0)
    samples = make_samples(test_set, exact_amplitudes.abs() * mode_sign)
    measures = experiment.evaluate(test_set, samples, static_samples)
    assert measures["factor_tv"] > 0.25 and measures["factor_scene_rms"] > 0.3
    assert measures["mode_coverage"] < 0.6 and measures["spread_skill"] < 0.6
    assert measures["likelier_sign_70"] == 1 and measures["likelier_sign_50"] == 1
    advantage = exact_measures["energy_skill"] - measures["energy_skill"]
    assert advantage > 0.05, "against a static baseline, any motion pays"


def test_one_mode_per_scene_passes_pooled_frequencies_and_fails_per_scene(test_set, exact_amplitudes, static_samples):
    samples = make_samples(test_set, exact_amplitudes[:, :1].expand(-1, 16, -1))
    measures = experiment.evaluate(test_set, samples, static_samples)
    assert measures["factor_scene_rms"] > 0.35 and measures["spread_skill"] < 0.2 and measures["mode_coverage"] < 0.6


def test_samples_for_other_scenes_fail(test_set, exact_samples, static_samples, exact_measures):
    displacement, frames = exact_samples.displacement.roll(1, 0), exact_samples.frames.roll(1, 0)
    shuffled = replace(exact_samples, displacement=displacement, frames=frames)
    measures = experiment.evaluate(test_set, shuffled, static_samples)
    assert measures["epe_best_of_16"] > 2 * exact_measures["epe_best_of_16"] and measures["energy_skill"] < 0
    assert measures["static_pixels_move"] > 3 * exact_measures["static_pixels_move"]


def test_half_of_the_motion_fails(test_set, exact_amplitudes, static_samples, exact_measures):
    measures = experiment.evaluate(test_set, make_samples(test_set, exact_amplitudes / 2), static_samples)
    assert measures["epe_best_of_16"] > 1.5 * exact_measures["epe_best_of_16"] and measures["energy_skill"] < 0.85
    assert measures["spread_skill"] < 0.9 and measures["variance_over_true"] < 0.8


def test_true_displacements_and_frames_are_classified_correctly(test_set, exact_amplitudes, exact_samples):
    present_mask = test_set.scenes.present_mask
    expected = (exact_amplitudes.sign() == test_set.scenes.mode_sign[:, None]).transpose(1, 2)[present_mask]
    labels = experiment.classify_displacement(exact_samples.displacement, test_set)[present_mask]
    assert torch.equal(labels.bool(), expected)
    labels = experiment.classify_frames(exact_samples.frames[:, :, -1], test_set)[present_mask]
    assert (labels.bool() == expected).float().mean() > 0.99


def test_a_small_test_set_is_the_beginning_of_a_large_one(textures, test_set):
    small = experiment.make_test_set(textures, 3, 16)
    for name in ("frames", "posterior_draws"):  # to rounding: some processors round chunks of another size differently
        torch.testing.assert_close(getattr(small, name), getattr(test_set, name)[:3])
    assert (experiment.make_test_set(textures, 3, 16, seed=1).frames - small.frames).abs().max() > 0.1


def test_mode_coverage_of_exact_samples_is_known_in_closed_form(test_set):
    generator, coverages = torch.Generator().manual_seed(0), []
    scenes = test_set.scenes
    for _ in range(200):
        amplitudes = torch.stack([motion_scenes.sample_amplitudes(scenes, generator) for _ in range(5)], -1)
        coverage, expected = experiment.mode_coverage((amplitudes.sign() == scenes.mode_sign[..., None]).long(), scenes)
        coverages.append(coverage)
    assert abs(float(torch.stack(coverages).mean() - expected.mean())) < 0.01


def test_mode_frequency_is_that_of_the_samples(test_set, exact_amplitudes):
    labels = (exact_amplitudes.sign() == test_set.scenes.mode_sign[:, None]).long().transpose(1, 2)
    for percent, (frequency, half_width) in experiment.mode_frequency(labels, test_set.scenes).items():
        assert abs(100 * frequency - percent) < 100 * 2 * half_width and 0.01 < half_width < 0.12
    always = {50: (1, 0), 70: (1, 0), 80: (1, 0)}
    assert experiment.mode_frequency(torch.ones_like(labels), test_set.scenes) == always


def test_fewer_scenes_get_the_first_of_the_samples(textures):
    model = experiment.EXPERIMENT.variant("splat_2").build_model(widths=(8, 8, 8, 16))
    test_sets = {n: experiment.make_test_set(textures, n, 1) for n in (2, 3)}
    large, small = (
        experiment.sample_posterior(model, test_sets[n], 2, steps=2, chunk_size=chunk_size)
        for n, chunk_size in ((3, 4), (2, 512))
    )
    assert large.displacement.shape == (3, 2, 2, 64, 64) and large.frames.shape == (3, 2, 2, 3, 64, 64)
    assert len(large.signal.source) == 6
    torch.testing.assert_close(large.frames[:2], small.frames)
    torch.testing.assert_close(large.displacement[:2], small.displacement)
    assert not torch.allclose(large.frames[:, 0], large.frames[:, 1]), "two samples differ"
    other_seed = experiment.sample_posterior(model, test_sets[2], 2, steps=2, seed=1)
    assert not torch.allclose(other_seed.frames, small.frames)
    baseline = experiment.EXPERIMENT.variant("splat_2_mean").build_model(widths=(8,))
    assert experiment.sample_posterior(baseline, test_sets[2], 5).displacement.shape[1] == 1


def test_variants_are_models_and_their_baselines():
    variants = experiment.EXPERIMENT.variants
    assert len(variants) == 8
    assert type(variants["splat_2_mean"].build_model(widths=(8,))) is ForwardRegression
    model = variants["splat_2"].build_model(widths=(8,))
    assert type(model) is ForwardDiffusion and model.denoiser.num_flows == 2
    with pytest.raises(ValueError, match="unknown variant 'warp_3' of motion: choose one of warp_1, splat_1"):
        experiment.EXPERIMENT.variant("warp_3")


def test_a_forward_model_has_a_representation_error(textures):
    test_set = experiment.make_test_set(textures, 6, 2)
    warp, splat = (experiment.representation_error(test_set, name, fit_steps=40) for name in ("warp", "splat"))
    for errors in (warp, splat):
        assert 0 < errors["floor_best_fit"] < errors["floor_true_field"] < errors["floor_still"]
    assert splat["floor_best_fit"] < warp["floor_best_fit"], "its flow moves the source's pixels"


def test_variants_are_trained_evaluated_and_exported(tmp_path, monkeypatch):
    for name in ("warp_1", "warp_1_mean"):
        harness.train(experiment.EXPERIMENT, name, tmp_path, steps=1, batch_size=2)
    harness.evaluate(experiment.EXPERIMENT, (), tmp_path, {"scenes": 2, "samples": 3, "steps": 2})
    monkeypatch.setenv("FWDIFF_ROOT", str(tmp_path))
    export.export(experiment.EXPERIMENT, ["warp_1"], tmp_path)
    recorded = harness.load_results(experiment.EXPERIMENT)
    numbers, arrays = to_flat(recorded.rows), recorded.arrays
    assert set(numbers) == {"warp", "splat", "warp_1_eta_0", "warp_1_eta_1"}
    assert 0 < numbers["warp_1_eta_0"]["epe_sample"] < 20 and numbers["warp"]["floor_still"] > 0
    assert numbers["warp_1_eta_0"]["epe_best_of_3"] <= numbers["warp_1_eta_0"]["epe_sample"]
    assert arrays["warp_1_eta_1_epe"].shape == (2, 3) and arrays["warp_1_eta_0_labels"].shape == (2, 3, 3)
    assert arrays["warp_1_frames"].shape == (2, 3, 3, 64, 64)
    assert arrays["warp_1_mean_frames"].shape == (2, 1, 3, 64, 64)
    assert arrays["warp_1_mean_fields"].shape == (2, 1, 2, 64, 64)
    assert arrays["warp_1_mean_share"].shape == (2, 1, 64, 64)
    entry = read_manifest()["03_motion_warping.safetensors"]
    measured = set(experiment.EXPERIMENT.headline) - {"epe_best_of_16"}  # of three samples, not of 16
    assert entry["variant"] == "warp_1" and set(entry["metrics"]) == measured


def test_only_the_signals_of_the_exported_baseline_are_exported():
    arrays = dict.fromkeys(("warp_1_mean_fields", "splat_1_mean_fields", "splat_1_mean_frames"), np.zeros(1))
    assert set(experiment.exported_arrays("warp_1", arrays)) == {"warp_1_mean_fields", "splat_1_mean_frames"}


def test_the_shipped_results_have_every_sampler_and_every_number_of_steps():
    recorded = harness.load_results(experiment.EXPERIMENT)
    assert set(to_flat(recorded.rows)) == set(experiment.EXPERIMENT.evaluations)
    assert set(recorded.trainings) == set(experiment.EXPERIMENT.variants)
    assert all(record["steps"] > 1000 for record in recorded.trainings.values())
