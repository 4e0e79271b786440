"""The experiment of 05_flatland: posterior draws score well, controls do not, and a model trains and samples."""

import pytest
import torch

from fwdiff_lite import metrics
from fwdiff_lite.diffusion import ForwardRegression
from fwdiff_lite.experiments import flatland as experiment
from fwdiff_lite.problems.inverse_graphics import flatland
from fwdiff_lite.training import fit


def test_true_posterior_draws_pass_and_controls_fail():
    """The mean of the posterior draws is the perfect deterministic prediction."""
    test_set = experiment.make_test_set(24, 8)
    draws = test_set.posterior_draws
    mean = draws.mean(1)
    results = experiment.evaluate(test_set, draws, mean)
    assert results["factor_tv"] < 0.08 and results["factor_scene_rms"] < 0.15
    assert results["energy_skill"] > 0.85 and 0.85 < results["spread_skill"] < 1.15
    repeated = experiment.evaluate(test_set, draws[:, :1].expand_as(draws), mean)
    assert repeated["factor_scene_rms"] > 0.3 and repeated["spread_skill"] < 0.1, "one draw repeated"
    shuffled = experiment.evaluate(test_set, draws.roll(1, 0), mean)
    assert shuffled["energy_skill"] < 0.5, "draws of another scene"


def test_frequencies_are_those_of_the_scenes_with_a_colour():
    scenes = flatland.sample_scenes(20, torch.Generator().manual_seed(0))
    scenes.wall_colour[:] = torch.tensor([0] * 19 + [1])
    labels = torch.randint(3, (20, 2, 5), generator=torch.Generator().manual_seed(1))
    frequencies = experiment.content_frequencies(labels, scenes)
    for room in range(2):
        shares = [float((labels[:19, room] == content).double().mean()) for content in range(3)]
        assert [interval.value for interval in frequencies["teal"][room]] == pytest.approx(shares)
        assert all(low < value < high for value, low, high in frequencies["teal"][room])
        for name in ("violet", "grey"):
            assert torch.tensor(frequencies[name][room]).isnan().all(), "one scene or none has no interval"


def test_the_context_faces_the_first_room_alone():
    test_set = experiment.make_test_set(6, 2)
    resampled = flatland.resample_rooms(test_set.scenes, experiment.HIDDEN_ROOMS, torch.Generator().manual_seed(1))
    assert torch.equal(flatland.render_views(resampled, test_set.context.params), test_set.context.value)
    assert not torch.equal(flatland.render_views(resampled, test_set.targets), test_set.truth[:, :2])


def test_a_few_steps_lower_the_loss_and_samples_have_their_shapes():
    model = flatland.build_model()
    log = fit(model, flatland.batches(8, 4), steps=100, learning_rate=5e-3, warmup=1, progress=False)
    loss = log.curve["loss"]
    assert sum(loss[-10:]) < 0.8 * sum(loss[:10])
    test_set = experiment.make_test_set(2, 2)
    first, second = experiment.sample_posterior(model, test_set, k=2, steps=2)
    assert first.images.shape == second.images.shape == (2, 2, 5, 3, 1, flatland.IMAGE_WIDTH)
    num_views = [samples.field.feature_maps.shape[1] for samples in (first, second)]
    assert num_views[1] == num_views[0] + 1, "the first target is part of the second sample's context"
    assert flatland.field_top_down_view(second.field, 8).shape == (4, 8, 8, 3)
    (prediction,) = experiment.sample_posterior(flatland.build_model(ForwardRegression), test_set)
    baseline = prediction.images[:, 0]
    results = experiment.evaluate(test_set, second.images, baseline)
    energy = metrics.energy_score(second.images, test_set.truth).mean()
    baseline_energy = metrics.euclidean_error(baseline, test_set.truth).mean()
    assert results["energy_ratio"] == pytest.approx(float(energy / baseline_energy))
