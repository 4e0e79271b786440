"""View-space diffusion: images that are their own observation, and the fit of one scene to many of them."""

from dataclasses import replace

import pytest
import torch

from fwdiff_lite.diffusion import ForwardDiffusion
from fwdiff_lite.observations import Observations, gather_pixels
from fwdiff_lite.problems.inverse_graphics import tabletop
from fwdiff_lite.problems.inverse_graphics.viewspace import (
    DistillationConfig,
    ViewDenoiser,
    VoxelGrid,
    distil,
    identity_forward,
    initial_grid,
    total_variation,
)
from fwdiff_lite.problems.inverse_graphics.volume import VolumeRenderer

SIDE = 16
ENCODER_OPTIONS = {"widths": (8, 16), "num_blocks": 1, "num_attention_levels": 1}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    renderer = VolumeRenderer(tabletop.LOW, tabletop.HIGH, SIDE, SIDE, 8)
    model = ForwardDiffusion(ViewDenoiser(renderer, width=16, encoder_options=ENCODER_OPTIONS), identity_forward).eval()
    with torch.no_grad():  # an untrained encoder's output is zero
        for weights in model.parameters():
            weights += 0.05 * torch.randn(weights.shape, generator=seeded(len(weights)))
    return model


@pytest.fixture(scope="module")
def scenes():
    """Two scenes, a front camera of each, and cameras all around them."""
    generator = seeded(3)
    scenes = tabletop.sample_scenes(2, generator)
    front_cameras = tabletop.sample_front_cameras(scenes, generator)
    return scenes, front_cameras, torch.cat([tabletop.rotate_about_z(front_cameras, d) for d in range(30, 360, 30)], 1)


def make_context(scenes):
    return Observations(tabletop.render(scenes[0], scenes[1], SIDE), scenes[1])


def test_an_image_is_its_own_observation(scenes):
    image, cameras = torch.randn(2, 5, 3, 4, 4, generator=seeded()), scenes[2][:, :5]
    pixel_indices = torch.randint(16, (2, 5, 6), generator=seeded())
    assert identity_forward(image, cameras) is image
    assert torch.equal(identity_forward(image, cameras, pixel_indices), gather_pixels(image, pixel_indices))


def test_targets_are_predicted_independently_and_from_the_context(model, scenes):
    context, cameras = make_context(scenes), scenes[2][:, :3]
    noisy, t = torch.randn(2, 3, 3, SIDE, SIDE, generator=seeded()), torch.full((2,), 0.5)
    with torch.no_grad():
        joint = model.denoiser(model.denoiser.condition(context, cameras), noisy, t)
        single = model.denoiser(model.denoiser.condition(context, cameras[:, 1:2]), noisy[:, 1:2], t)
        other = model.denoiser(model.denoiser.condition(context[[1, 0]], cameras), noisy, t)
    assert joint.shape == noisy.shape
    torch.testing.assert_close(joint[:, 1:2], single)
    assert (joint - other).abs().max() > 1e-3, "the control: another context changes the prediction"
    step = model.sample(context, cameras, steps=2, generator=seeded())
    assert step.observation is step.signal


def test_the_loss_includes_that_of_the_deterministic_prediction(model, scenes):
    context, target = make_context(scenes), Observations(torch.zeros(2, 1, 3, SIDE, SIDE), scenes[2][:, 2:3])
    t, noise = model.sample_time_and_noise(target, seeded())
    losses = model.loss(context, target, t, noise)
    assert set(losses) == {"target", "deterministic", "loss"}


def test_a_grid_is_interpolated_linearly():
    """The corners of the grid are those of the box, and its axes are the world's."""
    renderer = VolumeRenderer((-1.0, -2.0, 0.0), (1.0, 2.0, 3.0), 4, 4, 4)
    x, y, z = torch.linspace(-1, 1, 3), torch.linspace(-2, 2, 4), torch.linspace(0, 3, 5)
    plane = 0.3 * x + 0.2 * y[:, None] - 0.1 * z[:, None, None]
    grid = VoxelGrid(torch.stack([plane, plane, -plane, 2 * plane])[None].double(), renderer)
    points = torch.rand(1, 7, 3, generator=seeded(), dtype=torch.float64) * torch.tensor([2, 4, 3]) + torch.tensor(
        [-1, -2, 0]
    )
    density, colour = grid(points)
    expected = points @ torch.tensor([0.3, 0.2, -0.1], dtype=torch.float64)
    torch.testing.assert_close(density, 10 * torch.nn.functional.softplus(expected), atol=1e-5, rtol=0)
    torch.testing.assert_close(colour, torch.stack([expected, -expected, 2 * expected], -1).tanh(), atol=1e-6, rtol=0)


def test_total_variation_is_the_mean_difference_along_each_axis():
    values = torch.arange(3.0)[:, None, None] + 10 * torch.arange(4.0)[:, None] + 100 * torch.arange(2.0)
    assert total_variation(values[None, None]) == 111
    assert total_variation(torch.ones(1, 4, 2, 2, 2)) == 0


def test_voxels_are_cubes_of_low_density():
    renderer = VolumeRenderer((0.0, 0.0, 0.0), (2.0, 1.0, 0.5), 4, 4, 4)
    assert initial_grid(3, renderer, 32).shape == (3, 4, 8, 16, 32)
    assert not VoxelGrid(initial_grid(1, renderer, 8), renderer)(torch.rand(1, 5, 3))[0].gt(0.2).any()


class Oracle(torch.nn.Module):
    """A denoiser that predicts the true images; mixed: every second camera gets the image of the other scene."""

    def __init__(self, scenes, renderer, mixed=False):
        super().__init__()
        self.scenes, self.renderer, self.mixed = scenes, renderer, mixed

    def condition(self, context, target_params, target_mask=None):
        images = tabletop.render(self.scenes, target_params, SIDE)
        if self.mixed:
            images[:, ::2] = images[:, ::2].flip(0)
        return images

    def forward(self, condition, noisy_target, t):
        return condition


def test_distil_fits_images_of_one_scene_and_fails_on_images_of_two(scenes):
    """The render by a camera that was not fitted is compared with the true scene, too."""
    true_scenes, front_cameras, cameras = scenes
    renderer, errors = VolumeRenderer(tabletop.LOW, tabletop.HIGH, SIDE, SIDE, 24), {}
    held_out_cameras = tabletop.rotate_about_z(front_cameras, 45)
    config = DistillationConfig(num_rounds=2, updates_per_round=60, rays_per_camera=128, resolution=24)
    for mixed in (False, True):
        model = ForwardDiffusion(Oracle(true_scenes, renderer, mixed), identity_forward)
        grid, sampled_views = distil(model, make_context(scenes), cameras, seeded(), steps=1, config=config)
        fit_mse = (grid.render(cameras).rgb - sampled_views).square().mean()
        true_views = tabletop.render(true_scenes, held_out_cameras, SIDE)
        held_out_mse = (grid.render(held_out_cameras).rgb - true_views).square().mean()
        errors[mixed] = float(fit_mse), float(held_out_mse)
    assert errors[False][0] < 0.01 < errors[True][0]
    assert errors[False][1] < 0.025 < errors[True][1]
    options = {"steps": 1, "config": replace(config, updates_per_round=2, resolution=4)}
    values = [distil(model, make_context(scenes), cameras, seeded(), **options)[0].values for _ in range(2)]
    assert torch.equal(*values), "the same seed gives the same scene"
