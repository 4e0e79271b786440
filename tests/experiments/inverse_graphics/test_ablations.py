"""The ablations: all are evaluated on one test set, and each measure has its controls."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from small_variants import small_experiment, small_variant

from fwdiff_lite.colours import to_uint8
from fwdiff_lite.experiments import export, harness
from fwdiff_lite.experiments.__main__ import main
from fwdiff_lite.experiments.harness import Session
from fwdiff_lite.experiments.inverse_graphics import ablations, evaluation, held_out
from fwdiff_lite.experiments.inverse_graphics.posterior_samples import Sampling, sample_posterior
from fwdiff_lite.experiments.measurements import to_flat
from fwdiff_lite.problems.inverse_graphics import tabletop
from fwdiff_lite.problems.inverse_graphics.viewspace import DistillationConfig
from fwdiff_lite.storage.checkpoints import read_manifest
from fwdiff_lite.storage.files import read_json, write_json

SIDE, COUNT, K = 32, 8, 4
SMALL = {"width": 8, "samples_per_ray": 4}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def test_set():
    return held_out.make_test_set(COUNT, K, side=SIDE)


@pytest.fixture(scope="module")
def small_set():
    return held_out.make_test_set(2, 2, side=16)


def perturbed_model(variant):
    """A small model whose encoder does not return zero."""
    model = small_variant(variant, **SMALL).build_model().eval()
    with torch.no_grad():
        for weights in model.parameters():
            weights += 0.05 * torch.randn(weights.shape, generator=seeded(len(weights)))
    return model


# --- metrics ----------------------------------------------------------------------------------------------------------


def posterior_mean(test_set):
    return test_set.posterior_draws.mean(1, keepdim=True)


@pytest.fixture(scope="module")
def results(test_set):
    points, results = ablations.consistency_points(test_set), {}
    for name in ("redrawn", "mixed", "prior"):
        ablation = replace(ablations.SAMPLED_VARIANTS[name], target_angles=evaluation.BACK_ANGLES)
        samples = ablation.sampler(None, test_set, Sampling(K))[:, :, 2:]
        results[name] = ablations.evaluate_sampled_variant(
            test_set, samples, posterior_mean(test_set), ablation, points
        )
    return results


def test_true_draws_show_the_scores_of_a_perfect_sampler(results):
    draws, mixed, prior = (results[name]["numbers"] for name in ("redrawn", "mixed", "prior"))
    assert draws["energy_skill_180"] == draws["novel_energy_skill_180"] == pytest.approx(1, abs=1e-6)
    assert mixed["energy_180"] == draws["energy_180"], "each view separately is the same"
    assert mixed["consistency_180"] < draws["consistency_180_low"] - 9, "but the pairs of views are not"
    assert prior["energy_180"] > 1.1 * draws["energy_180"]
    assert 0.8 < prior["set_distance_180"] < 1.2, "of other draws from the prior"
    assert set(results["prior"]["each"]) == {"energy_180", "novel_energy_180"}, "it samples other scenes"
    assert draws["lean_low"] < 0 < draws["lean_high"]
    per_scene = results["redrawn"]["each"]
    assert np.mean(per_scene["energy_180"]) == pytest.approx(draws["energy_180"], rel=1e-4)
    consistency = 10 * np.log10(4 / np.mean(per_scene["consistency_180"]))
    assert consistency == pytest.approx(draws["consistency_180"], abs=1e-3)


def test_the_psnr_of_no_error_is_left_out(test_set, tmp_path):
    samples = test_set.posterior_draws.clone()
    samples[:, 0] = test_set.truth
    ablation = replace(ablations.SAMPLED_VARIANTS["redrawn"], target_angles=evaluation.BACK_ANGLES)
    points = ablations.consistency_points(test_set)
    results = ablations.evaluate_sampled_variant(
        test_set, samples[:, :, 2:], posterior_mean(test_set), ablation, points
    )
    write_json(tmp_path / "ablation.json", results)  # refuses numbers that are not finite
    assert "psnr_seen_180" not in results["numbers"] and "energy_180" in results["numbers"]


def test_the_energy_score_of_a_single_prediction_is_its_euclidean_error(test_set):
    ablation, prediction = ablations.SAMPLED_VARIANTS["deterministic"], posterior_mean(test_set)
    points = ablations.consistency_points(test_set)
    results = ablations.evaluate_sampled_variant(test_set, prediction, prediction, ablation, points)
    assert "spread_skill_180" not in results["numbers"]
    error = (prediction[:, 0, 2, 0] - test_set.truth[:, 2, 0]).flatten(1).norm(dim=1)
    torch.testing.assert_close(torch.tensor(results["each"]["energy_180"]), error, rtol=1e-4, atol=0)


def test_the_mode_bias_of_a_sampler_of_modes_is_large_and_of_true_draws_zero():
    scenes = tabletop.sample_scenes(40, seeded())
    probability, mode = scenes.factor_probabilities.max(-1)
    labels = mode[..., None].expand(-1, -1, 3)
    expected = 1 - float(probability.mean())
    assert ablations.mode_bias(labels, scenes, seeded()).value == pytest.approx(expected, abs=1e-6)
    probabilities = scenes.factor_probabilities.flatten(0, 1)
    true_labels = torch.multinomial(probabilities, 400, True, generator=seeded(1)).view(40, 2, 400)
    assert abs(ablations.mode_bias(true_labels, scenes, seeded()).value) < 0.02


def test_the_relative_distance_of_true_draws_is_one_and_of_wrong_samples_larger():
    draws_a, draws_b, samples = torch.randn(3, 40, 4, 3, 4, 4, generator=seeded())
    assert ablations.relative_sliced_w2(samples, draws_a, draws_b) == pytest.approx(1, abs=0.15)
    assert ablations.relative_sliced_w2(0.5 * samples, draws_a, draws_b) > 1.5
    means = samples.mean(1, keepdim=True).expand_as(samples)
    assert ablations.relative_sliced_w2(means, draws_a, draws_b) > 1.5


def test_a_sampled_image_is_evaluated_beside_the_render_of_its_scene(test_set):
    views = test_set.posterior_draws[:, :, 2:]
    samples = torch.cat([views, views[:, :, :, :1] + 0.1], 3)
    ablation, points = ablations.SAMPLED_VARIANTS["guidance_2"], ablations.consistency_points(test_set)
    results = ablations.evaluate_sampled_variant(test_set, samples, posterior_mean(test_set), ablation, points)
    numbers = results["numbers"]
    assert numbers["picture_lean"] == numbers["lean"] and numbers["picture_energy_180"] > numbers["energy_180"]


def test_gains_over_another_ablation_are_paired_over_scenes():
    ours = {
        "energy_180": torch.rand(50, generator=seeded()).add(1).tolist(),
        "novel_energy_60": [2.0] * 50,
        "consistency_60": [0.01] * 50,
        "more": [1.0],
    }
    theirs = {"energy_180": [1.1 * x for x in ours["energy_180"]], "consistency_60": [0.1] * 50}
    theirs["novel_energy_60"] = [2.0] * 50
    gains = ablations.paired_gains(ours, theirs)
    assert set(gains) == {"energy_180", "novel_energy_60", "consistency_60", "energies"}
    assert gains["energy_180"].value == pytest.approx(0.1, abs=1e-6) and gains["energy_180"].low > 0.09
    energy = sum(ours["energy_180"])
    assert gains["energies"].value == pytest.approx(0.1 * energy / (energy + 100), abs=1e-6)
    assert gains["consistency_60"] == pytest.approx((10, 10, 10), abs=1e-6)
    assert ablations.paired_gains(theirs, theirs)["energy_180"] == (0, 0, 0)


# --- samplers ---------------------------------------------------------------------------------------------------------


def test_a_view_space_model_samples_every_view_separately(small_set):
    model = perturbed_model("view_space")
    samples = ablations.sample_view_space(model, small_set, Sampling(2, 2, chunk_size=12))
    assert samples.shape == (2, 2, 3, 2, 3, 16, 16)
    again = ablations.sample_view_space(model, small_set, Sampling(2, 2, chunk_size=24))
    assert (again[0] - samples[0]).abs().max() < 1e-4, "the first chunk has the same noise"
    assert (samples[:, 0] - samples[:, 1]).abs().max() > 1e-3, "samples differ"


def test_a_deterministic_scene_is_rendered_at_both_cameras(small_set):
    model = perturbed_model("deterministic")
    samples = ablations.sample_deterministic(model, small_set, Sampling(8, chunk_size=1))
    assert samples.shape == (2, 1, 3, 2, 3, 16, 16)
    separate = sample_posterior(model, small_set)
    torch.testing.assert_close(samples[:, :, :, 0], separate[:, :, :, 0], atol=1e-5, rtol=0)
    control = samples[:, :, :, 1] - separate[:, :, :, 1]
    assert control.abs().max() > 1e-4, "the control: the novel view as the target of its own prediction"


def test_guidance_moves_the_sampled_image_away_from_the_render_of_its_scene(small_set):
    model, differences = perturbed_model("guided"), []
    for options in ({}, {"guidance": 3.0}):
        samples = ablations.sample_with_options(model, small_set, Sampling(2, 1), **options)
        assert samples.shape == (2, 2, 1, 3, 3, 16, 16)
        render, _, image = samples[:, :, 0].unbind(2)
        differences.append((render - image).square().mean().sqrt())  # never 0: a sampled image has one ray a pixel
    assert differences[1] > 1.02 * differences[0]


def test_unconditional_samples_do_not_depend_on_the_context(small_set):
    model, sampling = perturbed_model("unconditional"), Sampling(2, 1, eta=1.0)
    samples = ablations.sample_unconditional(model, small_set, sampling)
    flipped = replace(small_set, context=small_set.context[[1, 0]])
    assert torch.equal(ablations.sample_unconditional(model, flipped, sampling), samples)
    model = perturbed_model("unet")
    samples, control = (sample_posterior(model, test_set, sampling) for test_set in (small_set, flipped))
    assert not torch.equal(control, samples), "the control: conditional samples"


def test_the_second_context_image_hides_the_same(test_set):
    context = ablations.with_second_context(test_set).context
    assert context.value.shape == (COUNT, 2, 3, SIDE, SIDE)
    assert torch.equal(context.select([0]).value, test_set.context.value)
    scenes = tabletop.resample_hidden(test_set.scenes, seeded(5))
    assert (tabletop.render(scenes, context.params, SIDE) - context.value).abs().max() < 1e-4
    difference = (context.params[:, 0] - context.params[:, 1]).abs().amax((1, 2))
    assert difference.min() > 1e-2, "from another camera"


def test_autoregressive_samples_are_rendered_from_behind(small_set):
    model = perturbed_model("around")
    one_target, two_targets = (
        ablations.sample_through_targets(model, small_set, Sampling(2, 1), targets=targets)
        for targets in (ablations.ORBIT_TARGETS[:1], ablations.ORBIT_TARGETS)
    )
    assert one_target.shape == two_targets.shape == (2, 2, 1, 2, 3, 16, 16)
    assert (one_target - two_targets).abs().max() > 1e-3
    contexts, options = small_set.context.repeat(2), {"steps": 1, "eta": 0.0, "generator": seeded(0)}
    cameras = ablations.rotate_to_angles(contexts.params, ablations.ORBIT_TARGETS)
    step, _ = model.sample_autoregressive(contexts, cameras, **options)
    back_views = step.signal.render(tabletop.rotate_about_z(contexts.params, 180)).rgb[:, 0]
    torch.testing.assert_close(two_targets[:, :, 0, 0].flatten(0, 1), back_views, atol=1e-5, rtol=0)


def test_a_distilled_scene_is_rendered_at_all_cameras(small_set):
    config = DistillationConfig(num_rounds=2, updates_per_round=2, rays_per_camera=8, resolution=8)
    samples = ablations.sample_distilled(perturbed_model("view_space"), small_set, Sampling(1, 1), config=config)
    assert samples.shape == (2, 1, 3, 2, 3, 16, 16) and samples.isfinite().all()


# --- the experiment ---------------------------------------------------------------------------------------------------


@pytest.fixture
def experiment(monkeypatch):
    """The experiment at toy size; slow metrics are replaced by fast ones of the same form."""
    monkeypatch.setattr(ablations, "consistency_points", lambda test_set: [])

    def fast_metrics(test_set, samples, baseline, ablation, points):
        score = float(samples.square().mean())
        numbers = {"energy_180": score} | ({"energy_skill_180": score} if samples.shape[1] > 1 else {})
        return {"numbers": numbers, "each": {"energy_180": [1.0] * len(samples)}}

    monkeypatch.setattr(ablations, "evaluate_sampled_variant", fast_metrics)
    experiment = small_experiment(ablations.EXPERIMENT, **SMALL)
    return replace(experiment, make_test_set=lambda device, options: held_out.make_test_set(2, K, side=16))


OPTIONS = {"scenes": 2, "steps": 1, "chunk_size": 16}


def test_ablations_are_evaluated_and_exported(experiment, tmp_path, monkeypatch):
    for name in ("unet", "deterministic", "guided"):
        harness.train(experiment, name, tmp_path, steps=1)
    names = ["unet", "deterministic", "redrawn", "guidance_2"]
    harness.evaluate(experiment, names, tmp_path, OPTIONS)
    record = read_json(tmp_path / "evaluation_unet.json")
    assert record["command"].endswith("ablations evaluate unet --scenes 2 --steps 1 --chunk-size 16")
    assert set(record["weights"]) == {"unet", "deterministic"}
    monkeypatch.setenv("FWDIFF_ROOT", str(tmp_path))
    export.export(experiment, [], tmp_path)
    results, entry = harness.load_results(experiment), read_manifest()["07_ablations.npz"]
    assert set(to_flat(results.rows)) == set(names) == set(results.evaluations)
    assert set(entry["metrics"]) == set(names) - {"deterministic"}, "one prediction: no skill"
    assert ablations.scene_scores(results)["unet"] == {"energy_180": [1.0, 1.0]}
    views, guided = (results.arrays[f"{name}_images"] for name in ("unet", "guidance_2"))
    assert views.shape == (2, 1, 2, 3, 16, 16) and guided.shape == (1, 4, 2, 3, 16, 16)
    assert views.dtype == np.uint8 and len(np.unique(views)) <= 64
    ablation, session = ablations.SAMPLED_VARIANTS["guidance_2"], Session(experiment, tmp_path, OPTIONS)
    sampling = Sampling(ablation.num_samples, 1, ablation.eta, chunk_size=16)
    samples = ablation.sampler(session.model("guided"), session.test_set, sampling)
    assert np.array_equal(guided, to_uint8(samples[:1, :4, -1, [0, 2]], 64)), "the render, and the sampled image"


def test_a_larger_image_has_a_test_set_of_its_own(experiment, tmp_path, monkeypatch):
    small_baseline = small_variant("deterministic", 32, **SMALL).build_model().eval()
    monkeypatch.setattr(
        ablations, "load_compiled_model", lambda session, name: {"deterministic_32": small_baseline}[name]
    )
    session = Session(experiment, tmp_path, OPTIONS)
    inputs = ablations.make_inputs(replace(ablations.SAMPLED_VARIANTS["unet"], side=32), 4, session)
    assert inputs.test_set.truth.shape[-1] == inputs.baseline.shape[-1] == 32
    assert (
        ablations.SAMPLED_VARIANTS["unet_128"].baseline == "deterministic_128"
        and ablations.SAMPLED_VARIANTS["dit"].side == 64
    )


def test_orbit_views_are_rendered(tmp_path, monkeypatch):
    config = DistillationConfig(num_rounds=1, updates_per_round=1, rays_per_camera=8, resolution=8)
    monkeypatch.setattr(ablations, "distil", partial(ablations.distil, config=config))
    make_test_set = partial(held_out.make_test_set, side=16)
    monkeypatch.setattr(held_out, "make_test_set", make_test_set)
    session = Session(ablations.EXPERIMENT, tmp_path, OPTIONS)
    monkeypatch.setattr(session, "model", perturbed_model)
    numbers, arrays = ablations.render_orbit_views(session)
    assert numbers["seconds"] > 0 and set(arrays) == {"orbit_painted", "orbit_distilled", "orbit_unet"}
    assert all(views.shape == (1, len(ablations.ORBIT_ANGLES), 3, 16, 16) for views in arrays.values())
    assert len({views.tobytes() for views in arrays.values()}) == 3


def test_every_variant_is_evaluated_and_every_evaluation_is_shipped():
    evaluations = ablations.EXPERIMENT.evaluations
    assert {x.variant for x in evaluations.values()} == set(ablations.EXPERIMENT.variants) | {""}
    results = harness.load_results(ablations.EXPERIMENT)
    numbers = to_flat(results.rows)
    assert set(numbers) == set(evaluations) == set(results.evaluations)
    assert set(ablations.scene_scores(results)) == set(evaluations) - {"orbit"}
    assert {f"{name}_images" for name in ablations.SAMPLED_VARIANTS} < set(results.arrays)
    assert numbers["orbit"]["seconds"] > 1 and set(results.trainings) <= set(ablations.EXPERIMENT.variants)


@pytest.mark.parametrize(
    "words, message",
    [
        (["evaluate", "unet"], "there is no nowhere/unet.safetensors: train it first"),
        (["evaluate", "vit"], "ablations has no evaluation 'vit': choose from unet, reseeded, dit, no_novel"),
        (["evaluate", "orbit"], "there is no nowhere/view_space.safetensors: train it first"),
        (["export"], "nowhere holds no evaluation: evaluate some variant first"),
    ],
)
def test_invalid_commands_are_refused(words, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        main(["ablations", *words, "--out", "nowhere"])
    assert message in capsys.readouterr().err and not (tmp_path / "nowhere").exists()
