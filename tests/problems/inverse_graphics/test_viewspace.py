"""View-space diffusion: pictures that are their own observation, and the fit of one scene to many of them."""

import pytest
import torch

from fwdiff_lite.diffusion import ForwardDiffusion
from fwdiff_lite.experiments.inverse_graphics import train
from fwdiff_lite.observations import Observations, gather_pixels
from fwdiff_lite.problems.inverse_graphics import tabletop
from fwdiff_lite.problems.inverse_graphics.viewspace import Grid, distil, empty_grid, identity, roughness
from fwdiff_lite.problems.inverse_graphics.volume import VolumeRenderer

SIDE = 16
TINY = {"side": SIDE, "samples": 8, "width": 16, "widths": (8, 16)}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def model():
    model = train.untrained("view_space", **TINY).eval()
    with torch.no_grad():  # an untrained encoder answers zero
        for weights in model.parameters():
            weights += 0.05 * torch.randn(weights.shape, generator=seeded(len(weights)))
    return model


@pytest.fixture(scope="module")
def scenes():
    """Two scenes, their fronts, and cameras all around them."""
    generator = seeded(3)
    scenes = tabletop.draw_scenes(2, generator)
    fronts = tabletop.draw_front_cameras(scenes, generator)
    return scenes, fronts, torch.cat([tabletop.rotate_about_z(fronts, d) for d in range(30, 360, 30)], 1)


def context_of(scenes):
    return Observations(tabletop.render(scenes[0], scenes[1], SIDE), scenes[1])


def test_a_picture_is_its_own_observation(scenes):
    picture, at = torch.randn(2, 5, 3, 4, 4, generator=seeded()), torch.randint(16, (2, 5, 6), generator=seeded())
    cameras = scenes[2][:, :5]
    assert identity(picture, cameras) is picture
    assert torch.equal(identity(picture, cameras, at), gather_pixels(picture, at))


def test_every_target_is_painted_by_itself_from_what_the_context_shows_of_it(model, scenes):
    context, cameras = context_of(scenes), scenes[2][:, :3]
    noisy, t = torch.randn(2, 3, 3, SIDE, SIDE, generator=seeded()), torch.full((2,), 0.5)
    with torch.no_grad():
        together = model.denoiser(model.denoiser.condition(context, cameras), noisy, t)
        alone = model.denoiser(model.denoiser.condition(context, cameras[:, 1:2]), noisy[:, 1:2], t)
        other = model.denoiser(model.denoiser.condition(context[[1, 0]], cameras), noisy, t)
    assert together.shape == noisy.shape
    torch.testing.assert_close(together[:, 1:2], alone)
    assert (together - other).abs().max() > 1e-3, "the control: the context says something"
    step = model.sample(context, cameras, steps=2, generator=seeded())
    assert step.observation is step.signal


def test_its_losses_look_at_all_pixels_and_at_no_novel_view(model, scenes):
    context, target = context_of(scenes), Observations(torch.zeros(2, 1, 3, SIDE, SIDE), scenes[2][:, 2:3])
    t, noise = model.sample_time_and_noise(target, seeded())
    losses = model.loss(context, target, t, noise, novel=target)
    assert set(losses) == {"target", "deterministic", "loss"}
    assert train.ARMS["view_space"].pixels is None and train.ARMS["unet"].pixels == train.PIXELS


def test_a_grid_is_linear_between_its_cells():
    """Its corners are the box's, its axes the world's."""
    renderer = VolumeRenderer((-1.0, -2.0, 0.0), (1.0, 2.0, 3.0), 4, 4, 4)
    x, y, z = torch.linspace(-1, 1, 3), torch.linspace(-2, 2, 4), torch.linspace(0, 3, 5)
    plane = 0.3 * x + 0.2 * y[:, None] - 0.1 * z[:, None, None]
    grid = Grid(torch.stack([plane, plane, -plane, 2 * plane])[None].double(), renderer)
    points = torch.rand(1, 7, 3, generator=seeded(), dtype=torch.float64) * torch.tensor([2, 4, 3]) + torch.tensor(
        [-1, -2, 0]
    )
    density, colour = grid(points)
    at = points @ torch.tensor([0.3, 0.2, -0.1], dtype=torch.float64)
    torch.testing.assert_close(density, 10 * torch.nn.functional.softplus(at), atol=1e-5, rtol=0)
    torch.testing.assert_close(colour, torch.stack([at, -at, 2 * at], -1).tanh(), atol=1e-6, rtol=0)


def test_roughness_is_the_mean_step_along_each_axis():
    values = torch.arange(3.0)[:, None, None] + 10 * torch.arange(4.0)[:, None] + 100 * torch.arange(2.0)
    assert roughness(values[None, None]) == 111
    assert roughness(torch.ones(1, 4, 2, 2, 2)) == 0


def test_cells_are_cubes():
    renderer = VolumeRenderer((0.0, 0.0, 0.0), (2.0, 1.0, 0.5), 4, 4, 4)
    assert empty_grid(3, renderer, 32).shape == (3, 4, 8, 16, 32)
    assert not Grid(empty_grid(1, renderer, 8), renderer)(torch.rand(1, 5, 3))[0].gt(0.2).any(), "a thin fog"


class Oracle(torch.nn.Module):
    """Knows what every camera sees; `wrong`: of other scenes."""

    def __init__(self, scenes, renderer, wrong=False):
        super().__init__()
        self.scenes, self.renderer, self.wrong = scenes, renderer, wrong

    def condition(self, context, target_params):
        pictures = tabletop.render(self.scenes, target_params, SIDE)
        if self.wrong:  # every camera sees one of the two scenes
            pictures[:, ::2] = pictures[:, ::2].flip(0)
        return pictures

    def forward(self, condition, noisy_target, t):
        return condition


def test_pictures_of_one_scene_become_that_scene_and_those_of_two_do_not(scenes):
    """Also from a camera that was not fitted."""
    drawn, fronts, cameras = scenes
    renderer, found = VolumeRenderer(tabletop.LOW, tabletop.HIGH, SIDE, SIDE, 24), {}
    between = tabletop.rotate_about_z(fronts, 45)
    for wrong in (False, True):
        model = ForwardDiffusion(Oracle(drawn, renderer, wrong), identity)
        options = {"rounds": 2, "steps": 1, "updates": 60, "rays": 128, "cells": 24}
        scene, painted = distil(model, context_of(scenes), cameras, seeded(), **options)
        misfit = (scene.render(cameras).rgb - painted).square().mean()
        error = (scene.render(between).rgb - tabletop.render(drawn, between, SIDE)).square().mean()
        found[wrong] = float(misfit), float(error)
    assert found[False][0] < 0.01 < found[True][0]
    assert found[False][1] < 0.025 < found[True][1]
    few = options | {"updates": 2, "cells": 4}
    once, again = (distil(model, context_of(scenes), cameras, seeded(), **few)[0].values for _ in range(2))
    assert torch.equal(once, again), "the same draws, the same scene"
